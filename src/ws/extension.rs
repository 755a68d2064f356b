//! `Sec-WebSocket-Extensions` (RFC 6455 section 9.1) and the answer to offers of permessage-deflate (RFC 7692 section 7.1).

use super::deflate::{DeflateParams, WindowBits};

const PERMESSAGE_DEFLATE: &str = "permessage-deflate";

/// An offer that was accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Agreement {
    pub params: DeflateParams,
    /// The offer named a window, so the answer must (RFC 7692 section 7.1.2.1).
    window_offered: bool,
}

/// The header does not follow the grammar; the handshake must fail (section 9.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed;

/// The first offer of permessage-deflate that can be accepted, `None` where there is none.
///
/// An offer with an unknown, repeated or ill-formed parameter is declined (RFC 7692 section 7.1), and so is one that limits our
/// window to 256 bytes, which zlib's raw format cannot keep. Other extensions are passed over. The whole header is read even
/// after a match, because any breach of the grammar fails the handshake.
pub fn negotiate_deflate(header: &str) -> Result<Option<Agreement>, Malformed> {
    let mut scanner = Scanner { rest: header };
    let mut accepted = None;
    loop {
        scanner.skip_empty_elements();
        if scanner.rest.is_empty() {
            return Ok(accepted);
        }
        let agreement = read_extension(&mut scanner)?;
        accepted = accepted.or(agreement);
    }
}

/// The answer to the offer, as the response's header value.
#[must_use]
pub fn deflate_response(agreement: Agreement) -> String {
    let bits = agreement.params.server_window.bits();
    let window = if agreement.window_offered { format!("; server_max_window_bits={bits}") } else { String::new() };
    format!("{PERMESSAGE_DEFLATE}; server_no_context_takeover; client_no_context_takeover{window}")
}

/// One element of the list: a name and its parameters.
fn read_extension(scanner: &mut Scanner<'_>) -> Result<Option<Agreement>, Malformed> {
    let name = scanner.token()?;
    let mut offer = Offer::default();
    while scanner.eat(b';') {
        let param = scanner.token()?;
        let value = if scanner.eat(b'=') { Some(scanner.value()?) } else { None };
        offer.add(param, value);
    }
    if !scanner.rest.is_empty() && !scanner.eat(b',') {
        return Err(Malformed);
    }
    Ok(if name.eq_ignore_ascii_case(PERMESSAGE_DEFLATE) { offer.answer() } else { None })
}

/// What one offer of permessage-deflate says (RFC 7692 section 7.1).
#[derive(Default)]
struct Offer {
    server_no_context_takeover: bool,
    client_no_context_takeover: bool,
    client_max_window_bits: bool,
    server_max_window_bits: Option<u8>,
    declined: bool,
}

impl Offer {
    fn add(&mut self, param: &str, value: Option<&str>) {
        let fine = match (param, value) {
            ("server_no_context_takeover", None) => first(&mut self.server_no_context_takeover),
            ("client_no_context_takeover", None) => first(&mut self.client_no_context_takeover),
            // A hint about the client's own window. Ours holds the largest, so there is nothing to answer.
            ("client_max_window_bits", None) => first(&mut self.client_max_window_bits),
            ("client_max_window_bits", Some(bits)) => window_bits(bits).is_some() && first(&mut self.client_max_window_bits),
            ("server_max_window_bits", Some(bits)) => match window_bits(bits) {
                Some(bits) => self.server_max_window_bits.replace(bits).is_none(),
                None => false,
            },
            (_unknown_or_without_its_value, _) => false,
        };
        self.declined |= !fine;
    }

    fn answer(&self) -> Option<Agreement> {
        let server_window = match self.server_max_window_bits {
            _ if self.declined => None,
            None => Some(WindowBits::MAX),
            Some(bits) => WindowBits::new(bits),
        };
        let window_offered = self.server_max_window_bits.is_some();
        server_window.map(|server_window| Agreement { params: DeflateParams { server_window }, window_offered })
    }
}

/// Marks a parameter as seen; false if it was seen before.
const fn first(seen: &mut bool) -> bool {
    let first = !*seen;
    *seen = true;
    first
}

/// A decimal integer from 8 to 15 without leading zeros (RFC 7692 section 7.1.2).
fn window_bits(text: &str) -> Option<u8> {
    match text {
        "8" => Some(8),
        "9" => Some(9),
        "10" => Some(10),
        "11" => Some(11),
        "12" => Some(12),
        "13" => Some(13),
        "14" => Some(14),
        "15" => Some(15),
        _no_such_window => None,
    }
}

/// Reads tokens, quoted strings and separators; white space around them is skipped.
struct Scanner<'a> {
    rest: &'a str,
}

impl<'a> Scanner<'a> {
    fn skip_space(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t']);
    }

    /// RFC 9110 section 5.6.1: a recipient accepts empty list elements.
    fn skip_empty_elements(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', ',']);
    }

    fn eat(&mut self, separator: u8) -> bool {
        let rest = self.rest.strip_prefix(char::from(separator));
        self.rest = rest.unwrap_or(self.rest);
        self.skip_space();
        rest.is_some()
    }

    fn token(&mut self) -> Result<&'a str, Malformed> {
        let end = self.rest.bytes().position(|byte| !is_token_byte(byte)).unwrap_or(self.rest.len());
        let (token, rest) = self.rest.split_at_checked(end).ok_or(Malformed)?;
        self.rest = rest;
        self.skip_space();
        if token.is_empty() { Err(Malformed) } else { Ok(token) }
    }

    /// A token, quoted or not. Escapes inside quotes are left as they stand: no value that we know needs one.
    fn value(&mut self) -> Result<&'a str, Malformed> {
        let Some(quoted) = self.rest.strip_prefix('"') else { return self.token() };
        let mut escaped = false;
        for (place, byte) in quoted.bytes().enumerate() {
            match byte {
                b'"' if !escaped => {
                    self.rest = quoted.get(place + 1..).ok_or(Malformed)?;
                    self.skip_space();
                    return quoted.get(..place).ok_or(Malformed);
                }
                _ => escaped = byte == b'\\' && !escaped,
            }
        }
        Err(Malformed)
    }
}

/// RFC 9110 section 5.6.2.
pub const fn is_token_byte(byte: u8) -> bool {
    matches!(byte,
        b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
        | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(header: &str, expected: Result<Option<u8>, Malformed>) {
        let answer = negotiate_deflate(header).map(|agreed| agreed.map(|agreed| agreed.params.server_window.bits()));
        assert_eq!(answer, expected, "{header}");
    }

    #[test]
    fn rfc7692_7_1_legal_offers_are_accepted() {
        for header in [
            "permessage-deflate",
            "permessage-deflate; client_max_window_bits",
            "Permessage-Deflate;client_max_window_bits=8",
            "permessage-deflate; server_no_context_takeover; client_no_context_takeover",
            "permessage-deflate; client_max_window_bits=\"15\"",
            "x-webkit-deflate-frame, permessage-deflate",
            "foo; bar=\"a,b;\\\"c\", permessage-deflate",
            ", ,permessage-deflate ; server_max_window_bits = 15,",
        ] {
            check(header, Ok(Some(15)));
        }
        check("permessage-deflate; server_max_window_bits=9", Ok(Some(9)));
        check("permessage-deflate; server_max_window_bits=\"10\"; client_max_window_bits", Ok(Some(10)));
    }

    #[test]
    fn rfc7692_7_1_ill_formed_offers_are_declined() {
        for params in [
            "unknown",
            "server_no_context_takeover=1",
            "server_no_context_takeover; server_no_context_takeover",
            "client_no_context_takeover=\"\"",
            "server_max_window_bits",
            "server_max_window_bits=7",
            "server_max_window_bits=16",
            "server_max_window_bits=09",
            "server_max_window_bits=+9",
            "server_max_window_bits=9; server_max_window_bits=9",
            "client_max_window_bits=16",
            "client_max_window_bits; client_max_window_bits=9",
        ] {
            check(&format!("permessage-deflate; {params}"), Ok(None));
        }
        check("", Ok(None));
        check("permessage-bzip2", Ok(None));
    }

    #[test]
    fn rfc7692_7_1_2_1_a_window_is_answered_if_and_only_if_offered() {
        let answer = |header: &str| negotiate_deflate(header).ok().flatten().map(deflate_response).unwrap_or_default();
        assert!(answer("permessage-deflate; server_max_window_bits=15").ends_with("; server_max_window_bits=15"));
        assert!(answer("permessage-deflate; server_max_window_bits=9").ends_with("; server_max_window_bits=9"));
        assert!(answer("permessage-deflate").ends_with("; client_no_context_takeover"));
    }

    #[test]
    fn rfc7692_7_1_2_1_a_window_of_256_bytes_is_declined_for_the_next_offer() {
        check("permessage-deflate; server_max_window_bits=8", Ok(None));
        check("permessage-deflate; server_max_window_bits=8, permessage-deflate", Ok(Some(15)));
    }

    #[test]
    fn rfc7692_7_1_offers_are_taken_in_the_clients_order() {
        check("permessage-deflate; server_max_window_bits=9, permessage-deflate", Ok(Some(9)));
        check("permessage-deflate, permessage-deflate; server_max_window_bits=9", Ok(Some(15)));
    }

    #[test]
    fn rfc6455_9_1_what_breaks_the_grammar_fails_the_handshake() {
        for header in [
            "permessage-deflate;",
            ";",
            "permessage-deflate foo",
            "permessage-deflate; a=",
            "permessage-deflate; a=\"b",
            "=",
            "permessage-deflate, é",
            "a/b",
        ] {
            check(header, Err(Malformed));
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_negotiation_panic(header in "[a-z_;,= \"\\\\é0-9]{0,60}") {
            let _ = negotiate_deflate(&header);
        }
    }
}
