//! One request and its response between a client and an upstream, as data flow: bytes in, bytes out, and what to do at the end.
//!
//! ```text
//!   client ──► request_bytes ──────────────────────► upstream
//!   client ◄────────────────── response_bytes ◄───── upstream     [head] ──► [body] ──► Ended
//!                                   ▲                                 └─101──► Tunnel ──► Ended
//!              upstream_eof ────────┘
//!              failed ──► Retry (a kept connection was stale) | Answer (nothing sent yet) | Abort
//! ```
//!
//! The caller sends [`Exchange::request_head`] first on the connection it got, then what [`Exchange::request_bytes`] writes.
//! Neither side is buffered here but for a head that has not come whole: where the other side is slow, the caller stops reading.

use std::net::SocketAddr;

use super::ProxyError;
use super::rewrite::{BodyWay, Downstream, ReplyTo, awaits_continue, is_websocket, write_request_head, write_response_head};
use super::tunnel::Tunnel;
use crate::http::body::{BodyReader, LAST_CHUNK, write_chunk};
use crate::http::head::{Framing, Head, Version};
use crate::http::problem::Problem;
use crate::http::response_head::{ResponseHead, ResponseReader};
use crate::http::{HttpError, Options};

/// Interim responses (1xx) in one exchange.
const INTERIM_MAX: u8 = 16;

/// One exchange.
#[derive(Debug)]
pub struct Exchange {
    /// Kept until the response begins: a retry sends it again.
    request_head: Vec<u8>,
    request: RequestBody,
    response: Response,
    to: ReplyTo,
    /// The client asked to switch to WebSocket.
    websocket: bool,
    expects_continue: bool,
    retry: Retry,
    /// Of the final response; 0 before it has come.
    status: u16,
}

#[derive(Debug)]
struct RequestBody {
    reader: BodyReader,
    /// Something of it has come.
    begun: bool,
    chunked: bool,
}

/// Where the response is. Exactly one of these at any time.
#[derive(Debug)]
enum Response {
    Head { reader: ResponseReader, interim: u8 },
    Body { reader: BodyReader, way: BodyWay, upstream_keep_alive: bool },
    Tunnel(Box<Tunnel>),
    Ended,
}

/// Whether the request may be sent again (RFC 9112 section 9.3.1).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Retry {
    /// The method means the same twice, and nothing but the head was sent.
    Allowed,
    /// It was sent again, or must not be.
    Spent,
}

/// What became of bytes from the client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RequestStep {
    /// Bytes that belong to this request. The rest waits for the end of the exchange, or of a tunnel's beginning.
    pub consumed: usize,
    /// The request is complete.
    pub done: bool,
}

/// What became of bytes from the upstream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ResponseStep {
    /// All, unless there is more than the response: then the upstream connection is not reused.
    pub consumed: usize,
    /// After the consumed bytes; decides which timeout applies.
    pub state: ResponseState,
}

/// How far the response is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ResponseState {
    /// The final head has not come whole; the response timeout applies.
    Waiting,
    /// The body is on its way; the idle timeout applies.
    Streaming,
    /// The connection was switched: bytes pass as they are, both ways, until one side closes.
    Tunnel,
    /// Everything for the client is written.
    Ended(Ended),
}

/// What the end of an exchange leaves behind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ended {
    /// The upstream connection may go back to its pool; otherwise it must be closed.
    pub upstream_reusable: bool,
    /// The client's connection may carry another request; otherwise it must be closed, lingering.
    pub downstream_keep_alive: bool,
}

impl Ended {
    const CLOSED: Self = Self { upstream_reusable: false, downstream_keep_alive: false };
}

/// What to do about a failure. In every case the upstream connection must be closed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Failure {
    /// Send the head again, on a new connection ([`super::Pool::replace`]).
    Retry,
    /// Answer the client with this. The connection stays usable only if [`Exchange::request_is_complete`].
    Answer(Problem),
    /// The response has begun: close the client's connection at once, so that it sees the response is cut short.
    Abort,
}

impl Exchange {
    /// `server` is where the request goes; `head` was read from the client.
    #[must_use]
    pub fn new(head: &Head, downstream: Downstream, server: SocketAddr) -> Self {
        let mut request_head = Vec::with_capacity(1024);
        write_request_head(head, downstream, server, &mut request_head);
        let to = ReplyTo::from(head);
        Self {
            request_head,
            request: RequestBody {
                reader: BodyReader::new(head.framing()),
                begun: false,
                chunked: head.framing() == Framing::Chunked,
            },
            response: Response::Head { reader: ResponseReader::default(), interim: 0 },
            to,
            websocket: is_websocket(head),
            expects_continue: awaits_continue(head),
            retry: if head.method().is_idempotent() { Retry::Allowed } else { Retry::Spent },
            status: 0,
        }
    }

    /// The head for the upstream: sent first on each connection that is tried. Empty once the response has begun.
    #[must_use]
    pub fn request_head(&self) -> &[u8] {
        &self.request_head
    }

    /// Whether all of the request has come from the client.
    #[must_use]
    pub const fn request_is_complete(&self) -> bool {
        self.request.reader.is_done()
    }

    /// Whether bytes of the response have gone to the client (interim ones do not count).
    #[must_use]
    pub const fn response_is_begun(&self) -> bool {
        !matches!(self.response, Response::Head { .. })
    }

    /// The status of the response that has begun.
    #[must_use]
    pub const fn status(&self) -> u16 {
        self.status
    }

    /// Whether the connection has been switched to another protocol.
    #[must_use]
    pub const fn is_tunnel(&self) -> bool {
        matches!(self.response, Response::Tunnel(_))
    }

    /// Where the frames of a tunnel begin and end.
    #[must_use]
    pub const fn tunnel(&self) -> Option<&Tunnel> {
        match &self.response {
            Response::Tunnel(tunnel) => Some(tunnel),
            Response::Head { .. } | Response::Body { .. } | Response::Ended => None,
        }
    }

    /// Whether the client holds its body back until the upstream says that it wants it.
    #[must_use]
    pub const fn awaits_continue(&self) -> bool {
        self.expects_continue && !self.request.begun
    }

    /// What the answer to the client has to respect, for a [`Failure::Answer`]: closes if the request is not complete.
    #[must_use]
    pub const fn reply_to(&self) -> ReplyTo {
        if self.request_is_complete() { self.to } else { self.to.closing() }
    }

    /// Takes bytes of the client and appends what goes to the upstream.
    ///
    /// # Errors
    /// The body's chunks are broken: answer with it if the response has not begun, and close both connections.
    pub fn request_bytes(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<RequestStep, HttpError> {
        if let Response::Tunnel(tunnel) = &mut self.response {
            tunnel.up.pass(bytes);
            out.extend_from_slice(bytes);
            return Ok(RequestStep { consumed: bytes.len(), done: true });
        }
        let before = out.len();
        let consumed = self.request.pass(bytes, out)?;
        self.request.begun |= consumed > 0;
        if out.len() > before {
            self.retry = Retry::Spent;
        }
        Ok(RequestStep { consumed, done: self.request_is_complete() })
    }

    /// Takes bytes of the upstream and appends what goes to the client. Bytes left over at the end were never asked for.
    ///
    /// # Errors
    /// The response is not valid, or not an answer to this request: hand the error to [`Exchange::failed`].
    pub fn response_bytes(&mut self, bytes: &[u8], options: &Options, out: &mut Vec<u8>) -> Result<ResponseStep, ProxyError> {
        let mut consumed = 0;
        if !bytes.is_empty() {
            self.retry = Retry::Spent; // a server that has begun to answer has read the request
        }
        while let Some(rest) = bytes.get(consumed..).filter(|rest| !rest.is_empty()) {
            consumed += match &mut self.response {
                Response::Head { reader, .. } => {
                    match reader.feed(rest, self.to.head_only, options).map_err(ProxyError::BadResponse)? {
                        Some((head, used)) => {
                            self.response_head(&head, out)?;
                            used
                        }
                        None => rest.len(),
                    }
                }
                Response::Body { reader, way, .. } => pass_body(reader, *way, rest, out)?,
                Response::Tunnel(tunnel) => {
                    tunnel.down.pass(rest);
                    out.extend_from_slice(rest);
                    rest.len()
                }
                Response::Ended => break,
            };
            if let Some(ended) = self.end_body(consumed == bytes.len(), out) {
                return Ok(ResponseStep { consumed, state: ResponseState::Ended(ended) });
            }
        }
        Ok(ResponseStep { consumed, state: self.state() })
    }

    /// The upstream will send nothing more. Appends the end of a body that ends so.
    ///
    /// # Errors
    /// The response is cut short: hand the error to [`Exchange::failed`].
    pub fn upstream_eof(&mut self, out: &mut Vec<u8>) -> Result<Ended, ProxyError> {
        let ended = match &self.response {
            Response::Head { .. } => return Err(ProxyError::ClosedEarly),
            Response::Body { reader, .. } if !reader.may_end_at_eof() => return Err(ProxyError::ClosedEarly),
            Response::Body { way, .. } => {
                if *way == BodyWay::Chunked {
                    out.extend_from_slice(LAST_CHUNK);
                }
                Ended { upstream_reusable: false, downstream_keep_alive: self.keeps_downstream(*way) }
            }
            Response::Tunnel(_) | Response::Ended => Ended::CLOSED,
        };
        self.response = Response::Ended;
        Ok(ended)
    }

    /// What to do about a failure. `reused`: the upstream connection had served another request before, so that it may just have
    /// been closed while it was idle; then, once, the request is sent again if that can do no harm.
    pub fn failed(&mut self, error: ProxyError, reused: bool, upstream: &str) -> Failure {
        if reused && error == ProxyError::ClosedEarly && self.retry == Retry::Allowed {
            self.retry = Retry::Spent;
            return Failure::Retry;
        }
        let begun = self.response_is_begun();
        self.response = Response::Ended;
        if begun { Failure::Abort } else { Failure::Answer(error.problem(upstream)) }
    }

    /// A response head has come whole.
    fn response_head(&mut self, head: &ResponseHead, out: &mut Vec<u8>) -> Result<(), ProxyError> {
        if head.is_interim() {
            return self.interim(head, out);
        }
        if head.status() == 101 {
            return self.switch(head, out);
        }
        if !self.request_is_complete() {
            // Whoever answers early may never read the rest; the client learns here that its connection ends with this answer.
            self.to = self.to.closing();
        }
        let way = write_response_head(head, self.to, out);
        self.status = head.status();
        self.request_head = Vec::new();
        self.response = Response::Body { reader: BodyReader::new(head.framing()), way, upstream_keep_alive: head.keep_alive() };
        Ok(())
    }

    /// RFC 9110 section 15.2: passed on, but not to HTTP/1.0, and `100` only to a client that waits for it.
    fn interim(&mut self, head: &ResponseHead, out: &mut Vec<u8>) -> Result<(), ProxyError> {
        let Response::Head { interim, .. } = &mut self.response else { return Ok(()) };
        *interim += 1;
        if *interim > INTERIM_MAX {
            return Err(ProxyError::TooManyInterim);
        }
        let wanted = head.status() != 100 || std::mem::take(&mut self.expects_continue);
        if wanted && self.to.version == Version::Http11 {
            write_response_head(head, self.to, out);
        }
        Ok(())
    }

    /// 101: from here on both sides speak WebSocket, which passes as it is.
    fn switch(&mut self, head: &ResponseHead, out: &mut Vec<u8>) -> Result<(), ProxyError> {
        if !self.websocket || !head.has_token("upgrade", "websocket") {
            return Err(ProxyError::UnaskedUpgrade);
        }
        write_response_head(head, self.to, out);
        self.status = head.status();
        self.request_head = Vec::new();
        self.response = Response::Tunnel(Box::default());
        Ok(())
    }

    /// Ends the exchange if its body has ended.
    fn end_body(&mut self, nothing_left: bool, out: &mut Vec<u8>) -> Option<Ended> {
        let Response::Body { reader, way, upstream_keep_alive } = &self.response else { return None };
        if !reader.is_done() {
            return None;
        }
        if *way == BodyWay::Chunked {
            out.extend_from_slice(LAST_CHUNK);
        }
        let ended = Ended {
            upstream_reusable: *upstream_keep_alive && nothing_left && self.request_is_complete(),
            downstream_keep_alive: self.keeps_downstream(*way),
        };
        self.response = Response::Ended;
        Some(ended)
    }

    fn keeps_downstream(&self, way: BodyWay) -> bool {
        self.to.keep_alive && self.request_is_complete() && way != BodyWay::UntilClose
    }

    fn state(&self) -> ResponseState {
        match self.response {
            Response::Head { .. } => ResponseState::Waiting,
            Response::Body { .. } => ResponseState::Streaming,
            Response::Tunnel(_) => ResponseState::Tunnel,
            Response::Ended => ResponseState::Ended(Ended::CLOSED),
        }
    }
}

impl RequestBody {
    /// Passes the body on, framed anew; says how many bytes were its own.
    fn pass(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> Result<usize, HttpError> {
        let mut consumed = 0;
        while !self.reader.is_done() && consumed < bytes.len() {
            let step = self.reader.next(bytes.get(consumed..).unwrap_or_default())?;
            consumed += step.consumed;
            if !self.chunked {
                out.extend_from_slice(step.data);
                continue;
            }
            write_chunk(out, step.data);
            if step.done {
                out.extend_from_slice(LAST_CHUNK);
            }
        }
        Ok(consumed)
    }
}

/// Passes one run of a response's body on.
fn pass_body(reader: &mut BodyReader, way: BodyWay, bytes: &[u8], out: &mut Vec<u8>) -> Result<usize, ProxyError> {
    let step = reader.next(bytes).map_err(ProxyError::BadResponse)?;
    match way {
        BodyWay::Chunked => write_chunk(out, step.data),
        BodyWay::Plain | BodyWay::UntilClose => out.extend_from_slice(step.data),
    }
    Ok(step.consumed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::head::HeadReader;
    use proptest::prelude::*;

    const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    const SOCKET: &str = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    const KEPT: Ended = Ended { upstream_reusable: true, downstream_keep_alive: true };
    const UPSTREAM_CLOSED: Ended = Ended { upstream_reusable: false, downstream_keep_alive: true };
    const DOWNSTREAM_CLOSED: Ended = Ended { upstream_reusable: true, downstream_keep_alive: false };

    /// An exchange and what follows its head on the wire.
    fn begin(request: &[u8]) -> (Exchange, &[u8]) {
        let (head, used) = HeadReader::default().feed(request, &Options::default()).unwrap().unwrap();
        let downstream = Downstream { peer: SocketAddr::from(([192, 0, 2, 1], 1)), secure: false, trusted: false };
        (Exchange::new(&head, downstream, SocketAddr::from(([127, 0, 0, 1], 3000))), &request[used..])
    }

    /// What an exchange led to.
    #[derive(PartialEq, Debug)]
    struct Seen {
        /// Behind the request head.
        upstream: Vec<u8>,
        downstream: Vec<u8>,
        end: Result<ResponseState, ProxyError>,
    }

    /// The whole request first, then the response in steps, then the end of the upstream's stream if nothing ended before.
    fn run(request: &[u8], response: &[u8], step: usize) -> Seen {
        let (mut exchange, body) = begin(request);
        let mut seen = Seen { upstream: Vec::new(), downstream: Vec::new(), end: Ok(ResponseState::Waiting) };
        for bytes in body.chunks(step) {
            exchange.request_bytes(bytes, &mut seen.upstream).unwrap();
        }
        for bytes in response.chunks(step) {
            seen.end = exchange.response_bytes(bytes, &Options::default(), &mut seen.downstream).map(|step| step.state);
            if matches!(seen.end, Err(_) | Ok(ResponseState::Ended(_))) {
                return seen;
            }
        }
        if seen.end != Ok(ResponseState::Tunnel) {
            seen.end = exchange.upstream_eof(&mut seen.downstream).map(ResponseState::Ended);
        }
        seen
    }

    /// Fields in the response that the client gets, its body without framing, and the end, whatever the split.
    #[track_caller]
    fn check(request: &str, response: &str, fields: &str, body: &str, end: Ended) {
        for step in 1..=response.len() {
            let seen = run(request.as_bytes(), response.as_bytes(), step);
            let (head, sent) = read(&seen.downstream, request.starts_with("HEAD"));
            assert_eq!(String::from_utf8_lossy(&head), format!("HTTP/1.1 {fields}\r\n\r\n"), "split every {step} bytes");
            assert_eq!(String::from_utf8_lossy(&sent), body, "split every {step} bytes");
            assert_eq!(seen.end, Ok(ResponseState::Ended(end)), "split every {step} bytes");
        }
    }

    /// The head and the body that a client would read; the body must be whole and nothing may follow it.
    fn read(wire: &[u8], head_request: bool) -> (Vec<u8>, Vec<u8>) {
        let (head, used) = ResponseReader::default().feed(wire, head_request, &Options::default()).unwrap().unwrap();
        let (mut reader, mut rest, mut body) = (BodyReader::new(head.framing()), &wire[used..], Vec::new());
        while !rest.is_empty() && !reader.is_done() {
            let step = reader.next(rest).unwrap();
            body.extend_from_slice(step.data);
            rest = &rest[step.consumed..];
        }
        assert!(rest.is_empty() && (reader.is_done() || head.framing() == Framing::UntilClose));
        (wire[..used].to_vec(), body)
    }

    #[track_caller]
    fn check_failed(request: &str, response: &str, expected: ProxyError) {
        for step in 1..=response.len().max(1) {
            assert_eq!(
                run(request.as_bytes(), response.as_bytes(), step).end,
                Err(expected),
                "{response:?} split every {step} bytes"
            );
        }
    }

    #[test]
    fn responses_pass() {
        check(GET, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc", "200 OK\r\nContent-Length: 3", "abc", KEPT);
        check(GET, "HTTP/1.1 204 x\r\n\r\n", "204 No Content", "", KEPT);
        let chunked = "200 OK\r\nTransfer-Encoding: chunked";
        check(
            GET,
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n2\r\nde\r\n0\r\nX: y\r\n\r\n",
            chunked,
            "abcde",
            KEPT,
        );
        check(GET, "HTTP/1.1 200 OK\r\n\r\nabc", chunked, "abc", UPSTREAM_CLOSED);
        check(
            GET,
            "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\na",
            "200 OK\r\nContent-Length: 1",
            "a",
            UPSTREAM_CLOSED,
        );
        check(&GET.replace("GET", "HEAD"), "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", "200 OK\r\nContent-Length: 3", "", KEPT);
        let interim = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na";
        check(GET, interim, "200 OK\r\nContent-Length: 1", "a", KEPT);
    }

    #[test]
    fn older_clients_get_what_they_understand() {
        let (old, kept) = ("GET / HTTP/1.0\r\n\r\n", "GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
        check(old, chunked, "200 OK\r\nConnection: close", "abc", DOWNSTREAM_CLOSED);
        check(kept, chunked, "200 OK\r\nConnection: close", "abc", DOWNSTREAM_CLOSED);
        check(
            kept,
            "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\na",
            "200 OK\r\nContent-Length: 1\r\nConnection: keep-alive",
            "a",
            KEPT,
        );
        check(kept, "HTTP/1.1 103 x\r\n\r\nHTTP/1.1 200 OK\r\n\r\na", "200 OK\r\nConnection: close", "a", Ended::CLOSED);
    }

    #[test]
    fn bytes_that_were_never_asked_for_spoil_the_upstream_connection() {
        let mut out = Vec::new();
        let response = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\naHTTP/1.1 200 OK\r\n";
        let step = begin(GET.as_bytes()).0.response_bytes(response, &Options::default(), &mut out).unwrap();
        assert_eq!(step, ResponseStep { consumed: 39, state: ResponseState::Ended(UPSTREAM_CLOSED) });
        assert!(out.ends_with(b"\r\n\r\na"));
    }

    #[test]
    fn interim_responses_reach_those_who_can_use_them() {
        let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\nx";
        let response = "HTTP/1.1 100 x\r\n\r\nHTTP/1.1 100 x\r\n\r\nHTTP/1.1 103 x\r\nLink: y\r\n\r\nHTTP/1.1 204 x\r\n\r\n";
        let expected = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: y\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n";
        for step in 1..=response.len() {
            assert_eq!(String::from_utf8(run(post.as_bytes(), response.as_bytes(), step).downstream).unwrap(), expected);
        }
        check_failed(GET, &"HTTP/1.1 103 x\r\n\r\n".repeat(17), ProxyError::TooManyInterim);
    }

    #[test]
    fn request_bodies_are_framed_anew() {
        let check = |fields: &str, body: &str, expected: &str| {
            let request = format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n\r\n{body}GET");
            let (mut exchange, body) = begin(request.as_bytes());
            let mut out = Vec::new();
            let step = exchange.request_bytes(body, &mut out).unwrap();
            assert_eq!(step, RequestStep { consumed: body.len() - 3, done: true });
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        };
        check("X: y", "", "");
        check("Content-Length: 3", "abc", "abc");
        check("Transfer-Encoding: chunked", "003;x=y\r\nabc\r\n1\r\nd\r\n0\r\nX: y\r\n\r\n", "3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n");
        check("Transfer-Encoding: chunked", "0\r\n\r\n", "0\r\n\r\n");
        let (mut exchange, body) = begin(b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nxyz");
        assert_eq!(exchange.request_bytes(body, &mut Vec::new()), Err(HttpError::ChunkSize));
    }

    #[test]
    fn an_early_answer_closes_the_clients_connection() {
        let (mut exchange, body) = begin(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc");
        let mut out = Vec::new();
        assert_eq!(exchange.request_bytes(body, &mut out), Ok(RequestStep { consumed: 3, done: false }));
        assert!(!exchange.reply_to().keep_alive);
        out.clear();
        let step = exchange.response_bytes(b"HTTP/1.1 413 x\r\nContent-Length: 0\r\n\r\n", &Options::default(), &mut out).unwrap();
        assert_eq!(step.state, ResponseState::Ended(Ended::CLOSED));
        assert!(String::from_utf8(out).unwrap().contains("\r\nConnection: close\r\n"));
    }

    #[test]
    fn a_websocket_becomes_a_tunnel() {
        let response = "HTTP/1.1 101 x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: z\r\n\r\n\x01\r\n\0";
        for step in 1..=response.len() {
            let seen = run(SOCKET.as_bytes(), response.as_bytes(), step);
            let expected = "HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: z\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n\x01\r\n\0";
            assert_eq!(String::from_utf8(seen.downstream).unwrap(), expected);
            assert_eq!(seen.end, Ok(ResponseState::Tunnel));
        }
    }

    #[test]
    fn a_tunnel_begins_with_the_101_and_ends_with_either_side() {
        let (mut exchange, _) = begin(SOCKET.as_bytes());
        let mut out = Vec::new();
        assert_eq!(exchange.request_bytes(b"early", &mut out), Ok(RequestStep { consumed: 0, done: true }));
        exchange.response_bytes(b"HTTP/1.1 101 x\r\nUpgrade: websocket\r\n\r\n", &Options::default(), &mut Vec::new()).unwrap();
        assert_eq!(exchange.request_bytes(b"early", &mut out), Ok(RequestStep { consumed: 5, done: true }));
        assert_eq!(out, b"early");
        assert_eq!(exchange.upstream_eof(&mut out), Ok(Ended::CLOSED));
        assert_eq!(out, b"early");
    }

    #[test]
    fn a_refused_websocket_is_an_ordinary_response() {
        check(SOCKET, "HTTP/1.1 403 x\r\nContent-Length: 2\r\n\r\nno", "403 Forbidden\r\nContent-Length: 2", "no", KEPT);
    }

    #[test]
    fn what_upstreams_do_wrong() {
        check_failed(GET, "HTTP/1.1 101 x\r\nUpgrade: websocket\r\n\r\n", ProxyError::UnaskedUpgrade);
        check_failed(SOCKET, "HTTP/1.1 101 x\r\nUpgrade: h2c\r\n\r\n", ProxyError::UnaskedUpgrade);
        check_failed(GET, "HTTP/1.1 200 OK\nX: y\n\n", ProxyError::BadResponse(HttpError::Syntax));
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        check_failed(GET, &format!("{chunked}x"), ProxyError::BadResponse(HttpError::ChunkSize));
        for cut in ["", "HTTP/1.1 200", "HTTP/1.1 100 x\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab", chunked] {
            check_failed(GET, cut, ProxyError::ClosedEarly);
        }
    }

    #[test]
    fn a_stale_connection_is_tried_again_once_where_that_can_do_no_harm() {
        let closed = |request: &str, reused: bool, response: &[u8]| {
            let (mut exchange, body) = begin(request.as_bytes());
            exchange.request_bytes(body, &mut Vec::new()).unwrap();
            exchange.response_bytes(response, &Options::default(), &mut Vec::new()).unwrap();
            let error = exchange.upstream_eof(&mut Vec::new()).unwrap_err();
            let first = exchange.failed(error, reused, "app");
            if first == Failure::Retry {
                assert!(exchange.request_head().starts_with(b"GET / ") || exchange.request_head().starts_with(b"PUT / "));
                assert!(matches!(exchange.failed(error, reused, "app"), Failure::Answer(problem) if problem.status == 502));
            }
            first
        };
        let answer = Failure::Answer(ProxyError::ClosedEarly.problem("app"));
        assert_eq!(closed(GET, true, b""), Failure::Retry);
        assert_eq!(closed(&GET.replace("GET", "PUT"), true, b""), Failure::Retry);
        assert_eq!(closed(GET, false, b""), answer);
        assert_eq!(closed(&GET.replace("GET", "POST"), true, b""), answer);
        assert_eq!(closed(GET, true, b"HTTP"), answer);
        assert_eq!(closed("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\na", true, b""), answer);
        assert_eq!(closed(GET, true, b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab"), Failure::Abort);
        let (mut exchange, _) = begin(GET.as_bytes());
        assert_eq!(
            exchange.failed(ProxyError::ResponseTimedOut, true, "app"),
            Failure::Answer(ProxyError::ResponseTimedOut.problem("app"))
        );
    }

    proptest! {
        #[test]
        fn any_split_means_the_same(
            framing in "(Content-Length: 9\r\n|Transfer-Encoding: chunked\r\n|)",
            body in "([1-4]\r\n[a-z]{1,4}\r\n){0,3}0\r\n\r\n",
            version in "1\\.[01]",
            step in 1usize..40,
        ) {
            let request = format!("GET / HTTP/{version}\r\nHost: a\r\n\r\n");
            let response = format!("HTTP/1.1 200 OK\r\n{framing}\r\n{body}");
            let (whole, split) = (run(request.as_bytes(), response.as_bytes(), 1000), run(request.as_bytes(), response.as_bytes(), step));
            match (whole.end, split.end) {
                (Ok(ResponseState::Ended(whole_end)), Ok(ResponseState::Ended(split_end))) => {
                    // Only with bytes behind the response can the two differ: a later read finds them on the idle connection.
                    prop_assert!(whole_end == split_end || framing.starts_with("Content-Length"));
                    prop_assert_eq!(read(&whole.downstream, false), read(&split.downstream, false));
                }
                (whole_end, split_end) => prop_assert_eq!(whole_end, split_end),
            }
        }

        #[test]
        fn any_split_of_a_request_means_the_same(chunks in proptest::collection::vec("[a-z\r\n]{1,20}", 0..5), step in 1usize..40) {
            let mut request = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
            chunks.iter().for_each(|chunk| write_chunk(&mut request, chunk.as_bytes()));
            request.extend_from_slice(LAST_CHUNK);
            let upstream = run(&request, b"", step).upstream;
            let mut reader = BodyReader::new(Framing::Chunked);
            let (mut rest, mut body) = (&upstream[..], Vec::new());
            while !rest.is_empty() {
                let step = reader.next(rest).unwrap();
                body.extend_from_slice(step.data);
                rest = &rest[step.consumed..];
            }
            prop_assert!(reader.is_done());
            prop_assert_eq!(body, chunks.concat().into_bytes());
        }

        #[test]
        fn no_response_panics(response in any::<Vec<u8>>(), step in 1usize..40) {
            run(GET.as_bytes(), &response, step);
            run(SOCKET.as_bytes(), &[b"HTTP/1.1 200 OK\r\n", &response[..], b"\r\n\r\n"].concat(), step);
        }
    }
}
