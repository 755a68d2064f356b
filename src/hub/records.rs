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
    lost: u64,
}

impl PositionRecords {
    /// A set of records whose hash keys come from the seed.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self {
            positions: Map::default(),
            order: VecDeque::new(),
            lost: 0,
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

    /// Reads a record; `None` where there is none or it has expired.
    #[must_use]
    pub fn peek(&self, channel: &ChannelName, ttl: Duration, now: Nanos) -> Option<StreamPosition> {
        let (position, at) = self.positions.get(&self.hasher.hash_one(channel.as_str()))?;
        (now.since(*at) < ttl).then_some(*position)
    }

    /// Takes the record back; `None` where there is none or it has expired.
    pub fn recall(&mut self, channel: &ChannelName, ttl: Duration, now: Nanos) -> Option<StreamPosition> {
        let remembered = self.peek(channel, ttl, now);
        let removed = self.positions.remove(&self.hasher.hash_one(channel.as_str()));
        if remembered.is_none() {
            self.note_lost(removed);
        }
        remembered
    }

    /// Drops expired records, a bounded number per call. True if more have expired.
    pub fn expire(&mut self, ttl: Duration, now: Nanos) -> bool {
        for _ in 0..EXPIRED_PER_CALL {
            match self.order.front() {
                Some((at, _)) if now.since(*at) >= ttl => self.forget_oldest(),
                _ => return false,
            }
        }
        true
    }

    /// How many positions behind a channel's start have been lost: a channel of which nothing is known may have been one of them.
    #[must_use]
    pub const fn lost(&self) -> u64 {
        self.lost
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.positions.len()
    }

    fn forget_oldest(&mut self) {
        let Some((at, hash)) = self.order.pop_front() else { return };
        // The record may have been recalled or renewed since it was queued.
        if self.positions.get(&hash).is_some_and(|(_, since)| *since == at) {
            let removed = self.positions.remove(&hash);
            self.note_lost(removed);
        }
    }

    fn note_lost(&mut self, record: Option<(StreamPosition, Nanos)>) {
        self.lost += u64::from(record.is_some_and(|(position, _)| position.offset > 0));
    }
}

/// Records and keys that one call lets go of.
const EXPIRED_PER_CALL: usize = 1024;

/// Idempotency keys remembered per worker.
const KEYS_MAX: usize = 100_000;
/// Bytes of idempotency keys remembered per worker.
const KEY_BYTES_MAX: usize = 16 << 20;

/// First results of publications that carried an idempotency key.
#[derive(Debug, Default)]
pub struct Idempotency {
    results: Map<Arc<str>, (Stored, Nanos)>,
    order: VecDeque<(Nanos, Arc<str>)>,
    bytes: usize,
}

impl Idempotency {
    fn name(channel: &ChannelName, key: &str) -> String {
        // A channel name has no space, so the pair is unambiguous.
        format!("{channel} {key}")
    }

    /// Whether no key is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    #[must_use]
    pub fn recall(&self, channel: &ChannelName, key: &str, window: Duration, now: Nanos) -> Option<Stored> {
        let (stored, at) = self.results.get(Self::name(channel, key).as_str())?;
        (now.since(*at) < window).then_some(*stored)
    }

    pub fn remember(&mut self, channel: &ChannelName, key: &str, stored: Stored, now: Nanos) {
        let name: Arc<str> = Self::name(channel, key).into();
        self.bytes += Self::cost(&name);
        self.results.insert(Arc::clone(&name), (stored, now));
        self.order.push_back((now, name));
        while self.order.len() > KEYS_MAX || self.bytes > KEY_BYTES_MAX {
            self.forget_oldest();
        }
    }

    /// Drops keys older than the window, a bounded number per call. True if there are more.
    pub fn expire(&mut self, window: Duration, now: Nanos) -> bool {
        for _ in 0..EXPIRED_PER_CALL {
            match self.order.front() {
                Some((at, _)) if now.since(*at) >= window => self.forget_oldest(),
                _ => return false,
            }
        }
        true
    }

    fn cost(name: &str) -> usize {
        name.len() + size_of::<(Arc<str>, (Stored, Nanos))>() + size_of::<(Nanos, Arc<str>)>()
    }

    fn forget_oldest(&mut self) {
        let Some((at, name)) = self.order.pop_front() else { return };
        self.bytes -= Self::cost(&name);
        // The key may have expired and been used again since it was queued.
        if self.results.get(&name).is_some_and(|(_, since)| *since == at) {
            self.results.remove(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Epoch;
    use proptest::prelude::*;

    const TTL: Duration = Duration::from_secs(100);

    fn at(seconds: u64) -> Nanos {
        Nanos(seconds * 1_000_000_000)
    }

    fn name(name: &str) -> ChannelName {
        ChannelName::parse(name).unwrap()
    }

    fn position(offset: u64) -> StreamPosition {
        StreamPosition { epoch: Epoch(1), offset }
    }

    fn stored(offset: u64) -> Stored {
        Stored { position: position(offset), kept: true, duplicate: false }
    }

    #[test]
    fn a_record_is_read_any_number_of_times_and_taken_back_once() {
        let mut records = PositionRecords::seeded(1);
        records.remember(&name("a"), position(7), 10, at(0));
        for _ in 0..2 {
            assert_eq!(records.peek(&name("a"), TTL, at(99)), Some(position(7)));
        }
        assert_eq!(records.peek(&name("b"), TTL, at(99)), None);
        assert_eq!(records.recall(&name("a"), TTL, at(99)), Some(position(7)));
        assert_eq!((records.recall(&name("a"), TTL, at(99)), records.len(), records.lost()), (None, 0, 0));
    }

    #[test]
    fn what_is_lost_is_counted_unless_nothing_was_there() {
        let mut records = PositionRecords::seeded(1);
        for (channel, offset) in [("a", 1), ("b", 0), ("c", 2)] {
            records.remember(&name(channel), position(offset), 1, at(0));
        }
        assert_eq!((records.len(), records.lost()), (1, 1), "a was pushed out, and b, which had no publication");
        assert_eq!(records.recall(&name("c"), TTL, at(100)), None);
        assert_eq!(records.lost(), 2, "c had expired");
        records.remember(&name("d"), position(3), 1, at(200));
        assert!(!records.expire(TTL, at(300)));
        assert_eq!((records.len(), records.lost()), (0, 3));
    }

    #[test]
    fn expiring_is_bounded_per_call_and_says_if_there_is_more() {
        let mut records = PositionRecords::seeded(1);
        for channel in 0..EXPIRED_PER_CALL + 1 {
            records.remember(&name(&channel.to_string()), position(0), usize::MAX, at(0));
        }
        assert!(records.expire(TTL, at(100)));
        assert_eq!(records.len(), 1);
        assert!(!records.expire(TTL, at(100)));
        assert_eq!(records.len(), 0);
    }

    #[test]
    fn a_channel_that_comes_and_goes_leaves_one_record_in_bounded_room() {
        let mut records = PositionRecords::seeded(1);
        for second in 0..100_000 {
            records.remember(&name("a"), position(second), 10, at(second));
            assert_eq!(records.recall(&name("a"), TTL, at(second)), Some(position(second)));
        }
        assert!(records.order.len() <= 1025);
    }

    #[test]
    fn a_key_is_recalled_for_its_channel_within_its_window() {
        let mut keys = Idempotency::default();
        keys.remember(&name("a"), "k", stored(7), at(0));
        assert_eq!(keys.recall(&name("a"), "k", TTL, at(99)), Some(stored(7)));
        assert_eq!(keys.recall(&name("b"), "k", TTL, at(99)), None);
        assert_eq!(keys.recall(&name("a"), "k", TTL, at(100)), None, "also before it has been dropped");
        keys.remember(&name("a"), "k", stored(8), at(100));
        assert!(!keys.expire(TTL, at(100)));
        assert_eq!(keys.recall(&name("a"), "k", TTL, at(199)), Some(stored(8)), "the older one's end is not its own");
    }

    #[test]
    fn keys_are_bounded_in_number_and_the_oldest_goes() {
        let mut keys = Idempotency::default();
        for key in 0..=KEYS_MAX {
            keys.remember(&name("a"), &key.to_string(), stored(1), at(0));
        }
        assert_eq!((keys.order.len(), keys.results.len()), (KEYS_MAX, KEYS_MAX));
        assert_eq!(keys.recall(&name("a"), "0", TTL, at(0)), None);
        assert!(keys.recall(&name("a"), "1", TTL, at(0)).is_some());
    }

    #[test]
    fn keys_are_bounded_in_bytes() {
        let mut keys = Idempotency::default();
        let channel = name(&"c".repeat(255));
        for key in 0..KEYS_MAX {
            keys.remember(&channel, &format!("{key:0>255}"), stored(1), at(0));
        }
        assert!((KEY_BYTES_MAX - 1000..=KEY_BYTES_MAX).contains(&keys.bytes), "{}", keys.bytes);
        assert!(keys.order.len() < KEYS_MAX);
        while keys.expire(TTL, at(100)) {}
        assert_eq!((keys.bytes, keys.results.len()), (0, 0));
    }

    /// What happens to records: a name is remembered, taken back or looked at, or time passes and what is old goes.
    #[derive(Clone, Debug)]
    enum Act {
        Remember(u8),
        Recall(u8),
        Peek(u8),
        Pass(u64),
    }

    fn any_act() -> impl Strategy<Value = Act> {
        prop_oneof![
            (0u8..8).prop_map(Act::Remember),
            (0u8..8).prop_map(Act::Recall),
            (0u8..8).prop_map(Act::Peek),
            (1u64..60).prop_map(Act::Pass),
        ]
    }

    proptest! {
        #[test]
        fn records_are_a_bounded_list_from_oldest_to_newest(acts in prop::collection::vec(any_act(), 0..60), max in 0usize..6) {
            let mut records = PositionRecords::seeded(3);
            let (mut list, mut now): (Vec<(u8, StreamPosition, u64)>, u64) = (Vec::new(), 0);
            for (place, act) in acts.into_iter().enumerate() {
                // No two at the same instant, so that there is one oldest.
                now += 1;
                let fresh = |since: u64, now: u64| Duration::from_secs(now - since) < TTL;
                match act {
                    Act::Remember(letter) => {
                        let position = position(place as u64 + 1);
                        records.remember(&name(&letter.to_string()), position, max, at(now));
                        list.retain(|(known, ..)| *known != letter);
                        list.push((letter, position, now));
                        list.drain(..list.len().saturating_sub(max));
                    }
                    Act::Recall(letter) | Act::Peek(letter) => {
                        let found = list.iter().find(|(known, _, since)| *known == letter && fresh(*since, now)).map(|found| found.1);
                        let channel = name(&letter.to_string());
                        if matches!(act, Act::Peek(_)) {
                            prop_assert_eq!(records.peek(&channel, TTL, at(now)), found);
                        } else {
                            prop_assert_eq!(records.recall(&channel, TTL, at(now)), found);
                            list.retain(|(known, ..)| *known != letter);
                        }
                    }
                    Act::Pass(seconds) => {
                        now += seconds;
                        while records.expire(TTL, at(now)) {}
                        list.retain(|(_, _, since)| fresh(*since, now));
                        prop_assert_eq!(records.len(), list.len());
                    }
                }
                prop_assert!(records.len() <= max);
            }
        }
    }
}
