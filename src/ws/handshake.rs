//! The opening handshake (RFC 6455 section 4) and the negotiation of permessage-deflate (RFC 7692 section 7).

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest, Sha1};

use super::Options;
use super::deflate::WINDOW_BITS;

const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// What of a request decides an upgrade. Fields that occur several times are joined by commas.
#[derive(Clone, Debug, Default)]
pub struct UpgradeRequest<'a> {
    pub get: bool,
    pub http11: bool,
    pub upgrade: Option<&'a str>,
    pub connection: Option<String>,
    pub key: Option<&'a str>,
    pub version: Option<&'a str>,
    pub protocols: Option<String>,
    pub extensions: Option<String>,
}

/// An accepted upgrade.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Accepted {
    pub accept: String,
    /// The chosen subprotocol, by its place in the list of known ones.
    pub protocol: Option<String>,
    pub deflate: Option<Deflate>,
}

/// What was agreed on compression; context takeover never is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Deflate {
    /// Window of what the server sends.
    pub window_bits: u8,
    /// Whether the client asked for that window, so that the answer must name it.
    window_asked: bool,
}

/// Why an upgrade is refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HandshakeError {
    Method,
    Version,
    Upgrade,
    Connection,
    Key,
    WebSocketVersion,
}

impl HandshakeError {
    /// The HTTP status of the refusal. 426 goes with `Upgrade: websocket` and `Sec-WebSocket-Version: 13`.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::WebSocketVersion | Self::Upgrade => 426,
            Self::Method => 405,
            Self::Version | Self::Connection | Self::Key => 400,
        }
    }
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Method => "a WebSocket handshake is a GET request",
            Self::Version => "a WebSocket handshake needs HTTP/1.1",
            Self::Upgrade => "a WebSocket handshake has `Upgrade: websocket`",
            Self::Connection => "a WebSocket handshake has `Connection: Upgrade`",
            Self::Key => "Sec-WebSocket-Key is base64 of 16 bytes",
            Self::WebSocketVersion => "only Sec-WebSocket-Version 13 is spoken here",
        })
    }
}

/// Decides an upgrade.
///
/// # Errors
/// The first rule of RFC 6455 section 4.2.1 that the request breaks.
pub fn negotiate(request: &UpgradeRequest<'_>, options: &Options, known_protocols: &[&str]) -> Result<Accepted, HandshakeError> {
    if !request.get {
        return Err(HandshakeError::Method);
    }
    if !request.http11 {
        return Err(HandshakeError::Version);
    }
    if !request.upgrade.is_some_and(|upgrade| has_token(upgrade, "websocket")) {
        return Err(HandshakeError::Upgrade);
    }
    if !request.connection.as_deref().is_some_and(|connection| has_token(connection, "upgrade")) {
        return Err(HandshakeError::Connection);
    }
    if request.version.map(str::trim) != Some("13") {
        return Err(HandshakeError::WebSocketVersion);
    }
    let key = request.key.map(str::trim).filter(|key| STANDARD.decode(key).is_ok_and(|key| key.len() == 16));
    let accept = accept_key(key.ok_or(HandshakeError::Key)?);
    let protocol = request
        .protocols
        .iter()
        .flat_map(|list| list.split(','))
        .map(str::trim)
        .find(|offered| known_protocols.contains(offered))
        .map(str::to_owned);
    let deflate = request.extensions.as_deref().filter(|_| options.deflate).and_then(negotiate_deflate);
    Ok(Accepted { accept, protocol, deflate })
}

/// `Sec-WebSocket-Accept` for a key (RFC 6455 section 4.2.2).
#[must_use]
pub fn accept_key(key: &str) -> String {
    let mut hash = Sha1::new();
    hash.update(key.as_bytes());
    hash.update(GUID);
    STANDARD.encode(hash.finalize())
}

impl Accepted {
    /// Appends the whole 101 response.
    pub fn write_response(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ",
        );
        out.extend_from_slice(self.accept.as_bytes());
        if let Some(protocol) = &self.protocol {
            out.extend_from_slice(b"\r\nSec-WebSocket-Protocol: ");
            out.extend_from_slice(protocol.as_bytes());
        }
        if let Some(deflate) = self.deflate {
            out.extend_from_slice(
                b"\r\nSec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; client_no_context_takeover",
            );
            if deflate.window_asked {
                out.extend_from_slice(format!("; server_max_window_bits={}", deflate.window_bits).as_bytes());
            }
        }
        out.extend_from_slice(b"\r\n\r\n");
    }
}

/// The first offer that is well formed and can be met (RFC 7692 section 7.1); the others are declined.
fn negotiate_deflate(extensions: &str) -> Option<Deflate> {
    extensions.split(',').find_map(|offer| {
        let mut parts = offer.split(';').map(str::trim);
        if !parts.next()?.eq_ignore_ascii_case("permessage-deflate") {
            return None;
        }
        let mut agreed = Deflate { window_bits: *WINDOW_BITS.end(), window_asked: false };
        let mut seen = [false; 4];
        for part in parts {
            let (name, value) =
                part.split_once('=').map_or((part, None), |(name, value)| (name.trim(), Some(value.trim().trim_matches('"'))));
            let place = match (name, value) {
                ("server_no_context_takeover", None) => 0,
                ("client_no_context_takeover", None) => 1,
                ("server_max_window_bits", Some(bits)) => {
                    agreed =
                        Deflate { window_bits: window_bits(bits).filter(|bits| WINDOW_BITS.contains(bits))?, window_asked: true };
                    2
                }
                // A client's window is at most what this side can inflate, whatever it is.
                ("client_max_window_bits", None) => 3,
                ("client_max_window_bits", Some(bits)) => window_bits(bits).map(|_| 3)?,
                _ => return None,
            };
            // A parameter given twice makes the offer ill formed.
            if std::mem::replace(&mut seen[place], true) {
                return None;
            }
        }
        Some(agreed)
    })
}

/// 8 to 15 in decimal, without leading zeros.
fn window_bits(text: &str) -> Option<u8> {
    let bits: u8 = text.parse().ok()?;
    ((8..=15).contains(&bits) && !text.starts_with(['0', '+'])).then_some(bits)
}

fn has_token(list: &str, token: &str) -> bool {
    list.split(',').any(|item| item.trim().eq_ignore_ascii_case(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> UpgradeRequest<'static> {
        UpgradeRequest {
            get: true,
            http11: true,
            upgrade: Some("WebSocket"),
            connection: Some("keep-alive, UPGRADE".to_owned()),
            key: Some("dGhlIHNhbXBsZSBub25jZQ=="),
            version: Some("13"),
            protocols: None,
            extensions: None,
        }
    }

    fn options() -> Options {
        Options { deflate: true, ..Options::default() }
    }

    #[test]
    fn the_example_of_the_rfc_is_accepted() {
        let accepted = negotiate(&request(), &options(), &[]).unwrap();
        let mut response = Vec::new();
        accepted.write_response(&mut response);
        let expected = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
        assert_eq!(String::from_utf8(response).unwrap(), expected);
    }

    #[test]
    fn every_rule_refuses_with_its_own_error() {
        let cases = [
            (UpgradeRequest { get: false, ..request() }, HandshakeError::Method),
            (UpgradeRequest { http11: false, ..request() }, HandshakeError::Version),
            (UpgradeRequest { upgrade: Some("websockets"), ..request() }, HandshakeError::Upgrade),
            (UpgradeRequest { upgrade: None, ..request() }, HandshakeError::Upgrade),
            (UpgradeRequest { connection: Some("close".to_owned()), ..request() }, HandshakeError::Connection),
            (UpgradeRequest { version: Some("8"), ..request() }, HandshakeError::WebSocketVersion),
            (UpgradeRequest { key: Some("dGhlIHNhbXBsZSBub25jZQ"), ..request() }, HandshakeError::Key),
            (UpgradeRequest { key: Some("AAAA"), ..request() }, HandshakeError::Key),
            (UpgradeRequest { key: None, ..request() }, HandshakeError::Key),
        ];
        for (request, error) in cases {
            assert_eq!(negotiate(&request, &options(), &[]), Err(error));
        }
    }

    #[test]
    fn the_first_known_protocol_of_the_client_is_chosen() {
        let request = UpgradeRequest { protocols: Some("x, b, a".to_owned()), ..request() };
        assert_eq!(negotiate(&request, &options(), &["a", "b"]).unwrap().protocol.as_deref(), Some("b"));
    }

    #[test]
    fn offers_are_met_or_declined_one_by_one() {
        let agreed = |offer: &str| negotiate_deflate(offer).map(|deflate| (deflate.window_bits, deflate.window_asked));
        for (offer, expected) in [
            ("permessage-deflate", Some((15, false))),
            ("permessage-deflate; client_max_window_bits", Some((15, false))),
            (
                "permessage-deflate; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=10",
                Some((10, true)),
            ),
            ("permessage-deflate; server_max_window_bits=\"9\"", Some((9, true))),
            ("permessage-deflate; server_max_window_bits=8, permessage-deflate", Some((15, false))),
            ("permessage-deflate; server_max_window_bits", None),
            ("permessage-deflate; server_max_window_bits=16", None),
            ("permessage-deflate; server_max_window_bits=09", None),
            ("permessage-deflate; client_max_window_bits=7", None),
            ("permessage-deflate; server_no_context_takeover=1", None),
            ("permessage-deflate; server_no_context_takeover; server_no_context_takeover", None),
            ("permessage-deflate; surprise", None),
            ("x-webkit-deflate-frame", None),
        ] {
            assert_eq!(agreed(offer), expected, "{offer}");
        }
    }

    #[test]
    fn deflate_is_not_negotiated_where_it_is_off() {
        let request = UpgradeRequest { extensions: Some("permessage-deflate".to_owned()), ..request() };
        assert_eq!(negotiate(&request, &Options::default(), &[]).unwrap().deflate, None);
        assert!(negotiate(&request, &options(), &[]).unwrap().deflate.is_some());
    }
}
