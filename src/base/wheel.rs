//! Deadlines of many connections: a hierarchical timing wheel (Varghese and Lauck 1987) with one deadline per slot.
//!
//! Setting, moving and clearing a deadline cost a few list operations and no allocation; a tick costs what is due. Deadlines
//! are coarse: they fire up to one tick late, never early.

use std::time::Duration;

use super::{Nanos, Slots};

/// Resolution of a deadline. Those of one tick fire together: the coarser, the more pings leave at once, and whatever else is due waits for them.
pub const TICK: Duration = Duration::from_millis(10);

const LEVELS: usize = 4;
const LEVEL_BITS: u32 = 6;
const LEVEL_SIZE: usize = 1 << LEVEL_BITS;
/// Ticks the wheel spans (46 hours); later deadlines wait in the last bucket and are sorted in again.
const SPAN: u64 = 1 << (LEVEL_BITS * LEVELS as u32);
const NONE: u32 = u32::MAX;
const NO_BUCKET: u8 = u8::MAX;

#[derive(Clone, Copy, Debug)]
struct Link {
    next: u32,
    previous: u32,
    /// Low bits of the tick it is due at; the bucket tells the rest.
    due: u32,
    level: u8,
    bucket: u8,
}

impl Default for Link {
    fn default() -> Self {
        Self { next: NONE, previous: NONE, due: 0, level: 0, bucket: NO_BUCKET }
    }
}

/// One deadline for each slot number.
#[derive(Debug)]
pub struct Wheel {
    links: Slots<Link>,
    heads: [[u32; LEVEL_SIZE]; LEVELS],
    /// Which buckets of each level are not empty.
    occupied: [u64; LEVELS],
    /// The last tick that has been fired.
    tick: u64,
    len: usize,
}

impl Default for Wheel {
    fn default() -> Self {
        Self { links: Slots::default(), heads: [[NONE; LEVEL_SIZE]; LEVELS], occupied: [0; LEVELS], tick: 0, len: 0 }
    }
}

fn tick_of(at: Nanos) -> u64 {
    at.0.div_ceil(TICK.as_nanos() as u64)
}

impl Wheel {
    /// Sets the slot's deadline, replacing the one it had.
    pub fn set(&mut self, slot: u32, at: Nanos) {
        self.clear(slot);
        // The current tick has been fired already, so "now" means the next one.
        self.link(slot, tick_of(at).max(self.tick + 1).min(self.tick + u64::from(u32::MAX >> 1)));
        self.len += 1;
    }

    /// Takes the slot's deadline away, if it has one.
    pub fn clear(&mut self, slot: u32) {
        let Some(&link) = self.links.get(slot) else { return };
        if link.bucket == NO_BUCKET {
            return;
        }
        self.unlink(slot, link);
        self.len -= 1;
    }

    /// Deadlines set now.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether no deadline is set.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// When [`Wheel::expire`] next has something to do; not later than the earliest deadline's tick.
    #[must_use]
    pub fn next(&self) -> Option<Nanos> {
        if self.heads[0][(self.tick & (LEVEL_SIZE as u64 - 1)) as usize] != NONE {
            return Some(Nanos(self.tick.saturating_mul(TICK.as_nanos() as u64)));
        }
        let ticks = (0..LEVELS).filter(|&level| self.occupied[level] != 0).map(|level| self.next_tick_of(level)).min()?;
        Some(Nanos(ticks.saturating_mul(TICK.as_nanos() as u64)))
    }

    /// How long ago the last slot that [`Wheel::expire`] returned should have been, to a tick.
    #[must_use]
    pub fn late(&self, now: Nanos) -> Duration {
        now.since(Nanos(self.tick.saturating_mul(TICK.as_nanos() as u64)))
    }

    /// Takes one slot whose deadline has passed; call until `None`.
    pub fn expire(&mut self, now: Nanos) -> Option<u32> {
        let now = now.0 / TICK.as_nanos() as u64;
        loop {
            let bucket = (self.tick & (LEVEL_SIZE as u64 - 1)) as usize;
            let head = self.heads[0][bucket];
            if head != NONE {
                self.clear(head);
                return Some(head);
            }
            if self.tick >= now {
                return None;
            }
            self.advance(now);
        }
    }

    /// Moves to the next tick at which anything happens, at most to `now`.
    fn advance(&mut self, now: u64) {
        let next =
            (0..LEVELS).filter(|&level| self.occupied[level] != 0).map(|level| self.next_tick_of(level)).min().unwrap_or(now);
        self.tick = next.clamp(self.tick + 1, now.max(self.tick + 1));
        for level in 1..LEVELS {
            if self.tick & ((1 << (LEVEL_BITS * level as u32)) - 1) != 0 {
                break;
            }
            self.cascade(level);
        }
    }

    /// The tick at which the level's next bucket is fired (level 0) or sorted into the level below.
    fn next_tick_of(&self, level: usize) -> u64 {
        let shift = LEVEL_BITS * level as u32;
        let here = self.tick >> shift;
        let place = (here & (LEVEL_SIZE as u64 - 1)) as u32;
        // Bit 0 of the rotated set is the bucket after the current one.
        let ahead = self.occupied[level].rotate_right((place + 1) % LEVEL_SIZE as u32);
        (here + 1 + u64::from(ahead.trailing_zeros())) << shift
    }

    /// Sorts the current bucket of a level into the levels below.
    fn cascade(&mut self, level: usize) {
        let bucket = ((self.tick >> (LEVEL_BITS * level as u32)) & (LEVEL_SIZE as u64 - 1)) as usize;
        let mut slot = std::mem::replace(&mut self.heads[level][bucket], NONE);
        self.occupied[level] &= !(1 << bucket);
        while slot != NONE {
            let Some(link) = self.links.get(slot).copied() else { break };
            // `due` is truncated; the distance to it is not, since deadlines lie less than 2^31 ticks ahead.
            let distance = link.due.wrapping_sub(self.tick as u32);
            self.link(slot, self.tick + u64::from(distance));
            slot = link.next;
        }
    }

    fn link(&mut self, slot: u32, due: u64) {
        let reach = due.min(self.tick + SPAN - 1);
        let distance = reach - self.tick;
        let level = (0..LEVELS).find(|&level| distance < 1 << (LEVEL_BITS * (level as u32 + 1))).unwrap_or(LEVELS - 1);
        let bucket = ((reach >> (LEVEL_BITS * level as u32)) & (LEVEL_SIZE as u64 - 1)) as usize;
        let head = std::mem::replace(&mut self.heads[level][bucket], slot);
        self.occupied[level] |= 1 << bucket;
        *self.links.entry(slot) = Link { next: head, previous: NONE, due: due as u32, level: level as u8, bucket: bucket as u8 };
        if head != NONE {
            self.links.entry(head).previous = slot;
        }
    }

    fn unlink(&mut self, slot: u32, link: Link) {
        let (level, bucket) = (link.level as usize, link.bucket as usize);
        if link.previous == NONE {
            self.heads[level][bucket] = link.next;
        } else {
            self.links.entry(link.previous).next = link.next;
        }
        if link.next != NONE {
            self.links.entry(link.next).previous = link.previous;
        }
        if self.heads[level][bucket] == NONE {
            self.occupied[level] &= !(1 << bucket);
        }
        *self.links.entry(slot) = Link::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn ms(ms: u64) -> Nanos {
        Nanos(ms * 1_000_000)
    }

    fn fired(wheel: &mut Wheel, now: Nanos) -> Vec<u32> {
        let mut slots: Vec<u32> = std::iter::from_fn(|| wheel.expire(now)).collect();
        slots.sort_unstable();
        slots
    }

    #[test]
    fn a_deadline_fires_once_and_not_early() {
        let mut wheel = Wheel::default();
        wheel.set(5, ms(250));
        assert!(fired(&mut wheel, ms(249)).is_empty());
        assert_eq!(fired(&mut wheel, ms(300)), [5]);
        assert!(fired(&mut wheel, ms(10_000)).is_empty());
        assert!(wheel.is_empty());
    }

    #[test]
    fn next_is_never_later_than_the_earliest_deadline() {
        let mut wheel = Wheel::default();
        assert_eq!(wheel.next(), None);
        wheel.set(1, ms(86_400_000));
        wheel.set(2, ms(7_000));
        assert!(wheel.next().is_some_and(|at| at <= ms(7_000)));
    }

    #[test]
    fn next_is_past_while_something_due_has_not_been_taken() {
        let mut wheel = Wheel::default();
        wheel.set(1, ms(250));
        wheel.set(2, ms(250));
        assert!(wheel.expire(ms(300)).is_some());
        assert!(wheel.next().is_some_and(|at| at <= ms(300)));
        assert!(wheel.expire(ms(300)).is_some());
        assert_eq!(wheel.next(), None);
    }

    proptest! {
        #[test]
        fn it_behaves_as_a_sorted_map(acts in prop::collection::vec((0u32..40, 0u64..20_000_000, 0u64..3_000_000), 1..120)) {
            let mut wheel = Wheel::default();
            let mut model: BTreeMap<u32, Nanos> = BTreeMap::new();
            let mut now = Nanos(0);
            for (slot, delay, step) in acts {
                if delay % 7 == 0 { wheel.clear(slot); model.remove(&slot); }
                else { wheel.set(slot, now + Duration::from_millis(delay)); model.insert(slot, now + Duration::from_millis(delay)); }
                now = now + Duration::from_millis(step);
                let got = fired(&mut wheel, now);
                for slot in &got {
                    let due = model.remove(slot).expect("fired without a deadline");
                    prop_assert!(due <= now, "early");
                }
                for due in model.values() {
                    prop_assert!(*due + TICK + TICK > now, "late");
                }
                prop_assert_eq!(wheel.len(), model.len());
                let next = wheel.next();
                prop_assert_eq!(next.is_none(), model.is_empty());
            }
        }
    }
}
