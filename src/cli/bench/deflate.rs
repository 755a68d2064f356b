//! permessage-deflate (RFC 7692), seen from the load's end: what is offered, which answers will do, and messages inflated.
//!
//! The load compresses nothing itself. It shares no code with the server's half (`ws/`), which it checks.

use flate2::{Decompress, FlushDecompress, Status};

use super::wire::UNIT_BYTES_MAX;

/// What browsers offer.
pub const OFFER_LINE: &str = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";
pub const ANSWER_NAME: &str = "sec-websocket-extensions";

/// What a sync flush ends with, which is not sent (section 7.2.1), and a final empty block: only a whole message ends there.
const TAIL: [u8; 9] = [0x00, 0x00, 0xff, 0xff, 0x01, 0x00, 0x00, 0xff, 0xff];

/// Why an answer to the offer will not do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refusal {
    /// The offer was passed over.
    Declined,
    /// Another extension, or more than one.
    Extension,
    /// A parameter that is no answer to the offer (section 7.1).
    Parameter,
    /// A message may need those before it to be inflated: every copy would differ, and none could be compared as it came.
    ContextTakeover,
}

impl Refusal {
    pub const fn text(self) -> &'static str {
        match self {
            Self::Declined => "did not accept permessage-deflate (is `deflate` on in [websocket]?)",
            Self::Extension => "answered the offer of permessage-deflate with another extension",
            Self::Parameter => "accepted permessage-deflate with a parameter that is no answer to the offer",
            Self::ContextTakeover => "accepted permessage-deflate without server_no_context_takeover, which the load cannot check",
        }
    }
}

/// Whether the upgrade's answer to [`OFFER_LINE`] will do: each message must be compressed on its own.
pub fn check_answer(header: Option<&str>) -> Result<(), Refusal> {
    let mut parts = header.ok_or(Refusal::Declined)?.split(';').map(str::trim);
    if !parts.next().is_some_and(|name| name.eq_ignore_ascii_case("permessage-deflate")) {
        return Err(Refusal::Extension);
    }
    let mut on_its_own = false;
    for part in parts {
        let (name, value) = part.split_once('=').map_or((part, None), |(name, value)| (name.trim(), Some(value.trim())));
        match (name, value) {
            ("server_no_context_takeover", None) => on_its_own = true,
            // What the load would compress.
            ("client_no_context_takeover", None) => {}
            // The load inflates with the largest window, and compresses nothing.
            ("server_max_window_bits" | "client_max_window_bits", Some(bits)) if is_window(bits) => {}
            _no_answer => return Err(Refusal::Parameter),
        }
    }
    if on_its_own { Ok(()) } else { Err(Refusal::ContextTakeover) }
}

/// 8 to 15 (section 7.1.2), quoted or not.
fn is_window(bits: &str) -> bool {
    bits.trim_matches('"').parse().is_ok_and(|bits: u8| (8..=15).contains(&bits))
}

/// Inflates whole messages, each on its own. An unused one holds nothing.
#[derive(Default)]
pub struct Inflater {
    decompress: Option<Decompress>,
    out: Vec<u8>,
}

impl Inflater {
    /// What a message's payload says; `None` where it is not DEFLATE, not whole, or above [`UNIT_BYTES_MAX`]. (Final blocks,
    /// which section 7.2.3.4 allows, are not known here.)
    pub fn inflate(&mut self, compressed: &[u8]) -> Option<&[u8]> {
        let decompress = self.decompress.get_or_insert_with(|| Decompress::new(false));
        decompress.reset(false);
        self.out.clear();
        self.out.reserve_exact(UNIT_BYTES_MAX);
        let mut status = Status::Ok;
        for part in [compressed, &TAIL] {
            let before = decompress.total_in();
            status = decompress.decompress_vec(part, &mut self.out, FlushDecompress::Sync).ok()?;
            if decompress.total_in() - before != part.len() as u64 {
                return None;
            }
        }
        (status == Status::StreamEnd).then_some(&self.out)
    }
}

/// A message's payload as servers send it.
#[cfg(test)]
pub fn compressed(message: &[u8], level: u32) -> Vec<u8> {
    let mut compress = flate2::Compress::new(flate2::Compression::new(level), false);
    let mut out = Vec::with_capacity(2 * message.len() + 64);
    compress.compress_vec(message, &mut out, flate2::FlushCompress::Sync).expect("room");
    out.strip_suffix(&TAIL[..4]).expect("a sync flush").to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(header: &str, answer: Result<(), Refusal>) {
        assert_eq!(check_answer(Some(header)), answer, "{header:?}");
    }

    #[test]
    fn rfc7692_7_1_only_messages_on_their_own_will_do() {
        check("permessage-deflate; server_no_context_takeover; client_no_context_takeover", Ok(()));
        check("permessage-deflate;server_no_context_takeover;server_max_window_bits=\"10\" ; client_max_window_bits = 9", Ok(()));
        check("permessage-deflate", Err(Refusal::ContextTakeover));
        check("permessage-deflate; client_no_context_takeover", Err(Refusal::ContextTakeover));
        check("permessage-deflate; server_no_context_takeover; mystery", Err(Refusal::Parameter));
        check("permessage-deflate; server_no_context_takeover=1", Err(Refusal::Parameter));
        check("permessage-deflate; server_no_context_takeover; client_max_window_bits", Err(Refusal::Parameter));
        check("permessage-deflate; server_no_context_takeover; server_max_window_bits=16", Err(Refusal::Parameter));
        check("permessage-deflate; server_no_context_takeover, foo", Err(Refusal::Parameter));
        check("foo; server_no_context_takeover", Err(Refusal::Extension));
        check("", Err(Refusal::Extension));
        assert_eq!(check_answer(None), Err(Refusal::Declined));
    }

    #[test]
    fn a_message_is_inflated_whole_and_on_its_own() {
        let message: Vec<u8> = (0..400u32).flat_map(|number| format!("{} ", number * number % 1009).into_bytes()).collect();
        let wire = compressed(&message, 6);
        assert!(wire.len() < message.len());
        let mut inflater = Inflater::default();
        for _ in 0..2 {
            assert_eq!(inflater.inflate(&wire), Some(&message[..]));
            assert_eq!(inflater.inflate(&[0xff]), None);
        }
        for cut in 0..wire.len() {
            assert_eq!(inflater.inflate(&wire[..cut]), None, "cut at {cut}");
        }
        assert_eq!(inflater.inflate(&compressed(&vec![b'a'; UNIT_BYTES_MAX + 1], 6)), None, "too large");
    }
}
