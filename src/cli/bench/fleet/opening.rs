//! How connections come to be: opened and kept, or opened and closed again.
//!
//! They are opened from many loopback addresses, so that ephemeral ports never run out.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use super::{Connection, Fleet};
use crate::cli::bench::checker::Ledger;
use crate::cli::bench::error::BenchError;
use crate::cli::bench::pace::Pace;
use crate::cli::bench::progress::Stall;
use crate::cli::bench::session::Session;
use crate::cli::bench::sockets::Opening;

/// Connections opened from one loopback address before the next one's turn.
const PORTS_PER_SOURCE: u64 = 8192;
const SOURCES: u64 = 128;

impl Fleet {
    /// Opens connections until `count` are subscribed, at most `window` at a time.
    pub fn open(&mut self, count: usize, window: usize) -> Result<(), BenchError> {
        self.open_with(count, window, |_| {})
    }

    /// The same, and shows itself to `look` after each turn.
    pub fn open_with(&mut self, count: usize, window: usize, mut look: impl FnMut(&Self)) -> Result<(), BenchError> {
        let mut stall = self.stall("opening connections");
        while self.ready.len() < count {
            while self.opening < window && self.ready.len() + self.opening < count {
                self.open_one(self.clock.now())?;
            }
            self.opening_turn(&mut stall, u64::MAX)?;
            look(self);
            self.say(|fleet| format!("{} of {count} connections are up", fleet.ready.len()));
        }
        Ok(())
    }

    /// Opens connections at a pace, at most `window` at a time, and ends the oldest whenever more than `hold` are
    /// subscribed. False when the server did not keep up by the deadline.
    pub fn churn(&mut self, mut pace: Pace, window: usize, hold: usize) -> Result<bool, BenchError> {
        let mut stall = self.stall("opening connections");
        while !pace.is_done() || self.opening > 0 {
            while let Some(due) = pace.next(self.clock.now(), self.opening < window) {
                self.open_one(due)?;
            }
            if self.is_out_of_time() {
                return Ok(false);
            }
            self.opening_turn(&mut stall, pace.sleep_until(self.opening < window))?;
            self.end_beyond(hold);
            self.say(|fleet| format!("{} connections have come", fleet.opened));
        }
        self.end_beyond(0);
        Ok(true)
    }

    fn opening_turn(&mut self, stall: &mut Stall, until: u64) -> Result<(), BenchError> {
        self.turn(until)?;
        if self.opening == 0 {
            stall.rest(self.clock.now());
        }
        match self.fault.take() {
            Some(fault) => Err(BenchError::Opening(fault)),
            None if self.departed.is_empty() => stall.check(self.opened - self.opening as u64, self.clock.now()),
            None => Err(BenchError::ClosedWhileOpening),
        }
    }

    fn end_beyond(&mut self, hold: usize) {
        while self.ready.len() > hold {
            if let Some(index) = self.ready.pop_front() {
                self.connections[index] = None;
                self.sockets.end(index);
                self.free.push(index);
            }
        }
    }

    fn open_one(&mut self, intended: u64) -> Result<(), BenchError> {
        let index = self.free.pop().unwrap_or_else(|| {
            self.connections.push(None);
            self.connections.len() - 1
        });
        self.open_at(index, self.checker.ledger(index), intended)
    }

    /// Opens connection `index`, which is not open, of a subscriber who is where the ledger says.
    pub(super) fn open_at(&mut self, index: usize, mut ledger: Ledger, intended: u64) -> Result<(), BenchError> {
        let address = self.address;
        let source = address.ip().is_loopback() && address.is_ipv4();
        let source = source.then(|| source_of(self.opened, std::process::id()));
        ledger.aside = index < self.aside;
        self.sockets.open(index, &Opening { address, source, ending: self.ending, aside: ledger.aside })?;
        self.connections[index] =
            Some(Connection { session: Session::new(index, ledger), carry: Vec::new(), opened: intended, paused: false });
        self.opened += 1;
        self.opening += 1;
        Ok(())
    }
}

/// 127.A.B.1 for the first connections, then 127.A.B.2 and so on, around; A.B is this process's, as the ports of the
/// process before may still be waiting out their minute.
fn source_of(opened: u64, process: u32) -> SocketAddr {
    let [_, _, a, b] = process.to_be_bytes();
    let last = 1 + (opened / PORTS_PER_SOURCE % SOURCES) as u8;
    SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::new(127, a, b, last), 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_loopback_and_last() {
        let address = |opened| source_of(opened, 0x0001_0203).ip();
        assert_eq!([address(0), address(8191), address(8192)].map(|ip| ip.to_string()), ["127.2.3.1", "127.2.3.1", "127.2.3.2"]);
        assert!((0..1 << 22).step_by(4096).all(|opened| address(opened).is_loopback()));
        assert_eq!(address(PORTS_PER_SOURCE * SOURCES), address(0));
    }
}
