//! A server without a kernel: all its workers, everybody they talk to, and the turns in which things happen.
//!
//! - `settings`: what the server is configured to do unless a test changes it;
//! - `sockets`: clients and upstreams, which take as much as a test lets them and are read as long as the shard wants it;
//! - `mail`: the mailboxes between workers, which a test can leave unread;
//! - `clock`: time, which stands still until it is moved;
//! - `http`, `websocket`: what clients say, and what they make of what they read.
//!
//! Whatever a test does, all that follows from it by itself has happened when the call returns, unless the call says otherwise. A
//! shard that breaks the rules of [`io`](crate::shard::io) fails the test.

#[path = "../../../../tests/support/answer.rs"]
mod answer;
mod clock;
mod http;
mod mail;
mod settings;
mod sockets;
mod websocket;

pub use http::{get, post};
pub use mail::MAILBOX_ENTRIES;
pub use settings::{KEY, namespace, options, proxied};
pub use websocket::{Told, UPGRADE, frame};

use std::sync::Arc;
use std::time::Duration;

use crate::base::{Now, ShardId};
use crate::shard::{Input, Options, Output, Shard};

/// Deliveries of one turn's slice: few, so that larger broadcasts take several.
const SENDS_MAX: u32 = 100;
/// Turns after which nothing more should be happening by itself.
const TURNS_MAX: usize = 10_000;

/// The workers of a server and everybody they talk to. Connections are made to the first worker unless a test says otherwise, and
/// their ids are those of the world: no two workers use the same.
pub struct World {
    pub shards: Vec<Shard>,
    pub now: Now,
    peers: Vec<sockets::Peer>,
    refusals: Vec<sockets::Refusal>,
    /// Connections that were asked for and are not made yet, oldest first.
    pub connects: Vec<sockets::Connect>,
    mail: mail::Mailboxes,
}

impl World {
    /// One worker.
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    /// One worker, configured otherwise.
    pub fn with(change: impl FnOnce(&mut Options)) -> Self {
        Self::of(1, change)
    }

    /// Several workers.
    pub fn of(workers: u16, change: impl FnOnce(&mut Options)) -> Self {
        let mut options = options();
        change(&mut options);
        let (options, now) = (Arc::new(options), clock::START);
        let shard = |id| Shard::new(ShardId(id), workers, Arc::clone(&options), u64::from(id) + 1, now);
        Self {
            shards: (0..workers).map(shard).collect(),
            now,
            peers: Vec::new(),
            refusals: Vec::new(),
            connects: Vec::new(),
            mail: mail::Mailboxes::default(),
        }
    }

    pub fn drain(&mut self, limit: Duration) {
        self.shards.iter_mut().for_each(|shard| shard.drain(limit, self.now));
        self.settle();
    }

    /// Turns of every worker until nothing more happens by itself at this instant.
    #[track_caller]
    pub fn settle(&mut self) {
        for _ in 0..TURNS_MAX {
            let acted = self.turn();
            if !acted && self.next_deadline().is_none_or(|at| at > self.now.monotonic) {
                return;
            }
        }
        panic!("the workers never come to rest");
    }

    /// One turn of every worker. True if anything came of it.
    pub fn turn(&mut self) -> bool {
        let mut acted = false;
        for worker in self.workers() {
            acted |= self.turn_of(worker);
        }
        acted
    }

    fn workers(&self) -> impl Iterator<Item = ShardId> + use<> {
        (0..self.shards[0].shards).map(ShardId)
    }

    /// One turn in the shell's order.
    fn turn_of(&mut self, worker: ShardId) -> bool {
        self.hand_in_refusals();
        let mut acted = self.read_mail(worker);
        let shard = &mut self.shards[worker.index()];
        shard.fan_out(SENDS_MAX, self.now);
        shard.handle_timeout(self.now);
        shard.flush();
        while let Some(output) = self.shards[worker.index()].poll_output() {
            self.perform(worker, output);
            acted = true;
        }
        self.write_mail(worker) || acted
    }

    fn perform(&mut self, worker: ShardId, output: Output) {
        match output {
            Output::Send { conn, frames, skip } => self.take(conn, frames, skip),
            Output::Close { conn, .. } => self.open_peer(conn).closed = true,
            Output::Connect { token, address } => self.connects.push(sockets::Connect { worker, token, address }),
            Output::AskFacts => self.tell(worker, Input::Facts(Box::default())),
            Output::PauseReading { conn, paused } => self.open_peer(conn).pause(paused),
        }
    }

    fn tell(&mut self, worker: ShardId, input: Input<'_>) {
        self.shards[worker.index()].handle(input, self.now);
    }
}
