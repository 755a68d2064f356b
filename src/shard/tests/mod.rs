//! One shard driven by hand: what its clients send goes in, what they would read comes out. Time stands still until it is moved.

mod doors;
mod draining;
mod origins;
mod publishing;
mod replaying;
mod requests;
mod several;
mod slow;
mod subscribing;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{CloseHow, Input, ListenerId, Options, Output, Shard};
use crate::base::{ConnId, Nanos, Now, ShardId, WallMs};
use crate::hub::{Access, ChannelName, Message, Namespace, home_of};
use crate::ws::encode::masked;
use crate::ws::{Decoder, Event, Opcode, Role, Scratch};

pub const KEY: &str = "test-key";

/// What a WebSocket handshake needs besides `Host`.
pub const UPGRADE: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n\
                           Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

/// The first of one or more workers, its clients, and what it has told the other workers.
pub struct World {
    pub shard: Shard,
    pub now: Now,
    /// To other workers; nobody answers them.
    pub mail: Vec<(ShardId, Message)>,
    /// The other workers' mailboxes take nothing.
    pub mailboxes_full: bool,
    wires: HashMap<ConnId, Wire>,
    next_slot: u32,
}

/// A client's side of a connection.
struct Wire {
    unread: Vec<u8>,
    closed: Option<CloseHow>,
    /// Bytes that the client's socket still takes.
    room: usize,
}

/// One HTTP response.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {:?}", self.body))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.head
            .lines()
            .find_map(|line| line.split_once(": ").filter(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value))
    }
}

/// What a WebSocket client gets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Told {
    Text(String),
    Binary(Vec<u8>),
    Close(u16, String),
    Other,
}

/// A server with a key that lets everybody in.
pub fn options() -> Options {
    let mut options = Options::default();
    options.server.api_key = KEY.to_owned();
    let everybody = Namespace { allow_subscribe: Access::Anyone, allow_publish: Access::Anyone, ..Namespace::default() };
    options.hub.namespaces = vec![everybody];
    options
}

/// A namespace beside `default`, as open as that is.
pub fn namespace(name: &str) -> Namespace {
    let prefixes = vec![format!("{name}:")];
    Namespace { name: name.to_owned(), prefixes, ..options().hub.namespaces.remove(0) }
}

impl World {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    /// One worker, configured otherwise.
    pub fn with(change: impl FnOnce(&mut Options)) -> Self {
        Self::among(1, change)
    }

    /// The first of several workers; what the others owe never comes.
    pub fn among(workers: u16, change: impl FnOnce(&mut Options)) -> Self {
        let mut options = options();
        change(&mut options);
        let now = Now { monotonic: Nanos(1_000_000_000), wall: WallMs(1_700_000_000_000) };
        let shard = Shard::new(ShardId(0), workers, Arc::new(options), 7, now);
        Self { shard, now, mail: Vec::new(), mailboxes_full: false, wires: HashMap::new(), next_slot: 0 }
    }

    pub fn connect(&mut self) -> ConnId {
        self.connect_by(ListenerId::Public)
    }

    pub fn connect_by(&mut self, listener: ListenerId) -> ConnId {
        let conn = ConnId { slot: self.next_slot, generation: 1 };
        self.next_slot += 1;
        self.wires.insert(conn, Wire { unread: Vec::new(), closed: None, room: usize::MAX });
        let peer = SocketAddr::from(([127, 0, 0, 1], 40_000));
        self.shard.handle(Input::Accepted { conn, listener, peer }, self.now);
        self.settle();
        conn
    }

    /// The client sends bytes; what follows from them has happened when this returns.
    pub fn send(&mut self, conn: ConnId, bytes: impl AsRef<[u8]>) {
        self.shard.handle(Input::Bytes { conn, bytes: &mut bytes.as_ref().to_vec() }, self.now);
        self.settle();
    }

    /// The client will send nothing more.
    pub fn finish_sending(&mut self, conn: ConnId) {
        self.shard.handle(Input::Eof { conn }, self.now);
        self.settle();
    }

    /// Time passes, and every deadline in it.
    pub fn pass(&mut self, time: Duration) {
        let end = self.now.monotonic + time;
        while let Some(next) = self.shard.poll_timeout().filter(|next| *next <= end) {
            self.now.monotonic = next.max(self.now.monotonic);
            self.settle();
        }
        self.now.monotonic = end;
        self.now.wall = WallMs(self.now.wall.0 + u64::try_from(time.as_millis()).expect("short"));
        self.settle();
    }

    pub fn drain(&mut self, limit: Duration) {
        self.shard.drain(limit, self.now);
        self.settle();
    }

    /// Turns until there is nothing left to do at this instant.
    pub fn settle(&mut self) {
        for _ in 0..1000 {
            self.shard.fan_out(10_000, self.now);
            self.shard.handle_timeout(self.now);
            self.shard.flush();
            let acted = self.perform() | self.take_mail();
            if !acted && self.shard.poll_timeout().is_none_or(|next| next > self.now.monotonic) {
                return;
            }
        }
        panic!("the shard is never done");
    }

    fn perform(&mut self) -> bool {
        let mut acted = false;
        while let Some(output) = self.shard.poll_output() {
            acted = true;
            match output {
                Output::Send { conn, frames, skip } => {
                    let bytes: Vec<u8> = frames.as_slice().iter().flat_map(|frame| frame.blob.iter().copied()).collect();
                    let bytes = &bytes[skip as usize..];
                    let wire = self.wire(conn);
                    let taken = bytes.len().min(wire.room);
                    wire.room -= taken;
                    wire.unread.extend_from_slice(&bytes[..taken]);
                    if taken < bytes.len() {
                        let taken = u32::try_from(taken).expect("fits");
                        self.shard.handle(Input::Taken { conn, frames, skip, taken }, self.now);
                    }
                }
                Output::Close { conn, how } => self.wire(conn).closed = Some(how),
                Output::AskFacts => self.shard.handle(Input::Facts(Box::default()), self.now),
                Output::PauseReading { .. } => {}
                Output::Connect { .. } => panic!("there are no upstreams here"),
            }
        }
        acted
    }

    fn take_mail(&mut self) -> bool {
        if self.mailboxes_full {
            return false;
        }
        let before = self.mail.len();
        for to in (1..self.shard.shards).map(ShardId) {
            while let Some(message) = self.shard.poll_message(to) {
                self.mail.push((to, message));
            }
        }
        self.mail.len() > before
    }

    /// Whether another worker is the channel's home.
    pub fn is_elsewhere(&self, channel: &str) -> bool {
        home_of(&ChannelName::parse(channel).expect("a name"), self.shard.shards) != ShardId(0)
    }

    fn wire(&mut self, conn: ConnId) -> &mut Wire {
        self.wires.get_mut(&conn).expect("a connection of this world")
    }

    /// The client's socket takes nothing from now on.
    pub fn stall(&mut self, conn: ConnId) {
        self.wire(conn).room = 0;
    }

    /// It takes everything again.
    pub fn unstall(&mut self, conn: ConnId) {
        self.give_room(conn, usize::MAX);
    }

    /// It takes so many bytes, and then nothing.
    pub fn give_room(&mut self, conn: ConnId, room: usize) {
        self.wire(conn).room = room;
        self.shard.handle(Input::Writable { conn }, self.now);
        self.settle();
    }

    /// Everything that has come and not been read.
    pub fn read(&mut self, conn: ConnId) -> String {
        String::from_utf8(self.read_bytes(conn)).expect("text")
    }

    pub fn read_bytes(&mut self, conn: ConnId) -> Vec<u8> {
        std::mem::take(&mut self.wire(conn).unread)
    }

    pub fn is_closed(&mut self, conn: ConnId) -> bool {
        self.wire(conn).closed.is_some()
    }

    /// The next whole response.
    #[track_caller]
    pub fn answer(&mut self, conn: ConnId) -> Answer {
        self.try_answer(conn).expect("an answer")
    }

    pub fn try_answer(&mut self, conn: ConnId) -> Option<Answer> {
        let unread = &mut self.wire(conn).unread;
        let end = unread.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
        let head = String::from_utf8(unread.drain(..end).collect()).expect("text");
        let status = head.split(' ').nth(1)?.parse().expect("a status");
        let length: Option<usize> = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")?.parse().ok());
        let length = if status == 304 { 0 } else { length.unwrap_or(0).min(unread.len()) };
        let body = String::from_utf8(unread.drain(..length).collect()).expect("text");
        Some(Answer { status, head, body })
    }

    /// One request on a connection of its own.
    #[track_caller]
    pub fn ask(&mut self, request: &str) -> Answer {
        let conn = self.connect();
        self.send(conn, request);
        self.answer(conn)
    }

    /// A request without a body.
    #[track_caller]
    pub fn get(&mut self, target: &str, headers: &str) -> Answer {
        self.ask(&format!("GET {target} HTTP/1.1\r\nHost: h\r\n{headers}\r\n"))
    }

    /// A request with the key and a body.
    #[track_caller]
    pub fn post(&mut self, target: &str, headers: &str, body: &str) -> Answer {
        self.ask(&post(target, headers, body))
    }

    /// Publishes and returns the position.
    #[track_caller]
    pub fn publish(&mut self, channel: &str, body: &str) -> String {
        let answer = self.post(&format!("/channels/{channel}"), "", body);
        assert_eq!(answer.status, 200, "{}", answer.body);
        answer.json()["position"].as_str().expect("a position").to_owned()
    }

    /// A request on a connection of its own that stays open.
    pub fn open(&mut self, target: &str, headers: &str) -> ConnId {
        let conn = self.connect();
        self.send(conn, format!("GET {target} HTTP/1.1\r\nHost: h\r\n{headers}\r\n"));
        conn
    }

    /// An event stream without chunks, which HTTP/1.0 does not have; its head has been read.
    #[track_caller]
    pub fn events(&mut self, target: &str, headers: &str) -> ConnId {
        let conn = self.connect();
        self.send(conn, format!("GET {target} HTTP/1.0\r\nHost: h\r\nAccept: text/event-stream\r\n{headers}\r\n"));
        assert_eq!(self.answer(conn).status, 200);
        conn
    }

    /// A WebSocket after its handshake.
    #[track_caller]
    pub fn websocket(&mut self, target: &str, headers: &str) -> ConnId {
        let conn = self.open(target, &format!("{UPGRADE}{headers}"));
        let answer = self.answer(conn);
        assert_eq!(answer.status, 101, "{answer:?}");
        conn
    }

    pub fn send_text(&mut self, conn: ConnId, text: &str) {
        self.send(conn, masked(Opcode::Text, text.as_bytes(), [1, 2, 3, 4]));
    }

    pub fn send_binary(&mut self, conn: ConnId, bytes: &[u8]) {
        self.send(conn, masked(Opcode::Binary, bytes, [1, 2, 3, 4]));
    }

    /// The WebSocket messages that have come.
    pub fn told(&mut self, conn: ConnId) -> Vec<Told> {
        let mut bytes = self.read_bytes(conn);
        let (mut rest, mut scratch) = (bytes.as_mut_slice(), Scratch::default());
        let mut decoder = Decoder::new(Role::Client, false);
        let mut told = Vec::new();
        let options = crate::ws::Options { message_bytes_max: 1 << 20, ..crate::ws::Options::default() };
        while let Some(event) = decoder.next(&mut rest, &mut scratch, &options).expect("frames") {
            told.push(match event {
                Event::Text(text) => Told::Text(text.to_owned()),
                Event::Binary(bytes) => Told::Binary(bytes.to_vec()),
                Event::Close { code, reason } => Told::Close(code.map_or(1005, |code| code.number()), reason.to_owned()),
                Event::Ping(_) | Event::Pong(_) => Told::Other,
            });
        }
        told
    }

    /// The JSON messages that have come; anything else is a failure.
    #[track_caller]
    pub fn items(&mut self, conn: ConnId) -> Vec<serde_json::Value> {
        let told = self.told(conn).into_iter();
        told.map(|told| match told {
            Told::Text(text) => serde_json::from_str(&text).expect("JSON"),
            other => panic!("{other:?}"),
        })
        .collect()
    }

    /// The close frame that has come, and nothing else of interest before it.
    #[track_caller]
    pub fn close_frame(&mut self, conn: ConnId) -> (u16, String) {
        match self.told(conn).pop() {
            Some(Told::Close(code, reason)) => (code, reason),
            other => panic!("no close frame: {other:?}"),
        }
    }
}

/// A request with the key and a body.
#[must_use]
pub fn post(target: &str, headers: &str, body: &str) -> String {
    format!("POST {target} HTTP/1.1\r\nHost: h\r\nX-API-Key: {KEY}\r\n{headers}Content-Length: {}\r\n\r\n{body}", body.len())
}
