//! Shards, sockets, mailboxes and a clock, all driven by one seed.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ringmain::base::{ConnId, Nanos, Now, Random, ShardId, WallMs};
use ringmain::hub::{Access, ChannelKind, Message, Namespace, SlowConsumer};
use ringmain::shard::{CloseHow, GoneCause, Input, ListenerId, Options, Output, Shard};

use crate::client::{Client, Way, publish_frame};
use crate::model::{Model, split};

const KEY: &str = "k";
const CHANNELS: [&str; 8] = ["a", "b", "none:1", "drop:1", "latest:1", "window:1", "state:1", "short:1"];

/// Probabilities of the ugly things.
pub struct Faults {
    pub short_send: f64,
    pub reset: f64,
    pub stall: f64,
    pub mailbox_delay: f64,
    /// Largest slice of a fan-out.
    pub slices: u64,
}

/// A publish over HTTP that has not been answered.
struct Publisher {
    channel: String,
    number: u64,
    wire: Vec<u8>,
}

pub struct World {
    random: Random,
    faults: Faults,
    shards: Vec<Shard>,
    now: Now,
    mail: Vec<Vec<VecDeque<Message>>>,
    clients: Vec<Client>,
    publishers: HashMap<(usize, u32), Publisher>,
    owners: HashMap<(usize, u32), usize>,
    generations: HashMap<(usize, u32), u32>,
    free: Vec<Vec<u32>>,
    next_slot: Vec<u32>,
    model: Model,
    numbers: u64,
    error: Option<String>,
    settling: bool,
}

fn options() -> Options {
    let mut options = Options::default();
    options.server.api_key = KEY.to_owned();
    options.server.development = true;
    let base = Namespace {
        history_size: 20,
        allow_subscribe: Access::Anyone,
        allow_publish: Access::Anyone,
        queue_bytes_max: 1500,
        ..Namespace::default()
    };
    let named = |name: &str| Namespace { name: name.to_owned(), prefixes: vec![format!("{name}:")], ..base.clone() };
    options.hub.position_records_max = 1;
    options.hub.namespaces = vec![
        base.clone(),
        Namespace { history_size: 0, ..named("none") },
        Namespace { slow_consumer: SlowConsumer::DropOldest, ..named("drop") },
        Namespace { slow_consumer: SlowConsumer::Latest, ..named("latest") },
        Namespace { coalesce: Duration::from_millis(50), ..named("window") },
        Namespace { kind: ChannelKind::State, ..named("state") },
        Namespace { history_size: 3, history_ttl: Duration::from_secs(5), ..named("short") },
    ];
    options
}

impl World {
    pub fn new(seed: u64, shards: u16, faults: Faults) -> Self {
        let mut random = Random::seeded(seed);
        let options = Arc::new(options());
        let now = Now { monotonic: Nanos(1_000_000_000), wall: WallMs(1_700_000_000_000) };
        let count = usize::from(shards);
        Self {
            shards: (0..shards).map(|id| Shard::new(ShardId(id), shards, Arc::clone(&options), random.bits(), now)).collect(),
            random,
            faults,
            now,
            mail: (0..count).map(|_| (0..count).map(|_| VecDeque::new()).collect()).collect(),
            clients: Vec::new(),
            publishers: HashMap::new(),
            owners: HashMap::new(),
            generations: HashMap::new(),
            free: vec![Vec::new(); count],
            next_slot: vec![0; count],
            model: Model::default(),
            numbers: 0,
            error: None,
            settling: false,
        }
    }

    pub fn check(&self) -> Result<(), String> {
        self.error.clone().map_or(Ok(()), Err)
    }

    /// One act chosen by the seed, then a turn of a shard.
    pub fn step(&mut self) {
        match self.random.between(0, 99) {
            0..=14 => self.join(),
            15..=39 => self.publish_over_http(),
            40..=54 => self.publish_over_websocket(),
            55..=64 => self.change_room(),
            65..=67 => self.reset_somebody(),
            68..=74 => self.reconnect(),
            75..=79 => {
                let jump = self.random.between(1, 2000);
                self.advance(Duration::from_millis(jump));
            }
            // Long enough for whatever nobody uses to be forgotten.
            80 if self.random.chance(0.3) => self.advance(Duration::from_secs(150)),
            _ => self.advance(Duration::from_millis(1)),
        }
        let shard = self.pick(self.shards.len());
        self.turn(shard);
    }

    /// Lets everything arrive, then asks whether everybody has everything.
    pub fn settle(&mut self) -> Result<(), String> {
        self.settling = true;
        for _ in 0..400 {
            self.advance(Duration::from_millis(60));
            for client in 0..self.clients.len() {
                if self.clients[client].at.is_none() {
                    self.connect(client);
                }
                self.give_room(client, usize::MAX / 2);
            }
            for shard in 0..self.shards.len() {
                self.turn(shard);
            }
            self.check()?;
        }
        for client in &self.clients {
            let Some(top) = self.model.top(&client.channel) else { continue };
            let last = client.last.as_deref().map(split);
            // A publication whose publisher was cut off may be known to nobody but the channel, and so to a told gap. A channel
            // that was forgotten and has had no publication since is at the start of an epoch that nobody has seen.
            let there = last.is_some_and(|last| if last.0 == split(top).0 { last.1 >= split(top).1 } else { last.1 == 0 });
            if !there {
                return Err(format!("{:?} on {} ended at {:?}, the channel at {top:?}", client.way, client.channel, client.last));
            }
        }
        Ok(())
    }

    fn pick(&mut self, count: usize) -> usize {
        usize::try_from(self.random.between(0, count as u64 - 1)).unwrap_or(0)
    }

    fn advance(&mut self, step: Duration) {
        self.now = Now { monotonic: self.now.monotonic + step, wall: WallMs(self.now.wall.0 + step.as_millis() as u64) };
    }

    fn join(&mut self) {
        if self.clients.len() >= 24 {
            return;
        }
        let way = [Way::WebSocket, Way::WebSocket, Way::EventStream, Way::NdJson, Way::Poll][self.pick(5)];
        let channel = CHANNELS[self.pick(CHANNELS.len())].to_owned();
        self.clients.push(Client::new(way, channel));
        self.connect(self.clients.len() - 1);
    }

    fn connect(&mut self, client: usize) {
        let shard = self.pick(self.shards.len());
        let conn = self.accept(shard);
        let room = if self.random.chance(self.faults.stall) { 400 } else { 60_000 };
        self.clients[client].connected((shard, conn), room);
        self.owners.insert((shard, conn.slot), client);
        let request = self.clients[client].request();
        self.feed(shard, conn, &request);
    }

    fn reconnect(&mut self) {
        let gone: Vec<usize> = (0..self.clients.len()).filter(|&client| self.clients[client].at.is_none()).collect();
        if !gone.is_empty() {
            let client = gone[self.pick(gone.len())];
            self.connect(client);
        }
    }

    fn accept(&mut self, shard: usize) -> ConnId {
        let slot = self.free[shard].pop().unwrap_or_else(|| {
            self.next_slot[shard] += 1;
            self.next_slot[shard] - 1
        });
        let generation = self.generations.entry((shard, slot)).or_insert(0);
        *generation += 1;
        let conn = ConnId { slot, generation: *generation };
        let peer: SocketAddr = "127.0.0.1:9".parse().expect("an address");
        self.shards[shard].handle(Input::Accepted { conn, listener: ListenerId::Public, peer }, self.now);
        conn
    }

    /// Hands bytes in, cut anywhere.
    fn feed(&mut self, shard: usize, conn: ConnId, bytes: &[u8]) {
        let mut bytes = bytes.to_vec();
        let cut = self.pick(bytes.len() + 1);
        let (first, second) = bytes.split_at_mut(cut);
        for part in [first, second] {
            if !part.is_empty() {
                self.shards[shard].handle(Input::Bytes { conn, bytes: part }, self.now);
            }
        }
    }

    fn publish_over_http(&mut self) {
        let shard = self.pick(self.shards.len());
        let channel = CHANNELS[self.pick(CHANNELS.len())].to_owned();
        let conn = self.accept(shard);
        self.numbers += 1;
        let padding = "x".repeat(self.pick(300));
        let body = format!("{{\"n\":{},\"pad\":\"{padding}\"}}", self.numbers);
        let path = channel.replace(':', "%3A");
        let request = format!(
            "POST /channels/{path} HTTP/1.1\r\nHost: h\r\nX-API-Key: {KEY}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.publishers.insert((shard, conn.slot), Publisher { channel, number: self.numbers, wire: Vec::new() });
        self.feed(shard, conn, request.as_bytes());
    }

    fn publish_over_websocket(&mut self) {
        let able: Vec<usize> = (0..self.clients.len())
            .filter(|&client| {
                self.clients[client].way == Way::WebSocket
                    && self.clients[client].at.is_some()
                    && self.clients[client].last.is_some()
            })
            .collect();
        if able.is_empty() {
            return;
        }
        let client = able[self.pick(able.len())];
        for _ in 0..=self.pick(3) {
            self.numbers += 1;
            let padding = self.pick(300);
            let frame = publish_frame(self.numbers, self.numbers, padding);
            let client = &mut self.clients[client];
            client.asked.push_back((self.numbers, self.numbers));
            let Some((shard, conn)) = client.at else { return };
            self.feed(shard, conn, &frame);
        }
    }

    fn change_room(&mut self) {
        if self.clients.is_empty() {
            return;
        }
        let client = self.pick(self.clients.len());
        let room = [0, 50, 700, 100_000][self.pick(4)];
        self.give_room(client, room);
    }

    fn give_room(&mut self, client: usize, room: usize) {
        let client = &mut self.clients[client];
        client.room = room;
        if let Some((shard, conn)) = client.at
            && client.blocked
            && room > 0
        {
            client.blocked = false;
            self.shards[shard].handle(Input::Writable { conn }, self.now);
        }
    }

    fn reset_somebody(&mut self) {
        if self.clients.is_empty() || !self.random.chance(self.faults.reset * 20.0) {
            return;
        }
        let client = self.pick(self.clients.len());
        if let Some((shard, conn)) = self.clients[client].at {
            self.clients[client].disconnected();
            self.owners.remove(&(shard, conn.slot));
            let half = self.random.chance(0.5);
            let input = if half { Input::Eof { conn } } else { Input::Gone { conn, cause: GoneCause::Reset } };
            self.shards[shard].handle(input, self.now);
            if !half {
                self.free[shard].push(conn.slot);
            }
        }
    }

    /// One turn as the shell makes it.
    fn turn(&mut self, shard: usize) {
        for from in 0..self.shards.len() {
            let take = if self.settling || !self.random.chance(self.faults.mailbox_delay) { usize::MAX } else { self.pick(3) };
            for _ in 0..take {
                let Some(message) = self.mail[from][shard].pop_front() else { break };
                let from = ShardId(u16::try_from(from).unwrap_or(0));
                self.shards[shard].handle(Input::Message { from, message }, self.now);
            }
        }
        let slice = if self.settling { 1000 } else { self.random.between(1, self.faults.slices) };
        self.shards[shard].fan_out(u32::try_from(slice).unwrap_or(1), self.now);
        self.shards[shard].handle_timeout(self.now);
        self.shards[shard].flush();
        while let Some(output) = self.shards[shard].poll_output() {
            self.perform(shard, output);
        }
        for to in 0..self.shards.len() {
            // A mailbox has few places; what does not fit waits in the shard.
            while to != shard && self.mail[shard][to].len() < 4 {
                let Some(message) = self.shards[shard].poll_message(ShardId(u16::try_from(to).unwrap_or(0))) else { break };
                self.mail[shard][to].push_back(message);
            }
        }
    }

    fn perform(&mut self, shard: usize, output: Output) {
        match output {
            Output::Send { conn, frames, skip } => {
                let wire: Vec<u8> = frames.as_slice().iter().flat_map(|frame| frame.blob.to_vec()).skip(skip as usize).collect();
                let taken = self.take(shard, conn, wire.len());
                self.deliver(shard, conn, &wire[..taken]);
                if taken < wire.len() {
                    let taken = u32::try_from(taken).unwrap_or(u32::MAX);
                    self.shards[shard].handle(Input::Taken { conn, frames, skip, taken }, self.now);
                }
            }
            Output::Close { conn, how } => self.close(shard, conn, how),
            Output::AskFacts | Output::PauseReading { .. } => {}
            Output::Connect { .. } => self.error = Some("nobody is to be connected to".to_owned()),
        }
    }

    /// How many of a send's bytes the fake socket takes.
    fn take(&mut self, shard: usize, conn: ConnId, length: usize) -> usize {
        let Some(&owner) = self.owners.get(&(shard, conn.slot)) else { return length };
        let short = !self.settling && self.random.chance(self.faults.short_send);
        let cut = if short { self.pick(length + 1) } else { length };
        let client = &mut self.clients[owner];
        let taken = cut.min(client.room);
        client.room -= taken;
        client.blocked = taken < length;
        taken
    }

    fn deliver(&mut self, shard: usize, conn: ConnId, bytes: &[u8]) {
        if let Some(publisher) = self.publishers.get_mut(&(shard, conn.slot)) {
            publisher.wire.extend_from_slice(bytes);
            return;
        }
        let Some(&owner) = self.owners.get(&(shard, conn.slot)) else { return };
        match self.clients[owner].read(bytes, &mut self.model) {
            Ok(false) => {}
            Ok(true) => {
                let request = self.clients[owner].request();
                self.feed(shard, conn, &request);
            }
            Err(error) => {
                self.error.get_or_insert(error);
            }
        }
    }

    fn close(&mut self, shard: usize, conn: ConnId, how: CloseHow) {
        if let Some(publisher) = self.publishers.remove(&(shard, conn.slot))
            && let Err(error) = published(&publisher, how, &mut self.model)
        {
            self.error.get_or_insert(error);
        }
        if let Some(owner) = self.owners.remove(&(shard, conn.slot)) {
            self.clients[owner].disconnected();
        }
        self.free[shard].push(conn.slot);
    }
}

/// Judges the answer to a publish.
fn published(publisher: &Publisher, how: CloseHow, model: &mut Model) -> Result<(), String> {
    let text = String::from_utf8_lossy(&publisher.wire);
    let body = text.split("\r\n\r\n").nth(1).unwrap_or_default();
    match serde_json::from_str::<serde_json::Value>(body) {
        Ok(value) if text.starts_with("HTTP/1.1 200") => {
            let position = value["position"].as_str().ok_or("a reply without position")?;
            model.witness(&publisher.channel, position, publisher.number)
        }
        _ if text.starts_with("HTTP/1.1 503") => Ok(()),
        _ => Err(format!("publish answered by {text:?}, closed by {how:?}")),
    }
}
