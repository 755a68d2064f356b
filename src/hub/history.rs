//! What a channel keeps of its past, and what it can answer to a position.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::publication::Publication;
use crate::base::Nanos;

/// Retained publications of one channel, oldest first, in offset order.
#[derive(Debug, Default)]
pub struct History {
    entries: VecDeque<(Nanos, Arc<Publication>)>,
    bytes: usize,
}

/// What trimming took away.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Trimmed {
    /// Offset of the last publication that went, if any did.
    pub last: Option<u64>,
    pub bytes: usize,
}

impl Trimmed {
    fn add(&mut self, publication: &Publication) {
        self.last = Some(publication.position.offset);
        self.bytes += publication.bytes();
    }
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

    /// Drops what is older than `ttl` and what is more than `size`.
    pub fn trim(&mut self, size: usize, ttl: Duration, now: Nanos) -> Trimmed {
        let mut trimmed = Trimmed::default();
        while let Some((at, publication)) = self.entries.front() {
            if self.entries.len() <= size && now.since(*at) < ttl {
                break;
            }
            trimmed.add(publication);
            self.entries.pop_front();
        }
        self.bytes -= trimmed.bytes;
        trimmed
    }

    /// Drops everything.
    pub fn clear(&mut self) -> Trimmed {
        self.trim(0, Duration::ZERO, Nanos(u64::MAX))
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
