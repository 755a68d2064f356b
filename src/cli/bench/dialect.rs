//! What the load says to a server, and what it expects back: ringmain's plain door, or that of nginx's nchan module.
//!
//! nchan passes bodies on as they are, so the load publishes whole items to it: subscribers then get the same bytes from
//! either server, and are checked in the same way. What nchan says besides (its ids, the replies to publications) is not checked.

use serde_json::value::RawValue;

use super::checker::{Checker, Publication};
use super::error::PublishFault;
use super::payload;
use super::session::{Request, Transport};
use super::wire;

/// The epoch that the load gives to what it publishes to nchan: as long as one of ringmain's.
const NCHAN_EPOCH: &str = "nchan000000";

/// Whose doors the load knocks at.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum Dialect {
    /// `/channels/NAME`.
    #[default]
    Ringmain,
    /// `/sub/NAME` and `/pub/NAME`, where a subscriber begins with the oldest message (`nchan_subscriber_first_message oldest`).
    Nchan,
}

impl Dialect {
    /// Where subscribers of a channel go.
    pub fn subscribe_path(self, channel: &str) -> String {
        format!("{}{}", ["/channels/", "/sub/"][self as usize], escaped(channel))
    }

    /// Where publications to a channel go.
    pub fn publish_path(self, channel: &str) -> String {
        format!("{}{}", ["/channels/", "/pub/"][self as usize], escaped(channel))
    }

    /// Whether a subscriber is told where it is before the first publication.
    pub const fn tells_position(self) -> bool {
        matches!(self, Self::Ringmain)
    }

    /// The position before every publication, where nobody tells it.
    pub const fn origin(self) -> u64 {
        0
    }

    /// Appends the body of a publication, whose payload is `bytes` long.
    pub fn write_body(self, out: &mut Vec<u8>, publication: &Publication<'_>, bytes: usize) {
        let &Publication { number, channel, nth } = publication;
        match self {
            Self::Ringmain => payload::write(out, number, bytes),
            Self::Nchan => {
                let offset = self.origin() + 1 + nth;
                let open = format!("{{\"channel\":\"{channel}\",\"position\":\"{NCHAN_EPOCH}:{offset}\",\"data\":");
                out.extend_from_slice(open.as_bytes());
                payload::write(out, number, bytes);
                out.push(b'}');
            }
        }
    }

    /// Checks the reply to publication `number`.
    pub fn replied(self, checker: &mut Checker, number: u64, status: u16, reply: &[u8]) -> Result<(), PublishFault> {
        match (self, status) {
            (Self::Ringmain, 200) => {
                let reply: Reply<'_> = serde_json::from_slice(reply).map_err(|_| PublishFault::Body)?;
                checker.answer(number, reply.channel, reply.position);
                Ok(())
            }
            // Passed on, or kept for who comes.
            (Self::Nchan, 201 | 202) => Ok(()),
            (Self::Ringmain | Self::Nchan, status) => {
                Err(PublishFault::Refused { status, detail: String::from_utf8_lossy(reply).into_owned() })
            }
        }
    }
}

#[derive(serde::Deserialize)]
struct Reply<'a> {
    channel: &'a str,
    position: &'a str,
}

/// The body of ringmain's answer to a poll.
#[derive(serde::Deserialize)]
pub struct PollBody<'a> {
    #[serde(borrow)]
    pub messages: Vec<&'a RawValue>,
    pub position: &'a str,
}

/// Appends nchan's request for what comes after the answer that `head` begins: a poll there carries its place in two headers.
pub fn write_next_poll(request: &Request, out: &mut Vec<u8>, head: &[u8]) {
    let value = |name| wire::header(head, name).unwrap_or_default();
    let place = format!("If-Modified-Since: {}\r\nIf-None-Match: {}\r\n", value("last-modified"), value("etag"));
    request.write_get(out, "", &place);
}

/// Why a load cannot be put on this server.
pub fn unspoken(dialect: Dialect, transport: Transport) -> Option<&'static str> {
    (dialect == Dialect::Nchan && transport == Transport::Ndjson).then_some("nchan has no NDJSON stream: take ws, sse or poll")
}

/// Names are used as they are in JSON and, escaped, in a path.
fn escaped(channel: &str) -> impl std::fmt::Display {
    percent_encoding::utf8_percent_encode(channel, percent_encoding::NON_ALPHANUMERIC)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::bench::checker::Ledger;
    use crate::cli::bench::session::{Around, Doing, Echoes, Session};

    const BYTES: usize = 48;

    fn items() -> Vec<Vec<u8>> {
        let item = |number| {
            let mut body = Vec::new();
            Dialect::Nchan.write_body(&mut body, &Publication { number, channel: "news", nth: number }, BYTES);
            body
        };
        (0..3).map(item).collect()
    }

    /// Reads what nchan sends to one subscriber; returns the requests that it made.
    fn check(transport: Transport, wire: &[u8]) -> String {
        let request = Request {
            path: Dialect::Nchan.subscribe_path("news"),
            channels: None,
            deflate: false,
            host: "h".to_owned(),
            authorization: None,
            doing: Doing::Subscribe(transport),
            dialect: Dialect::Nchan,
        };
        let (mut checker, mut echoes, mut out) = (Checker::new("news", BYTES), Echoes::new(), Vec::new());
        (0..3).for_each(|_| _ = checker.intend(0));
        let mut session = Session::new(1, Ledger::default());
        let mut around = Around { request: &request, checker: &mut checker, echoes: &mut echoes, now: 1, out: &mut out };
        session.open(1, &mut around);
        assert_eq!(session.read(wire, &mut around), Ok(wire.len()));
        assert!(session.is_ready() && session.ledger.is_at(3));
        assert_eq!((checker.tally.deliveries, checker.tally.corrupt), (3, 0));
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn a_web_socket_begins_without_being_told_where() {
        let mut wire = format!("HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: {}\r\n\r\n", wire::ACCEPT).into_bytes();
        for item in items() {
            wire.extend([0x81, item.len() as u8]);
            wire.extend(item);
        }
        assert!(check(Transport::Ws, &wire).starts_with("GET /sub/news HTTP/1.1\r\n"));
    }

    #[test]
    fn an_event_stream_has_ids_of_its_own_and_no_chunks() {
        let mut wire = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n: hi\n\n".to_vec();
        for item in items() {
            wire.extend(b"id: 1764082000:0\ndata: ");
            wire.extend(item);
            wire.extend(b"\n\n");
        }
        check(Transport::Sse, &wire);
    }

    #[test]
    fn a_poll_carries_its_place_in_two_headers() {
        let mut wire = Vec::new();
        for (number, item) in items().into_iter().enumerate() {
            let head = format!("Content-Length: {}\r\nLast-Modified: then\r\nEtag: {number}\r\n\r\n", item.len());
            wire.extend(format!("HTTP/1.1 200 OK\r\n{head}").into_bytes());
            wire.extend(item);
        }
        let asked = check(Transport::Poll, &wire);
        assert_eq!(asked.matches("GET /sub/news HTTP/1.1\r\n").count(), 4);
        assert!(asked.ends_with("If-Modified-Since: then\r\nIf-None-Match: 2\r\n\r\n"), "{asked}");
    }

    #[test]
    fn a_refused_publication_is_a_fault() {
        let mut checker = Checker::new("news", BYTES);
        assert!(Dialect::Nchan.replied(&mut checker, 0, 201, b"").is_ok());
        assert!(Dialect::Nchan.replied(&mut checker, 0, 403, b"no").is_err());
        assert!(Dialect::Ringmain.replied(&mut checker, 0, 201, b"").is_err());
    }
}
