//! A distribution as the curve of its percentiles: dense where it matters, towards the slowest.

use crate::Latencies;

/// One point of the curve: this share of all took at most so long.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Percentile {
    /// Between 0 and 1.
    pub quantile: f64,
    /// The longest of that share.
    pub nanos: u64,
    /// How many took at most so long.
    pub count: u64,
}

impl Latencies {
    /// Points of the curve, `ticks` of them each time the distance to 1 halves; the last one is at
    /// 1. None if nothing was counted.
    ///
    /// # Panics
    /// If `ticks` is 0.
    #[must_use]
    pub fn percentiles(&self, ticks: u32) -> Vec<Percentile> {
        let mut count = 0;
        let histogram = self.histogram();
        let steps = histogram.iter_quantiles(ticks);
        let point = |step: hdrhistogram::iterators::IterationValue<u64>| {
            count += step.count_since_last_iteration();
            let quantile = step.quantile_iterated_to();
            Percentile { quantile, nanos: step.value_iterated_to(), count }
        };
        steps.map(point).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_curve_rises_to_the_slowest() {
        let mut latencies = Latencies::new();
        (1..=10_000).for_each(|micros| latencies.record(Duration::from_micros(micros)));
        let curve = latencies.percentiles(5);
        let last = curve.last().copied().unwrap();
        assert_eq!((last.quantile, last.count), (1.0, 10_000));
        assert_eq!(last.nanos, latencies.summary().max);
        assert!(curve.is_sorted_by(|one, next| {
            one.quantile <= next.quantile && one.nanos <= next.nanos && one.count <= next.count
        }));
        let median = curve.iter().find(|point| point.quantile >= 0.5).unwrap();
        assert_eq!((median.quantile, median.nanos), (0.5, latencies.summary().p50));
        assert!(curve.iter().filter(|point| point.quantile > 0.99).count() >= 20, "{curve:?}");
    }

    #[test]
    fn nothing_has_no_curve() {
        assert_eq!(Latencies::new().percentiles(5), []);
    }
}
