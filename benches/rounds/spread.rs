//! Some runs' figures of one kind.

#[derive(Clone, Copy, Debug)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Spread {
    pub fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        let (middle, last) = (values.len() / 2, values.len().saturating_sub(1));
        let median = if values.len() % 2 == 1 { at(middle) } else { f64::midpoint(at(middle.saturating_sub(1)), at(middle)) };
        Self { median, min: at(0), max: at(last) }
    }

    /// The furthest value's distance from the median, as a part of it.
    pub fn off(self) -> f64 {
        (self.max - self.median).max(self.median - self.min) / self.median
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn off_is_the_furthest_from_the_median() {
        let spread = Spread::of(vec![12.0, 8.0, 10.0]);
        assert_eq!((spread.median, spread.min, spread.max, spread.off()), (10.0, 8.0, 12.0, 0.2));
        assert_eq!(Spread::of(vec![1.0, 3.0]).median, 2.0);
        assert!(Spread::of(Vec::new()).off().is_nan());
    }
}
