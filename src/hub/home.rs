//! The home side of channels: offsets, history, positions, and which workers to tell.
//!
//! Invariants:
//! - Offsets of an entry only grow; an entry's epoch never changes; a new entry draws a new one unless a record remembers it.
//! - `floor` is the highest offset that can no longer be served: resuming at it or above is exact, below it is a gap.
//!   Publications that were never meant to be kept do not raise it.
//! - An entry goes only when no worker is interested, nothing is retained, and [`LINGER`] has passed since its last use.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::history::{History, Trimmed};
use super::message::{Answer, Start, Stored, Subscribe};
use super::publication::{ChannelName, Draft, Publication};
use super::recency::Recency;
use super::records::{Idempotency, PositionRecords};
use super::{ChannelKind, Map, Namespace, Options, WorkerSet};
use crate::base::{Arena, Epoch, Key, Mutant, Nanos, Now, Random, ShardId, StreamPosition, mutated};

/// Bytes of publications in one answer; a larger single publication still goes, alone.
pub const PAGE_BYTES_MAX: usize = 32 << 10;
/// How long an unused entry stays: more than twice the longest poll.
pub const LINGER: Duration = Duration::from_secs(120);

/// Whether everything since the asked position can be served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Nothing is missing.
    Exact,
    Gap(Gap),
}

/// What is missing between a subscriber's position and what it gets next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gap {
    pub reason: GapReason,
    /// The last position before the gap; `None` where it could not be read.
    pub after: Option<StreamPosition>,
    /// The position of what comes next.
    pub next: StreamPosition,
    /// How many publications were missed, where that is known.
    pub missed: Option<u64>,
}

/// Why something is missing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum GapReason {
    /// History was trimmed by size, time or memory.
    Expired,
    /// The position belongs to another history of the channel.
    Epoch,
    /// The reader was too slow for its queue.
    Slow,
    /// The position is ahead of the channel, or cannot be read.
    BadPosition,
    /// The channel keeps no history.
    NoHistory,
}

/// Why a publication was not stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PublishError {
    /// The channel's namespace is not configured and unknown ones are refused.
    UnknownNamespace,
    /// The payload is larger than the limit.
    TooLarge { bytes: usize, bytes_max: usize },
}

/// A stored publication and whom to tell.
#[derive(Debug)]
pub struct Broadcast {
    pub stored: Stored,
    /// `None` for a duplicate.
    pub publication: Option<(Arc<Publication>, WorkerSet)>,
}

/// All channels whose home is this worker.
#[derive(Debug)]
pub struct Home {
    names: Map<ChannelName, Key>,
    channels: Arena<Entry>,
    with_history: Recency,
    history_bytes: usize,
    /// Entries to look at again: (when, which). Each entry is queued at most once.
    revisit: VecDeque<(Nanos, Key)>,
    records: PositionRecords,
    idempotency: Idempotency,
    random: Random,
}

#[derive(Debug)]
struct Entry {
    name: ChannelName,
    epoch: Epoch,
    top: u64,
    floor: u64,
    workers: WorkerSet,
    history: Option<Box<History>>,
    used: Nanos,
    queued: bool,
}

impl Entry {
    const fn position(&self, offset: u64) -> StreamPosition {
        StreamPosition { epoch: self.epoch, offset }
    }

    fn raise_floor(&mut self, trimmed: Trimmed) {
        if let Some(last) = trimmed.last {
            self.floor = self.floor.max(last);
        }
    }
}

impl Home {
    /// An empty home whose epochs are drawn from the seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let mut random = Random::seeded(seed);
        Self {
            names: Map::default(),
            channels: Arena::default(),
            with_history: Recency::default(),
            history_bytes: 0,
            revisit: VecDeque::new(),
            records: PositionRecords::seeded(random.bits()),
            idempotency: Idempotency::default(),
            random,
        }
    }

    /// Answers a subscribe and, if it is more than a look, notes the worker's interest.
    pub fn subscribe(&mut self, worker: ShardId, request: &Subscribe, options: &Options, now: Now) -> Answer {
        let key = self.entry(&request.channel, options, now.monotonic);
        self.trim(key, options, now.monotonic);
        let entry = &mut self.channels[key];
        if request.interest {
            entry.workers.insert(worker);
        }
        answer(entry, request.start, options)
    }

    /// Answers a page request of a catching-up subscriber.
    pub fn next_page(&mut self, channel: &ChannelName, after: StreamPosition, options: &Options, now: Now) -> Answer {
        let key = self.entry(channel, options, now.monotonic);
        self.trim(key, options, now.monotonic);
        answer(&self.channels[key], Start::After(after), options)
    }

    /// The worker has no subscriber of the channel any more.
    pub fn leave(&mut self, worker: ShardId, channel: &ChannelName, now: Now) {
        let Some(&key) = self.names.get(channel) else { return };
        let entry = &mut self.channels[key];
        entry.workers.remove(worker);
        entry.used = now.monotonic;
        self.queue(key, now.monotonic);
    }

    /// Stores a publication under the channel's next offset.
    ///
    /// # Errors
    /// What the channel's namespace refuses; nothing is stored then.
    pub fn publish(&mut self, draft: Draft, options: &Options, now: Now) -> Result<Broadcast, PublishError> {
        let namespace = options.namespace(draft.channel.as_str()).ok_or(PublishError::UnknownNamespace)?;
        let bytes = draft.payload.bytes.len();
        if bytes > options.publication_bytes_max {
            return Err(PublishError::TooLarge { bytes, bytes_max: options.publication_bytes_max });
        }
        self.idempotency.expire(options.idempotency_window, now.monotonic);
        if let Some(stored) = draft.idempotency_key.as_deref().and_then(|key| self.idempotency.recall(&draft.channel, key)) {
            return Ok(Broadcast { stored: Stored { duplicate: true, ..stored }, publication: None });
        }
        let key = self.entry(&draft.channel, options, now.monotonic);
        let (idempotency_key, channel) = (draft.idempotency_key.clone(), draft.channel.clone());
        let (stored, publication, workers) = self.store(key, draft, namespace, now);
        if let Some(idempotency_key) = idempotency_key {
            self.idempotency.remember(&channel, &idempotency_key, stored, now.monotonic);
        }
        self.trim(key, options, now.monotonic);
        self.keep_within_budget(options.history_bytes_max);
        self.queue(key, now.monotonic);
        Ok(Broadcast { stored, publication: Some((publication, workers)) })
    }

    /// Frees what has outlived its use; a bounded amount of work per call.
    pub fn sweep(&mut self, options: &Options, now: Now) {
        for _ in 0..1024 {
            match self.revisit.front() {
                Some(&(at, key)) if at <= now.monotonic => {
                    self.revisit.pop_front();
                    self.revisit(key, options, now.monotonic);
                }
                _ => break,
            }
        }
        self.records.expire(options.position_ttl, now.monotonic);
        self.idempotency.expire(options.idempotency_window, now.monotonic);
    }

    /// When [`Home::sweep`] next has something to do.
    #[must_use]
    pub fn next_sweep(&self) -> Option<Nanos> {
        self.revisit.front().map(|(at, _)| *at)
    }

    /// Channels with an entry here.
    #[must_use]
    pub fn channels(&self) -> usize {
        self.channels.len()
    }

    /// Position records kept here.
    #[must_use]
    pub fn position_records(&self) -> usize {
        self.records.len()
    }

    /// Bytes of all retained publications here.
    #[must_use]
    pub const fn history_bytes(&self) -> usize {
        self.history_bytes
    }

    /// The channel's entry, made (from its position record if there is one) where there is none.
    fn entry(&mut self, channel: &ChannelName, options: &Options, now: Nanos) -> Key {
        if let Some(&key) = self.names.get(channel) {
            self.channels[key].used = now;
            return key;
        }
        let remembered = self.records.recall(channel, options.position_ttl, now);
        let bits = if mutated(Mutant::EpochReused) { 1 } else { self.random.bits() };
        let position = remembered.unwrap_or(StreamPosition { epoch: Epoch(bits), offset: 0 });
        let key = self.channels.insert(Entry {
            name: channel.clone(),
            epoch: position.epoch,
            top: position.offset,
            floor: position.offset,
            workers: WorkerSet::default(),
            history: None,
            used: now,
            queued: false,
        });
        self.names.insert(channel.clone(), key);
        self.queue(key, now);
        key
    }

    fn store(&mut self, key: Key, draft: Draft, namespace: &Namespace, now: Now) -> (Stored, Arc<Publication>, WorkerSet) {
        let state = namespace.kind == ChannelKind::State;
        let keeps = draft.store && (state || namespace.history_size > 0);
        let store = draft.store;
        let entry = &mut self.channels[key];
        entry.top += 1;
        let position = entry.position(entry.top);
        let publication = Arc::new(draft.into_publication(position, state, now.wall));
        if keeps {
            let history = entry.history.get_or_insert_default();
            if state {
                self.history_bytes -= history.clear().bytes;
            }
            self.history_bytes += history.push(Arc::clone(&publication), now.monotonic);
            self.with_history.touch(key.index);
        } else if store {
            entry.floor = entry.top;
        }
        (Stored { position, kept: keeps, duplicate: false }, publication, entry.workers)
    }

    fn trim(&mut self, key: Key, options: &Options, now: Nanos) {
        let entry = &mut self.channels[key];
        let Some(history) = entry.history.as_mut() else { return };
        let (size, ttl) =
            options.namespace(entry.name.as_str()).map_or((0, Duration::ZERO), |namespace| (namespace.retained(), namespace.ttl()));
        let trimmed = history.trim(size, ttl, now);
        self.history_bytes -= trimmed.bytes;
        if history.is_empty() {
            entry.history = None;
            self.with_history.remove(key.index);
        }
        entry.raise_floor(trimmed);
    }

    fn keep_within_budget(&mut self, bytes_max: usize) {
        while self.history_bytes > bytes_max {
            let Some(index) = self.with_history.oldest() else { return };
            self.with_history.remove(index);
            let Some(entry) = self.channels.at_mut(index) else { continue };
            if let Some(mut history) = entry.history.take() {
                let trimmed = history.clear();
                self.history_bytes -= trimmed.bytes;
                entry.raise_floor(trimmed);
            }
        }
    }

    fn queue(&mut self, key: Key, now: Nanos) {
        let entry = &mut self.channels[key];
        // An entry that somebody wants and that keeps nothing has nothing to expire.
        let idle = entry.workers.is_empty() || entry.history.is_some();
        if idle && !std::mem::replace(&mut entry.queued, true) {
            self.revisit.push_back((now + LINGER, key));
        }
    }

    fn revisit(&mut self, key: Key, options: &Options, now: Nanos) {
        self.trim(key, options, now);
        let entry = &mut self.channels[key];
        entry.queued = false;
        if entry.workers.is_empty() && entry.history.is_none() && now.since(entry.used) >= LINGER {
            self.forget(key, options, now);
        } else {
            self.queue(key, now);
        }
    }

    fn forget(&mut self, key: Key, options: &Options, now: Nanos) {
        let Some(entry) = self.channels.remove(key) else { return };
        self.names.remove(&entry.name);
        // Also for a channel that never had a publication: a subscriber that comes back must find its epoch, or it is told of
        // a gap that is none.
        self.records.remember(&entry.name, entry.position(entry.top), options.position_records_max, now);
    }
}

fn answer(entry: &Entry, start: Start, options: &Options) -> Answer {
    if options.is_state(entry.name.as_str()) { answer_state(entry, start) } else { answer_stream(entry, start, options) }
}

/// State channels: the latest value unless the subscriber has it; never a gap.
fn answer_state(entry: &Entry, start: Start) -> Answer {
    let top = entry.position(entry.top);
    let newest = entry.history.as_ref().and_then(|history| history.newest());
    let had = match start {
        Start::After(position) if position.epoch == entry.epoch => position.offset,
        Start::After(_) | Start::Now | Start::Beginning | Start::Newest(_) | Start::Elsewhere | Start::Unreadable => 0,
    };
    let page: Vec<_> = newest.filter(|newest| newest.position.offset > had).map(Arc::clone).into_iter().collect();
    let from = page.first().map_or(entry.top, |first| first.position.offset - 1);
    Answer { top, from: entry.position(from), outcome: Outcome::Exact, page, head: true }
}

fn answer_stream(entry: &Entry, start: Start, options: &Options) -> Answer {
    let retained = entry.history.as_deref();
    let floor = entry.floor;
    match start {
        Start::Now => serve(entry, entry.top, Outcome::Exact),
        Start::Beginning => serve(entry, floor, Outcome::Exact),
        Start::Newest(count) => {
            let before = retained.and_then(|history| history.before_newest(count as usize)).unwrap_or(entry.top);
            serve(entry, before, Outcome::Exact)
        }
        Start::After(position) if position.epoch != entry.epoch => lost(entry, GapReason::Epoch, Some(position)),
        Start::After(position) if position.offset > entry.top => lost(entry, GapReason::BadPosition, Some(position)),
        Start::After(position) if position.offset >= floor => {
            let skipped = u64::from(mutated(Mutant::ResumeOffByOne));
            serve(entry, position.offset + skipped, Outcome::Exact)
        }
        Start::After(position) => {
            let keeps = options.namespace(entry.name.as_str()).is_some_and(|namespace| namespace.history_size > 0);
            lost(entry, if keeps { GapReason::Expired } else { GapReason::NoHistory }, Some(position))
        }
        Start::Elsewhere => lost(entry, GapReason::Epoch, None),
        Start::Unreadable => lost(entry, GapReason::BadPosition, None),
    }
}

/// Everything retained after an offset, as far as a page goes.
fn serve(entry: &Entry, after: u64, outcome: Outcome) -> Answer {
    let (page, head) = entry.history.as_ref().map_or_else(|| (Vec::new(), true), |history| history.page(after, PAGE_BYTES_MAX));
    Answer { top: entry.position(entry.top), from: entry.position(after), outcome, page, head }
}

/// A gap, then everything still retained.
fn lost(entry: &Entry, reason: GapReason, after: Option<StreamPosition>) -> Answer {
    let next = entry.history.as_ref().and_then(|history| history.first_after(entry.floor)).unwrap_or(entry.top + 1);
    let missed = after.filter(|after| after.epoch == entry.epoch).and_then(|after| next.checked_sub(after.offset.checked_add(1)?));
    let gap = Gap { reason, after, next: entry.position(next), missed };
    serve(entry, next - 1, Outcome::Gap(gap))
}

#[cfg(test)]
#[path = "home_tests.rs"]
mod tests;
