//! Heads for the other side: written anew from what was understood, never copied through (RFC 9110 section 7.6).
//!
//! What ends here is left out: what frames the body, the fields of the connection, and every field that `Connection` names. What
//! this proxy says itself, nobody else may say for it: also not under a name with `_` for `-`, which backends of the CGI family
//! take for the same.

use std::net::{IpAddr, SocketAddr};

use crate::http::response::{is_bodiless, write_connection, write_field, write_length, write_status_line};
use crate::http::{BodyEnd, Field, Framing, Head, Method, ReplyTo, ResponseHead, Version, tokens};

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
    pub peer: SocketAddr,
    /// It came over TLS.
    pub secure: bool,
    /// Another proxy of ours: what it says in `Forwarded` and `X-Forwarded-*` is kept and added to. Otherwise it is dropped.
    pub trusted: bool,
}

/// Whether the request is a WebSocket handshake that may be passed through raw.
#[must_use]
pub fn is_websocket(head: &Head) -> bool {
    head.method() == Method::Get && head.framing().is_empty() && head.upgrades_to("websocket")
}

/// Appends the request head for the upstream: HTTP/1.1, the normalised path, the client's Host (`server` where an HTTP/1.0
/// client sent none), the body framed as it came.
pub fn write_request_head(head: &Head, downstream: Downstream, server: SocketAddr, out: &mut Vec<u8>) {
    write_request_line(head, out);
    if head.host().is_empty() {
        write_field(b"Host", server.to_string().as_bytes(), out);
    } else {
        write_field(b"Host", head.host().as_bytes(), out);
    }
    let listed = Listed::of(head.headers("connection"));
    let ends_here = |name: &str| {
        listed.has(name) || is_any(name, &HOP_BY_HOP) || is_any(name, &WRITTEN) || (!downstream.trusted && is_any(name, &CLAIMS))
    };
    write_fields(head.fields().filter(|field| !ends_here(field.name)), out);
    write_forwarded(head, downstream, out);
    write_list(b"Via", head.header_list("via"), via(head.version()), out);
    if head.expects_continue() {
        write_field(b"Expect", b"100-continue", out);
    }
    match head.framing() {
        Framing::None => {}
        Framing::Length(bytes) => write_length(bytes, out),
        Framing::Chunked => write_field(b"Transfer-Encoding", b"chunked", out),
    }
    if is_websocket(head) {
        out.extend_from_slice(b"Connection: Upgrade\r\nUpgrade: websocket\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

fn write_request_line(head: &Head, out: &mut Vec<u8>) {
    out.extend_from_slice(head.method().as_str().as_bytes());
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
    write_list(b"X-Forwarded-For", received("x-forwarded-for"), &peer.to_string(), out);
    write_field(b"X-Forwarded-Proto", received("x-forwarded-proto").as_deref().unwrap_or(scheme).as_bytes(), out);
    if let Some(host) = received("x-forwarded-host").or_else(|| (!head.host().is_empty()).then(|| head.host().to_owned())) {
        write_field(b"X-Forwarded-Host", host.as_bytes(), out);
    }
    write_list(b"Forwarded", received("forwarded"), &forwarded(peer, scheme, head.host()), out);
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
fn write_list(name: &[u8], received: Option<String>, element: &str, out: &mut Vec<u8>) {
    match received.filter(|list| !list.is_empty()) {
        Some(list) => write_field(name, format!("{list}, {element}").as_bytes(), out),
        None => write_field(name, element.as_bytes(), out),
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

/// How a response's body will be framed for a client of this version.
#[must_use]
pub const fn body_way(head: &ResponseHead, version: Version) -> BodyWay {
    match (head.body_end(), version) {
        (BodyEnd::Framed(Framing::None | Framing::Length(_)), _) => BodyWay::Plain,
        (BodyEnd::Framed(Framing::Chunked) | BodyEnd::UntilClose, Version::Http11) => BodyWay::Chunked,
        (BodyEnd::Framed(Framing::Chunked) | BodyEnd::UntilClose, Version::Http10) => BodyWay::UntilClose,
    }
}

/// Appends the response head for the client and says how its body must follow. `to.keep_alive` counts only where the body's end
/// can be told without closing.
pub fn write_response_head(head: &ResponseHead, to: ReplyTo, out: &mut Vec<u8>) -> BodyWay {
    let way = body_way(head, to.version);
    write_status_line(head.status(), out);
    let listed = Listed::of(head.headers("connection"));
    write_fields(head.fields().filter(|field| !listed.has(field.name) && !is_any(field.name, &HOP_BY_HOP)), out);
    write_response_framing(head, way, out);
    match (head.status(), way) {
        (101, _) => out.extend_from_slice(b"Connection: Upgrade\r\nUpgrade: websocket\r\n"),
        (status, _) if head.is_interim() => debug_assert!(is_bodiless(status)),
        (status, BodyWay::Plain | BodyWay::Chunked) => write_connection(status, to, out),
        (status, BodyWay::UntilClose) => write_connection(status, to.closing(), out),
    }
    out.extend_from_slice(b"\r\n");
    way
}

/// Answers to HEAD, and 304, say how long the body would be where the upstream did; 1xx and 204 never do.
fn write_response_framing(head: &ResponseHead, way: BodyWay, out: &mut Vec<u8>) {
    match (head.declared_length(), way) {
        (_, BodyWay::Chunked) => write_field(b"Transfer-Encoding", b"chunked", out),
        (Some(bytes), BodyWay::Plain) if head.status() == 304 || !is_bodiless(head.status()) => write_length(bytes, out),
        (Some(_) | None, BodyWay::Plain | BodyWay::UntilClose) => {}
    }
}

fn write_fields<'a>(fields: impl Iterator<Item = Field<'a>>, out: &mut Vec<u8>) {
    for field in fields {
        write_field(field.name.as_bytes(), field.value, out);
    }
}

/// The fields that `Connection` names.
struct Listed<'a>(Vec<&'a str>);

impl<'a> Listed<'a> {
    fn of(connection: impl Iterator<Item = &'a str>) -> Self {
        Self(connection.flat_map(tokens).collect())
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
    use crate::http::{HeadReader, Options, ResponseReader};

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
        check(
            "OPTIONS http://a HTTP/1.1\r\nHost: other\r\n\r\n",
            PEER,
            &format!("OPTIONS * HTTP/1.1\r\nHost: a\r\n{FORWARDED}\r\n"),
        );
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
        check_response("200 OK\r\nTransfer-Encoding: chunked\r\n", HTTP10, "200 OK\r\n", close);
        check_response("200 OK\r\n", HTTP11, "200 OK\r\nTransfer-Encoding: chunked\r\n", chunked);
        check_response("200 OK\r\n", HTTP10, "200 OK\r\n", close);
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
        check_response("299 Odd\r\nContent-Length: 0\r\n", HTTP11, "299 Success\r\nContent-Length: 0\r\n", plain);
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
