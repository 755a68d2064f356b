//! The shell's own deadlines. Few are set by name, so a heap does; those of every close come in their order and go long before
//! they are due, so a queue does for each. A deadline that lost its meaning is ignored when it fires.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use super::lingering::LINGER_TIMEOUT;
use crate::base::{ConnId, Nanos};

/// How soon a receive is tried again that failed for want of kernel memory.
pub const NO_MEMORY_PAUSE: Duration = Duration::from_millis(50);
/// Deadlines fired per turn.
pub const EXPIRED_MAX: usize = 1024;

/// What is due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Due {
    /// Long enough discarded a closed connection's input.
    Linger(ConnId),
    /// The completions of a closing connection should all have come by then.
    Close(ConnId, Nanos),
    Connect(ConnId),
    /// Try to write again, whatever poll says.
    Write(ConnId),
    /// Try to receive again.
    Receive(ConnId),
    /// Try to read the peer's address again.
    Name(ConnId),
    /// Try to accept again.
    Accept(u32),
    /// Look for connections that have gone quiet.
    Sweep,
}

#[derive(PartialEq, Eq)]
struct Entry {
    at: Nanos,
    order: u64,
    due: Due,
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// Deadlines that are all set equally far ahead: in order by themselves.
#[derive(Default)]
struct InOrder(VecDeque<(Nanos, ConnId)>);

impl InOrder {
    fn set(&mut self, at: Nanos, conn: ConnId) {
        self.0.push_back((at, conn));
    }

    fn next(&self) -> Option<Nanos> {
        self.0.front().map(|(at, _)| *at)
    }

    fn expire(&mut self, now: Nanos) -> Option<(Nanos, ConnId)> {
        self.0.front().is_some_and(|(at, _)| *at <= now).then(|| self.0.pop_front()).flatten()
    }

    /// Drops those in front that have lost their meaning.
    fn prune(&mut self, is_live: &mut impl FnMut(ConnId) -> bool) {
        while self.0.front().is_some_and(|&(_, conn)| !is_live(conn)) {
            self.0.pop_front();
        }
    }
}

/// Deadlines, earliest first; those of one instant in the order in which they were set.
#[derive(Default)]
pub struct Deadlines {
    heap: BinaryHeap<Reverse<Entry>>,
    set: u64,
    lingers: InOrder,
    closes: InOrder,
}

impl Deadlines {
    pub fn set(&mut self, at: Nanos, due: Due) {
        self.set += 1;
        self.heap.push(Reverse(Entry { at, order: self.set, due }));
    }

    /// Sets a [`Due::Linger`]; always equally far ahead.
    pub fn linger(&mut self, now: Nanos, conn: ConnId) {
        self.lingers.set(now + LINGER_TIMEOUT, conn);
    }

    /// Sets a [`Due::Close`]; always equally far ahead.
    pub fn close(&mut self, now: Nanos, ahead: Duration, conn: ConnId) {
        self.closes.set(now + ahead, conn);
    }

    /// Forgets the closes that are over, so that connections that come and go leave nothing behind.
    pub fn prune(&mut self, mut is_live: impl FnMut(ConnId) -> bool) {
        self.lingers.prune(&mut is_live);
        self.closes.prune(&mut is_live);
    }

    /// When the next one is due.
    pub fn next(&self) -> Option<Nanos> {
        let named = self.heap.peek().map(|Reverse(entry)| entry.at);
        [named, self.lingers.next(), self.closes.next()].into_iter().flatten().min()
    }

    /// One that is due by `now`.
    pub fn expire(&mut self, now: Nanos) -> Option<Due> {
        if let Some((_, conn)) = self.lingers.expire(now) {
            return Some(Due::Linger(conn));
        }
        if let Some((at, conn)) = self.closes.expire(now) {
            return Some(Due::Close(conn, at));
        }
        let Reverse(first) = self.heap.peek()?;
        (first.at <= now).then(|| self.heap.pop()).flatten().map(|Reverse(entry)| entry.due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_fire_in_order_and_not_before() {
        let mut deadlines = Deadlines::default();
        for (at, due) in [(5, Due::Sweep), (3, Due::Accept(1)), (3, Due::Accept(2))] {
            deadlines.set(Nanos(at), due);
        }
        assert_eq!(deadlines.next(), Some(Nanos(3)));
        assert_eq!(deadlines.expire(Nanos(2)), None);
        let fired: Vec<_> = std::iter::from_fn(|| deadlines.expire(Nanos(9))).collect();
        assert_eq!(fired, [Due::Accept(1), Due::Accept(2), Due::Sweep]);
    }

    #[test]
    fn closes_that_are_over_leave_nothing_behind() {
        let conn = |slot| ConnId { slot, generation: 1 };
        let mut deadlines = Deadlines::default();
        for slot in 0..5 {
            deadlines.close(Nanos(u64::from(slot)), Duration::from_nanos(10), conn(slot));
        }
        deadlines.linger(Nanos(0), conn(7));
        deadlines.prune(|conn| conn.slot >= 3);
        let mut fired = |now| std::iter::from_fn(|| deadlines.expire(now)).collect::<Vec<_>>();
        assert_eq!(fired(Nanos(12)), []);
        assert_eq!(fired(Nanos(13)), [Due::Close(conn(3), Nanos(13))]);
        assert_eq!(fired(Nanos(0) + LINGER_TIMEOUT), [Due::Linger(conn(7)), Due::Close(conn(4), Nanos(14))]);
        assert_eq!(deadlines.next(), None);
    }
}
