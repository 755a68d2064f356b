//! One channel of a load: what is the same for all of its subscribers.

use std::collections::VecDeque;

/// Checked copies kept for comparison. Who is further behind is checked the slow way.
const KNOWN_MAX: usize = 16_384;

/// The publication each offset must hold, and the copies that were checked.
pub struct Channel {
    name: String,
    epoch: Option<String>,
    /// Offset of its first publication: fixed by the first one seen, as one connection publishes in order.
    first: Option<u64>,
    /// The highest offset that a publication was answered with.
    answered: u64,
    pub known: Copies,
    /// As they came, before inflating.
    pub known_compressed: Copies,
}

impl Channel {
    pub fn new(name: String) -> Self {
        Self { name, epoch: None, first: None, answered: 0, known: Copies::default(), known_compressed: Copies::default() }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// The offset of its first publication, once one was seen.
    pub const fn first_offset(&self) -> Option<u64> {
        self.first
    }

    /// The epoch of the run, once a position was seen.
    pub fn epoch(&self) -> Option<&str> {
        self.epoch.as_deref()
    }

    /// The highest offset that a publication was answered with; 0 before.
    pub const fn last_answered(&self) -> u64 {
        self.answered
    }

    /// Checks a whole position: the channel, one epoch for the whole run, a number.
    pub fn offset(&mut self, channel: &str, position: &str) -> Option<u64> {
        if channel == self.name { self.token(position) } else { None }
    }

    /// Takes a position alone: one epoch for the whole run, a number.
    pub fn token(&mut self, position: &str) -> Option<u64> {
        let (epoch, offset) = position.split_once(':')?;
        let same_epoch = self.epoch.get_or_insert_with(|| epoch.to_owned()) == epoch;
        same_epoch.then(|| offset.parse().ok()).flatten()
    }

    /// Notes that its publication after `nth` others got `offset`; false when that contradicts what was seen before.
    pub fn stored(&mut self, nth: u64, offset: u64) -> bool {
        let Some(first) = offset.checked_sub(nth) else { return false };
        *self.first.get_or_insert(first) == first
    }

    /// The same, told by the answer to it.
    pub fn answered(&mut self, nth: u64, offset: u64) -> bool {
        let right = self.stored(nth, offset);
        if right {
            self.answered = self.answered.max(offset);
        }
        right
    }
}

/// One checked copy of each of the last publications, in their order.
#[derive(Default)]
pub struct Copies {
    copies: VecDeque<Box<[u8]>>,
    /// The offset of the first.
    first: u64,
}

impl Copies {
    /// The copy of the publication with this offset.
    pub fn at(&self, offset: u64) -> Option<&[u8]> {
        let index = usize::try_from(offset.checked_sub(self.first)?).ok()?;
        self.copies.get(index).map(|copy| &**copy)
    }

    /// Keeps the copy of a publication that comes after all that it has.
    pub fn remember(&mut self, offset: u64, bytes: &[u8]) {
        let end = self.first + self.copies.len() as u64;
        if offset > end || self.copies.is_empty() {
            self.copies.clear();
            self.first = offset;
        } else if offset < end {
            return;
        }
        if self.copies.len() == KNOWN_MAX {
            self.copies.pop_front();
            self.first += 1;
        }
        self.copies.push_back(bytes.into());
    }
}
