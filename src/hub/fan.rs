//! What waits to be handed to one channel's subscribers on this worker, and the run that is being handed out.
//!
//! ```text
//!   push ─▶ [waiting] ── a window ends, or there was none ─▶ [due] ─▶ run ─▶ run ─▶ run, then the next window
//! ```
//!
//! Invariants:
//! - What is due goes out in runs back to back: a window delays publications, it never limits how many leave.
//! - A window begins when the runs before it begin to go out, and a quarter of it comes after they have: a broadcast that takes as
//!   long as its window would be followed by the next at once, with what little came meanwhile.
//! - `bytes` is the sum of the queued publications'. Above [`QUEUE_BYTES_MAX`] they become one loss.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::publication::{Publication, Role};
use crate::base::{Blob, Nanos, StreamPosition};

/// Publications gathered into one run.
pub const RUN_PUBLICATIONS_MAX: usize = 256;
/// Bytes gathered into one run; a larger single publication is a run of its own.
const RUN_BYTES_MAX: usize = 256 << 10;
/// At least one part in so many of a coalescing window comes after what went before has been handed out.
const GATHERING_PART: u32 = 4;
/// Bytes that may wait for one channel's subscribers on a worker; a larger single publication still waits, alone.
pub const QUEUE_BYTES_MAX: usize = 16 << 20;

/// What goes to all subscribers of a channel together.
#[derive(Clone, Debug)]
pub enum Run {
    /// Consecutive publications, oldest first; never empty.
    Publications(Vec<Arc<Publication>>),
    /// Publications up to the position could not be brought here.
    Lost(StreamPosition),
}

impl Run {
    /// Whether it is nothing but what passes by on a state channel.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Publications(publications) => publications.iter().all(|publication| publication.role == Role::Passing),
            Self::Lost(_) => false,
        }
    }

    /// The last offset of the run.
    #[must_use]
    pub fn last(&self) -> u64 {
        match self {
            Self::Publications(publications) => publications.last().map_or(0, |last| last.position.offset),
            Self::Lost(to) => to.offset,
        }
    }
}

/// One thing of a channel's order.
#[derive(Debug)]
pub enum Item {
    Publication(Arc<Publication>),
    Lost(StreamPosition),
}

/// A run being handed out and how far that has come.
#[derive(Debug)]
pub struct Cursor {
    /// The same for all groups; each gets it encoded for its audience.
    pub run: Run,
    /// Place of the group that is being served, in the channel's list; behind the last one the run is done.
    pub group: usize,
    /// The first entry of that group that has not had the run.
    pub index: usize,
    /// The run's bytes for the current group, encoded when its first entry is reached.
    pub blob: Option<Blob>,
}

/// A channel's fan-out while there is one.
#[derive(Debug, Default)]
pub struct Fan {
    queue: VecDeque<Item>,
    bytes: usize,
    /// Items at the front of the queue that go out without another window.
    due: usize,
    /// When the first of those began to go out.
    pub began: Nanos,
    cursor: Option<Cursor>,
    /// Whether the channel is in the list of active ones.
    pub active: bool,
    /// Nothing starts before this: the coalescing window.
    pub not_before: Nanos,
}

impl Fan {
    /// Queues an item. Returns how many publications were given up because too much waits.
    pub fn push(&mut self, item: Item) -> u64 {
        match (&item, self.queue.back_mut()) {
            // The later loss covers the earlier one, and an unread channel's losses take no room.
            (Item::Lost(to), Some(Item::Lost(known))) => {
                *known = *to;
                return 0;
            }
            (Item::Publication(publication), _) => self.bytes += publication.bytes(),
            (Item::Lost(_), _) => {}
        }
        self.queue.push_back(item);
        if self.bytes > QUEUE_BYTES_MAX && self.queue.len() > 1 { self.collapse() } else { 0 }
    }

    /// Whether a run is being handed out: entries must keep their places.
    #[must_use]
    pub const fn is_open(&self) -> bool {
        self.cursor.is_some()
    }

    /// Whether nothing waits and nothing is being handed out.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.cursor.is_none()
    }

    /// Whether the next run need not wait for a window.
    #[must_use]
    pub const fn is_due(&self) -> bool {
        self.due > 0
    }

    /// When the window ends in which the next runs are gathered, the ones before it having been handed out by `now`.
    #[must_use]
    pub fn reopens(&self, window: Duration, now: Nanos) -> Nanos {
        (self.began + window).max(now + window / GATHERING_PART)
    }

    /// The open cursor, or a new one over what is due, at most so many publications. `None` if there is nothing.
    pub fn open(&mut self, publications_max: usize, now: Nanos) -> Option<Cursor> {
        if let Some(cursor) = self.cursor.take() {
            return Some(cursor);
        }
        if self.due == 0 {
            (self.due, self.began) = (self.queue.len(), now);
        }
        Some(Cursor { run: self.next_run(publications_max)?, group: 0, index: 0, blob: None })
    }

    /// Puts a cursor back: its slice is over.
    pub fn suspend(&mut self, cursor: Cursor) {
        self.cursor = Some(cursor);
    }

    /// Takes the next run off what is due. A state channel's values but the newest are left out.
    fn next_run(&mut self, publications_max: usize) -> Option<Run> {
        let mut run: Vec<Arc<Publication>> = Vec::new();
        let mut bytes = 0;
        let mut value = None;
        while self.due > 0 {
            let Some(Item::Publication(next)) = self.queue.front() else { break };
            if next.role == Role::Value
                && let Some(at) = value.take()
            {
                bytes -= run.remove(at).bytes();
            }
            if !run.is_empty() && (run.len() >= publications_max || bytes + next.bytes() > RUN_BYTES_MAX) {
                break;
            }
            let Some(Item::Publication(next)) = self.pop() else { break };
            bytes += next.bytes();
            if next.role == Role::Value {
                value = Some(run.len());
            }
            run.push(next);
        }
        if !run.is_empty() {
            return Some(Run::Publications(run));
        }
        match self.pop()? {
            Item::Lost(to) => Some(Run::Lost(to)),
            Item::Publication(publication) => Some(Run::Publications(vec![publication])),
        }
    }

    fn pop(&mut self) -> Option<Item> {
        let item = self.queue.pop_front()?;
        self.due = self.due.saturating_sub(1);
        if let Item::Publication(publication) = &item {
            self.bytes -= publication.bytes();
        }
        Some(item)
    }

    /// Gives up what waits: one loss where the last event stood, and the newest value. Returns how many publications went.
    fn collapse(&mut self) -> u64 {
        let (mut kept, mut given_up) = (VecDeque::new(), 0);
        let (mut has_loss, mut has_value) = (false, false);
        for item in self.queue.drain(..).rev() {
            match item {
                Item::Publication(publication) if publication.role == Role::Value && !has_value => {
                    has_value = true;
                    kept.push_front(Item::Publication(publication));
                }
                Item::Publication(publication) => {
                    given_up += 1;
                    if publication.role == Role::Event && !std::mem::replace(&mut has_loss, true) {
                        kept.push_front(Item::Lost(publication.position));
                    }
                }
                Item::Lost(to) if !std::mem::replace(&mut has_loss, true) => kept.push_front(Item::Lost(to)),
                Item::Lost(_) => {}
            }
        }
        self.queue = kept;
        self.due = self.due.min(self.queue.len());
        self.bytes = self.queue.iter().map(Item::bytes).sum();
        given_up
    }
}

impl Item {
    fn bytes(&self) -> usize {
        match self {
            Self::Publication(publication) => publication.bytes(),
            Self::Lost(_) => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Epoch, WallMs};
    use crate::hub::{ChannelName, Draft, Payload, PayloadKind};

    fn publication(offset: u64, bytes: usize, state: bool, store: bool) -> Item {
        let payload = Payload { kind: PayloadKind::Binary, bytes: vec![0; bytes].into() };
        let draft = Draft { store, ..Draft::new(ChannelName::parse("c").unwrap(), payload) };
        Item::Publication(Arc::new(draft.into_publication(at(offset), state, WallMs(0))))
    }

    fn event(offset: u64, bytes: usize) -> Item {
        publication(offset, bytes, false, true)
    }

    fn at(offset: u64) -> StreamPosition {
        StreamPosition { epoch: Epoch(1), offset }
    }

    /// The runs that go out without another window, as offsets; a loss is negative.
    fn burst(fan: &mut Fan) -> Vec<Vec<i64>> {
        let mut runs = Vec::new();
        while let Some(cursor) = fan.open(RUN_PUBLICATIONS_MAX, Nanos(0)) {
            runs.push(match cursor.run {
                Run::Publications(run) => run.iter().map(|publication| publication.position.offset as i64).collect(),
                Run::Lost(to) => vec![-(to.offset as i64)],
            });
            if !fan.is_due() {
                break;
            }
        }
        runs
    }

    #[test]
    fn all_that_queued_up_goes_out_back_to_back_and_what_comes_meanwhile_waits() {
        let mut fan = Fan::default();
        for offset in 1..=600 {
            fan.push(event(offset, 10));
        }
        let first = fan.open(RUN_PUBLICATIONS_MAX, Nanos(0)).unwrap();
        assert_eq!(first.run.last(), 256);
        fan.push(event(601, 10));
        let rest = burst(&mut fan);
        assert_eq!(rest.iter().map(Vec::len).collect::<Vec<_>>(), [256, 88]);
        assert!(!fan.is_due() && !fan.is_idle(), "601 came after the window had opened");
        assert_eq!(burst(&mut fan), [[601]]);
        assert!(fan.is_idle());
    }

    #[test]
    fn a_run_is_bounded_in_bytes_but_one_publication_always_goes() {
        let mut fan = Fan::default();
        for (offset, bytes) in [(1, 100 << 10), (2, 100 << 10), (3, 100 << 10), (4, 1 << 20)] {
            fan.push(event(offset, bytes));
        }
        assert_eq!(burst(&mut fan), [vec![1, 2], vec![3], vec![4]]);
    }

    #[test]
    fn runs_of_one_leave_one_by_one_and_of_values_still_the_newest_alone() {
        let (mut events, mut values) = (Fan::default(), Fan::default());
        for offset in 1..=3 {
            events.push(event(offset, 10));
            values.push(publication(offset, 10, true, true));
        }
        let runs = |fan: &mut Fan| -> Vec<u64> { std::iter::from_fn(|| Some(fan.open(1, Nanos(0))?.run.last())).collect() };
        assert_eq!((runs(&mut events), runs(&mut values)), (vec![1, 2, 3], vec![3]));
    }

    #[test]
    fn a_value_displaces_older_values_and_nothing_else() {
        let mut fan = Fan::default();
        fan.push(publication(1, 10, true, true));
        fan.push(publication(2, 10, true, false));
        fan.push(publication(3, 10, true, true));
        fan.push(publication(4, 10, true, false));
        assert_eq!(burst(&mut fan), [vec![2, 3, 4]], "what passes by must not take the stored value with it");
    }

    #[test]
    fn large_values_leave_as_the_newest_alone() {
        let mut fan = Fan::default();
        for offset in 1..=9 {
            fan.push(publication(offset, 100 << 10, true, true));
        }
        assert_eq!(burst(&mut fan), [[9]]);
    }

    #[test]
    fn too_much_waiting_becomes_one_loss_at_the_place_of_the_last_one() {
        let mut fan = Fan::default();
        let mut given_up = 0;
        for offset in 1..=17 {
            given_up += fan.push(event(offset, 1 << 20));
        }
        assert_eq!(given_up, 16);
        assert!(fan.bytes <= QUEUE_BYTES_MAX);
        fan.push(Item::Lost(at(18)));
        fan.push(event(19, 10));
        assert_eq!(burst(&mut fan), [vec![-16], vec![17], vec![-18], vec![19]]);
    }

    #[test]
    fn too_much_waiting_on_a_state_channel_leaves_its_value_and_no_gap() {
        let mut fan = Fan::default();
        fan.push(publication(1, 10, true, true));
        for offset in 2..=20 {
            fan.push(publication(offset, 1 << 20, true, false));
        }
        let runs: Vec<i64> = burst(&mut fan).into_iter().flatten().collect();
        assert_eq!((runs[0], runs.iter().any(|offset| *offset < 0)), (1, false));
    }

    #[test]
    fn one_publication_larger_than_the_bound_still_goes() {
        let mut fan = Fan::default();
        assert_eq!(fan.push(event(1, QUEUE_BYTES_MAX + 1)), 0);
        assert_eq!(burst(&mut fan), [[1]]);
    }
}
