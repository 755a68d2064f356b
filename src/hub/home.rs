//! The home side of channels: offsets, history, positions, and which workers to tell.
//!
//! Invariants:
//! - Offsets of an entry only grow; an entry's epoch never changes; a new entry has a new one unless a record remembers it.
//! - `floor` is the highest offset that can no longer be served: resuming at it or above is exact, below it is a gap.
//!   Publications that were never meant to be kept do not raise it.
//! - An entry goes only when no worker is interested, nothing is retained, and [`LINGER`] has passed since its last use, or
//!   where there are too many. Looking at a channel makes none.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::history::History;
use super::message::{Answer, Start, Stored, Subscribe};
use super::publication::{ChannelName, Draft, Publication};
use super::recency::Recency;
use super::records::{Idempotency, PositionRecords};
use super::token::Shown;
use super::{ChannelKind, Map, Namespace, NamespaceId, Options, WorkerSet};
use crate::base::{Arena, Epoch, Key, Mutant, Nanos, Now, Random, ShardId, StreamPosition, mutated};

/// Bytes of publications in one answer; a larger single publication still goes, alone.
pub const PAGE_BYTES_MAX: usize = 32 << 10;
/// Entries looked at again per sweep, and publications trimmed for memory per publication.
const STEPS_MAX: usize = 1024;
/// Unused entries that are looked for when there is no room for another one.
const CANDIDATES_MAX: usize = 64;
/// How long an unused entry stays: more than twice the longest poll.
pub const LINGER: Duration = Duration::from_secs(120);

/// Whether everything since the asked position can be served.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Nothing is missing.
    Exact,
    /// Something is, and the reader is told so before it gets what follows.
    Gap(Gap),
}

/// What is missing between a subscriber's position and what it gets next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Gap {
    /// The `reason` of a gap item and of `gaps_total`.
    pub reason: GapReason,
    /// The last position before the gap; `None` where it could not be read.
    pub after: Option<Shown>,
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
    TooLarge {
        /// Of the payload alone, without name, tags and keys.
        bytes: usize,
        /// `[channels] publication_bytes_max`.
        bytes_max: usize,
    },
    /// The channel's worker has no room for another channel.
    TooManyChannels,
}

/// The worker has no room for another channel now.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TooManyChannels;

/// Publications that history let go of before its reader asked, by reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct TrimCounts {
    /// More than the namespace's `history_size`.
    pub size: u64,
    /// Older than its time.
    pub ttl: u64,
    /// More than the worker's `history_bytes_max`.
    pub memory: u64,
}

/// A stored publication and whom to tell.
#[derive(Debug)]
pub struct Broadcast {
    /// What the publisher is answered.
    pub stored: Stored,
    /// The channel's, for `publications_total`.
    pub namespace: Option<NamespaceId>,
    /// `None` for a duplicate, and for what history tells already.
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
    /// Epochs of channels that nothing is known of. See [`Home::fresh`].
    epochs: ahash::RandomState,
    trimmed: TrimCounts,
    refused: u64,
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
    namespace: Option<NamespaceId>,
    queued: bool,
}

impl Entry {
    fn new(name: ChannelName, position: StreamPosition, namespace: Option<NamespaceId>, now: Nanos) -> Self {
        Self {
            name,
            epoch: position.epoch,
            top: position.offset,
            floor: position.offset,
            workers: WorkerSet::default(),
            history: None,
            used: now,
            namespace,
            queued: false,
        }
    }

    fn is_unused(&self) -> bool {
        self.workers.is_empty() && self.history.is_none()
    }

    const fn position(&self, offset: u64) -> StreamPosition {
        StreamPosition { epoch: self.epoch, offset }
    }

    fn raise_floor(&mut self, lost: Option<u64>) {
        self.floor = self.floor.max(lost.unwrap_or(0));
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
            epochs: ahash::RandomState::with_seeds(random.bits(), random.bits(), random.bits(), random.bits()),
            trimmed: TrimCounts::default(),
            refused: 0,
        }
    }

    /// Answers a subscribe and notes the worker's interest, or only looks.
    ///
    /// # Errors
    /// Where the channel would be one too many. A look is always answered.
    pub fn subscribe(
        &mut self,
        worker: ShardId,
        request: &Subscribe,
        options: &Options,
        now: Now,
    ) -> Result<Answer, TooManyChannels> {
        if !request.interest {
            return Ok(self.look(&request.channel, request.start, options, now.monotonic));
        }
        let key = self.entry(&request.channel, options, now.monotonic)?;
        self.channels[key].workers.insert(worker);
        self.note_read(key);
        Ok(self.look(&request.channel, request.start, options, now.monotonic))
    }

    /// Answers a page request of a catching-up subscriber.
    pub fn next_page(&mut self, channel: &ChannelName, after: StreamPosition, options: &Options, now: Now) -> Answer {
        if let Some(&key) = self.names.get(channel) {
            self.note_read(key);
        }
        self.look(channel, Start::After(after), options, now.monotonic)
    }

    /// Answers and changes nothing but what time changes.
    fn look(&mut self, channel: &ChannelName, start: Start, options: &Options, now: Nanos) -> Answer {
        let Some(&key) = self.names.get(channel) else { return answer(&self.unmade(channel, options, now), start, options) };
        self.trim(key, options, now);
        answer(&self.channels[key], start, options)
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
        let known = self.names.get(&draft.channel).copied();
        let id = known.map_or_else(|| options.namespace_id(draft.channel.as_str()), |key| self.channels[key].namespace);
        let namespace = options.policy(id).ok_or(PublishError::UnknownNamespace)?;
        let bytes = draft.payload.bytes.len();
        if bytes > options.publication_bytes_max {
            return Err(PublishError::TooLarge { bytes, bytes_max: options.publication_bytes_max });
        }
        self.idempotency.expire(options.idempotency_window, now.monotonic);
        let earlier = draft
            .idempotency_key
            .as_deref()
            .and_then(|key| self.idempotency.recall(&draft.channel, key, options.idempotency_window, now.monotonic));
        if let Some(stored) = earlier {
            return Ok(Broadcast { stored: Stored { duplicate: true, ..stored }, namespace: id, publication: None });
        }
        let key = match known {
            Some(key) => key,
            None => {
                self.make(&draft.channel, id, options, now.monotonic).map_err(|TooManyChannels| PublishError::TooManyChannels)?
            }
        };
        self.channels[key].used = now.monotonic;
        if let Some(stored) = self.told_already(key, &draft, namespace, now) {
            return Ok(Broadcast { stored, namespace: id, publication: None });
        }
        let (idempotency_key, channel) = (draft.idempotency_key.clone(), draft.channel.clone());
        let (stored, publication, workers) = self.store(key, draft, namespace, now);
        if let Some(idempotency_key) = idempotency_key {
            self.idempotency.remember(&channel, &idempotency_key, stored, now.monotonic);
        }
        self.trim_to(key, namespace.retained(), namespace.ttl(), now.monotonic);
        self.keep_within_budget(options.history_bytes_max);
        self.queue(key, now.monotonic);
        Ok(Broadcast { stored, namespace: id, publication: Some((publication, workers)) })
    }

    /// The options have been replaced: finds the namespaces of all channels anew.
    pub fn reload(&mut self, options: &Options) {
        for &key in self.names.values() {
            let entry = &mut self.channels[key];
            entry.namespace = options.namespace_id(entry.name.as_str());
        }
    }

    /// Frees what has outlived its use; a bounded amount of work per call. True if more is overdue: call again in the next turn.
    pub fn sweep(&mut self, options: &Options, now: Now) -> bool {
        let mut steps = 0;
        while let Some(&(_, key)) = self.revisit.front().filter(|(at, _)| *at <= now.monotonic && steps < STEPS_MAX) {
            self.revisit.pop_front();
            self.revisit(key, options, now.monotonic);
            steps += 1;
        }
        let records = self.records.expire(options.position_ttl, now.monotonic);
        let keys = self.idempotency.expire(options.idempotency_window, now.monotonic);
        let bytes = self.keep_within_budget(options.history_bytes_max);
        steps == STEPS_MAX || records || keys || bytes
    }

    /// Whether [`Self::sweep`] will have nothing to do until somebody uses a channel.
    #[must_use]
    pub fn has_nothing_to_expire(&self) -> bool {
        self.revisit.is_empty() && self.records.len() == 0 && self.idempotency.is_empty()
    }

    /// Publications trimmed from history since the start.
    #[must_use]
    pub const fn trimmed(&self) -> TrimCounts {
        self.trimmed
    }

    /// Subscribes and publishes refused since the start because there were too many channels.
    #[must_use]
    pub const fn refused(&self) -> u64 {
        self.refused
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
    fn entry(&mut self, channel: &ChannelName, options: &Options, now: Nanos) -> Result<Key, TooManyChannels> {
        if let Some(&key) = self.names.get(channel) {
            self.channels[key].used = now;
            return Ok(key);
        }
        self.make(channel, options.namespace_id(channel.as_str()), options, now)
    }

    fn make(
        &mut self,
        channel: &ChannelName,
        namespace: Option<NamespaceId>,
        options: &Options,
        now: Nanos,
    ) -> Result<Key, TooManyChannels> {
        if self.channels.len() >= options.entries_max && !self.forget_an_unused(options, now) {
            self.refused += 1;
            return Err(TooManyChannels);
        }
        let remembered = self.records.recall(channel, options.position_ttl, now);
        let position = remembered.unwrap_or_else(|| self.fresh(channel));
        let key = self.channels.insert(Entry::new(channel.clone(), position, namespace, now));
        self.names.insert(channel.clone(), key);
        self.queue(key, now);
        Ok(key)
    }

    /// What a channel without an entry would be if it had one: so long as nobody uses it, every look says the same.
    fn unmade(&self, channel: &ChannelName, options: &Options, now: Nanos) -> Entry {
        let position = self.records.peek(channel, options.position_ttl, now).unwrap_or_else(|| self.fresh(channel));
        Entry::new(channel.clone(), position, options.namespace_id(channel.as_str()), now)
    }

    /// The start of a history that is not known to have been: 64 bits from a keyed hash of the name and of how many positions
    /// have been lost so far, the channel's own perhaps among them. Drawn, they would have to be remembered for every name that
    /// somebody looks at.
    fn fresh(&self, channel: &ChannelName) -> StreamPosition {
        let bits = if mutated(Mutant::EpochReused) { 1 } else { self.epochs.hash_one((channel.as_str(), self.records.lost())) };
        StreamPosition { epoch: Epoch(bits), offset: 0 }
    }

    /// Makes room for an entry where one of those unused for longest can go before its time.
    fn forget_an_unused(&mut self, options: &Options, now: Nanos) -> bool {
        let mut candidates = self.revisit.iter().take(CANDIDATES_MAX);
        let Some(at) = candidates.position(|(_, key)| self.channels.get(*key).is_some_and(Entry::is_unused)) else { return false };
        let Some((_, key)) = self.revisit.remove(at) else { return false };
        self.forget(key, options, now);
        true
    }

    /// Where the channel is, if its history tells the draft's version or a newer one.
    fn told_already(&mut self, key: Key, draft: &Draft, namespace: &Namespace, now: Now) -> Option<Stored> {
        let version = draft.version.as_ref().filter(|_| draft.store)?;
        self.trim_to(key, namespace.retained(), namespace.ttl(), now.monotonic);
        let entry = &self.channels[key];
        let told = entry.history.as_ref().is_some_and(|history| history.covers(version));
        told.then(|| Stored { position: entry.position(entry.top), kept: true, duplicate: false })
    }

    fn store(&mut self, key: Key, mut draft: Draft, namespace: &Namespace, now: Now) -> (Stored, Arc<Publication>, WorkerSet) {
        let state = namespace.kind == ChannelKind::State;
        let keeps = draft.store && (state || namespace.history_size > 0);
        let (store, version) = (draft.store, draft.version.take());
        let entry = &mut self.channels[key];
        entry.top += 1;
        let position = entry.position(entry.top);
        let publication = draft.into_publication(position, state, now.wall);
        let publication = Arc::new(Publication { timed: namespace.time, stored: now.monotonic, ..publication });
        if keeps {
            let history = entry.history.get_or_insert_default();
            if state {
                self.history_bytes -= history.clear();
            }
            self.history_bytes += history.push(Arc::clone(&publication), now.monotonic);
            if let Some(version) = version {
                history.set_version(version);
            }
            self.with_history.touch(key.index);
        } else if store {
            entry.floor = entry.top;
        }
        (Stored { position, kept: keeps, duplicate: false }, publication, entry.workers)
    }

    fn trim(&mut self, key: Key, options: &Options, now: Nanos) {
        let namespace = options.policy(self.channels[key].namespace);
        let (size, ttl) = namespace.map_or((0, Duration::ZERO), |namespace| (namespace.retained(), namespace.ttl()));
        self.trim_to(key, size, ttl, now);
    }

    fn trim_to(&mut self, key: Key, size: usize, ttl: Duration, now: Nanos) {
        let entry = &mut self.channels[key];
        let Some(history) = entry.history.as_mut() else { return };
        let trimmed = history.trim(size, ttl, now);
        self.history_bytes -= trimmed.bytes;
        self.trimmed.size += trimmed.surplus;
        self.trimmed.ttl += trimmed.expired;
        if history.is_empty() {
            entry.history = None;
            self.with_history.remove(key.index);
        }
        entry.raise_floor(trimmed.last);
    }

    /// Lets go of the oldest publications of the channels unused for longest until all fits, a bounded number per call. True if
    /// that was not enough.
    fn keep_within_budget(&mut self, bytes_max: usize) -> bool {
        for _ in 0..STEPS_MAX {
            if self.history_bytes <= bytes_max {
                return false;
            }
            let Some(index) = self.with_history.oldest() else { return false };
            let oldest = self.channels.at_mut(index).and_then(|entry| {
                let oldest = entry.history.as_mut()?.pop_oldest()?;
                entry.raise_floor(Some(oldest.position.offset));
                Some(oldest)
            });
            let Some(oldest) = oldest else {
                self.with_history.remove(index);
                if let Some(entry) = self.channels.at_mut(index) {
                    entry.history = None;
                }
                continue;
            };
            self.history_bytes -= oldest.bytes();
            self.trimmed.memory += 1;
        }
        self.history_bytes > bytes_max
    }

    /// Reading a channel is using it: others are trimmed before it.
    fn note_read(&mut self, key: Key) {
        if self.channels[key].history.is_some() {
            self.with_history.touch(key.index);
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
        if entry.is_unused() && now.since(entry.used) >= LINGER {
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
    match options.policy(entry.namespace) {
        Some(namespace) if namespace.kind == ChannelKind::State => answer_state(entry, start, namespace.state_ttl.is_zero()),
        namespace => answer_stream(entry, start, namespace.is_some_and(|namespace| namespace.history_size > 0)),
    }
}

/// State channels: the latest value unless the subscriber has it. A gap only where there is a newer one than it has that had to go
/// for want of memory; one whose own time is over (`lasting` is false) is no value any more.
fn answer_state(entry: &Entry, start: Start, lasting: bool) -> Answer {
    let top = entry.position(entry.top);
    let newest = entry.history.as_ref().and_then(|history| history.newest());
    if let Start::After(position) = start
        && position.epoch == entry.epoch
        && newest.is_none()
        && position.offset < entry.floor
        && lasting
    {
        return lost(entry, GapReason::Expired, Some(position.into()));
    }
    let had = match start {
        Start::After(position) if position.epoch == entry.epoch => position.offset,
        Start::After(_) | Start::Now | Start::Beginning | Start::Newest(_) | Start::Elsewhere(_) | Start::Unreadable => 0,
    };
    let page: Vec<_> = newest.filter(|newest| newest.position.offset > had).map(Arc::clone).into_iter().collect();
    let from = page.first().map_or(entry.top, |first| first.position.offset - 1);
    Answer { top, from: entry.position(from), outcome: Outcome::Exact, page, head: true }
}

fn answer_stream(entry: &Entry, start: Start, keeps: bool) -> Answer {
    let retained = entry.history.as_deref();
    let floor = entry.floor;
    match start {
        Start::Now => serve(entry, entry.top, Outcome::Exact),
        Start::Beginning => serve(entry, floor, Outcome::Exact),
        Start::Newest(count) => {
            let before = retained.and_then(|history| history.before_newest(count as usize)).unwrap_or(entry.top);
            serve(entry, before, Outcome::Exact)
        }
        Start::After(position) if position.epoch != entry.epoch => lost(entry, GapReason::Epoch, Some(position.into())),
        Start::After(position) if position.offset > entry.top => lost(entry, GapReason::BadPosition, Some(position.into())),
        Start::After(position) if position.offset >= floor => {
            let skipped = u64::from(mutated(Mutant::ResumeOffByOne));
            serve(entry, position.offset + skipped, Outcome::Exact)
        }
        Start::After(position) => lost(entry, if keeps { GapReason::Expired } else { GapReason::NoHistory }, Some(position.into())),
        Start::Elsewhere(foreign) => lost(entry, GapReason::Epoch, Some(Shown::Foreign(foreign))),
        Start::Unreadable => lost(entry, GapReason::BadPosition, None),
    }
}

/// Everything retained after an offset, as far as a page goes.
fn serve(entry: &Entry, after: u64, outcome: Outcome) -> Answer {
    let (page, head) = entry.history.as_ref().map_or_else(|| (Vec::new(), true), |history| history.page(after, PAGE_BYTES_MAX));
    Answer { top: entry.position(entry.top), from: entry.position(after), outcome, page, head }
}

/// A gap, then everything still retained.
fn lost(entry: &Entry, reason: GapReason, after: Option<Shown>) -> Answer {
    let next = entry.history.as_ref().and_then(|history| history.first_after(entry.floor)).unwrap_or(entry.top + 1);
    let missed = match after {
        Some(Shown::Position(after)) if after.epoch == entry.epoch => {
            after.offset.checked_add(1).and_then(|first| next.checked_sub(first))
        }
        Some(Shown::Position(_) | Shown::Foreign(_)) | None => None,
    };
    let gap = Gap { reason, after, next: entry.position(next), missed };
    serve(entry, next - 1, Outcome::Gap(gap))
}

#[cfg(test)]
#[path = "home_tests.rs"]
mod tests;
