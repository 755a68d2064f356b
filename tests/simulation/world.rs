//! Shards, sockets, mailboxes and a clock, all driven by one seed: the shell's half, with faults.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ringmain::base::{ConnId, Frames, Nanos, Now, Random, ShardId, WallMs};
use ringmain::hub::{Message, home_of};
use ringmain::shard::{CloseHow, GoneCause, Input, ListenerId, Output, Shard};
use ringmain::ws::Scratch;

use crate::client::{Client, Reaction, Surroundings, name_of};
use crate::publisher::Publisher;
use crate::settings::{CHANNELS, Settings};
use crate::totals::Totals;
use crate::truth::Truth;
use crate::verdict::{Breach, Judged, Verdict, condemn, demand};

/// Events kept for the report of a failure.
const EVENTS_KEPT: usize = 30;
/// Bytes of one page and of what surrounds its publications; a larger publication is a page of its own.
const PAGE_BYTES: usize = 48 << 10;
/// A run of publications that was gathered while nothing waited is admitted whole; in base64 it is longer.
const RUN_BYTES: usize = (256 << 10) / 3 * 4 + (48 << 10);
/// Replies, gaps, heads: what waits besides publications.
const REPLY_BYTES: usize = 24 << 10;

/// A send that was not taken whole, until the shard is told.
pub struct Refusal {
    conn: ConnId,
    frames: Frames,
    skip: u32,
    taken: u32,
    /// There is room again at once.
    cut: bool,
}

/// One shard and what the shell keeps for it.
pub struct Worker {
    pub shard: Shard,
    /// Bytes of clients that have not been read.
    pub inbox: VecDeque<(ConnId, Vec<u8>)>,
    pub refusals: Vec<Refusal>,
    /// Connections with room again, which the shard has not been told.
    pub writable: Vec<ConnId>,
    pub generations: HashMap<u32, u32>,
    pub free: Vec<u32>,
    pub next_slot: u32,
    pub draining: bool,
    pub congested_at: Nanos,
    pub collapsed_at: [Nanos; CHANNELS.len()],
    pub collapsed: u64,
    /// Some mailbox had no room for what was there at the end of the last turn.
    pub was_full: bool,
    /// Something has come in since the last flush.
    pub unflushed: bool,
    pub turns: u64,
    /// In which turn a client's bytes were last handed in.
    pub handed_in: HashMap<ConnId, u64>,
    /// Connections that the shard does not want to read now.
    pub paused: HashSet<ConnId>,
}

pub struct World {
    pub settings: Settings,
    pub random: Random,
    pub workers: Vec<Worker>,
    pub now: Now,
    /// From, to.
    pub mail: Vec<Vec<VecDeque<Message>>>,
    /// Turns for which a mailbox is not read.
    pub stuck: Vec<Vec<u32>>,
    pub clients: Vec<Client>,
    pub publishers: HashMap<(usize, ConnId), Publisher>,
    owners: HashMap<(usize, ConnId), usize>,
    /// Bytes that a blocked client had waiting when its socket refused them.
    waiting: HashMap<(usize, ConnId), usize>,
    pub truth: Truth,
    pub totals: Totals,
    pub settling: bool,
    scratch: Scratch,
    verdict: Option<Verdict>,
    events: Option<VecDeque<String>>,
}

impl World {
    pub fn new(seed: u64, traced: bool) -> Self {
        let settings = Settings::of(seed);
        let mut random = Random::seeded(seed);
        let options = Arc::new(settings.options());
        let now = Now { monotonic: Nanos(1_000_000_000), wall: WallMs(1_700_000_000_000) };
        let count = usize::from(settings.shards);
        let workers = (0..settings.shards)
            .map(|id| Worker {
                shard: Shard::new(ShardId(id), settings.shards, Arc::clone(&options), random.bits(), now),
                inbox: VecDeque::new(),
                refusals: Vec::new(),
                writable: Vec::new(),
                generations: HashMap::new(),
                free: Vec::new(),
                next_slot: 0,
                draining: false,
                congested_at: Nanos(0),
                collapsed_at: [Nanos(0); CHANNELS.len()],
                collapsed: 0,
                was_full: false,
                unflushed: false,
                turns: 0,
                handed_in: HashMap::new(),
                paused: HashSet::new(),
            })
            .collect();
        Self {
            settings,
            random,
            workers,
            now,
            mail: (0..count).map(|_| (0..count).map(|_| VecDeque::new()).collect()).collect(),
            stuck: vec![vec![0; count]; count],
            clients: Vec::new(),
            publishers: HashMap::new(),
            owners: HashMap::new(),
            waiting: HashMap::new(),
            truth: Truth::new(settings),
            totals: Totals::default(),
            settling: false,
            scratch: Scratch::default(),
            verdict: None,
            events: traced.then(VecDeque::new),
        }
    }

    /// The first verdict so far.
    pub fn check(&self) -> Judged {
        self.verdict.clone().map_or(Ok(()), Err)
    }

    /// The last events of a traced run.
    pub fn events(&self) -> impl Iterator<Item = &String> {
        self.events.iter().flatten()
    }

    pub fn note(&mut self, event: impl FnOnce() -> String) {
        if let Some(events) = &mut self.events {
            if events.len() >= crate::number("EVENTS").map_or(EVENTS_KEPT, |kept| kept as usize) {
                events.pop_front();
            }
            events.push_back(format!("{:>9} ms  {}", self.now.monotonic.0 / 1_000_000, event()));
        }
    }

    /// Keeps the first verdict.
    pub fn judge<T>(&mut self, judged: Judged<T>) -> Option<T> {
        match judged {
            Ok(value) => Some(value),
            Err(verdict) => {
                self.note(|| format!("condemned: {verdict}"));
                self.verdict.get_or_insert(verdict);
                None
            }
        }
    }

    pub fn pick(&mut self, count: usize) -> usize {
        usize::try_from(self.random.between(0, count as u64 - 1)).unwrap_or(0)
    }

    pub fn advance(&mut self, step: Duration) {
        self.now = Now { monotonic: self.now.monotonic + step, wall: WallMs(self.now.wall.0 + step.as_millis() as u64) };
    }

    fn around(&self, worker: usize) -> Surroundings {
        let worker = &self.workers[worker];
        Surroundings {
            now: self.now.monotonic,
            draining: worker.draining,
            limited: self.settings.avalanches,
            congested_at: worker.congested_at,
            collapsed_at: worker.collapsed_at,
        }
    }

    // ---- sockets ----

    pub fn accept(&mut self, at: usize) -> ConnId {
        let worker = &mut self.workers[at];
        let slot = worker.free.pop().unwrap_or_else(|| {
            worker.next_slot += 1;
            worker.next_slot - 1
        });
        let generation = worker.generations.entry(slot).or_insert(0);
        *generation += 1;
        let conn = ConnId { slot, generation: *generation };
        let peer: SocketAddr = "127.0.0.1:9".parse().expect("an address");
        worker.shard.handle(Input::Accepted { conn, listener: ListenerId::Public, peer }, self.now);
        conn
    }

    /// Hands bytes in, cut anywhere, at once or with the next turn.
    pub fn feed(&mut self, at: usize, conn: ConnId, bytes: &[u8]) {
        if self.settling || self.random.chance(0.3) {
            return self.workers[at].inbox.push_back((conn, bytes.to_vec()));
        }
        self.empty_inbox(at);
        if self.workers[at].paused.contains(&conn) {
            return self.workers[at].inbox.push_back((conn, bytes.to_vec()));
        }
        let mut bytes = bytes.to_vec();
        let cut = self.pick(bytes.len() + 1);
        let (first, second) = bytes.split_at_mut(cut);
        for part in [first, second] {
            self.hand_in(at, conn, part);
        }
    }

    fn hand_in(&mut self, at: usize, conn: ConnId, bytes: &mut [u8]) {
        if bytes.is_empty() {
            return;
        }
        let worker = &mut self.workers[at];
        worker.unflushed = true;
        worker.handed_in.insert(conn, worker.turns);
        worker.shard.handle(Input::Bytes { conn, bytes }, self.now);
        self.watch_spill(at);
    }

    fn empty_inbox(&mut self, at: usize) {
        for (conn, mut bytes) in std::mem::take(&mut self.workers[at].inbox) {
            if self.workers[at].paused.contains(&conn) {
                self.workers[at].inbox.push_back((conn, bytes));
                continue;
            }
            let cut = self.pick(bytes.len() + 1);
            let (first, second) = bytes.split_at_mut(cut);
            self.hand_in(at, conn, first);
            self.hand_in(at, conn, second);
        }
    }

    pub fn connect(&mut self, client: usize) {
        let open: Vec<usize> = (0..self.workers.len()).filter(|&worker| !self.workers[worker].draining).collect();
        if open.is_empty() || self.clients[client].back_at > self.now.monotonic {
            return;
        }
        let at = open[self.pick(open.len())];
        let conn = self.accept(at);
        let room = if self.random.chance(self.settings.faults.stall) { 400 } else { usize::MAX / 2 };
        self.clients[client].connected((at, conn), room);
        self.owners.insert((at, conn), client);
        self.note(|| format!("client {client} connects as {at}/{conn}"));
        self.ask(client);
    }

    /// Sends a client's request.
    fn ask(&mut self, client: usize) {
        let Some((at, conn)) = self.clients[client].at else { return };
        let bad_token = if self.settling { 0.0 } else { self.settings.faults.bad_token };
        let request = self.clients[client].request(&mut self.random, bad_token, self.now.monotonic, self.settling);
        let Some(request) = self.judge(request) else { return };
        self.note(|| format!("client {client} asks {:?}", String::from_utf8_lossy(&request).split(" HTTP").next()));
        self.feed(at, conn, &request);
    }

    /// The socket breaks.
    pub fn reset(&mut self, at: usize, conn: ConnId) {
        self.forget(at, conn, false);
        self.workers[at].shard.handle(Input::Gone { conn, cause: GoneCause::Reset }, self.now);
        self.workers[at].free.push(conn.slot);
    }

    /// The peer has finished sending, but still reads.
    pub fn half_close(&mut self, at: usize, conn: ConnId) {
        self.empty_inbox(at);
        self.workers[at].unflushed = true;
        self.workers[at].shard.handle(Input::Eof { conn }, self.now);
    }

    /// Neither side mentions the connection again.
    fn forget(&mut self, at: usize, conn: ConnId, whole: bool) {
        let worker = &mut self.workers[at];
        worker.refusals.retain(|refusal| refusal.conn != conn);
        worker.writable.retain(|writable| *writable != conn);
        worker.inbox.retain(|(owner, _)| *owner != conn);
        worker.paused.remove(&conn);
        worker.handed_in.remove(&conn);
        self.waiting.remove(&(at, conn));
        if let Some(owner) = self.owners.remove(&(at, conn)) {
            self.clients[owner].disconnected(self.now.monotonic, &mut self.truth, whole);
        }
    }

    pub fn give_room(&mut self, client: usize, room: usize) {
        let client = &mut self.clients[client];
        client.room = room;
        if let Some((at, conn)) = client.at
            && client.blocked
            && room > 0
        {
            client.blocked = false;
            self.workers[at].writable.push(conn);
        }
    }

    // ---- a turn ----

    /// One turn as the shell makes it.
    pub fn turn(&mut self, at: usize) {
        let faults = self.settings.faults;
        // Refusals come first, but for those of sends that the completion queue had no room to report.
        let late = !self.settling && self.random.chance(faults.late_refusal);
        if late {
            // What is not known to be refused is no reason to hold anything back.
            let unknown: Vec<ConnId> = self.workers[at].refusals.iter().map(|refusal| refusal.conn).collect();
            unknown.iter().for_each(|conn| _ = self.waiting.remove(&(at, *conn)));
        } else {
            self.tell_refusals(at);
        }
        self.empty_inbox(at);
        let told_first = self.random.chance(0.5);
        if told_first && !late {
            self.tell_writable(at, false);
        }
        self.read_mail(at);
        let slice = if self.settling { 1000 } else { self.random.between(1, faults.slices) };
        let now = self.now;
        let shard = &mut self.workers[at].shard;
        shard.fan_out(u32::try_from(slice).unwrap_or(1), now);
        shard.handle_timeout(now);
        self.watch_spill(at);
        // A shell that does not know what became of its sends does not flush.
        if late && self.random.chance(faults.skipped_flush) {
            self.workers[at].unflushed = true;
            return self.send_mail(at);
        }
        self.workers[at].unflushed = false;
        self.tell_refusals(at);
        self.tell_writable(at, true);
        self.workers[at].shard.flush();
        self.watch_spill(at);
        self.perform_all(at);
        self.send_mail(at);
        self.watch_spill(at);
        self.workers[at].turns += 1;
    }

    fn tell_refusals(&mut self, at: usize) {
        for Refusal { conn, frames, skip, taken, cut } in std::mem::take(&mut self.workers[at].refusals) {
            self.workers[at].shard.handle(Input::Taken { conn, frames, skip, taken }, self.now);
            if cut {
                self.workers[at].shard.handle(Input::Writable { conn }, self.now);
            }
        }
    }

    /// `last`: nothing can be queued any more before the flush, so what waits is what the bounds allow.
    fn tell_writable(&mut self, at: usize, last: bool) {
        for conn in std::mem::take(&mut self.workers[at].writable) {
            if !last {
                self.waiting.remove(&(at, conn));
            }
            self.workers[at].shard.handle(Input::Writable { conn }, self.now);
        }
    }

    fn perform_all(&mut self, at: usize) {
        let mut sent = HashSet::new();
        while let Some(output) = self.workers[at].shard.poll_output() {
            match output {
                Output::Send { conn, frames, skip } => {
                    let first = sent.insert(conn);
                    let judged = demand(first, Breach::Contract, || format!("two sends to {conn} in one flush"));
                    self.judge(judged);
                    self.send(at, conn, frames, skip);
                }
                Output::Close { conn, how } => self.close(at, conn, how),
                Output::PauseReading { conn, paused: true } => {
                    self.totals.one("reading paused");
                    self.workers[at].paused.insert(conn);
                }
                Output::PauseReading { conn, paused: false } => _ = self.workers[at].paused.remove(&conn),
                Output::Connect { .. } | Output::AskFacts => {
                    self.judge::<()>(condemn(Breach::Contract, "nobody is to be connected to, and nobody asks for metrics"));
                }
            }
        }
    }

    fn send(&mut self, at: usize, conn: ConnId, frames: Frames, skip: u32) {
        let wire: Vec<u8> = frames.as_slice().iter().flat_map(|frame| frame.blob.iter().copied()).skip(skip as usize).collect();
        let taken = self.take(at, conn, wire.len());
        let refused = taken < wire.len();
        self.deliver(at, conn, &wire[..taken]);
        if refused {
            let cut = !self.settling && self.random.chance(0.1) && self.owners.contains_key(&(at, conn));
            if let Some(&owner) = self.owners.get(&(at, conn)) {
                self.clients[owner].blocked = !cut;
            }
            // With room again at once, a turn may gather what it likes.
            if cut {
                self.waiting.remove(&(at, conn));
            } else {
                self.waiting.insert((at, conn), wire.len() - taken);
            }
            let taken = u32::try_from(taken).unwrap_or(u32::MAX);
            self.workers[at].refusals.push(Refusal { conn, frames, skip, taken, cut });
        } else {
            self.waiting.remove(&(at, conn));
        }
    }

    /// How many of a send's bytes the fake socket takes.
    fn take(&mut self, at: usize, conn: ConnId, length: usize) -> usize {
        let Some(&owner) = self.owners.get(&(at, conn)) else {
            let judged =
                demand(self.publishers.contains_key(&(at, conn)), Breach::Contract, || format!("a send to nobody: {conn}"));
            self.judge(judged);
            return length;
        };
        let judged = demand(!self.clients[owner].blocked, Breach::Contract, || format!("a send to {conn}, which waits for room"));
        self.judge(judged);
        if let Some(&waited) = self.waiting.get(&(at, conn)) {
            let most = waited + self.may_wait(owner);
            let judged = demand(length <= most, Breach::Unbounded, || {
                format!("{length} bytes waited for client {owner}, {most} may: {:?}", self.clients[owner].wish)
            });
            self.judge(judged);
        }
        let short = !self.settling && self.random.chance(self.settings.faults.short_send);
        let cut = if short { self.pick(length + 1) } else { length };
        let client = &mut self.clients[owner];
        let taken = cut.min(client.room);
        client.room -= taken;
        client.slow |= taken < length;
        taken
    }

    /// What may come to wait for a client while its socket takes nothing.
    fn may_wait(&self, client: usize) -> usize {
        let channels = &self.clients[client].wish.channels;
        let queue = channels.iter().map(|&channel| self.truth.rules(channel).queue_bytes_max).max().unwrap_or(0);
        let run = if channels.iter().any(|&channel| self.truth.rules(channel).bulk) { RUN_BYTES } else { PAGE_BYTES };
        queue.max(run) + PAGE_BYTES + REPLY_BYTES
    }

    fn deliver(&mut self, at: usize, conn: ConnId, bytes: &[u8]) {
        let around = self.around(at);
        if let Some(publisher) = self.publishers.get_mut(&(at, conn)) {
            let counted = publisher.read(bytes, &around, &mut self.truth);
            for name in self.judge(counted).unwrap_or_default() {
                self.totals.one(&name);
            }
            return;
        }
        let Some(&owner) = self.owners.get(&(at, conn)) else { return };
        self.note(|| format!("client {owner} gets {}", summary(bytes)));
        let reactions = self.clients[owner].read(bytes, &mut self.scratch, &around, &mut self.truth);
        for reaction in self.judge(reactions).unwrap_or_default() {
            match reaction {
                Reaction::Say(bytes) => self.workers[at].inbox.push_back((conn, bytes)),
                Reaction::PollAgain => {
                    self.count_local_poll(at, conn, owner);
                    self.ask(owner);
                }
                Reaction::Count(name) => {
                    // Only history may come to its end under who catches up, or between two polls.
                    if self.settings.calm && name.starts_with("gap") && name != "gap expired" {
                        self.judge::<()>(condemn(Breach::FalseGap, format!("client {owner}: {name}, and nothing has gone wrong")));
                    }
                    self.totals.one(&name);
                }
            }
        }
    }

    /// No other worker can have been asked about a poll that is answered in the turn in which it came.
    fn count_local_poll(&mut self, at: usize, conn: ConnId, client: usize) {
        let worker = &self.workers[at];
        let at_once = worker.handed_in.get(&conn) == Some(&worker.turns);
        let mut homes = self.clients[client].wish.channels.iter().map(|&channel| home_of(&name_of(channel), self.settings.shards));
        if at_once && homes.all(|home| home.index() != at) {
            self.totals.one("poll answered without its home");
        }
    }

    fn close(&mut self, at: usize, conn: ConnId, how: CloseHow) {
        // It broke before the shell was asked to close it: the slot is free already.
        if !self.publishers.contains_key(&(at, conn)) && !self.owners.contains_key(&(at, conn)) {
            return;
        }
        let draining = self.workers[at].draining;
        if let Some(publisher) = self.publishers.remove(&(at, conn)) {
            let judged = demand(publisher.requests.is_empty() || draining, Breach::Unanswered, || {
                format!("publisher {at}/{conn} was closed ({how:?}) with requests open: {publisher:?}")
            });
            self.judge(judged);
        }
        if let Some(&owner) = self.owners.get(&(at, conn)) {
            self.note(|| format!("client {owner} is closed: {how:?}"));
            let client = &self.clients[owner];
            let excused = client.slow || client.half_closed;
            let fits = excused || (client.told_end.is_some() && how == CloseHow::Linger);
            let judged = demand(fits, Breach::Closed, || format!("{:?} was closed without a word: {how:?}", client.wish));
            self.judge(judged);
            self.totals.one(match how {
                CloseHow::Linger => "closed",
                CloseHow::Abort => "aborted",
            });
        }
        self.forget(at, conn, false);
        self.workers[at].free.push(conn.slot);
    }
}

/// Bytes as a line of a report.
fn summary(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(600)]).replace("xxxxxxxx", "");
    format!("{} bytes {:?}", bytes.len(), text.chars().take(260).collect::<String>())
}
