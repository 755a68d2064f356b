//! What a worker keeps of a polled channel, so that the next poll need not ask the channel's home.
//!
//! Invariant: every publication after `floor` that came in the home's FIFO is kept here.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::publication::{Publication, Role};
use crate::base::Nanos;

/// Publications kept of a channel.
const PUBLICATIONS_MAX: usize = 64;
/// Bytes of the same.
const BYTES_MAX: usize = 64 << 10;

/// The last publications of one channel, oldest first.
#[derive(Debug)]
pub struct Recent {
    publications: VecDeque<Arc<Publication>>,
    bytes: usize,
    floor: u64,
    /// The channel is kept until then.
    pub until: Nanos,
}

impl Recent {
    /// Begins behind an offset.
    #[must_use]
    pub const fn new(floor: u64, until: Nanos) -> Self {
        Self { publications: VecDeque::new(), bytes: 0, floor, until }
    }

    /// Keeps a publication; the oldest go where that is too much.
    pub fn push(&mut self, publication: Arc<Publication>) {
        self.bytes += publication.bytes();
        self.publications.push_back(publication);
        while self.publications.len() > PUBLICATIONS_MAX || self.bytes > BYTES_MAX {
            self.drop_oldest();
        }
    }

    /// Publications up to an offset never came here.
    pub fn restart(&mut self, floor: u64) {
        self.publications.clear();
        self.bytes = 0;
        self.floor = floor;
    }

    /// What a reader behind an offset has not had, without the values that a newer one replaces. `None` where that is not known
    /// here, or where some of it is older than `ttl` and so is not served any more.
    pub fn after(&mut self, offset: u64, ttl: Duration, now: Nanos) -> Option<Vec<Arc<Publication>>> {
        while self.publications.front().is_some_and(|oldest| now.since(oldest.stored) >= ttl) {
            self.drop_oldest();
        }
        if offset < self.floor {
            return None;
        }
        let start = self.publications.partition_point(|publication| publication.position.offset <= offset);
        let newest_value = self.publications.iter().rev().find(|publication| publication.role == Role::Value);
        let newest_value = newest_value.map(|value| value.position.offset);
        let unread = self.publications.range(start..);
        let stands = |publication: &&Arc<Publication>| {
            publication.role != Role::Value || newest_value.is_none_or(|newest| publication.position.offset == newest)
        };
        Some(unread.filter(stands).cloned().collect())
    }

    fn drop_oldest(&mut self) {
        let Some(oldest) = self.publications.pop_front() else { return };
        self.bytes -= oldest.bytes();
        self.floor = oldest.position.offset;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Epoch, StreamPosition, WallMs};
    use crate::hub::{ChannelName, Draft, Payload, PayloadKind};

    const TTL: Duration = Duration::from_secs(300);

    fn at(seconds: u64) -> Nanos {
        Nanos(seconds * 1_000_000_000)
    }

    fn publication(offset: u64, bytes: usize, state: bool, store: bool, stored: Nanos) -> Arc<Publication> {
        let payload = Payload { kind: PayloadKind::Binary, bytes: vec![0; bytes].into() };
        let draft = Draft { store, ..Draft::new(ChannelName::parse("c").unwrap(), payload) };
        let publication = draft.into_publication(StreamPosition { epoch: Epoch(1), offset }, state, WallMs(0));
        Arc::new(Publication { stored, ..publication })
    }

    fn offsets(recent: &mut Recent, after: u64, now: Nanos) -> Option<Vec<u64>> {
        let page = recent.after(after, TTL, now)?;
        Some(page.iter().map(|publication| publication.position.offset).collect())
    }

    #[test]
    fn a_reader_gets_what_it_has_not_had_or_is_sent_to_the_home() {
        let mut recent = Recent::new(5, at(0));
        for offset in 6..=8 {
            recent.push(publication(offset, 10, false, true, at(0)));
        }
        assert_eq!(offsets(&mut recent, 6, at(0)), Some(vec![7, 8]));
        assert_eq!(offsets(&mut recent, 8, at(0)), Some(vec![]));
        assert_eq!(offsets(&mut recent, 4, at(0)), None, "what came before is not known here");
        recent.restart(9);
        assert_eq!(offsets(&mut recent, 8, at(0)), None);
    }

    #[test]
    fn nothing_is_served_after_its_time() {
        let mut recent = Recent::new(0, at(0));
        recent.push(publication(1, 10, false, true, at(0)));
        recent.push(publication(2, 10, false, true, at(200)));
        assert_eq!(offsets(&mut recent, 0, at(299)), Some(vec![1, 2]));
        assert_eq!(offsets(&mut recent, 0, at(300)), None, "only the home knows what is missing now");
        assert_eq!(offsets(&mut recent, 1, at(300)), Some(vec![2]));
        assert_eq!(offsets(&mut recent, 2, at(900)), Some(vec![]), "whoever has everything misses nothing");
    }

    #[test]
    fn a_state_channels_reader_gets_its_newest_value_and_what_passed_by() {
        let mut recent = Recent::new(0, at(0));
        for (offset, store) in [(1, true), (2, true), (3, false), (4, true), (5, false)] {
            recent.push(publication(offset, 10, true, store, at(0)));
        }
        assert_eq!(offsets(&mut recent, 0, at(0)), Some(vec![3, 4, 5]));
        assert_eq!(offsets(&mut recent, 4, at(0)), Some(vec![5]));
    }

    #[test]
    fn what_is_kept_is_bounded_in_number_and_bytes() {
        let mut recent = Recent::new(0, at(0));
        for offset in 1..=100 {
            recent.push(publication(offset, 10, false, true, at(0)));
        }
        assert_eq!((recent.publications.len(), offsets(&mut recent, 35, at(0))), (PUBLICATIONS_MAX, None));
        recent.push(publication(101, BYTES_MAX, false, true, at(0)));
        assert_eq!((recent.publications.len(), recent.bytes), (0, 0), "larger than all there is room for");
        assert_eq!(offsets(&mut recent, 101, at(0)), Some(vec![]));
    }
}
