//! What is remembered of channels and requests that are no longer there: positions and idempotency keys, both bounded.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::publication::ChannelName;
use super::{Map, Stored};
use crate::base::{Nanos, StreamPosition};

/// Epoch and offset of channels without an entry, oldest out. A record costs 32 bytes in the map and 16 in the order: names are kept as
/// 64-bit hashes keyed at random, so that two names meet with probability 2^-64 per pair and cannot be made to.
#[derive(Debug, Default)]
pub struct PositionRecords {
    positions: Map<u64, (StreamPosition, Nanos)>,
    order: VecDeque<(Nanos, u64)>,
    hasher: ahash::RandomState,
}

impl PositionRecords {
    /// A set of records whose hash keys come from the seed.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self {
            positions: Map::default(),
            order: VecDeque::new(),
            hasher: ahash::RandomState::with_seeds(seed, !seed, seed.rotate_left(17), 7),
        }
    }

    pub fn remember(&mut self, channel: &ChannelName, position: StreamPosition, max: usize, now: Nanos) {
        let hash = self.hasher.hash_one(channel.as_str());
        self.positions.insert(hash, (position, now));
        self.order.push_back((now, hash));
        while self.positions.len() > max {
            self.forget_oldest();
        }
        // Recalled records leave their place in the order behind; channels that come and go would pile them up.
        if self.order.len() > 2 * self.positions.len() + 1024 {
            self.order.retain(|(at, hash)| self.positions.get(hash).is_some_and(|(_, since)| since == at));
        }
    }

    /// Takes the record back; `None` where there is none or it has expired.
    pub fn recall(&mut self, channel: &ChannelName, ttl: Duration, now: Nanos) -> Option<StreamPosition> {
        let hash = self.hasher.hash_one(channel.as_str());
        let (position, at) = self.positions.remove(&hash)?;
        (now.since(at) < ttl).then_some(position)
    }

    /// Drops expired records, a bounded number per call.
    pub fn expire(&mut self, ttl: Duration, now: Nanos) {
        for _ in 0..1024 {
            match self.order.front() {
                Some((at, _)) if now.since(*at) >= ttl => self.forget_oldest(),
                _ => return,
            }
        }
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.positions.len()
    }

    fn forget_oldest(&mut self) {
        let Some((at, hash)) = self.order.pop_front() else { return };
        // The record may have been recalled or renewed since it was queued.
        if self.positions.get(&hash).is_some_and(|(_, since)| *since == at) {
            self.positions.remove(&hash);
        }
    }
}

/// Idempotency keys remembered per worker.
const KEYS_MAX: usize = 100_000;
/// Bytes of idempotency keys remembered per worker.
const KEY_BYTES_MAX: usize = 16 << 20;

/// First results of publications that carried an idempotency key.
#[derive(Debug, Default)]
pub struct Idempotency {
    results: Map<Arc<str>, Stored>,
    order: VecDeque<(Nanos, Arc<str>)>,
    bytes: usize,
}

impl Idempotency {
    fn name(channel: &ChannelName, key: &str) -> String {
        // A channel name has no space, so the pair is unambiguous.
        format!("{channel} {key}")
    }

    #[must_use]
    pub fn recall(&self, channel: &ChannelName, key: &str) -> Option<Stored> {
        self.results.get(Self::name(channel, key).as_str()).copied()
    }

    pub fn remember(&mut self, channel: &ChannelName, key: &str, stored: Stored, now: Nanos) {
        let name: Arc<str> = Self::name(channel, key).into();
        self.bytes += Self::cost(&name);
        self.results.insert(Arc::clone(&name), stored);
        self.order.push_back((now, name));
        while self.order.len() > KEYS_MAX || self.bytes > KEY_BYTES_MAX {
            self.forget_oldest();
        }
    }

    /// Drops keys older than the window.
    pub fn expire(&mut self, window: Duration, now: Nanos) {
        while self.order.front().is_some_and(|(at, _)| now.since(*at) >= window) {
            self.forget_oldest();
        }
    }

    fn cost(name: &str) -> usize {
        name.len() + size_of::<(Arc<str>, Stored)>() + size_of::<(Nanos, Arc<str>)>()
    }

    fn forget_oldest(&mut self) {
        let Some((_, name)) = self.order.pop_front() else { return };
        self.bytes -= Self::cost(&name);
        self.results.remove(&name);
    }
}
