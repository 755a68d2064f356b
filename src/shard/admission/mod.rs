//! Who may come in now, and when whoever may not is to come back.
//!
//! ```text
//!   handshake ──▶ in flight? ──▶ token? ──▶ admitted ──▶ all homes have answered
//!                     │             │
//!                     └─────────────┴─────▶ a place in the order of coming back: retry + place
//! ```
//! Established connections are no concern of this: what they ask and are told passes by it.

mod bucket;
mod cost;
mod in_flight;
mod returns;

use std::time::Duration;

use super::{ServerOptions, Shard};
use crate::base::{ConnId, Nanos, Random};
use crate::protocol::codes::Disconnect;
use bucket::Bucket;
pub use cost::Cost;
use in_flight::InFlight;
use returns::Returns;

/// A handshake whose homes have answered after this time is no sign of too many of them: so many seconds' worth may be in flight.
const IN_FLIGHT_SECONDS: f64 = 1.0;

/// The bounds in force.
#[derive(Clone, Copy, PartialEq, Debug)]
struct Limits {
    per_second: f64,
    in_flight: usize,
}

impl Limits {
    /// What is configured, and where nothing is, what follows from the estimate.
    fn of(options: &ServerOptions, estimate: f64) -> Self {
        let chosen = |value: u32| (value > 0).then_some(value);
        let per_second = chosen(options.handshakes_per_second_max).map_or(estimate, f64::from);
        let in_flight = chosen(options.handshakes_in_flight_max).map_or(estimate * IN_FLIGHT_SECONDS, f64::from);
        Self { per_second, in_flight: in_flight as usize }
    }
}

/// One worker's door.
#[derive(Debug, Default)]
pub struct Admission {
    bucket: Bucket,
    pub cost: Cost,
    returns: Returns,
    in_flight: InFlight,
}

impl Admission {
    /// Whether one more handshake fits in. If so it has begun.
    fn admit(&mut self, slot: u32, options: &ServerOptions, now: Nanos) -> bool {
        let limits = Limits::of(options, self.cost.per_second());
        if self.in_flight.count() >= limits.in_flight || !self.bucket.take(limits.per_second, now) {
            return false;
        }
        self.in_flight.begin(slot);
        self.cost.begun();
        true
    }

    /// The next free place for somebody who is to come back: how long from now.
    fn place(&mut self, options: &ServerOptions, random: &mut Random, now: Nanos) -> Duration {
        let estimate = self.cost.per_second();
        // What is allowed and what can be done: the second wave has to fit into both.
        let per_second = Limits::of(options, estimate).per_second.min(estimate);
        self.returns.place(per_second, options.reconnect_spread_max, random, now)
    }

    /// The connection's handshake is over: answered, or given up.
    pub fn over(&mut self, slot: u32) {
        self.in_flight.end(slot);
    }

    #[must_use]
    pub fn is_in_flight(&self, slot: u32) -> bool {
        self.in_flight.has(slot)
    }

    #[must_use]
    pub const fn in_flight(&self) -> usize {
        self.in_flight.count()
    }
}

impl Shard {
    /// Why a subscriber cannot come in now, if it cannot; otherwise its handshake has begun.
    pub(super) fn turns_away(&mut self, conn: ConnId) -> Option<Disconnect> {
        let (disconnect, reason) = if self.draining.is_some() {
            (Disconnect::Shutdown, "draining")
        } else if self.admission.admit(conn.slot, &self.options.server, self.now.monotonic) {
            return None;
        } else {
            (Disconnect::Overload, "overload")
        };
        self.metrics.connections_refused.one(reason);
        Some(disconnect)
    }

    /// In how many milliseconds somebody is to come back who ends for this reason. Where many do at once, each gets a place.
    pub(super) fn comes_back_in(&mut self, disconnect: Disconnect) -> u64 {
        let retry = self.retry();
        match disconnect {
            Disconnect::Shutdown | Disconnect::Overload => {
                let place = self.admission.place(&self.options.server, &mut self.random, self.now.monotonic);
                retry + u64::try_from(place.as_millis()).unwrap_or(u64::MAX)
            }
            _ => retry,
        }
    }

    /// The same as `Retry-After` has it: in whole seconds, and not too early.
    pub(super) fn retry_after(&mut self) -> u32 {
        let seconds = self.comes_back_in(Disconnect::Overload).div_ceil(1000);
        u32::try_from(seconds).unwrap_or(u32::MAX)
    }

    /// A home has answered a subscriber: its handshake is over with the last of them.
    pub(super) fn note_answer(&mut self, conn: ConnId) {
        if self.admission.is_in_flight(conn.slot)
            && self.subscriptions_of(conn).all(|(_, subscription)| self.local.served(subscription).is_some())
        {
            self.admission.over(conn.slot);
        }
    }

    /// Subscribers coming in whose homes have not all answered.
    #[must_use]
    pub const fn handshakes_in_flight(&self) -> usize {
        self.admission.in_flight()
    }

    /// Whether the shell is to say how much processor time its thread has used ([`Input::Worked`](super::Input::Worked)).
    #[must_use]
    pub fn wants_work_measured(&self) -> bool {
        self.admission.cost.wants_measure(self.now.monotonic)
    }

    /// What a handshake is taken to cost here, in processor time of the worker's thread.
    #[must_use]
    pub const fn handshake_time(&self) -> Duration {
        self.admission.cost.time()
    }

    pub(super) fn worked(&mut self, thread_time: Duration) {
        let acts = self.inputs + self.metrics.sends;
        self.admission.cost.measured(thread_time, acts, self.now.monotonic);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn options(per_second: u32, in_flight: u32) -> ServerOptions {
        ServerOptions { handshakes_per_second_max: per_second, handshakes_in_flight_max: in_flight, ..ServerOptions::default() }
    }

    #[test]
    fn what_is_not_configured_follows_from_the_estimate() {
        assert_eq!(Limits::of(&options(0, 0), 4000.0), Limits { per_second: 4000.0, in_flight: 4000 });
        assert_eq!(Limits::of(&options(9000, 7), 4000.0), Limits { per_second: 9000.0, in_flight: 7 });
    }

    #[test]
    fn so_many_are_in_flight_and_no_more_until_one_is_over() {
        let (mut admission, options) = (Admission::default(), options(1000, 3));
        let admitted = (0..10).filter(|&slot| admission.admit(slot, &options, Nanos(1))).count();
        assert_eq!((admitted, admission.in_flight()), (3, 3));
        admission.over(9);
        assert!(!admission.admit(10, &options, Nanos(2)), "that one was none");
        admission.over(1);
        admission.over(1);
        assert!(admission.admit(10, &options, Nanos(2)));
        assert!(!admission.admit(11, &options, Nanos(2)));
    }

    /// Everybody obeys: who is turned away comes back when told, and is through after a few waves, without a stampede on the way.
    #[test]
    fn an_avalanche_is_through_in_the_time_that_it_needs() {
        for (clients, per_second) in [(1000, 50), (20_000, 1000), (300, 100)] {
            let (mut admission, options, mut random) = (Admission::default(), options(per_second, u32::MAX), Random::seeded(7));
            let mut coming: Vec<u64> = vec![SECOND; clients];
            let (mut tries, mut end) = (0, 0);
            let mut by_second = std::collections::BTreeMap::<u64, u32>::new();
            while !coming.is_empty() {
                coming.sort_unstable();
                for at in std::mem::take(&mut coming) {
                    tries += 1;
                    if admission.admit(0, &options, Nanos(at)) {
                        admission.over(0);
                        end = end.max(at);
                        continue;
                    }
                    let place = admission.place(&options, &mut random, Nanos(at));
                    let back = at + random.between(SECOND, 4 * SECOND) + u64::try_from(place.as_nanos()).unwrap();
                    *by_second.entry(back / SECOND).or_default() += 1;
                    coming.push(back);
                }
            }
            let needed = clients as u64 * SECOND / u64::from(per_second);
            assert!(end < needed * 3 / 2 + 6 * SECOND, "{clients} at {per_second}/s took {} s", end / SECOND);
            assert!(tries < clients * 5 / 2, "{clients} at {per_second}/s tried {tries} times");
            let most = by_second.values().copied().max().unwrap_or(0);
            assert!(most < per_second + per_second / 4 + 10, "{most} in one second, {per_second} fit");
        }
    }
}
