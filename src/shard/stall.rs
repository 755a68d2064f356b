//! Which peers have stopped taking what is sent to them, and since when.
//!
//! Sends are silent: one that was not refused by the time of the next was taken whole.

use std::collections::HashMap;
use std::time::Duration;

use crate::base::{ConnId, Nanos};

/// Connections that have lately refused bytes, by slot.
#[derive(Debug, Default)]
pub struct Stalls(HashMap<u32, Stall, ahash::RandomState>);

#[derive(Debug)]
struct Stall {
    conn: ConnId,
    /// When something was last taken.
    since: Nanos,
    /// A send is out that has not been refused so far.
    trying: bool,
}

impl Stalls {
    /// Whether nobody has.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A send goes out.
    pub fn sent(&mut self, conn: ConnId, now: Nanos) {
        if let Some(stall) = self.0.get_mut(&conn.slot).filter(|stall| stall.conn == conn)
            && std::mem::replace(&mut stall.trying, true)
        {
            stall.since = now;
        }
    }

    /// A send was not taken whole. `progress`: part of it was.
    pub fn refused(&mut self, conn: ConnId, progress: bool, now: Nanos) {
        let stall = self.0.entry(conn.slot).or_insert(Stall { conn, since: now, trying: false });
        if progress || stall.conn != conn {
            (stall.conn, stall.since) = (conn, now);
        }
        stall.trying = false;
    }

    /// Those that have taken nothing for `limit`. What has nothing waiting any more is forgotten.
    pub fn overdue(&mut self, limit: Duration, now: Nanos, waits: impl Fn(ConnId) -> bool) -> Vec<ConnId> {
        self.0.retain(|_, stall| waits(stall.conn));
        let mut overdue: Vec<_> = self.0.values().filter(|stall| stall.since + limit <= now).map(|stall| stall.conn).collect();
        overdue.sort_unstable_by_key(|conn| conn.slot);
        overdue
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);
    const CONN: ConnId = ConnId { slot: 3, generation: 1 };

    fn at(second: u64) -> Nanos {
        Nanos(0) + Duration::from_secs(second)
    }

    #[track_caller]
    fn check(stalls: &mut Stalls, second: u64, overdue: bool) {
        let found = stalls.overdue(LIMIT, at(second), |_| true);
        assert_eq!(found, if overdue { vec![CONN] } else { Vec::new() });
    }

    #[test]
    fn wakes_that_bring_nothing_are_no_progress() {
        let mut stalls = Stalls::default();
        for second in 0..60 {
            stalls.sent(CONN, at(second));
            stalls.refused(CONN, false, at(second));
            check(&mut stalls, second, false);
        }
        check(&mut stalls, 60, true);
    }

    #[test]
    fn every_byte_that_is_taken_is_progress() {
        let mut stalls = Stalls::default();
        stalls.refused(CONN, false, at(0));
        stalls.refused(CONN, true, at(30));
        check(&mut stalls, 89, false);
        check(&mut stalls, 90, true);
    }

    #[test]
    fn a_send_that_nobody_refused_was_taken() {
        let mut stalls = Stalls::default();
        stalls.refused(CONN, false, at(0));
        stalls.sent(CONN, at(40));
        stalls.sent(CONN, at(50));
        stalls.refused(CONN, false, at(50));
        check(&mut stalls, 109, false);
        check(&mut stalls, 110, true);
    }

    #[test]
    fn a_successor_in_the_slot_and_an_emptied_queue_begin_anew() {
        let mut stalls = Stalls::default();
        stalls.refused(ConnId { generation: 0, ..CONN }, false, at(0));
        stalls.refused(CONN, false, at(50));
        check(&mut stalls, 61, false);
        assert!(stalls.overdue(LIMIT, at(200), |_| false).is_empty());
        check(&mut stalls, 200, false);
    }
}
