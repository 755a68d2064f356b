//! One core's world: its connections, its hub, its upstreams. `Input` in, `Output` out, time as an argument.
//!
//! One turn of the shell, in its order: results of sends ([`Input::Taken`]), other inputs, messages of other workers,
//! [`Shard::fan_out`], [`Shard::handle_timeout`], [`Shard::flush`], then [`Shard::poll_output`] and [`Shard::poll_message`] until
//! both are empty.

mod admission;
mod audience;
mod backlog;
mod body;
mod connections;
mod doors;
mod encode;
mod fanout;
mod held;
pub mod io;
mod operate;
mod options;
mod outbox;
mod poll;
mod publish;
mod publishes;
mod pulse;
mod queue;
mod replay;
mod reply;
mod single;
mod stage;
mod stall;
mod stream;
mod subscribe;
mod upstream;
mod upstreams;
mod websocket;

#[cfg(test)]
mod tests;

pub use fanout::FanOut;
pub use io::{CloseHow, ConnectCause, GoneCause, Input, ListenerId, Output};
pub use options::{Options, ServerOptions, SpillOptions};

use std::sync::Arc;
use std::time::Duration;

use crate::base::{Blob, ConnId, Mutant, Nanos, Now, Random, ShardId, TICK, Wheel, mutated};
use crate::http::cors::Origins;
use crate::http::date::DateClock;
use crate::hub::{Home, Local, Message, TooManyChannels};
use crate::metrics::{Counters, Durations, Labelled};
use crate::protocol::codes::Disconnect;
use crate::ws::{Deflater, Opcode, Scratch};
use admission::Admission;
use audience::Audiences;
use connections::{Connections, Queued};
use outbox::Outbox;
use stage::Stage;

/// How often the hub is swept for what has outlived its use.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// Deadlines fired per turn: a ping each, mostly, which is half a millisecond of sends.
const EXPIRED_MAX: usize = 128;
/// How long a connection that has said everything waits for its peer to take it.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// One worker's core.
#[derive(Debug)]
pub struct Shard {
    id: ShardId,
    shards: u16,
    options: Arc<Options>,
    origins: Origins,
    connections: Connections,
    audiences: Audiences,
    home: Home,
    local: Local,
    outbox: Outbox,
    timers: Wheel,
    /// Connections that may have room for a page of replay after the next flush.
    catching_up: Vec<ConnId>,
    /// Connections with several channels that have been told more than their position says.
    moved: Vec<ConnId>,
    aftermath: fanout::Aftermath,
    upstreams: upstreams::Upstreams,
    /// Connections that became writable: their counterparts are read again when all that waited has been taken.
    resuming: Vec<ConnId>,
    draining: Option<operate::Drain>,
    admission: Admission,
    /// Inputs taken in since the start.
    inputs: u64,
    deflater: Deflater,
    scratch: Scratch,
    /// The ping frame every WebSocket gets.
    ping: Blob,
    random: Random,
    /// What responses say of the time.
    date: DateClock,
    metrics: Counters,
    /// Subscriptions by namespace.
    subscriptions: Labelled,
    publish_to_last_write: Durations,
    /// When the runs were stored whose last send leaves with this turn's submission.
    leaving: Vec<Nanos>,
    /// Who waits for this worker's counters.
    scrapes: Vec<(ShardId, ConnId)>,
    /// The instant of the call under way.
    now: Now,
    /// WebSockets that published towards a congested worker.
    held_publishers: Vec<ConnId>,
    /// Last number given to a publishing request.
    requests: u32,
    next_sweep: Nanos,
    /// Answers held back by [`Mutant::ReplyOutsideFifo`]; always empty otherwise.
    late_replies: Vec<(ShardId, Message)>,
    held: held::Held,
}

impl Shard {
    /// Worker `id` of `shards`. The same seed, inputs and times give the same outputs.
    #[must_use]
    pub fn new(id: ShardId, shards: u16, options: Arc<Options>, seed: u64, now: Now) -> Self {
        let mut random = Random::seeded(seed);
        Self {
            id,
            shards,
            origins: Origins::new(&options.http.allowed_origins),
            connections: Connections::default(),
            audiences: Audiences::default(),
            home: Home::new(random.bits()),
            local: Local::default(),
            outbox: Outbox::new(id, shards, options.spill),
            timers: Wheel::default(),
            catching_up: Vec::new(),
            moved: Vec::new(),
            aftermath: fanout::Aftermath::default(),
            upstreams: upstreams::Upstreams::new(&options.proxy),
            resuming: Vec::new(),
            draining: None,
            admission: Admission::default(),
            inputs: 0,
            deflater: Deflater::default(),
            scratch: Scratch::default(),
            ping: crate::ws::encode::frame(Opcode::Ping, b"").into(),
            random,
            date: DateClock::default(),
            metrics: Counters::default(),
            subscriptions: Labelled::default(),
            publish_to_last_write: Durations::default(),
            leaving: Vec::new(),
            scrapes: Vec::new(),
            now,
            held_publishers: Vec::new(),
            requests: 0,
            next_sweep: now.monotonic + SWEEP_INTERVAL,
            late_replies: Vec::new(),
            held: held::Held::default(),
            options,
        }
    }

    /// Takes one fact in.
    pub fn handle(&mut self, input: Input<'_>, now: Now) {
        self.now = now;
        self.inputs += 1;
        match input {
            Input::Accepted { conn, listener, peer } => self.accepted(conn, listener, peer, now),
            Input::Bytes { conn, bytes } => self.bytes(conn, bytes, now),
            Input::Eof { conn } => self.eof(conn, now),
            Input::Taken { conn, frames, skip, taken } => {
                self.connections.taken(conn, frames, skip, taken, now.monotonic);
                self.hold_back(conn, true);
            }
            Input::Writable { conn } => self.writable(conn),
            Input::Gone { conn, cause } => self.gone(conn, cause),
            Input::Connected { conn, token } => self.upstream_connected(conn, token, now),
            Input::ConnectFailed { token, cause } => self.upstream_failed(token, cause, now),
            Input::Facts(facts) => self.answer_scrapes(&facts),
            Input::Worked { thread_time } => self.worked(thread_time),
            Input::Message { from, message } => self.message(from, message, now),
        }
        self.continue_held(now);
    }

    /// Fires deadlines that have passed, a bounded number: while more are due [`Shard::poll_timeout`] says so.
    pub fn handle_timeout(&mut self, now: Now) {
        self.now = now;
        // Those of one tick are due at one instant: what one turn queues for them stays small.
        for _ in 0..EXPIRED_MAX {
            let Some(slot) = self.timers.expire(now.monotonic) else { break };
            if let Some(conn) = self.connections.at(slot) {
                self.expired(conn, now);
            }
        }
        if self.next_sweep <= now.monotonic {
            let overdue = self.sweep(now);
            self.next_sweep = now.monotonic + if overdue { Duration::ZERO } else { SWEEP_INTERVAL };
        }
        for (to, message) in self.late_replies.drain(..) {
            self.outbox.push(to, message);
        }
        self.continue_drain(now);
        self.continue_held(now);
    }

    /// Lets go of what has outlived its use, a bounded amount. True if more is overdue, which the next turn goes on with.
    fn sweep(&mut self, now: Now) -> bool {
        let (channels, lingering) = self.local.stop_lingering(now.monotonic);
        for channel in channels {
            self.tell_home_left(channel);
        }
        for conn in self.connections.stalled(self.options.http.send_timeout, now.monotonic) {
            self.stalled(conn);
        }
        let kept = self.home.sweep(&self.options.hub, now);
        lingering || kept
    }

    /// Whether there is anything that can outlive its use: a worker without sleeps for as long as nobody wants anything.
    fn has_to_sweep(&self) -> bool {
        self.local.has_lingering() || self.connections.has_stalled() || !self.home.has_nothing_to_expire()
    }

    /// When [`Shard::handle_timeout`], [`Shard::fan_out`] or [`Shard::flush`] next has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Nanos> {
        let connections = &self.connections;
        if connections.has_ended()
            || connections.has_changed()
            || !self.catching_up.is_empty()
            || !self.resuming.is_empty()
            || self.outbox.holds(self.id)
        {
            return Some(Nanos(0));
        }
        let sweep = self.has_to_sweep().then_some(self.next_sweep);
        [self.timers.next(), self.local.next_deadline(), self.drain_deadline(), sweep].into_iter().flatten().min()
    }

    /// Moves what is queued for connections that changed since the last flush into `Output::Send`s, at most one each.
    pub fn flush(&mut self) {
        let relieved = self.outbox.settle();
        self.relieve_publishers(relieved);
        self.read_again();
        self.continue_held(self.now);
        self.tell_positions();
        self.metrics.sends += self.connections.flush(self.now.monotonic) as u64;
        self.ask_for_pages();
    }

    /// The next act asked of the shell.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.connections.poll_output()
    }

    /// The next message for a worker. Call only while its mailbox has room: what stays here keeps its order.
    pub fn poll_message(&mut self, to: ShardId) -> Option<Message> {
        self.outbox.pop(to)
    }

    /// Whether messages wait for a worker.
    #[must_use]
    pub fn has_message(&self, to: ShardId) -> bool {
        self.outbox.holds(to)
    }

    /// Whether messages wait for any other worker.
    #[must_use]
    pub fn has_messages(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Whether so much waits here for a worker whose mailbox is full that publishing towards it must wait.
    #[must_use]
    pub fn congested(&self, to: ShardId) -> bool {
        self.outbox.congested(to)
    }

    /// Publications to other workers that were given up, since the start, because too much waited for them.
    #[must_use]
    pub const fn spill_collapsed(&self) -> u64 {
        self.outbox.collapsed()
    }

    /// Replaces the configuration. Open connections and exchanges keep the upstream they have; limits,
    /// policies and routes apply from now on.
    pub fn reload(&mut self, options: Arc<Options>) {
        self.origins = Origins::new(&options.http.allowed_origins);
        self.outbox.bounds = options.spill;
        self.reload_upstreams(&options.proxy);
        self.options = options;
        self.home.reload(&self.options.hub);
        self.local.reload(&self.options.hub);
        self.recount_subscriptions();
    }

    fn message(&mut self, from: ShardId, message: Message, now: Now) {
        match message {
            Message::Subscribe(request) => {
                let subscription = request.subscription;
                let message = match self.home.subscribe(from, &request, &self.options.hub, now) {
                    Ok(answer) => Message::Subscribed { subscription, answer: Box::new(answer) },
                    Err(TooManyChannels) => Message::Refused { subscription },
                };
                if mutated(Mutant::ReplyOutsideFifo) {
                    self.late_replies.push((from, message));
                } else {
                    self.outbox.push(from, message);
                }
            }
            Message::NextPage { channel, subscription, after } => {
                let answer = Box::new(self.home.next_page(&channel, after, &self.options.hub, now));
                self.outbox.push(from, Message::Page { subscription, answer });
            }
            Message::Leave { channel } => self.home.leave(from, &channel, now),
            Message::Publish { .. } if mutated(Mutant::PublishForgotten) => {}
            Message::Publish { request, draft } => self.publish_here(from, request, *draft, now),
            Message::Subscribed { subscription, answer } => self.subscribed(subscription, *answer, now),
            Message::Refused { subscription } => self.subscription_refused(subscription, now),
            Message::Page { subscription, answer } => self.paged(subscription, *answer, now),
            Message::Publication(publication) => {
                self.local.publication(publication, &self.options.hub, now.monotonic);
            }
            Message::Lost { channel, to } => self.local.lost(&channel, to, now.monotonic),
            Message::Published { request, result } => self.published(request, result, now),
            Message::Scrape { request } => self.scrape(from, request),
            Message::Scraped { request, snapshot } => self.scraped(request, *snapshot, now),
        }
    }

    /// Handles what this worker has sent to itself, until there is nothing left.
    fn run_loopback(&mut self, now: Now) {
        while let Some(message) = self.outbox.pop(self.id) {
            self.message(self.id, message, now);
        }
    }

    fn accepted(&mut self, conn: ConnId, listener: ListenerId, peer: std::net::SocketAddr, now: Now) {
        self.metrics.connections_accepted += 1;
        self.connections.open(conn, listener, peer, Stage::Head(None));
        if let Some(cell) = self.connections.get_mut(conn) {
            cell.opened_us = micros(now).max(1);
        }
        self.timers.set(conn.slot, now.monotonic + self.options.http.head_timeout);
    }

    fn bytes(&mut self, conn: ConnId, bytes: &mut [u8], now: Now) {
        let Some(cell) = self.connections.get_mut(conn) else { return };
        cell.heard = tick(now.monotonic);
        self.metrics.received_bytes += bytes.len() as u64;
        self.take_in(conn, bytes, now);
    }

    /// Feeds bytes to whatever the connection is doing, which may change with every request in them. Returns how many were used;
    /// the rest has to wait.
    fn consume(&mut self, conn: ConnId, mut bytes: &mut [u8], now: Now) -> usize {
        let all = bytes.len();
        loop {
            let asks = match self.connections.get(conn).map(|cell| &cell.stage) {
                Some(Stage::Head(_) | Stage::WebSocket(_)) => true,
                Some(_) => false,
                None => return all,
            };
            if (asks && self.is_behind(conn)) || bytes.is_empty() {
                return all - bytes.len();
            }
            let Some(cell) = self.connections.get_mut(conn) else { return all };
            let used = match &mut cell.stage {
                Stage::Head(_) => self.head_bytes(conn, bytes, now),
                Stage::Body(_) => self.body_bytes(conn, bytes, now),
                Stage::WebSocket(_) => self.websocket_bytes(conn, bytes, now),
                Stage::Exchange(_) => self.exchange_bytes(conn, bytes, now),
                Stage::Upstream(_) => self.upstream_bytes(conn, bytes, now),
                Stage::Waiting(_) | Stage::Poll(_) | Stage::Scrape(_) => 0,
                // A stream's client has nothing to say; a closing connection is not listened to.
                Stage::Stream(_) | Stage::Closing | Stage::Vacant => return all,
            };
            if used == 0 {
                return all - bytes.len();
            }
            bytes = &mut bytes[used..];
        }
    }

    /// The peer has finished sending: what it is still owed is sent, then the connection closes (RFC 9112 section 9.6). Who waits
    /// for what may come, on a stream or in a long poll, is gone.
    fn eof(&mut self, conn: ConnId, now: Now) {
        if self.hold_eof(conn) {
            return;
        }
        let Some(cell) = self.connections.get_mut(conn) else { return };
        match &mut cell.stage {
            Stage::Waiting(waiting) => waiting.facts.keep_alive = false,
            Stage::Scrape(scrape) => scrape.facts.keep_alive = false,
            Stage::Poll(_) => self.poll_eof(conn, now),
            Stage::Exchange(_) => self.exchange_eof(conn),
            Stage::Upstream(_) => self.upstream_eof(conn, now),
            Stage::Closing => {}
            Stage::Head(_) | Stage::Body(_) | Stage::Stream(_) | Stage::WebSocket(_) | Stage::Vacant => {
                self.disconnected(conn, 1006);
                self.end(conn, now);
            }
        }
    }

    fn writable(&mut self, conn: ConnId) {
        self.connections.writable(conn);
        self.catching_up.push(conn);
        self.moved_again(conn);
        self.resuming.push(conn);
    }

    fn gone(&mut self, conn: ConnId, cause: GoneCause) {
        tracing::debug!(%conn, ?cause, "connection gone");
        self.disconnected(conn, 1006);
        self.upstream_gone(conn, self.now);
        self.let_go(conn);
        self.connections.vacate(conn);
    }

    /// The peer has taken nothing for too long: neither what it is told live, nor its replay, nor an answer.
    fn stalled(&mut self, conn: ConnId) {
        match self.connections.get(conn).map(|cell| &cell.stage) {
            // Their upstream's deadlines count.
            Some(Stage::Exchange(_) | Stage::Upstream(_)) | None => {}
            Some(_) => {
                self.disconnected(conn, Disconnect::Slow.number());
                self.abort(conn);
            }
        }
    }

    /// Says everything queued, then closes.
    fn end(&mut self, conn: ConnId, now: Now) {
        self.let_go(conn);
        self.connections.end(conn);
        if self.connections.get(conn).is_some() {
            self.timers.set(conn.slot, now.monotonic + CLOSE_TIMEOUT);
        }
    }

    /// Closes without another byte.
    fn abort(&mut self, conn: ConnId) {
        self.let_go(conn);
        self.connections.abort(conn);
    }

    /// Frees what a connection holds besides its cell.
    fn let_go(&mut self, conn: ConnId) {
        self.forget_held(conn);
        self.leave_all(conn);
        self.release_exchange(conn, self.now);
        self.release_upstream(conn, self.now);
        self.timers.clear(conn.slot);
    }

    /// A deadline of the connection has passed; what that means depends on what it is doing.
    fn expired(&mut self, conn: ConnId, now: Now) {
        let Some(cell) = self.connections.get_mut(conn) else { return };
        match &mut cell.stage {
            Stage::Head(reader) => {
                let begun = reader.is_some();
                self.head_expired(conn, begun, now);
            }
            Stage::Body(_) => self.body_expired(conn, now),
            Stage::Waiting(_) => self.waiting_expired(conn, now),
            Stage::Scrape(_) => self.scrape_expired(conn, now),
            Stage::Poll(_) => self.poll_expired(conn, now),
            Stage::Stream(_) => self.keep_stream_alive(conn, now),
            Stage::WebSocket(_) => self.check_pulse(conn, now),
            Stage::Exchange(_) => self.exchange_expired(conn, now),
            Stage::Upstream(_) => self.upstream_expired(conn, now),
            Stage::Closing => self.abort(conn),
            Stage::Vacant => {}
        }
    }

    /// Queues bytes that no policy may drop; a peer that asks without reading is cut off.
    fn say(&mut self, conn: ConnId, bytes: impl Into<Blob>) {
        self.say_in_parts(conn, [bytes.into()]);
    }

    fn say_in_parts<const PARTS: usize>(&mut self, conn: ConnId, parts: [Blob; PARTS]) {
        if self.connections.reply(conn, parts) == Queued::Full {
            self.disconnected(conn, 3008);
            self.abort(conn);
        }
    }

    /// Takes the stage out to work on it; the connection counts as being between requests until it is put back.
    fn take_stage(&mut self, conn: ConnId) -> Option<Stage> {
        self.connections.take_stage(conn)
    }

    /// Puts a stage (back) unless the connection has ended meanwhile.
    fn set_stage(&mut self, conn: ConnId, stage: Stage) {
        self.connections.set_stage(conn, stage);
    }
}

/// Microseconds that wrap after 71 minutes, for differences.
const fn micros(now: Now) -> u32 {
    (now.monotonic.0 / 1000) as u32
}

/// Coarse time for "when was this last heard": wheel ticks, which wrap after more than a year.
fn tick(at: Nanos) -> u32 {
    (at.0 / TICK.as_nanos() as u64) as u32
}
