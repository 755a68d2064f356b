//! Heads for the other side: written anew from what was understood, never copied through (RFC 9110 section 7.6).
//!
//! What ends here is left out: what frames the body, the fields of the connection, and every field that `Connection` names. What
//! this proxy says itself, nobody else may say for it: also not under a name with `_` for `-`, which backends of the CGI family
//! take for the same.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};

use crate::http::head::{Framing, Head, Method, Version};
use crate::http::response::{connection, field, status_line};
use crate::http::response_head::{ResponseHead, is_bodiless};

/// Fields of one connection, or of how a body is framed: they end here, in both directions.
const HOP_BY_HOP: [&str; 11] = [
    "connection",
    "content-length",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
];

/// Request fields that are written here.
const WRITTEN: [&str; 7] = ["expect", "forwarded", "host", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto"];

/// Further claims about the client: passed on from a trusted proxy only.
const CLAIMS: [&str; 3] = ["x-forwarded-port", "x-forwarded-server", "x-real-ip"];

/// What is known of the client beyond its request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Downstream {
    /// The client, or the proxy before us.
    pub peer: SocketAddr,
    /// It came over TLS.
    pub secure: bool,
    /// Another proxy of ours: what it says in `Forwarded` and `X-Forwarded-*` is kept and added to. Otherwise it is dropped.
    pub trusted: bool,
}

/// What a response has to know of the request it answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReplyTo {
    /// What the client speaks.
    pub version: Version,
    /// The request was HEAD: no body follows the head.
    pub head_only: bool,
    /// The client's connection stays open after the response.
    pub keep_alive: bool,
}

impl ReplyTo {
    /// The same, then closed.
    #[must_use]
    pub const fn closing(self) -> Self {
        Self { keep_alive: false, ..self }
    }
}

impl From<&Head> for ReplyTo {
    fn from(head: &Head) -> Self {
        Self { version: head.version(), head_only: head.method() == Method::Head, keep_alive: head.keep_alive() }
    }
}

/// Whether the request is a WebSocket handshake that may be passed through raw.
#[must_use]
pub fn is_websocket(head: &Head) -> bool {
    head.method() == Method::Get
        && head.version() == Version::Http11
        && is_empty(head.framing())
        && head.has_token("connection", "upgrade")
        && head.has_token("upgrade", "websocket")
}

/// Appends the request head for the upstream: HTTP/1.1, the normalised path, the client's Host (`server` where an HTTP/1.0
/// client sent none), the body framed as it came.
pub fn write_request_head(head: &Head, downstream: Downstream, server: SocketAddr, out: &mut Vec<u8>) {
    write_request_line(head, out);
    if head.host().is_empty() {
        field(out, "Host", &server.to_string());
    } else {
        field(out, "Host", head.host());
    }
    let connection = head.header_list("connection").unwrap_or_default();
    let listed = Listed::of(connection.split(','));
    let ends_here = |name: &str| {
        listed.has(name) || is_any(name, &HOP_BY_HOP) || is_any(name, &WRITTEN) || (!downstream.trusted && is_any(name, &CLAIMS))
    };
    for (name, value) in head.raw_fields().filter(|(name, _)| !ends_here(name)) {
        raw_field(out, name, value);
    }
    write_forwarded(head, downstream, out);
    write_list("Via", head.header_list("via"), via(head.version()), out);
    if awaits_continue(head) {
        field(out, "Expect", "100-continue");
    }
    match head.framing() {
        Framing::None | Framing::UntilClose => {}
        Framing::Length(bytes) => field(out, "Content-Length", &bytes.to_string()),
        Framing::Chunked => field(out, "Transfer-Encoding", "chunked"),
    }
    if is_websocket(head) {
        out.extend_from_slice(b"Connection: Upgrade\r\nUpgrade: websocket\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// A field whose value may be in any encoding. It has no CR or LF, or its head would have been refused.
fn raw_field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Whether the client holds a body back until it is told to continue.
#[must_use]
pub fn awaits_continue(head: &Head) -> bool {
    head.expects_continue() && !is_empty(head.framing())
}

const fn is_empty(framing: Framing) -> bool {
    match framing {
        Framing::None | Framing::Length(0) => true,
        Framing::Length(_) | Framing::Chunked | Framing::UntilClose => false,
    }
}

fn write_request_line(head: &Head, out: &mut Vec<u8>) {
    out.extend_from_slice(head.method_name().as_bytes());
    out.push(b' ');
    out.extend_from_slice(head.path().as_bytes());
    if let Some(query) = head.query() {
        out.push(b'?');
        out.extend_from_slice(query.as_bytes());
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
}

/// `X-Forwarded-For`, `-Proto`, `-Host` and `Forwarded` (RFC 7239). The scheme and the host are those of the first proxy that is
/// trusted: only it saw them.
fn write_forwarded(head: &Head, downstream: Downstream, out: &mut Vec<u8>) {
    let received = |name: &str| downstream.trusted.then(|| head.header_list(name)).flatten();
    let peer = downstream.peer.ip().to_canonical();
    let scheme = if downstream.secure { "https" } else { "http" };
    write_list("X-Forwarded-For", received("x-forwarded-for"), &peer.to_string(), out);
    field(out, "X-Forwarded-Proto", received("x-forwarded-proto").as_deref().unwrap_or(scheme));
    if let Some(host) = received("x-forwarded-host").or_else(|| (!head.host().is_empty()).then(|| head.host().into())) {
        field(out, "X-Forwarded-Host", &host);
    }
    write_list("Forwarded", received("forwarded"), &forwarded(peer, scheme, head.host()), out);
}

/// One element of RFC 7239 section 4; an address with colons and a host with a port are quoted.
fn forwarded(peer: IpAddr, scheme: &str, host: &str) -> String {
    let node = match peer {
        IpAddr::V4(address) => format!("for={address}"),
        IpAddr::V6(address) => format!("for=\"[{address}]\""),
    };
    if host.is_empty() { format!("{node};proto={scheme}") } else { format!("{node};host=\"{host}\";proto={scheme}") }
}

/// Appends a list field: what was received, and one element more.
fn write_list(name: &str, received: Option<Cow<'_, str>>, element: &str, out: &mut Vec<u8>) {
    match received.filter(|list| !list.is_empty()) {
        Some(list) => field(out, name, &format!("{list}, {element}")),
        None => field(out, name, element),
    }
}

/// RFC 9110 section 7.6.3: the version received, and who received it.
const fn via(version: Version) -> &'static str {
    match version {
        Version::Http10 => "1.0 ringmain",
        Version::Http11 => "1.1 ringmain",
    }
}

/// How the body of a response goes on to the client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum BodyWay {
    /// As it is: nothing, or as many bytes as were announced.
    Plain,
    Chunked,
    /// As it is; then the connection closes.
    UntilClose,
}

const fn body_way(head: &ResponseHead, version: Version) -> BodyWay {
    match (head.framing(), version) {
        (Framing::None | Framing::Length(_), _) => BodyWay::Plain,
        (Framing::Chunked | Framing::UntilClose, Version::Http11) => BodyWay::Chunked,
        (Framing::Chunked | Framing::UntilClose, Version::Http10) => BodyWay::UntilClose,
    }
}

/// Appends the response head for the client and says how its body must follow. `to.keep_alive` counts only where the body's end
/// can be told without closing.
pub fn write_response_head(head: &ResponseHead, to: ReplyTo, out: &mut Vec<u8>) -> BodyWay {
    let way = body_way(head, to.version);
    status_line(out, head.status());
    let listed = Listed::of(head.headers("connection").flat_map(|list| list.split(',')));
    for (name, value) in head.fields().filter(|(name, _)| !listed.has(name) && !is_any(name, &HOP_BY_HOP)) {
        raw_field(out, name, value);
    }
    write_response_framing(head, way, out);
    match (head.status(), way) {
        (101, _) => out.extend_from_slice(b"Connection: Upgrade\r\nUpgrade: websocket\r\n"),
        (_, _) if head.is_interim() => {}
        (_, BodyWay::Plain | BodyWay::Chunked) => connection(out, to.version == Version::Http11, to.keep_alive),
        (_, BodyWay::UntilClose) => connection(out, to.version == Version::Http11, false),
    }
    out.extend_from_slice(b"\r\n");
    way
}

/// Answers to HEAD, and 304, say how long the body would be where the upstream did; 1xx and 204 never do.
fn write_response_framing(head: &ResponseHead, way: BodyWay, out: &mut Vec<u8>) {
    match (head.declared_length(), way) {
        (_, BodyWay::Chunked) => field(out, "Transfer-Encoding", "chunked"),
        (Some(bytes), BodyWay::Plain) if head.status() == 304 || !is_bodiless(head.status()) => {
            field(out, "Content-Length", &bytes.to_string());
        }
        (Some(_) | None, BodyWay::Plain | BodyWay::UntilClose) => {}
    }
}

/// The fields that `Connection` names.
struct Listed<'a>(Vec<&'a str>);

impl<'a> Listed<'a> {
    fn of(tokens: impl Iterator<Item = &'a str>) -> Self {
        Self(tokens.map(str::trim).filter(|token| !token.is_empty()).collect())
    }

    fn has(&self, name: &str) -> bool {
        self.0.iter().any(|listed| listed.eq_ignore_ascii_case(name))
    }
}

/// Whether a name is one of these (in lower case), whatever its case, and with `_` for `-`.
fn is_any(name: &str, names: &[&str]) -> bool {
    let same = |byte: u8, other: u8| byte.to_ascii_lowercase() == other || (byte == b'_' && other == b'-');
    names.iter().any(|other| other.len() == name.len() && name.bytes().zip(other.bytes()).all(|(byte, other)| same(byte, other)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::Options;
    use crate::http::head::HeadReader;
    use crate::http::response_head::ResponseReader;

    const PEER: Downstream =
        Downstream { peer: SocketAddr::new(IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1)), 4), secure: false, trusted: false };

    fn request(wire: &str) -> Head {
        HeadReader::default().feed(wire.as_bytes(), &Options::default()).unwrap().unwrap().0
    }

    #[track_caller]
    fn check(wire: &str, downstream: Downstream, expected: &str) {
        let mut out = Vec::new();
        write_request_head(&request(wire), downstream, SocketAddr::from(([127, 0, 0, 1], 3000)), &mut out);
        assert_eq!(String::from_utf8_lossy(&out), expected);
    }

    /// What every request from [`PEER`] to host `a` says of itself.
    const FORWARDED: &str = "X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: a\r\nForwarded: for=192.0.2.1;host=\"a\";proto=http\r\nVia: 1.1 ringmain\r\n";

    #[test]
    fn a_request_is_written_anew() {
        check(
            "GET /a/../b%7e?x=%7e HTTP/1.1\r\naccept: */*\r\nHOST: a\r\nCookie: b=\u{e9}\r\n\r\n",
            PEER,
            &format!("GET /b~?x=%7e HTTP/1.1\r\nHost: a\r\naccept: */*\r\nCookie: b=\u{e9}\r\n{FORWARDED}\r\n"),
        );
        check("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", PEER, &format!("OPTIONS * HTTP/1.1\r\nHost: a\r\n{FORWARDED}\r\n"));
        check(
            "GET / HTTP/1.0\r\n\r\n",
            PEER,
            "GET / HTTP/1.1\r\nHost: 127.0.0.1:3000\r\nX-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: http\r\nForwarded: for=192.0.2.1;proto=http\r\nVia: 1.0 ringmain\r\n\r\n",
        );
    }

    #[test]
    fn framing_is_regenerated() {
        let end = |framing: &str| format!("POST / HTTP/1.1\r\nHost: a\r\n{FORWARDED}{framing}\r\n");
        check("POST / HTTP/1.1\r\nHost: a\r\ncontent-length: 007\r\n\r\n", PEER, &end("Content-Length: 7\r\n"));
        check("POST / HTTP/1.1\r\nHost: a\r\nTRANSFER-ENCODING: CHUNKED\r\n\r\n", PEER, &end("Transfer-Encoding: chunked\r\n"));
        check(
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nExpect: 100-Continue\r\n\r\n",
            PEER,
            &end("Expect: 100-continue\r\nContent-Length: 1\r\n"),
        );
    }

    #[test]
    fn fields_of_the_connection_and_claims_end_here() {
        for line in [
            "Connection: close",
            "Connection: keep-alive, X-Secret\r\nX-Secret: 1\r\nx-secret: 2",
            "Keep-Alive: timeout=5",
            "Proxy-Connection: keep-alive",
            "Proxy-Authorization: x",
            "TE: trailers",
            "Trailer: X",
            "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: x",
            "Upgrade: websocket",
            "Connection: host, x-forwarded-for, forwarded, via",
            "X-Forwarded-For: 10.0.0.1\r\nx-forwarded-proto: https\r\nX-Forwarded-Host: evil\r\nForwarded: for=10.0.0.1",
            "X-Real-IP: 10.0.0.1\r\nX-Forwarded-Port: 1",
            "X_Forwarded_For: 10.0.0.1\r\nContent_Length: 5\r\nTransfer_Encoding: chunked\r\nhost_: b\r\nX-Forwarded_Host: c",
        ] {
            let kept = if line.contains("host_") { "host_: b\r\n" } else { "" };
            check(
                &format!("GET / HTTP/1.1\r\nHost: a\r\n{line}\r\n\r\n"),
                PEER,
                &format!("GET / HTTP/1.1\r\nHost: a\r\n{kept}{FORWARDED}\r\n"),
            );
        }
    }

    #[test]
    fn a_trusted_proxy_is_believed_and_added_to() {
        let ipv6 = Downstream { peer: "[2001:db8::1]:5".parse().unwrap(), secure: true, trusted: true };
        check(
            "GET / HTTP/1.1\r\nHost: a:8000\r\nX-Forwarded-For: 10.0.0.1\r\nX-Forwarded-For: 10.0.0.2\r\nX-Forwarded-Proto: http\r\nX-Real-IP: 10.0.0.1\r\nForwarded: for=10.0.0.1\r\nVia: 1.0 b\r\n\r\n",
            ipv6,
            "GET / HTTP/1.1\r\nHost: a:8000\r\nX-Real-IP: 10.0.0.1\r\nX-Forwarded-For: 10.0.0.1, 10.0.0.2, 2001:db8::1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: a:8000\r\nForwarded: for=10.0.0.1, for=\"[2001:db8::1]\";host=\"a:8000\";proto=https\r\nVia: 1.0 b, 1.1 ringmain\r\n\r\n",
        );
        let mapped = Downstream { peer: "[::ffff:192.0.2.1]:5".parse().unwrap(), ..PEER };
        check("GET / HTTP/1.1\r\nHost: a\r\n\r\n", mapped, &format!("GET / HTTP/1.1\r\nHost: a\r\n{FORWARDED}\r\n"));
    }

    #[test]
    fn a_websocket_handshake_passes() {
        check(
            "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Key: k\r\nSec-WebSocket-Version: 13\r\n\r\n",
            PEER,
            &format!(
                "GET /ws HTTP/1.1\r\nHost: a\r\nSec-WebSocket-Key: k\r\nSec-WebSocket-Version: 13\r\n{FORWARDED}Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
            ),
        );
        let upgrade = "Host: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n";
        assert!(is_websocket(&request(&format!("GET / HTTP/1.1\r\n{upgrade}\r\n"))));
        assert!(!is_websocket(&request(&format!("POST / HTTP/1.1\r\n{upgrade}\r\n"))));
        assert!(!is_websocket(&request(&format!("GET / HTTP/1.1\r\n{upgrade}Content-Length: 1\r\n\r\n"))));
    }

    const HTTP11: ReplyTo = ReplyTo { version: Version::Http11, head_only: false, keep_alive: true };
    const HTTP10: ReplyTo = ReplyTo { version: Version::Http10, head_only: false, keep_alive: true };

    #[track_caller]
    fn check_response(fields: &str, to: ReplyTo, expected: &str, way: BodyWay) {
        let mut out = Vec::new();
        let wire = format!("HTTP/1.1 {fields}\r\n");
        let (head, _) = ResponseReader::default().feed(wire.as_bytes(), to.head_only, &Options::default()).unwrap().unwrap();
        assert_eq!(write_response_head(&head, to, &mut out), way);
        assert_eq!(String::from_utf8_lossy(&out), format!("HTTP/1.1 {expected}\r\n"));
    }

    #[test]
    fn responses_are_framed_for_the_clients_version() {
        let (plain, chunked, close) = (BodyWay::Plain, BodyWay::Chunked, BodyWay::UntilClose);
        let keep = "Connection: keep-alive\r\n";
        check_response("200 Fine\r\ncontent-length: 03\r\n", HTTP11, "200 OK\r\nContent-Length: 3\r\n", plain);
        check_response("200 OK\r\nContent-Length: 3\r\n", HTTP10, &format!("200 OK\r\nContent-Length: 3\r\n{keep}"), plain);
        check_response("200 OK\r\nTransfer-Encoding: chunked\r\n", HTTP11, "200 OK\r\nTransfer-Encoding: chunked\r\n", chunked);
        check_response("200 OK\r\nTransfer-Encoding: chunked\r\n", HTTP10, "200 OK\r\nConnection: close\r\n", close);
        check_response("200 OK\r\n", HTTP11, "200 OK\r\nTransfer-Encoding: chunked\r\n", chunked);
        check_response("200 OK\r\n", HTTP10, "200 OK\r\nConnection: close\r\n", close);
        check_response(
            "200 OK\r\nContent-Length: 3\r\n",
            HTTP11.closing(),
            "200 OK\r\nContent-Length: 3\r\nConnection: close\r\n",
            plain,
        );
        check_response("204 x\r\nContent-Length: 3\r\n", HTTP11, "204 No Content\r\n", plain);
        check_response("304 x\r\nContent-Length: 3\r\n", HTTP11, "304 Not Modified\r\nContent-Length: 3\r\n", plain);
        let head = ReplyTo { head_only: true, ..HTTP11 };
        check_response("200 x\r\nContent-Length: 3\r\n", head, "200 OK\r\nContent-Length: 3\r\n", plain);
        check_response("200 x\r\nTransfer-Encoding: chunked\r\n", head, "200 OK\r\n", plain);
        check_response("103 x\r\nLink: y\r\n", HTTP11.closing(), "103 Early Hints\r\nLink: y\r\n", plain);
        check_response("299 Odd\r\nContent-Length: 0\r\n", HTTP11, "299 \r\nContent-Length: 0\r\n", plain);
    }

    #[test]
    fn what_the_upstream_says_to_this_connection_ends_here() {
        for line in [
            "Connection: close",
            "Connection: X\r\nX: y",
            "Keep-Alive: timeout=5",
            "Upgrade: h2",
            "Trailer: X",
            "Proxy-Authenticate: x",
        ] {
            let expected = "200 OK\r\nSet-Cookie: a\r\nSet-Cookie: b\r\nContent-Length: 0\r\n";
            let fields = format!("200 OK\r\nSet-Cookie: a\r\n{line}\r\nSet-Cookie: b\r\nContent-Length: 0\r\n");
            check_response(&fields, HTTP11, expected, BodyWay::Plain);
        }
        check_response(
            "101 x\r\nConnection: upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Accept: z\r\n",
            HTTP11,
            "101 Switching Protocols\r\nSec-WebSocket-Accept: z\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n",
            BodyWay::Plain,
        );
    }
}
