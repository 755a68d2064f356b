//! The opening handshake (RFC 6455 section 4), both sides of it. Knows nothing of HTTP parsing: the caller hands in the fields.

use std::fmt;
use std::io::Write;

use base64::Engine;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use sha1::{Digest, Sha1};

use super::Options;
use super::deflate::DeflateParams;
use super::extension::{Agreement, deflate_response, is_token_byte, negotiate_deflate};

/// What the accept key is hashed with (section 1.3).
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Characters of a `Sec-WebSocket-Key`: sixteen bytes in base64.
const KEY_CHARACTERS: usize = 24;

/// The bits that the last character carries beyond sixteen bytes mean nothing; some clients leave them set.
const KEY_BASE64: GeneralPurpose =
    GeneralPurpose::new(&alphabet::STANDARD, GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true));

/// The parts of a request head that decide. Lists that came in several fields are joined by commas; so are the fields that must
/// be single, which makes a second one an error by itself.
#[derive(Clone, Copy, Default, Debug)]
pub struct UpgradeRequest<'a> {
    /// The method is GET.
    pub get: bool,
    /// The version is HTTP/1.1 or later.
    pub http11: bool,
    /// A list of protocols, `websocket` among them.
    pub upgrade: Option<&'a str>,
    /// A list of options, `upgrade` among them.
    pub connection: Option<&'a str>,
    /// `Sec-WebSocket-Key`.
    pub key: Option<&'a str>,
    /// `Sec-WebSocket-Version`.
    pub version: Option<&'a str>,
    /// `Sec-WebSocket-Protocol`.
    pub protocols: Option<&'a str>,
    /// `Sec-WebSocket-Extensions`.
    pub extensions: Option<&'a str>,
}

/// What was agreed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Accepted<'k> {
    /// `Sec-WebSocket-Accept`, ASCII.
    pub accept_key: [u8; 28],
    /// One of `known_protocols`, or none.
    pub protocol: Option<&'k str>,
    deflate: Option<Agreement>,
}

/// Why a request does not become a WebSocket.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HandshakeError {
    /// Anything but GET: 405.
    Method,
    /// Older than 1.1, which has no `Upgrade`.
    HttpVersion,
    /// No `websocket` in `Upgrade`: an ordinary request at a WebSocket's address.
    NoUpgrade,
    /// No `upgrade` in `Connection`; often a proxy that does not pass hop-by-hop fields on.
    NoConnectionUpgrade,
    /// Not 13.
    Version,
    /// Not base64 of sixteen bytes, missing, or more than one.
    Key,
    /// Not a list of distinct tokens.
    Protocols,
    /// Not the grammar of section 9.1.
    Extensions,
}

impl HandshakeError {
    /// The status of the refusal.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::Method => 405,
            Self::NoUpgrade | Self::Version => 426,
            Self::HttpVersion | Self::NoConnectionUpgrade | Self::Key | Self::Protocols | Self::Extensions => 400,
        }
    }

    /// Fields that the refusal must carry (RFC 6455 section 4.4, RFC 9110 sections 15.5.6 and 15.5.22).
    #[must_use]
    pub const fn fields(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Method => &[("Allow", "GET")],
            Self::NoUpgrade | Self::Version => {
                &[("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Version", "13")]
            }
            Self::HttpVersion | Self::NoConnectionUpgrade | Self::Key | Self::Protocols | Self::Extensions => &[],
        }
    }
}

impl fmt::Display for HandshakeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Method => "a WebSocket is opened with GET",
            Self::HttpVersion => "a WebSocket is opened with HTTP/1.1",
            Self::NoUpgrade => "this address speaks WebSocket: send Upgrade: websocket",
            Self::NoConnectionUpgrade => "Connection lacks Upgrade: a proxy in front may have removed it",
            Self::Version => "Sec-WebSocket-Version must be 13",
            Self::Key => "Sec-WebSocket-Key must be base64 of 16 bytes, once",
            Self::Protocols => "Sec-WebSocket-Protocol must be a list of distinct tokens",
            Self::Extensions => "Sec-WebSocket-Extensions is malformed",
        })
    }
}

impl std::error::Error for HandshakeError {}

/// Checks a client's handshake (section 4.2.1) and chooses the answer (section 4.2.2).
///
/// The subprotocol is the first of the client's that is in `known_protocols`; none in common is no error: the client decides
/// whether it goes on without. Names compare with case, as browsers do.
pub fn negotiate<'k>(
    request: &UpgradeRequest<'_>,
    options: &Options,
    known_protocols: &[&'k str],
) -> Result<Accepted<'k>, HandshakeError> {
    check_upgrade(request)?;
    let key = request.key.map(str::trim).filter(|key| is_key(key)).ok_or(HandshakeError::Key)?;
    let protocol = choose_protocol(request.protocols, known_protocols)?;
    let offered = negotiate_deflate(request.extensions.unwrap_or_default()).map_err(|_| HandshakeError::Extensions)?;
    Ok(Accepted { accept_key: accept_key(key), protocol, deflate: offered.filter(|_| options.deflate) })
}

/// `Sec-WebSocket-Accept` for a `Sec-WebSocket-Key` (section 4.2.2, step 5.4).
#[must_use]
pub fn accept_key(key: &str) -> [u8; 28] {
    let digest = Sha1::new().chain_update(key).chain_update(GUID).finalize();
    let mut text = [0; 28];
    // Twenty bytes always make twenty-eight characters.
    let written = STANDARD.encode_slice(digest, &mut text);
    debug_assert_eq!(written, Ok(text.len()));
    text
}

/// A `Sec-WebSocket-Key` from sixteen random bytes (section 4.1).
#[must_use]
pub fn client_key(random: [u8; 16]) -> String {
    STANDARD.encode(random)
}

/// A client's request head. `protocols` and `extensions` are header values, empty for none.
#[must_use]
pub fn client_request(host: &str, target: &str, key: &str, protocols: &str, extensions: &str) -> Vec<u8> {
    let mut head = format!(
        "GET {target} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
    );
    for (name, value) in [("Sec-WebSocket-Protocol", protocols), ("Sec-WebSocket-Extensions", extensions)] {
        if !value.is_empty() {
            head.extend([name, ": ", value, "\r\n"]);
        }
    }
    head.push_str("\r\n");
    head.into_bytes()
}

impl Accepted<'_> {
    /// Present where permessage-deflate is in use.
    #[must_use]
    pub fn deflate(&self) -> Option<DeflateParams> {
        self.deflate.map(|agreement| agreement.params)
    }

    /// Appends the whole 101 head (section 4.2.2, step 5).
    pub fn write_response(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n");
        out.extend_from_slice(b"Sec-WebSocket-Accept: ");
        out.extend_from_slice(&self.accept_key);
        out.extend_from_slice(b"\r\n");
        // Writing to a `Vec` cannot fail.
        if let Some(protocol) = self.protocol {
            let _ = write!(out, "Sec-WebSocket-Protocol: {protocol}\r\n");
        }
        if let Some(agreement) = self.deflate {
            let _ = write!(out, "Sec-WebSocket-Extensions: {}\r\n", deflate_response(agreement));
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// Section 4.2.1, points 1 and 3 to 6, the most telling cause first.
fn check_upgrade(request: &UpgradeRequest<'_>) -> Result<(), HandshakeError> {
    if !lists(request.upgrade, "websocket") {
        return Err(HandshakeError::NoUpgrade);
    }
    if !request.get {
        return Err(HandshakeError::Method);
    }
    if !request.http11 {
        return Err(HandshakeError::HttpVersion);
    }
    if !lists(request.connection, "upgrade") {
        return Err(HandshakeError::NoConnectionUpgrade);
    }
    if request.version.map(str::trim) != Some("13") {
        return Err(HandshakeError::Version);
    }
    Ok(())
}

/// Whether a comma-separated list has `token`, in any case.
fn lists(value: Option<&str>, token: &str) -> bool {
    value.is_some_and(|value| elements(value).any(|element| element.eq_ignore_ascii_case(token)))
}

/// The elements of a comma-separated list, empty ones left out (RFC 9110 section 5.6.1).
fn elements(value: &str) -> impl Iterator<Item = &str> {
    value.split(',').map(|element| element.trim_matches([' ', '\t'])).filter(|element| !element.is_empty())
}

fn is_key(key: &str) -> bool {
    let mut bytes = [0; 18];
    key.len() == KEY_CHARACTERS && KEY_BASE64.decode_slice(key, &mut bytes) == Ok(16)
}

fn choose_protocol<'k>(offered: Option<&str>, known: &[&'k str]) -> Result<Option<&'k str>, HandshakeError> {
    let offered = offered.unwrap_or_default();
    for (place, name) in elements(offered).enumerate() {
        if !name.bytes().all(is_token_byte) || elements(offered).take(place).any(|earlier| earlier == name) {
            return Err(HandshakeError::Protocols);
        }
    }
    Ok(elements(offered).find_map(|name| known.iter().copied().find(|&known| known == name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const REQUEST: UpgradeRequest<'_> = UpgradeRequest {
        get: true,
        http11: true,
        upgrade: Some("websocket"),
        connection: Some("Upgrade"),
        key: Some("dGhlIHNhbXBsZSBub25jZQ=="),
        version: Some("13"),
        protocols: None,
        extensions: None,
    };

    fn deflating() -> Options {
        Options { deflate: true, ..Options::default() }
    }

    #[track_caller]
    fn check(request: UpgradeRequest<'_>, expected: Result<Option<&str>, HandshakeError>) {
        let answer = negotiate(&request, &deflating(), &["chat", "superchat"]);
        assert_eq!(answer.map(|accepted| accepted.protocol), expected, "{request:?}");
    }

    fn response(request: UpgradeRequest<'_>, options: &Options) -> String {
        let mut head = Vec::new();
        negotiate(&request, options, &["chat"]).expect("acceptable").write_response(&mut head);
        String::from_utf8(head).expect("ASCII")
    }

    #[test]
    fn rfc6455_1_3_the_example_key_gives_the_example_accept() {
        assert_eq!(&accept_key("dGhlIHNhbXBsZSBub25jZQ=="), b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(client_key(*b"the sample nonce"), "dGhlIHNhbXBsZSBub25jZQ==");
    }

    #[test]
    fn rfc6455_4_2_2_the_response_is_complete() {
        let plain = response(REQUEST, &Options::default());
        assert_eq!(
            plain,
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"
        );
        let offer = "permessage-deflate; server_max_window_bits=10";
        let full = response(UpgradeRequest { protocols: Some("chat"), extensions: Some(offer), ..REQUEST }, &deflating());
        assert!(full.ends_with(
            "\r\nSec-WebSocket-Protocol: chat\r\nSec-WebSocket-Extensions: permessage-deflate; server_no_context_takeover; \
             client_no_context_takeover; server_max_window_bits=10\r\n\r\n"
        ));
    }

    #[test]
    fn rfc6455_4_2_1_tokens_compare_without_case_and_in_lists() {
        for (upgrade, connection) in
            [("WebSocket", "keep-alive, UPGRADE"), ("h2c, websocket", "upgrade"), (" websocket ", ",\tUpgrade ,close")]
        {
            check(UpgradeRequest { upgrade: Some(upgrade), connection: Some(connection), ..REQUEST }, Ok(None));
        }
    }

    #[test]
    fn rfc6455_4_2_1_what_is_missing_is_named() {
        check(UpgradeRequest { get: false, ..REQUEST }, Err(HandshakeError::Method));
        check(UpgradeRequest { http11: false, ..REQUEST }, Err(HandshakeError::HttpVersion));
        for upgrade in [None, Some(""), Some("websockets"), Some("web socket")] {
            check(UpgradeRequest { upgrade, ..REQUEST }, Err(HandshakeError::NoUpgrade));
        }
        for connection in [None, Some("keep-alive"), Some("upgraded"), Some("not upgrade")] {
            check(UpgradeRequest { connection, ..REQUEST }, Err(HandshakeError::NoConnectionUpgrade));
        }
    }

    #[test]
    fn rfc6455_4_4_another_version_is_told_which_one_to_speak() {
        for version in [None, Some("8"), Some("013"), Some("13, 13"), Some("")] {
            check(UpgradeRequest { version, ..REQUEST }, Err(HandshakeError::Version));
        }
        assert_eq!(HandshakeError::Version.status(), 426);
        assert!(HandshakeError::Version.fields().contains(&("Sec-WebSocket-Version", "13")));
    }

    #[test]
    fn rfc6455_4_2_1_the_key_is_base64_of_sixteen_bytes() {
        for key in [
            None,
            Some(""),
            Some("dGhlIHNhbXBsZSBub25jZQ"),
            Some("dGhlIHNhbXBsZSBub25jZQ==="),
            Some("dGhlIHNhbXBsZSBub25jZTEy"),
            Some("dGhlIHNhbXBsZSBub25*ZQ=="),
            Some("dGhlIHNhbXBsZSBub25jZQ==, dGhlIHNhbXBsZSBub25jZQ=="),
        ] {
            check(UpgradeRequest { key, ..REQUEST }, Err(HandshakeError::Key));
        }
        check(UpgradeRequest { key: Some("dGhlIHNhbXBsZSBub25jZR=="), ..REQUEST }, Ok(None));
    }

    #[test]
    fn rfc6455_4_2_2_the_first_known_subprotocol_is_chosen() {
        for (protocols, expected) in [
            ("chat", Ok(Some("chat"))),
            ("other, superchat,chat", Ok(Some("superchat"))),
            ("other", Ok(None)),
            ("CHAT", Ok(None)),
            ("", Ok(None)),
            ("chat, chat", Err(HandshakeError::Protocols)),
            ("chat superchat", Err(HandshakeError::Protocols)),
            ("chat/2", Err(HandshakeError::Protocols)),
        ] {
            check(UpgradeRequest { protocols: Some(protocols), ..REQUEST }, expected);
        }
    }

    #[test]
    fn rfc6455_9_1_malformed_extensions_fail_the_handshake_even_where_none_is_used() {
        let request = UpgradeRequest { extensions: Some("permessage-deflate;"), ..REQUEST };
        check(request, Err(HandshakeError::Extensions));
        assert_eq!(negotiate(&request, &Options::default(), &[]), Err(HandshakeError::Extensions));
    }

    #[test]
    fn deflate_is_negotiated_only_where_configured() {
        let request = UpgradeRequest { extensions: Some("permessage-deflate"), ..REQUEST };
        assert!(negotiate(&request, &deflating(), &[]).is_ok_and(|accepted| accepted.deflate().is_some()));
        assert!(negotiate(&request, &Options::default(), &[]).is_ok_and(|accepted| accepted.deflate().is_none()));
    }

    #[test]
    fn a_client_request_has_the_fields_that_a_server_wants() {
        let head = client_request("h:1", "/a", "KEY", "chat", "");
        let expected = "GET /a HTTP/1.1\r\nHost: h:1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                        Sec-WebSocket-Key: KEY\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: chat\r\n\r\n";
        assert_eq!(head, expected.as_bytes());
    }

    proptest! {
        #[test]
        fn any_sixteen_bytes_make_a_good_key(random: [u8; 16]) {
            prop_assert!(is_key(&client_key(random)));
        }

        #[test]
        fn no_fields_make_negotiation_panic(key in ".{0,30}", protocols in ".{0,30}", extensions in ".{0,30}") {
            let request = UpgradeRequest { key: Some(&key), protocols: Some(&protocols), extensions: Some(&extensions), ..REQUEST };
            let _ = negotiate(&request, &deflating(), &["chat"]);
        }
    }
}
