//! What the peers answer, without their sockets: upgrades, then echoes or silence.
//!
//! `/echo` sends every message back. Any other path is a channel that nobody publishes to: its subscribers are told that they
//! are subscribed, and their pings are answered. Frames go through ringmain's own codec, so that what is compared is how the
//! bytes come in and go out.

use std::net::SocketAddr;

use ringmain::ws::{self, Decoder, Event, Opcode, Role, Scratch, encode, handshake};

/// Bytes of a connection's receive buffer, where it has one of its own.
pub const RECEIVE_BYTES: usize = 4096;
const HEADERS_MAX: usize = 32;

/// Where to listen: the only argument.
#[must_use]
pub fn listen_address() -> SocketAddr {
    let argument = std::env::args().nth(1).unwrap_or_default();
    argument.parse().unwrap_or_else(|_| {
        eprintln!("usage: {} ADDRESS:PORT", std::env::args().next().unwrap_or_default());
        std::process::exit(2)
    })
}

/// What a worker's connections share.
#[derive(Default)]
pub struct Shared {
    scratch: Scratch,
    options: ws::Options,
}

/// One connection.
pub enum Connection {
    /// Its request has not come whole.
    Head(Vec<u8>),
    WebSocket {
        decoder: Decoder,
        echoes: bool,
    },
}

impl Default for Connection {
    fn default() -> Self {
        Self::Head(Vec::new())
    }
}

/// The connection is to be closed.
#[derive(Debug)]
pub struct Ended;

impl Connection {
    /// Takes received bytes in and appends what is to be sent.
    ///
    /// # Errors
    /// When the peer has closed, or sent what is no request or no frame.
    pub fn take(&mut self, bytes: &mut [u8], out: &mut Vec<u8>, shared: &mut Shared) -> Result<(), Ended> {
        match self {
            Self::Head(head) => {
                head.extend_from_slice(bytes);
                let mut head = std::mem::take(head);
                let Some((head_bytes, echoes)) = upgrade(&head, out)? else {
                    *self = Self::Head(head);
                    return Ok(());
                };
                *self = Self::WebSocket { decoder: Decoder::new(Role::Server, false), echoes };
                self.take(&mut head[head_bytes..], out, shared)
            }
            Self::WebSocket { decoder, echoes } => answer(decoder, *echoes, bytes, out, shared),
        }
    }
}

/// Answers the upgrade at the start of `bytes`. Returns its length and whether it is for echoes.
fn upgrade(bytes: &[u8], out: &mut Vec<u8>) -> Result<Option<(usize, bool)>, Ended> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(head_bytes) = request.parse(bytes).map_err(|_| Ended)? else { return Ok(None) };
    let path = request.path.unwrap_or_default();
    let key = request.headers.iter().find(|header| header.name.eq_ignore_ascii_case("sec-websocket-key")).ok_or(Ended)?;
    let accept = handshake::accept_key(std::str::from_utf8(key.value).map_err(|_| Ended)?);
    out.extend_from_slice(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ",
    );
    out.extend_from_slice(&accept);
    out.extend_from_slice(b"\r\n\r\n");
    let echoes = path == "/echo";
    if !echoes {
        say(out, Opcode::Text, subscribed(path).as_bytes());
    }
    Ok(Some((head_bytes, echoes)))
}

/// What a subscriber of the channel at `path` is told first.
#[must_use]
pub fn subscribed(path: &str) -> String {
    let channel = path.strip_prefix("/channels/").unwrap_or(path).replace("%2D", "-");
    format!("{{\"subscribed\":{{\"channel\":\"{channel}\",\"position\":\"peer0000000:0\",\"recovered\":true}}}}")
}

fn answer(decoder: &mut Decoder, echoes: bool, bytes: &mut [u8], out: &mut Vec<u8>, shared: &mut Shared) -> Result<(), Ended> {
    let mut rest = bytes;
    while let Some(event) = decoder.next(&mut rest, &mut shared.scratch, &shared.options).map_err(|_| Ended)? {
        match event {
            Event::Text(text) if echoes => say(out, Opcode::Text, text.as_bytes()),
            Event::Binary(bytes) if echoes => say(out, Opcode::Binary, bytes),
            Event::Ping(payload) => say(out, Opcode::Pong, payload),
            Event::Close { .. } => return Err(Ended),
            Event::Text(_) | Event::Binary(_) | Event::Pong(_) => {}
        }
    }
    Ok(())
}

fn say(out: &mut Vec<u8>, opcode: Opcode, payload: &[u8]) {
    encode::header(opcode, payload.len(), false, out);
    out.extend_from_slice(payload);
}
