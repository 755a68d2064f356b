//! A token bucket. The rate is an argument, since it may be another one each time.

use std::time::Duration;

use crate::base::Nanos;

/// How much of the rate may be saved up. `Retry-After` has whole seconds, so what comes back by it comes a second's worth at once.
pub const DEPTH: Duration = Duration::from_secs(1);

/// Full at first.
#[derive(Debug)]
pub struct Bucket {
    tokens: f64,
    filled_at: Nanos,
}

impl Default for Bucket {
    fn default() -> Self {
        Self { tokens: f64::INFINITY, filled_at: Nanos(0) }
    }
}

impl Bucket {
    /// Takes one token if there is one.
    pub fn take(&mut self, per_second: f64, now: Nanos) -> bool {
        let came = now.since(self.filled_at).as_secs_f64() * per_second;
        // A rate below one a second admits one at a time all the same.
        let depth = (per_second * DEPTH.as_secs_f64()).max(1.0);
        self.tokens = (self.tokens + came).min(depth);
        self.filled_at = self.filled_at.max(now);
        let taken = self.tokens >= 1.0;
        if taken {
            self.tokens -= 1.0;
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn taken(bucket: &mut Bucket, per_second: f64, at: u64, tries: u32) -> u32 {
        (0..tries).map(|_| u32::from(bucket.take(per_second, Nanos(at)))).sum()
    }

    #[test]
    fn a_second_is_saved_up_and_no_more() {
        let mut bucket = Bucket::default();
        assert_eq!(taken(&mut bucket, 10.0, 1, 100), 10);
        assert_eq!(taken(&mut bucket, 10.0, 500_000_001, 100), 5);
        assert_eq!(taken(&mut bucket, 10.0, 90_500_000_001, 100), 10);
        assert_eq!(taken(&mut bucket, 3.0, 180_500_000_001, 100), 3, "the rate of now counts");
    }

    #[test]
    fn less_than_one_a_second_is_one_at_a_time() {
        let mut bucket = Bucket::default();
        assert_eq!(taken(&mut bucket, 0.5, 1, 9), 1);
        assert_eq!(taken(&mut bucket, 0.5, 1_000_000_001, 9), 0);
        assert_eq!(taken(&mut bucket, 0.5, 2_000_000_002, 9), 1);
    }

    proptest! {
        /// However they come, in no stretch of time are more admitted than a full bucket and what flows in meanwhile.
        #[test]
        fn no_stretch_of_time_admits_more_than_the_rate(
            per_second in 1u32..5000,
            steps in prop::collection::vec((0u64..2_000_000_000, 1u32..200), 1..60),
        ) {
            let (mut bucket, rate) = (Bucket::default(), f64::from(per_second));
            let (mut now, mut admitted) = (0, Vec::new());
            for (step, tries) in steps {
                now += step;
                admitted.push((now, taken(&mut bucket, rate, now, tries)));
            }
            for first in 0..admitted.len() {
                let mut total = 0;
                for &(at, count) in &admitted[first..] {
                    total += count;
                    let most = rate + rate * (at - admitted[first].0) as f64 / 1e9;
                    prop_assert!(f64::from(total) <= most + 0.01, "{total} of {most}");
                }
            }
        }

        /// Who comes no faster than the rate is never kept out.
        #[test]
        fn who_keeps_to_the_rate_is_admitted(per_second in 1u32..100_000, count in 1u64..500) {
            let mut bucket = Bucket::default();
            let gap = 1_000_000_000 / u64::from(per_second) + 1;
            for number in 0..count {
                prop_assert!(bucket.take(f64::from(per_second), Nanos(number * gap)));
            }
        }
    }
}
