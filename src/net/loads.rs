//! How full every worker's descriptor table is, where all workers see it: the one thing that they share and all write.
//!
//! A kernel that finds no slot for an accepted connection drops it. So slots are booked before they are needed, by the worker
//! that accepts or by the one that hands a connection over, and never more than there are: each side adds first and looks
//! afterwards, so of two that want the last slot at most one goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// Shares of the descriptor table, in percent: above the first fresh connections go elsewhere, above the second none is accepted.
const CROWDED_PERCENT: u64 = 95;
const FULL_PERCENT: u64 = 98;
/// Load above the mean, in percent and with some slack for small numbers, from which fresh connections go elsewhere.
const UNEVEN_PERCENT: u64 = 125;
const UNEVEN_SLACK: u64 = 64;

/// Whether a table of so many slots takes no more fresh connections.
pub fn is_full(connections: u32, slots: u32) -> bool {
    u64::from(connections) * 100 >= u64::from(slots) * FULL_PERCENT
}

/// One worker's table, alone on its cache line.
#[repr(align(64))]
#[derive(Default)]
struct Load {
    capacity: AtomicU32,
    /// Slots in use, or on their way to it.
    connections: AtomicU32,
    /// Slots that armed accepts may fill at any time.
    accepts: AtomicU32,
    /// Takes nothing over any more.
    retired: AtomicBool,
}

/// The tables of all workers.
#[derive(Clone)]
pub struct Loads(Arc<[Load]>);

impl Loads {
    pub fn new(workers: usize) -> Self {
        Self((0..workers).map(|_| Load::default()).collect())
    }

    /// Workers there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Says how many slots a worker's table has, before it accepts anything.
    pub fn set_capacity(&self, worker: usize, slots: u32) {
        self.0[worker].capacity.store(slots, Ordering::SeqCst);
    }

    /// Slots of a worker's table.
    pub fn capacity(&self, worker: usize) -> u32 {
        self.0[worker].capacity.load(Ordering::Relaxed)
    }

    /// Connections of a worker now, those included that are on their way to it.
    pub fn connections(&self, worker: usize) -> u32 {
        self.0[worker].connections.load(Ordering::Relaxed)
    }

    /// The worker that should have a fresh connection instead of `me`.
    pub fn roomier(&self, me: usize) -> Option<usize> {
        if self.len() < 2 {
            return None;
        }
        let load = |worker: usize| u64::from(self.connections(worker));
        let mine = load(me);
        let total: u64 = (0..self.len()).map(load).sum();
        let mean = total / self.len() as u64;
        let uneven = mine * 100 * self.len() as u64 > total * UNEVEN_PERCENT && mine > mean + UNEVEN_SLACK;
        if mine * 100 < u64::from(self.capacity(me)) * CROWDED_PERCENT && !uneven {
            return None;
        }
        let least = (0..self.len()).min_by_key(|&worker| load(worker))?;
        let has_room = !is_full(self.connections(least), self.capacity(least));
        (least != me && load(least) < mine && has_room).then_some(least)
    }

    /// Counts a connection that has a slot already.
    pub fn add_connection(&self, worker: usize) {
        self.0[worker].connections.fetch_add(1, Ordering::SeqCst);
    }

    pub fn remove_connection(&self, worker: usize) {
        self.0[worker].connections.fetch_sub(1, Ordering::SeqCst);
    }

    /// Books a slot for a connection. False when there is none.
    #[must_use]
    pub fn book_connection(&self, worker: usize) -> bool {
        let load = &self.0[worker];
        load.book(&load.connections)
    }

    /// Books a slot at another worker for a connection that goes there by mail. False when there is none, or the worker drains.
    #[must_use]
    pub fn book_hand_over(&self, worker: usize) -> bool {
        let booked = self.book_connection(worker);
        let retired = self.0[worker].retired.load(Ordering::SeqCst);
        if booked && retired {
            self.remove_connection(worker);
        }
        booked && !retired
    }

    /// From here on nothing more is handed over to the worker: what is on its way has been counted by the time this returns, or
    /// turns back.
    pub fn retire(&self, worker: usize) {
        self.0[worker].retired.store(true, Ordering::SeqCst);
    }

    /// Books a slot for a single accept that is about to be armed. False when there is none.
    #[must_use]
    pub fn book_accept(&self, worker: usize) -> bool {
        let load = &self.0[worker];
        load.book(&load.accepts)
    }

    /// An accept is over; what it accepted has been counted by then.
    pub fn end_accept(&self, worker: usize) {
        self.0[worker].accepts.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Load {
    fn book(&self, count: &AtomicU32) -> bool {
        count.fetch_add(1, Ordering::SeqCst);
        let taken = self.connections.load(Ordering::SeqCst).saturating_add(self.accepts.load(Ordering::SeqCst));
        let fits = taken <= self.capacity.load(Ordering::SeqCst);
        if !fits {
            count.fetch_sub(1, Ordering::SeqCst);
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_booked_up_to_the_last_one() {
        let loads = Loads::new(2);
        loads.set_capacity(1, 3);
        loads.add_connection(1);
        assert!(loads.book_accept(1) && loads.book_connection(1));
        assert!(!loads.book_accept(1) && !loads.book_connection(1));
        loads.end_accept(1);
        assert!(loads.book_connection(1));
        assert_eq!((loads.connections(0), loads.connections(1)), (0, 3));
        assert!(!loads.book_connection(0), "a table that has not been made has no room");
    }

    #[test]
    fn nothing_is_handed_over_to_a_worker_that_drains() {
        let loads = Loads::new(2);
        loads.set_capacity(1, 3);
        assert!(loads.book_hand_over(1));
        loads.retire(1);
        assert!(!loads.book_hand_over(1));
        assert_eq!(loads.connections(1), 1, "what was on its way is waited for");
        assert!(loads.book_connection(1), "its own ones go on");
    }

    #[test]
    fn two_workers_never_book_one_slot() {
        let loads = Loads::new(1);
        loads.set_capacity(0, 100);
        let booked: u32 = std::thread::scope(|scope| {
            let accepting = scope.spawn(|| (0..1000).filter(|_| loads.book_accept(0)).count());
            let handing = scope.spawn(|| (0..1000).filter(|_| loads.book_connection(0)).count());
            let booked = [accepting.join(), handing.join()].map(|booked| u32::try_from(booked.expect("no panic")).expect("few"));
            booked.into_iter().sum()
        });
        assert_eq!(booked, 100);
    }
}
