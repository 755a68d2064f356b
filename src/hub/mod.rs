//! Channels, subscriptions, publications, history. Pure; one hub per worker.
//!
//! A channel has a **home** worker (by hash of its name) that assigns offsets and keeps history ([`home`]); every worker keeps
//! the subscribers of its own connections ([`local`]). The two halves speak only by [`Message`], also on one worker:
//!
//! ```text
//!   connection ── subscribe ──▶ local ── Subscribe ──▶ home          one FIFO per pair of workers, so what the home
//!   connection ◀─ page, live ── local ◀─ Subscribed ── home          answers and what it broadcasts later arrive
//!   publisher ─── publish ────────────── Publish ────▶ home          in the order in which it happened
//!   subscribers ◀─ fan-out ──── local ◀─ Publication ─ home
//! ```

mod fan;
mod history;
pub mod home;
pub mod local;
mod message;
mod options;
mod publication;
mod recency;
mod recent;
mod records;
pub mod token;

pub use home::{Gap, GapReason, Home, Outcome, PublishError, TooManyChannels};
pub use local::{AudienceId, Local};
pub use message::{Answer, Message, PublishRef, Start, Stored, Subscribe, Via};
pub use options::{Access, ChannelKind, Namespace, NamespaceId, Options, SlowConsumer, UnknownNamespace};
pub use publication::{ChannelName, ChannelNameError, Draft, Extension, Payload, PayloadKind, Publication, Role, Version};

use crate::base::ShardId;

type Map<K, V> = std::collections::HashMap<K, V, ahash::RandomState>;

/// Workers a process may have: one bit each in [`WorkerSet`].
pub const WORKERS_MAX: u16 = 128;

/// A set of workers.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct WorkerSet {
    bits: [u64; 2],
}

impl WorkerSet {
    /// Adds a worker.
    pub fn insert(&mut self, worker: ShardId) {
        self.bits[worker.index() / 64] |= 1 << (worker.index() % 64);
    }

    /// Takes a worker out.
    pub fn remove(&mut self, worker: ShardId) {
        self.bits[worker.index() / 64] &= !(1 << (worker.index() % 64));
    }

    /// Whether no worker is in it.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.bits == [0; 2]
    }

    /// The members in ascending order.
    pub fn iter(self) -> impl Iterator<Item = ShardId> {
        (0..WORKERS_MAX).filter(move |&worker| self.bits[worker as usize / 64] >> (worker % 64) & 1 == 1).map(ShardId)
    }
}

/// The home of a channel: the same for every worker of a process, and for every process with as many workers.
#[must_use]
pub fn home_of(channel: &ChannelName, workers: u16) -> ShardId {
    // Fixed keys: all workers must agree. An attacker who aims at one worker gains no more than one busy channel would.
    let hash = ahash::RandomState::with_seeds(1, 2, 3, 4).hash_one(channel.as_str());
    ShardId(u16::try_from((u128::from(hash) * u128::from(workers)) >> 64).unwrap_or(0))
}
