//! The shell's own deadlines: few, rarely moved, so a heap does. A deadline that lost its meaning is ignored when it fires.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::base::{ConnId, Nanos};

/// What is due.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Due {
    /// Long enough waited for the rest of a closed connection's output.
    Flush(ConnId),
    /// Long enough discarded a closed connection's input.
    Linger(ConnId),
    /// The completions of a closing connection should all have come.
    Close(ConnId),
    Connect(ConnId),
    /// Try to write again, whatever poll says.
    Write(ConnId),
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

/// Deadlines, earliest first; those of one instant in the order in which they were set.
#[derive(Default)]
pub struct Deadlines {
    heap: BinaryHeap<Reverse<Entry>>,
    set: u64,
}

impl Deadlines {
    pub fn set(&mut self, at: Nanos, due: Due) {
        self.set += 1;
        self.heap.push(Reverse(Entry { at, order: self.set, due }));
    }

    /// When the next one is due.
    pub fn next(&self) -> Option<Nanos> {
        self.heap.peek().map(|Reverse(entry)| entry.at)
    }

    /// The next one that is due by `now`.
    pub fn expire(&mut self, now: Nanos) -> Option<Due> {
        if self.next()? > now {
            return None;
        }
        self.heap.pop().map(|Reverse(entry)| entry.due)
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
}
