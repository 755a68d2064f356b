//! Distributions: durations by hdrhistogram, small counts by powers of two.

use std::sync::Arc;
use std::time::Duration;

use hdrhistogram::Histogram;

/// The longest duration that is told from longer ones.
const DURATION_MAX: Duration = Duration::from_secs(120);
/// Two digits: within 1 % of the truth, in 20 KiB.
const DIGITS: u8 = 2;

/// Durations, in microseconds.
#[derive(Clone, Debug, Default)]
pub struct Durations {
    /// Made at the first record, so that what is not used costs nothing.
    histogram: Option<Box<Histogram<u64>>>,
    sum_micros: u64,
}

impl Durations {
    /// Counts one; longer than two minutes counts as that.
    pub fn record(&mut self, duration: Duration) {
        let max = micros(DURATION_MAX);
        let value = micros(duration).min(max);
        self.sum_micros += value;
        if self.histogram.is_none() {
            self.histogram = Histogram::new_with_max(max, DIGITS).ok().map(Box::new);
        }
        if let Some(histogram) = &mut self.histogram {
            histogram.saturating_record(value);
        }
    }

    /// Adds another's.
    pub fn merge(&mut self, other: &Self) {
        self.sum_micros += other.sum_micros;
        match (&mut self.histogram, &other.histogram) {
            (Some(histogram), Some(more)) => *histogram.as_mut() += more.as_ref(),
            (None, more) => self.histogram.clone_from(more),
            (Some(_), None) => {}
        }
    }

    /// How many there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.histogram.as_ref().map_or(0, |histogram| histogram.len())
    }

    /// Their sum, in seconds.
    #[must_use]
    pub fn sum_seconds(&self) -> f64 {
        Duration::from_micros(self.sum_micros).as_secs_f64()
    }

    /// How many were at most this long, within the histogram's two digits.
    #[must_use]
    pub fn at_most(&self, bound: Duration) -> u64 {
        self.histogram.as_ref().map_or(0, |histogram| histogram.count_between(0, micros(bound)))
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Durations by name, for families with one label whose values come from the configuration.
#[derive(Clone, Debug, Default)]
pub struct NamedDurations(Vec<(Arc<str>, Durations)>);

impl NamedDurations {
    /// Counts one under a name.
    pub fn record(&mut self, name: &str, duration: Duration) {
        self.of(name).record(duration);
    }

    /// Adds another's.
    pub fn merge(&mut self, other: &Self) {
        for (name, durations) in &other.0 {
            self.of(name).merge(durations);
        }
    }

    /// Names and durations.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Durations)> {
        self.0.iter().map(|(name, durations)| (name.as_ref(), durations))
    }

    fn of(&mut self, name: &str) -> &mut Durations {
        let at = self.0.iter().position(|(known, _)| known.as_ref() == name).unwrap_or_else(|| {
            self.0.push((name.into(), Durations::default()));
            self.0.len() - 1
        });
        &mut self.0[at].1
    }
}

/// Numbers from 1 on, in classes that end at powers of two.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sizes {
    classes: [u64; Self::CLASSES],
    sum: u64,
}

impl Sizes {
    const CLASSES: usize = 12;

    /// Counts one; 0 is not a size.
    pub fn record(&mut self, size: u64) {
        if size > 0 {
            self.classes[((size - 1).checked_ilog2().map_or(0, |bits| bits as usize + 1)).min(Self::CLASSES - 1)] += 1;
            self.sum += size;
        }
    }

    /// Adds another's.
    pub fn merge(&mut self, other: &Self) {
        self.sum += other.sum;
        for (total, count) in self.classes.iter_mut().zip(other.classes) {
            *total += count;
        }
    }

    /// Upper ends of the classes, with how many were at most as large; the last class has no end.
    pub fn classes(&self) -> impl Iterator<Item = (Option<u64>, u64)> {
        self.classes.iter().enumerate().scan(0, |total, (class, count)| {
            *total += count;
            Some(((class + 1 < Self::CLASSES).then_some(1 << class), *total))
        })
    }

    /// The sum of all.
    #[must_use]
    pub const fn sum(&self) -> u64 {
        self.sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_counted_below_their_bounds() {
        let mut one = Durations::default();
        assert_eq!((one.count(), one.at_most(Duration::from_secs(1))), (0, 0));
        for ms in [1, 2, 50, 400_000] {
            one.record(Duration::from_millis(ms));
        }
        let mut total = Durations::default();
        total.merge(&one);
        total.merge(&one);
        assert_eq!(total.count(), 8);
        assert_eq!([1, 3, 60, 119_000].map(|ms| total.at_most(Duration::from_millis(ms))), [2, 4, 6, 6]);
        assert!((total.sum_seconds() - 2.0 * 120.053).abs() < 1e-6, "{}", total.sum_seconds());
    }

    #[test]
    fn sizes_fall_into_the_class_that_ends_at_or_above_them() {
        let mut sizes = Sizes::default();
        for size in [0, 1, 2, 3, 4, 5, 100_000] {
            sizes.record(size);
        }
        let classes: Vec<_> = sizes.classes().collect();
        assert_eq!(classes[..4], [(Some(1), 1), (Some(2), 2), (Some(4), 4), (Some(8), 5)]);
        assert_eq!(classes.last(), Some(&(None, 6)));
        assert_eq!(sizes.sum(), 100_015);
    }
}
