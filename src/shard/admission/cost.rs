//! What a handshake costs here, in processor time of the worker's thread.
//!
//! The shard knows how much it did, the shell how long that took. What was done is counted in **acts**: inputs taken in and sends
//! made. A handshake is charged as many of them as it brings about, at what an act has cost on average since the last measure; so
//! a fan-out or a flood of publishing beside it is not taken for the handshakes' doing.

use std::time::Duration;

use crate::base::Nanos;

/// Accepted, its bytes, its answer, and what a home is asked and says.
const ACTS: u64 = 4;
/// Fewer handshakes than this say more about what else was done.
const HANDSHAKES_TO_MEASURE: u32 = 32;
/// What took longer than this was mostly something else.
const SPAN_MAX: Duration = Duration::from_secs(1);
/// What a handshake is taken to cost before one was measured.
const GUESS: Duration = Duration::from_micros(40);
/// Bounds of what is believed.
const LEAST: Duration = Duration::from_micros(1);
const MOST: Duration = Duration::from_millis(5);
/// Share of a worker's time that may go into handshakes.
const SHARE: f64 = 0.5;
/// What any worker manages, whatever was measured: a bad estimate must not shut anybody out.
const PER_SECOND_MIN: f64 = 1000.0;

/// The estimate, and what has been counted since the last measure.
#[derive(Debug)]
pub struct Cost {
    nanos: f64,
    handshakes: u32,
    since: Option<Measure>,
}

#[derive(Clone, Copy, Debug)]
struct Measure {
    at: Nanos,
    thread_time: Duration,
    acts: u64,
}

impl Default for Cost {
    fn default() -> Self {
        Self { nanos: GUESS.as_nanos() as f64, handshakes: 0, since: None }
    }
}

impl Cost {
    /// A handshake has been admitted.
    pub const fn begun(&mut self) {
        self.handshakes = self.handshakes.saturating_add(1);
    }

    /// Whether there is something to measure, or to measure from.
    #[must_use]
    pub fn wants_measure(&self, now: Nanos) -> bool {
        self.handshakes >= HANDSHAKES_TO_MEASURE || (self.handshakes > 0 && self.fresh(now).is_none())
    }

    /// So much time the thread has used, and so much it has done, since the beginning.
    pub fn measured(&mut self, thread_time: Duration, acts: u64, now: Nanos) {
        if let Some(since) = self.fresh(now).filter(|_| self.handshakes >= HANDSHAKES_TO_MEASURE) {
            let handshakes = u64::from(self.handshakes);
            let acts = (acts - since.acts).max(handshakes * ACTS);
            let took = thread_time.saturating_sub(since.thread_time).as_nanos() as f64;
            let nanos = took * ACTS as f64 / acts as f64;
            let nanos = nanos.clamp(LEAST.as_nanos() as f64, MOST.as_nanos() as f64);
            self.nanos = (self.nanos * 7.0 + nanos) / 8.0;
        }
        self.since = Some(Measure { at: now, thread_time, acts });
        self.handshakes = 0;
    }

    fn fresh(&self, now: Nanos) -> Option<Measure> {
        self.since.filter(|since| now.since(since.at) <= SPAN_MAX)
    }

    /// The estimate.
    #[must_use]
    pub const fn time(&self) -> Duration {
        Duration::from_nanos(self.nanos as u64)
    }

    /// Handshakes per second that the worker manages beside everything else.
    #[must_use]
    pub fn per_second(&self) -> f64 {
        (SHARE * 1e9 / self.nanos).max(PER_SECOND_MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// So many rounds of handshakes and other acts at these costs, a millisecond apart.
    fn after(rounds: u64, handshakes: u32, others: u64, handshake: Duration, other: Duration) -> Cost {
        let mut cost = Cost::default();
        let (mut time, mut acts) = (Duration::ZERO, 0);
        for round in 0..rounds {
            (0..handshakes).for_each(|_| cost.begun());
            time += handshake * handshakes + other * u32::try_from(others).unwrap();
            acts += u64::from(handshakes) * ACTS + others;
            let now = Nanos(round * 1_000_000);
            if cost.wants_measure(now) {
                cost.measured(time, acts, now);
            }
        }
        cost
    }

    #[track_caller]
    fn check(cost: &Cost, per_second: f64) {
        let got = cost.per_second();
        assert!((got / per_second - 1.0).abs() < 0.1, "{got} instead of {per_second}");
    }

    #[test]
    fn the_estimate_follows_what_handshakes_cost() {
        let micros = Duration::from_micros;
        check(&Cost::default(), 12_500.0);
        check(&after(100, 40, 0, micros(20), micros(0)), 25_000.0);
        check(&after(400, 10, 0, micros(100), micros(0)), 5000.0);
        check(&after(100, 40, 0, micros(2000), micros(0)), 1000.0);
        // A fan-out beside them, each send as dear as an act of a handshake.
        check(&after(100, 40, 5000, micros(20), micros(5)), 25_000.0);
    }

    #[test]
    fn a_trickle_of_handshakes_measures_nothing() {
        let mut cost = Cost::default();
        for second in 0..100 {
            cost.begun();
            let now = Nanos(second * 2_000_000_000);
            assert!(cost.wants_measure(now));
            cost.measured(Duration::from_secs(second), second * 4, now);
            assert!(!cost.wants_measure(now));
        }
        check(&cost, 12_500.0);
    }

    #[test]
    fn who_does_nothing_is_not_asked() {
        assert!(!Cost::default().wants_measure(Nanos(7)));
    }
}
