//! Subscribers that come all at once, or when they are told to; and come back with what they know when all their connections
//! were closed.

use std::collections::BTreeMap;

use hdrhistogram::Histogram;

use super::Fleet;
use crate::cli::bench::checker::{Ledger, new_histogram};
use crate::cli::bench::error::BenchError;

/// Who is told to come back later comes up to this much later still, as clients do so that no two come at once.
const JITTER_MILLIS_MAX: u64 = 100;

/// Who is to come, or to come back.
pub struct Returns {
    /// Since when all may; `None` in loads that take a refusal for a fault.
    began: Option<u64>,
    /// By when they may come, and by their index.
    waiting: BTreeMap<(u64, usize), Ledger>,
    /// From then to subscribed.
    pub latency: Histogram<u64>,
    /// Attempts that the server turned away and told to come back.
    pub refused: u64,
}

impl Returns {
    pub(super) fn new() -> Self {
        Self { began: None, waiting: BTreeMap::new(), latency: new_histogram(), refused: 0 }
    }

    /// Whether who is turned away comes back.
    pub(super) const fn is_obeyed(&self) -> bool {
        self.began.is_some()
    }

    /// Somebody is subscribed.
    pub(super) fn came(&mut self, now: u64) {
        if let Some(began) = self.began {
            self.latency.saturating_record(now - began);
        }
    }

    /// When the next one may come.
    pub fn next(&self) -> Option<u64> {
        self.waiting.keys().next().map(|&(due, _)| due)
    }
}

impl Fleet {
    /// Lets `count` subscribers come.
    pub fn expect(&mut self, count: usize) {
        self.connections.resize_with(count, || None);
        let ledgers = (0..count).map(|index| (index, self.checker.ledger(index))).collect();
        self.let_come(ledgers);
    }

    /// Sends what was published, and closes all connections at once; whose they were may come back. Returns when the last one
    /// was closed.
    pub fn close_all(&mut self) -> Result<u64, BenchError> {
        self.flush_publisher()?;
        self.ready.clear();
        let open = self.connections.iter_mut().enumerate();
        let ledgers: Vec<_> = open.filter_map(|(index, place)| Some((index, place.take()?.session.ledger))).collect();
        ledgers.iter().for_each(|&(index, _)| self.sockets.end(index));
        Ok(self.let_come(ledgers))
    }

    fn let_come(&mut self, ledgers: Vec<(usize, Ledger)>) -> u64 {
        let now = self.clock.now();
        let waiting = ledgers.into_iter().map(|(index, ledger)| ((now, index), ledger)).collect();
        self.connect_latency.reset();
        self.returns = Returns { began: Some(now), waiting, ..Returns::new() };
        now
    }

    /// Opens connections of who may come by now, at most `window` at a time.
    pub fn open_due(&mut self, window: usize) -> Result<(), BenchError> {
        while self.opening < window {
            let now = self.clock.now();
            let Some(first) = self.returns.waiting.first_entry().filter(|first| first.key().0 <= now) else { break };
            let ((_, index), mut ledger) = first.remove_entry();
            self.checker.returns(&mut ledger);
            self.open_at(index, ledger, now)?;
        }
        Ok(())
    }

    /// The server told connection `index` to come back after so long.
    pub(super) fn turned_away(&mut self, index: usize, millis: u64, now: u64) {
        let Some(connection) = self.connections.get_mut(index).and_then(Option::take) else { return };
        self.sockets.end(index);
        self.opening -= 1;
        self.returns.refused += 1;
        let millis = millis.saturating_add(jitter_millis(self.returns.refused));
        let due = now.saturating_add(millis.saturating_mul(1_000_000));
        self.returns.waiting.insert((due, index), connection.session.ledger);
    }
}

/// Spread evenly, without a source of randomness.
const fn jitter_millis(number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % (JITTER_MILLIS_MAX + 1)
}
