//! When those who are turned away or told to go are to come back: each gets a place of its own, one behind the other.
//!
//! Drawing each delay from a window that grows with how many there have been would not do: whoever came first would be drawn into
//! the small windows, and the beginning of all windows is the same, so that it is crowded by the logarithm of their number.

use std::time::Duration;

use crate::base::{Nanos, Random};

/// Share of what can be admitted that is given out as places; the rest is for those who come by themselves.
const SHARE: f64 = 0.8;

/// The order of coming back.
#[derive(Debug, Default)]
pub struct Returns {
    /// Places up to this instant have been given out.
    given: Nanos,
}

impl Returns {
    /// The next place: how long from now. Where the order is longer than `most`, any time below that.
    pub fn place(&mut self, per_second: f64, most: Duration, random: &mut Random, now: Nanos) -> Duration {
        let place = self.given.max(now) + Duration::from_secs_f64(1.0 / (per_second * SHARE));
        let wait = place.since(now);
        if wait > most {
            let most = u64::try_from(most.as_nanos()).unwrap_or(u64::MAX);
            return Duration::from_nanos(random.between(0, most));
        }
        self.given = place;
        wait
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;
    const LONG: Duration = Duration::from_secs(3600);

    /// The most that fall into any stretch of one second.
    fn most_in_a_second(mut times: Vec<u64>) -> usize {
        times.sort_unstable();
        let (mut first, mut most) = (0, 0);
        for last in 0..times.len() {
            while times[last] - times[first] > SECOND {
                first += 1;
            }
            most = most.max(last - first + 1);
        }
        most
    }

    proptest! {
        /// Turned away at once or over a while, with the draw from `retry` on top: no second gets more than it can take.
        #[test]
        fn who_is_turned_away_comes_back_spread(
            per_second in 5u32..3000,
            clients in 1usize..6000,
            over in 0u64..3 * SECOND,
            seed: u64,
        ) {
            let (mut returns, mut random) = (Returns::default(), Random::seeded(seed));
            let mut times = Vec::new();
            for client in 0..clients {
                let now = SECOND + over * client as u64 / clients as u64;
                let place = returns.place(f64::from(per_second), LONG, &mut random, Nanos(now));
                times.push(now + u64::try_from(place.as_nanos()).unwrap() + random.between(SECOND, 4 * SECOND));
            }
            let (most, fits) = (most_in_a_second(times) as f64, f64::from(per_second));
            prop_assert!(most <= fits * 1.2 + 6.0 * fits.sqrt().min(10.0), "{most} in a second that takes {fits}");
        }

        /// The last of them comes when all of them fit in, and none later than allowed.
        #[test]
        fn the_window_is_as_long_as_it_has_to_be(per_second in 1u32..3000, clients in 1usize..3000, most_s in 0u64..100, seed: u64) {
            let (mut returns, mut random) = (Returns::default(), Random::seeded(seed));
            let most = Duration::from_secs(most_s);
            let places: Vec<Duration> =
                (0..clients).map(|_| returns.place(f64::from(per_second), most, &mut random, Nanos(5))).collect();
            let last = places.iter().max().copied().unwrap_or_default();
            let needed = Duration::from_secs_f64(clients as f64 / (f64::from(per_second) * SHARE));
            prop_assert!(last <= most);
            if needed + Duration::from_millis(1) < most {
                prop_assert!(last.abs_diff(needed) < Duration::from_millis(1), "{last:?}, {needed:?} are needed");
            }
        }
    }

    #[test]
    fn beyond_the_bound_places_are_anywhere_below_it() {
        let (mut returns, mut random) = (Returns::default(), Random::seeded(1));
        let most = Duration::from_secs(10);
        let places: Vec<Duration> = (0..10_000).map(|_| returns.place(100.0, most, &mut random, Nanos(5))).collect();
        for second in 0..10 {
            let there = places.iter().filter(|place| place.as_secs() == second).count();
            assert!((850..1200).contains(&there), "{there} in second {second}");
        }
    }

    #[test]
    fn places_that_have_passed_are_nobodys() {
        let (mut returns, mut random) = (Returns::default(), Random::seeded(1));
        for _ in 0..100 {
            returns.place(100.0, LONG, &mut random, Nanos(0));
        }
        let wait = returns.place(100.0, LONG, &mut random, Nanos(10 * SECOND));
        assert_eq!(wait, Duration::from_micros(12_500));
    }
}
