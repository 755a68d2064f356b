//! Several shards and the mailboxes between them, which a test can hold shut.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{Input, ListenerId, Options, Output, Shard};
use crate::base::{ConnId, Nanos, Now, ShardId, WallMs};
use crate::hub::{Access, ChannelName, Message, home_of};
use crate::ws;

pub(super) const KEY: &str = "k";
/// Messages that a mailbox takes.
const MAILBOX_ENTRIES: usize = 8;

/// Workers, their mailboxes and everybody they talk to.
pub(super) struct Workers {
    pub shards: Vec<Shard>,
    pub now: Now,
    mail: BTreeMap<(usize, usize), VecDeque<Message>>,
    /// Mailboxes of these workers are not read.
    pub deaf: Vec<usize>,
    peers: BTreeMap<(usize, u32), Peer>,
}

#[derive(Default)]
struct Peer {
    got: Vec<u8>,
    paused: bool,
    /// Times that reading was stopped.
    pauses: usize,
    closed: bool,
}

/// A connection and the worker it is on.
#[derive(Clone, Copy, Debug)]
pub(super) struct At {
    pub worker: usize,
    pub conn: ConnId,
}

pub(super) fn options() -> Options {
    let mut options = Options::default();
    options.server.api_key = KEY.to_owned();
    options.hub.namespaces[0].allow_subscribe = Access::Anyone;
    options.hub.namespaces[0].allow_publish = Access::Anyone;
    options
}

pub(super) fn handshake(target: &str) -> String {
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n";
    format!("GET {target} HTTP/1.1\r\nHost: h\r\n{upgrade}Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
}

/// A name whose home is the given one of so many workers.
pub(super) fn channel_of(home: u16, workers: u16) -> String {
    let named = |at: u32| ChannelName::parse(&format!("c{at}")).unwrap();
    (0..).map(named).find(|name| home_of(name, workers) == ShardId(home)).unwrap().as_str().to_owned()
}

impl Workers {
    pub fn new(count: u16, options: Options) -> Self {
        let now = Now { monotonic: Nanos(1_000_000_000), wall: WallMs(1_700_000_000_000) };
        let options = Arc::new(options);
        let shard = |id| Shard::new(ShardId(id), count, Arc::clone(&options), u64::from(id) + 1, now);
        Self { shards: (0..count).map(shard).collect(), now, mail: BTreeMap::new(), deaf: Vec::new(), peers: BTreeMap::new() }
    }

    pub fn accept(&mut self, worker: usize) -> At {
        let conn = ConnId { slot: u32::try_from(self.peers.len()).unwrap(), generation: 1 };
        let peer = SocketAddr::from(([192, 0, 2, 1], 4000));
        self.peers.insert((worker, conn.slot), Peer::default());
        self.shards[worker].handle(Input::Accepted { conn, listener: ListenerId::Public, peer }, self.now);
        At { worker, conn }
    }

    /// Sends a request on a connection of its own.
    pub fn request(&mut self, worker: usize, request: &str) -> At {
        let at = self.accept(worker);
        self.send(at, request.as_bytes());
        at
    }

    pub fn publish(&mut self, worker: usize, path: &str, fields: &str, body: &str) -> At {
        let length = body.len();
        let head = format!("POST {path} HTTP/1.1\r\nHost: h\r\nX-API-Key: {KEY}\r\n{fields}Content-Length: {length}\r\n\r\n");
        self.request(worker, &(head + body))
    }

    /// Opens a WebSocket and reads the answer to its handshake.
    pub fn websocket(&mut self, worker: usize, target: &str) -> At {
        let at = self.request(worker, &handshake(target));
        assert!(self.got(at).starts_with("HTTP/1.1 101"));
        at
    }

    pub fn say(&mut self, at: At, text: &str) {
        self.send(at, &ws::encode::masked(ws::Opcode::Text, text.as_bytes(), [1, 2, 3, 4]));
    }

    pub fn send(&mut self, at: At, bytes: &[u8]) {
        self.hand_in(at, bytes);
        self.settle();
    }

    /// Bytes arrive; no turn follows yet.
    pub fn hand_in(&mut self, at: At, bytes: &[u8]) {
        self.shards[at.worker].handle(Input::Bytes { conn: at.conn, bytes: &mut bytes.to_vec() }, self.now);
    }

    pub fn advance(&mut self, time: Duration) {
        self.now.monotonic = self.now.monotonic + time;
        self.now.wall = WallMs(self.now.wall.0 + u64::try_from(time.as_millis()).unwrap());
        self.settle();
    }

    /// Turns of every worker until nothing more happens by itself.
    pub fn settle(&mut self) {
        for _ in 0..64 {
            for worker in 0..self.shards.len() {
                self.turn(worker);
            }
        }
    }

    /// One turn as the shell makes it.
    pub fn turn(&mut self, worker: usize) {
        let now = self.now;
        if !self.deaf.contains(&worker) {
            for from in 0..self.shards.len() {
                while let Some(message) = self.mail.get_mut(&(from, worker)).and_then(VecDeque::pop_front) {
                    let from = ShardId(u16::try_from(from).unwrap());
                    self.shards[worker].handle(Input::Message { from, message }, now);
                }
            }
        }
        self.shards[worker].fan_out(u32::MAX, now);
        self.shards[worker].handle_timeout(now);
        self.shards[worker].flush();
        while let Some(output) = self.shards[worker].poll_output() {
            self.perform(worker, output);
        }
        for to in (0..self.shards.len()).filter(|to| *to != worker) {
            let mailbox = self.mail.entry((worker, to)).or_default();
            while mailbox.len() < MAILBOX_ENTRIES {
                let Some(message) = self.shards[worker].poll_message(ShardId(u16::try_from(to).unwrap())) else { break };
                mailbox.push_back(message);
            }
        }
    }

    fn perform(&mut self, worker: usize, output: Output) {
        match output {
            Output::Send { conn, frames, skip } => {
                let bytes = frames.as_slice().iter().flat_map(|frame| frame.blob.to_vec()).skip(skip as usize);
                self.peers.get_mut(&(worker, conn.slot)).unwrap().got.extend(bytes);
            }
            Output::AskFacts => self.shards[worker].handle(Input::Facts(Box::default()), self.now),
            Output::PauseReading { conn, paused } => {
                let peer = self.peers.get_mut(&(worker, conn.slot)).unwrap();
                peer.paused = paused;
                peer.pauses += usize::from(paused);
            }
            Output::Close { conn, .. } => self.peers.get_mut(&(worker, conn.slot)).unwrap().closed = true,
            Output::Connect { .. } => panic!("nobody is to be connected to"),
        }
    }

    /// What the peer has got since it was last asked.
    pub fn got(&mut self, at: At) -> String {
        let got = std::mem::take(&mut self.peers.get_mut(&(at.worker, at.conn.slot)).unwrap().got);
        String::from_utf8_lossy(&got).into_owned()
    }

    pub fn is_paused(&self, at: At) -> bool {
        self.peers[&(at.worker, at.conn.slot)].paused
    }

    pub fn pauses(&self, at: At) -> usize {
        self.peers[&(at.worker, at.conn.slot)].pauses
    }

    pub fn is_closed(&self, at: At) -> bool {
        self.peers[&(at.worker, at.conn.slot)].closed
    }

    /// A sample of `/metrics`.
    pub fn metric(&mut self, sample: &str) -> u64 {
        let at = self.request(0, "GET /metrics HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n");
        let text = self.got(at);
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("ringmain_{sample} ")));
        line.unwrap_or_else(|| panic!("{sample} is missing in\n{text}")).parse().unwrap()
    }
}
