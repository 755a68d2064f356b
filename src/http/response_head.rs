//! Response heads of upstreams, held to the same rules as requests: what an upstream sends wrong becomes 502, never guesswork.

use std::mem::MaybeUninit;

use super::Options;
use super::error::HttpError;
use super::head::{FIELDS_MAX, Framing, Span, Version, framing, span_of};
use super::lines::HeadLines;

/// Reads response heads of one upstream connection, however the bytes are split. Interim ones (1xx) come like any other; the
/// caller reads on after them.
#[derive(Debug, Default)]
pub struct ResponseReader {
    lines: HeadLines,
}

impl ResponseReader {
    /// Takes bytes in. When a head is complete: the head, and how many of these bytes belong to it. `head_only`: the answer to a
    /// HEAD request has no body, whatever its fields say.
    ///
    /// # Errors
    /// The first rule that the response breaks; the connection cannot be used further.
    pub fn feed(&mut self, bytes: &[u8], head_only: bool, options: &Options) -> Result<Option<(ResponseHead, usize)>, HttpError> {
        match self.lines.feed(bytes, options.head_bytes_max)? {
            Some(whole) => Ok(Some((parse(whole.bytes, head_only, options)?, whole.consumed))),
            None => Ok(None),
        }
    }
}

/// A response head that kept all rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResponseHead {
    bytes: Vec<u8>,
    fields: Vec<(Span, Span)>,
    status: u16,
    version: Version,
    /// What the fields say, also where there is no body (HEAD, 304).
    declared: Option<Framing>,
    framing: Framing,
}

impl ResponseHead {
    /// 100 to 599.
    #[must_use]
    pub const fn status(&self) -> u16 {
        self.status
    }

    /// Whether another response follows this one (RFC 9110 section 15.2). 101 is no such: what follows it is not HTTP.
    #[must_use]
    pub const fn is_interim(&self) -> bool {
        self.status / 100 == 1 && self.status != 101
    }

    /// How the body's end is found (RFC 9112 section 6.3).
    #[must_use]
    pub const fn framing(&self) -> Framing {
        self.framing
    }

    /// The Content-Length given, which answers to HEAD and 304 may have without a body.
    #[must_use]
    pub const fn declared_length(&self) -> Option<u64> {
        match self.declared {
            Some(Framing::Length(bytes)) => Some(bytes),
            Some(Framing::None | Framing::Chunked | Framing::UntilClose) | None => None,
        }
    }

    /// Whether the connection may be used again when the body has ended (RFC 9112 section 9.3).
    #[must_use]
    pub fn keep_alive(&self) -> bool {
        let says = |token| self.has_token("connection", token);
        !says("close") && (self.version == Version::Http11 || says("keep-alive")) && self.framing != Framing::UntilClose
    }

    /// All fields in order: name, and value as received, which may be in any encoding.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.fields.iter().map(|&(name, value)| (self.text(name), self.span(value)))
    }

    /// The values of a field that are text.
    pub fn headers<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a str> {
        self.fields()
            .filter(move |(known, _)| known.eq_ignore_ascii_case(name))
            .filter_map(|(_, value)| std::str::from_utf8(value).ok())
    }

    /// Whether a list field has a token, compared without case.
    #[must_use]
    pub fn has_token(&self, name: &str, token: &str) -> bool {
        self.headers(name).flat_map(|value| value.split(',')).any(|item| item.trim().eq_ignore_ascii_case(token))
    }

    fn span(&self, (start, end): Span) -> &[u8] {
        self.bytes.get(start as usize..end as usize).unwrap_or_default()
    }

    fn text(&self, span: Span) -> &str {
        std::str::from_utf8(self.span(span)).unwrap_or_default()
    }
}

/// `bytes` are the lines of one head, checked by [`HeadLines`].
fn parse(bytes: Vec<u8>, head_only: bool, options: &Options) -> Result<ResponseHead, HttpError> {
    // Not filled beforehand: with room for this many that would cost more than the parsing.
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut response = httparse::Response::new(&mut []);
    match httparse::ParserConfig::default().parse_response_with_uninit_headers(&mut response, &bytes, &mut fields) {
        Ok(httparse::Status::Complete(_)) => {}
        Err(httparse::Error::TooManyHeaders) => return Err(HttpError::TooManyHeaders { headers_max: options.headers_max }),
        Err(httparse::Error::Version) => return Err(HttpError::Version),
        Ok(httparse::Status::Partial) | Err(_) => return Err(HttpError::Syntax),
    }
    if response.headers.len() > options.headers_max {
        return Err(HttpError::TooManyHeaders { headers_max: options.headers_max });
    }
    let status = response.code.filter(|status| (100..600).contains(status)).ok_or(HttpError::Syntax)?;
    let version = if response.version == Some(0) { Version::Http10 } else { Version::Http11 };
    let declared = framing(framing_fields(response.headers), version)?;
    let framing = match declared {
        _ if head_only || is_bodiless(status) => Framing::None,
        declared => declared.unwrap_or(Framing::UntilClose),
    };
    let field = |field: &httparse::Header<'_>| (span_of(&bytes, field.name.as_bytes()), span_of(&bytes, field.value));
    let fields = response.headers.iter().map(field).collect();
    Ok(ResponseHead { bytes, fields, status, version, declared, framing })
}

/// The fields that frame the body. A value that is not text becomes one that is refused.
fn framing_fields<'a>(headers: &[httparse::Header<'a>]) -> impl Iterator<Item = (&'a str, &'a str)> + Clone {
    let frames = |name: &str| name.eq_ignore_ascii_case("content-length") || name.eq_ignore_ascii_case("transfer-encoding");
    let text = |header: &httparse::Header<'a>| (header.name, std::str::from_utf8(header.value).unwrap_or(""));
    headers.iter().filter(move |header| frames(header.name)).map(text)
}

/// Whether responses of this status never have a body (RFC 9110 section 6.4.1).
#[must_use]
pub const fn is_bodiless(status: u16) -> bool {
    matches!(status, 100..=199 | 204 | 304)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(wire: &[u8], head_only: bool, step: usize) -> Result<Vec<ResponseHead>, HttpError> {
        let mut reader = ResponseReader::default();
        let mut heads = Vec::new();
        for mut bytes in wire.chunks(step.max(1)) {
            while !bytes.is_empty() {
                let Some((head, consumed)) = reader.feed(bytes, head_only, &Options::default())? else { break };
                bytes = &bytes[consumed..];
                heads.push(head);
            }
        }
        Ok(heads)
    }

    /// Status, end of the body, and whether the connection may be used again.
    #[track_caller]
    fn check(wire: &str, expected: Result<(u16, Framing, bool), HttpError>) {
        check_for(false, wire, expected);
    }

    #[track_caller]
    fn check_for(head_only: bool, wire: &str, expected: Result<(u16, Framing, bool), HttpError>) {
        for step in 1..=wire.len() {
            let read = read(wire.as_bytes(), head_only, step).map(|heads| {
                assert_eq!(heads.len(), 1, "{wire:?}");
                (heads[0].status(), heads[0].framing(), heads[0].keep_alive())
            });
            assert_eq!(read, expected, "{wire:?} split every {step} bytes");
        }
    }

    const NONE: Framing = Framing::None;

    #[test]
    fn ends_of_bodies() {
        check("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", Ok((200, Framing::Length(3), true)));
        check("HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n", Ok((200, Framing::Chunked, true)));
        check("HTTP/1.1 200 \r\n\r\n", Ok((200, Framing::UntilClose, false)));
        check("HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\n", Ok((200, Framing::Length(3), false)));
        check("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n", Ok((200, Framing::Length(0), true)));
        check("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n", Ok((200, Framing::Length(0), false)));
        check("HTTP/1.1 204 No Content\r\n\r\n", Ok((204, NONE, true)));
        check("HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n", Ok((304, NONE, true)));
        check("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", Ok((101, NONE, true)));
        check_for(true, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", Ok((200, NONE, true)));
        check_for(true, "HTTP/1.1 200 OK\r\n\r\n", Ok((200, NONE, true)));
    }

    #[test]
    fn interim_responses_come_before_the_final_one() {
        let wire =
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        for step in 1..wire.len() {
            let heads = read(wire, false, step).unwrap();
            let seen: Vec<_> = heads.iter().map(|head| (head.status(), head.is_interim())).collect();
            assert_eq!(seen, [(100, true), (103, true), (200, false)]);
        }
    }

    #[test]
    fn what_upstreams_get_wrong() {
        for (wire, expected) in [
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", HttpError::TwoFramings),
            ("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\n", HttpError::ContentLength),
            ("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", HttpError::ContentLength),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", HttpError::TransferEncoding),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n", HttpError::UnknownCoding),
            ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", HttpError::TransferEncoding),
            ("HTTP/1.1 200 OK\r\nX : y\r\n\r\n", HttpError::Syntax),
            ("HTTP/1.1 200 OK\r\nX: y\r\n z\r\n\r\n", HttpError::Syntax),
            ("HTTP/1.1 200 OK\nX: y\n\n", HttpError::Syntax),
            ("HTTP/1.1 200 OK\r\nX: \x01\r\n\r\n", HttpError::Syntax),
            ("HTTP/2.0 200 OK\r\n\r\n", HttpError::Version),
            ("HTTP/1.1 20 OK\r\n\r\n", HttpError::Syntax),
            ("HTTP/1.1 099 OK\r\n\r\n", HttpError::Syntax),
            ("HTTP/1.1 600 OK\r\n\r\n", HttpError::Syntax),
            ("HTTP/1.1  200 OK\r\n\r\n", HttpError::Syntax),
        ] {
            check(wire, Err(expected));
        }
        check(&format!("HTTP/1.1 200 {}\r\n\r\n", "x".repeat(20_000)), Err(HttpError::TargetTooLong { bytes_max: 16 << 10 }));
        check("SSH-2.0-OpenSSH\r\n\r\n", Err(HttpError::Version));
    }

    #[test]
    fn values_pass_in_any_encoding_but_frame_nothing() {
        let heads = read(b"HTTP/1.1 204 x\r\nX: \xff\r\nConnection: \xff\r\nConnection: close\r\n\r\n", false, 100).unwrap();
        assert_eq!(heads[0].fields().next(), Some(("X", &b"\xff"[..])));
        assert!(!heads[0].keep_alive());
        for line in ["Content-Length", "Transfer-Encoding"] {
            let wire = [format!("HTTP/1.1 200 x\r\n{line}: ").as_bytes(), b"\xff\r\n\r\n"].concat();
            assert!(read(&wire, false, 100).is_err(), "{line}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(wire in any::<Vec<u8>>(), step in 1usize..64) {
            let _ = read(&wire, false, step);
            let _ = read(&[b"HTTP/1.1 200 OK\r\n", &wire[..], b"\r\n\r\n"].concat(), false, step);
        }
    }
}
