//! What a channel keeps of its past, and what it can answer to a position.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::publication::{Publication, Version};
use crate::base::Nanos;

/// Retained publications of one channel, oldest first, in offset order.
#[derive(Debug, Default)]
pub struct History {
    entries: VecDeque<(Nanos, Arc<Publication>)>,
    bytes: usize,
    /// The newest version told, for publishers that count; forgotten with the last entry.
    version: Option<Box<Version>>,
}

/// What trimming took away.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Trimmed {
    /// Offset of the last publication that went, if any did.
    pub last: Option<u64>,
    pub bytes: usize,
    /// Publications that were too old.
    pub expired: u64,
    /// Publications that were too many.
    pub surplus: u64,
}

impl History {
    /// Appends; the caller trims. Returns the bytes added.
    pub fn push(&mut self, publication: Arc<Publication>, now: Nanos) -> usize {
        debug_assert!(self.entries.back().is_none_or(|(_, last)| last.position.offset < publication.position.offset));
        let bytes = publication.bytes();
        self.bytes += bytes;
        self.entries.push_back((now, publication));
        bytes
    }

    /// Whether a publication of this version would tell nothing new.
    #[must_use]
    pub fn covers(&self, version: &Version) -> bool {
        self.version.as_ref().is_some_and(|known| known.covers(version))
    }

    /// Notes the version that the last publication told.
    pub fn set_version(&mut self, version: Box<Version>) {
        self.version = Some(version);
    }

    /// Drops what is older than `ttl` and what is more than `size`.
    pub fn trim(&mut self, size: usize, ttl: Duration, now: Nanos) -> Trimmed {
        let mut trimmed = Trimmed::default();
        while let Some((at, _)) = self.entries.front() {
            if now.since(*at) >= ttl {
                trimmed.expired += 1;
            } else if self.entries.len() > size {
                trimmed.surplus += 1;
            } else {
                break;
            }
            if let Some(oldest) = self.pop_oldest() {
                trimmed.last = Some(oldest.position.offset);
                trimmed.bytes += oldest.bytes();
            }
        }
        trimmed
    }

    /// Takes the oldest publication away.
    pub fn pop_oldest(&mut self) -> Option<Arc<Publication>> {
        let (_, oldest) = self.entries.pop_front()?;
        self.bytes -= oldest.bytes();
        Some(oldest)
    }

    /// Drops everything. Returns the bytes that went.
    pub fn clear(&mut self) -> usize {
        self.entries.clear();
        std::mem::take(&mut self.bytes)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The retained publications after an offset, in order, until `bytes_max` is reached (always at least one), and whether
    /// that is all there is.
    #[must_use]
    pub fn page(&self, after: u64, bytes_max: usize) -> (Vec<Arc<Publication>>, bool) {
        let start = self.entries.partition_point(|(_, publication)| publication.position.offset <= after);
        let mut bytes = 0;
        let mut page = Vec::new();
        for (_, publication) in self.entries.range(start..) {
            if !page.is_empty() && bytes + publication.bytes() > bytes_max {
                return (page, false);
            }
            bytes += publication.bytes();
            page.push(Arc::clone(publication));
        }
        (page, true)
    }

    /// Offset of the first retained publication after an offset.
    #[must_use]
    pub fn first_after(&self, after: u64) -> Option<u64> {
        let start = self.entries.partition_point(|(_, publication)| publication.position.offset <= after);
        self.entries.get(start).map(|(_, publication)| publication.position.offset)
    }

    /// The position before the newest `count` publications: the offset after which they come.
    #[must_use]
    pub fn before_newest(&self, count: usize) -> Option<u64> {
        let start = self.entries.len().saturating_sub(count);
        self.entries.get(start).map(|(_, publication)| publication.position.offset - 1)
    }

    #[must_use]
    pub fn newest(&self) -> Option<&Arc<Publication>> {
        self.entries.back().map(|(_, publication)| publication)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Epoch, StreamPosition, WallMs};
    use crate::hub::{ChannelName, Draft, Payload, PayloadKind};

    const FOREVER: Duration = Duration::MAX;

    fn at(seconds: u64) -> Nanos {
        Nanos(seconds * 1_000_000_000)
    }

    /// Publications at the offsets, one stored at each second from 0 on, of 1,000 bytes.
    fn history(offsets: &[u64]) -> History {
        let mut history = History::default();
        for (second, &offset) in (0..).zip(offsets) {
            let payload = Payload { kind: PayloadKind::Binary, bytes: vec![0; 1000].into() };
            let position = StreamPosition { epoch: Epoch(1), offset };
            let publication = Draft::new(ChannelName::parse("c").unwrap(), payload).into_publication(position, false, WallMs(0));
            history.push(Arc::new(publication), at(second));
        }
        history
    }

    fn retained(history: &History) -> Vec<u64> {
        history.page(0, usize::MAX).0.iter().map(|publication| publication.position.offset).collect()
    }

    #[test]
    fn trimming_says_what_went_and_why() {
        let mut history = history(&[1, 2, 3, 5, 6]);
        let each = history.bytes / 5;
        let trimmed = history.trim(3, Duration::from_secs(4), at(4));
        assert_eq!(trimmed, Trimmed { last: Some(2), bytes: 2 * each, expired: 1, surplus: 1 });
        assert_eq!((retained(&history), history.bytes), (vec![3, 5, 6], 3 * each));
        assert_eq!(history.trim(3, Duration::from_secs(4), at(4)), Trimmed::default());
        assert_eq!(history.trim(0, FOREVER, at(4)).last, Some(6));
        assert_eq!((history.bytes, history.is_empty()), (0, true));
    }

    #[test]
    fn a_publication_is_too_old_at_its_time_and_not_before() {
        let mut history = history(&[1]);
        let ttl = Duration::from_secs(5);
        assert_eq!(history.trim(9, ttl, Nanos(at(5).0 - 1)).last, None);
        assert_eq!(history.trim(9, ttl, at(5)).last, Some(1));
    }

    #[test]
    fn a_page_holds_what_fits_and_at_least_one() {
        let history = history(&[1, 2, 4, 5]);
        let each = history.bytes / 4;
        let page = |after, bytes_max| {
            let (page, all) = history.page(after, bytes_max);
            (page.iter().map(|publication| publication.position.offset).collect::<Vec<_>>(), all)
        };
        assert_eq!(page(0, 2 * each), (vec![1, 2], false));
        assert_eq!(page(2, 2 * each), (vec![4, 5], true));
        assert_eq!(page(2, 2 * each - 1), (vec![4], false));
        assert_eq!(page(3, 1), (vec![4], false));
        assert_eq!(page(4, 1), (vec![5], true));
        assert_eq!(page(5, 1), (vec![], true));
    }

    #[test]
    fn places_in_it_are_found_across_offsets_that_it_never_had() {
        let history = history(&[1, 2, 4, 5]);
        assert_eq!((history.first_after(2), history.first_after(5)), (Some(4), None));
        assert_eq!((history.before_newest(2), history.before_newest(9), history.before_newest(0)), (Some(3), Some(0), None));
        assert_eq!(history.newest().map(|newest| newest.position.offset), Some(5));
    }
}
