//! New connections that have something to say, and stand in line for it.
//!
//! A handshake costs twenty times what a message does. When thousands come at once, whoever is here already would wait behind all
//! of them; so a turn reads the first words of a few only, as many as the worker says, and everybody else's as they come.

use std::collections::VecDeque;
use std::collections::vec_deque::Drain;

use crate::base::ConnId;

/// First come, first served. Who leaves the line early is still in it, and is to be known by its generation.
#[derive(Default)]
pub struct Line(VecDeque<ConnId>);

impl Line {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn join(&mut self, conn: ConnId) {
        self.0.push_back(conn);
    }

    /// The next few, whose turn it is.
    pub fn next(&mut self, few: usize) -> Drain<'_, ConnId> {
        self.0.drain(..few.min(self.0.len()))
    }

    /// Everybody: a drain has no time for lines.
    pub fn all(&mut self) -> Drain<'_, ConnId> {
        self.0.drain(..)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_at_a_time_and_in_their_order() {
        let conn = |slot| ConnId { slot, generation: 7 };
        let mut line = Line::default();
        (0..6).for_each(|slot| line.join(conn(slot)));
        assert!(line.next(4).eq((0..4).map(conn)));
        assert!(!line.is_empty());
        line.join(conn(0));
        assert!(line.all().eq([4, 5, 0].map(conn)));
        assert!(line.is_empty() && line.next(4).next().is_none());
    }
}
