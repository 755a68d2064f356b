//! One shard on a bench: peers that take as much as a test lets them, a clock that a test moves.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{CloseHow, ConnectCause, GoneCause, Input, ListenerId, Options, Output, Shard};
use crate::base::{ConnId, Frames, Nanos, Now, ShardId, WallMs};

/// Bytes of one receive, as the ring's buffers have it.
const RECEIVE_BYTES: usize = 2048;
/// Turns after which nothing more should be happening by itself.
const TURNS_MAX: usize = 10_000;

/// A worker of one, and everybody it talks to.
pub(super) struct Rig {
    pub shard: Shard,
    pub now: Now,
    peers: BTreeMap<u32, Peer>,
    /// Connections asked for and not yet made: token and address.
    pub connects: Vec<(u32, SocketAddr)>,
}

struct Peer {
    conn: ConnId,
    got: Vec<u8>,
    /// Bytes that its socket still takes.
    room: usize,
    refused: Option<(Frames, u32, u32)>,
    blocked: bool,
    paused: bool,
    closed: Option<CloseHow>,
}

impl Rig {
    pub fn new(options: Options) -> Self {
        let now = Now { monotonic: Nanos(1_000_000_000), wall: WallMs(1_700_000_000_000) };
        let shard = Shard::new(ShardId(0), 1, Arc::new(options), 1, now);
        Self { shard, now, peers: BTreeMap::new(), connects: Vec::new() }
    }

    fn seat(&mut self) -> ConnId {
        let conn = ConnId { slot: u32::try_from(self.peers.len()).unwrap(), generation: 1 };
        let peer = Peer { conn, got: Vec::new(), room: usize::MAX, refused: None, blocked: false, paused: false, closed: None };
        self.peers.insert(conn.slot, peer);
        conn
    }

    /// A client connects.
    pub fn accept(&mut self) -> ConnId {
        let (conn, peer) = (self.seat(), SocketAddr::from(([192, 0, 2, 1], 4000)));
        self.shard.handle(Input::Accepted { conn, listener: ListenerId::Public, peer }, self.now);
        conn
    }

    /// The oldest connection that was asked for is made.
    pub fn connected(&mut self) -> ConnId {
        let (token, _) = self.connects.remove(0);
        let conn = self.seat();
        self.shard.handle(Input::Connected { conn, token }, self.now);
        self.settle();
        conn
    }

    /// Sends as a socket would: in receives, until all is read or reading stops. Returns what was read.
    pub fn send(&mut self, conn: ConnId, bytes: impl AsRef<[u8]>) -> usize {
        let mut read = 0;
        for piece in bytes.as_ref().chunks(RECEIVE_BYTES) {
            if self.is_paused(conn) {
                break;
            }
            read += piece.len();
            self.receive(conn, piece);
            self.turn();
        }
        self.settle();
        read
    }

    /// Hands bytes in, whether or not they are wanted: they were on their way.
    pub fn receive(&mut self, conn: ConnId, bytes: &[u8]) {
        self.hand_in_refusals();
        self.shard.handle(Input::Bytes { conn, bytes: &mut bytes.to_vec() }, self.now);
    }

    /// The peer's socket is reset.
    pub fn reset(&mut self, conn: ConnId) {
        self.gone(conn, GoneCause::Reset);
    }

    pub fn gone(&mut self, conn: ConnId, cause: GoneCause) {
        self.shard.handle(Input::Gone { conn, cause }, self.now);
        self.settle();
    }

    /// The oldest connection that was asked for cannot be made.
    pub fn connect_fails(&mut self, cause: ConnectCause) {
        let (token, _) = self.connects.remove(0);
        self.shard.handle(Input::ConnectFailed { token, cause }, self.now);
        self.settle();
    }

    pub fn eof(&mut self, conn: ConnId) {
        self.shard.handle(Input::Eof { conn }, self.now);
        self.settle();
    }

    /// From now on the peer takes so many more bytes.
    pub fn give_room(&mut self, conn: ConnId, room: usize) {
        let peer = self.peers.get_mut(&conn.slot).unwrap();
        peer.room = room;
        if room > 0 && std::mem::take(&mut peer.blocked) {
            self.shard.handle(Input::Writable { conn }, self.now);
        }
        self.settle();
    }

    pub fn advance(&mut self, time: Duration) {
        self.now.monotonic = self.now.monotonic + time;
        self.now.wall = WallMs(self.now.wall.0 + u64::try_from(time.as_millis()).unwrap());
        self.settle();
    }

    /// What the peer has got since it was last asked.
    pub fn got(&mut self, conn: ConnId) -> String {
        String::from_utf8_lossy(&self.got_bytes(conn)).into_owned()
    }

    pub fn got_bytes(&mut self, conn: ConnId) -> Vec<u8> {
        std::mem::take(&mut self.peers.get_mut(&conn.slot).unwrap().got)
    }

    /// What a metric says now, by its name and labels; 0 where there is no such sample.
    pub fn metric(&mut self, sample: &str) -> u64 {
        let conn = self.accept();
        self.send(conn, "GET /metrics HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
        let text = self.got(conn);
        assert!(text.starts_with("HTTP/1.1 200"), "{text}");
        let name = format!("ringmain_{sample} ");
        text.lines().find_map(|line| line.strip_prefix(&name)).map_or(0, |value| value.parse().expect("a count"))
    }

    /// A WebSocket on a target.
    pub fn websocket(&mut self, target: &str) -> ConnId {
        let conn = self.accept();
        self.send(conn, format!("GET {target} HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"));
        assert!(self.got(conn).starts_with("HTTP/1.1 101"));
        conn
    }

    /// Sends a short unfragmented frame, masked with zeros.
    pub fn send_frame(&mut self, conn: ConnId, opcode: u8, payload: &[u8]) {
        let length = u8::try_from(payload.len()).unwrap();
        assert!(length < 126);
        self.send(conn, [&[0x80 | opcode, 0x80 | length, 0, 0, 0, 0][..], payload].concat());
    }

    /// One request on a connection of its own, and what came back.
    pub fn ask(&mut self, request: &str) -> String {
        let conn = self.accept();
        self.send(conn, request);
        self.got(conn)
    }

    /// Publishes with the key `k`.
    pub fn publish(&mut self, channel: &str, fields: &str, body: &str) -> String {
        let length = body.len();
        self.ask(&format!(
            "POST /channels/{channel} HTTP/1.1\r\nHost: h\r\nX-API-Key: k\r\n{fields}Content-Length: {length}\r\n\r\n{body}"
        ))
    }

    pub fn is_paused(&self, conn: ConnId) -> bool {
        self.peers[&conn.slot].paused
    }

    pub fn closed(&self, conn: ConnId) -> Option<CloseHow> {
        self.peers[&conn.slot].closed
    }

    /// Turns until nothing more happens by itself.
    pub fn settle(&mut self) {
        self.turn();
        for _ in 0..TURNS_MAX {
            if self.shard.poll_timeout() != Some(Nanos(0)) && self.peers.values().all(|peer| peer.refused.is_none()) {
                return;
            }
            self.turn();
        }
        panic!("the shard never comes to rest");
    }

    /// One turn of the shell, in its order.
    pub fn turn(&mut self) {
        self.hand_in_refusals();
        self.shard.fan_out(100, self.now);
        self.shard.handle_timeout(self.now);
        self.shard.flush();
        while let Some(output) = self.shard.poll_output() {
            self.perform(output);
        }
    }

    fn hand_in_refusals(&mut self) {
        for peer in self.peers.values_mut() {
            if let Some((frames, skip, taken)) = peer.refused.take() {
                peer.blocked = true;
                self.shard.handle(Input::Taken { conn: peer.conn, frames, skip, taken }, self.now);
            }
        }
    }

    fn perform(&mut self, output: Output) {
        match output {
            Output::Send { conn, frames, skip } => {
                let peer = self.peers.get_mut(&conn.slot).unwrap();
                assert!(peer.refused.is_none() && !peer.blocked && peer.closed.is_none(), "a send out of turn");
                let wire: Vec<u8> = frames.as_slice().iter().flat_map(|frame| frame.blob.to_vec()).skip(skip as usize).collect();
                let taken = wire.len().min(peer.room);
                peer.room -= taken;
                peer.got.extend_from_slice(&wire[..taken]);
                if taken < wire.len() {
                    peer.refused = Some((frames, skip, u32::try_from(taken).unwrap()));
                }
            }
            Output::Close { conn, how } => self.peers.get_mut(&conn.slot).unwrap().closed = Some(how),
            Output::Connect { token, address } => self.connects.push((token, address)),
            Output::AskFacts => self.shard.handle(Input::Facts(Box::default()), self.now),
            Output::PauseReading { conn, paused } => {
                let peer = self.peers.get_mut(&conn.slot).unwrap();
                assert_ne!(peer.paused, paused, "said twice");
                peer.paused = paused;
            }
        }
    }
}
