//! When requests arrive under an open loop: fixed before the first is sent, so that a slow answer
//! delays none of those behind it.

use std::time::Duration;

const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// Evenly spaced arrivals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrivals {
    per_second: u64,
    count: u64,
}

impl Arrivals {
    /// `count` of them, `per_second` each second (at least one).
    #[must_use]
    pub fn new(per_second: u64, count: u64) -> Self {
        Self { per_second: per_second.max(1), count }
    }

    /// As many as arrive within `span`.
    #[must_use]
    pub fn within(per_second: u64, span: Duration) -> Self {
        let arrivals = Self::new(per_second, 0);
        let count = span.as_nanos().saturating_mul(u128::from(arrivals.per_second));
        let count = u64::try_from(count.div_ceil(NANOS_PER_SECOND)).unwrap_or(u64::MAX);
        Self { count, ..arrivals }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// When number `number` arrives, from the start; the first arrives at once. None: there are
    /// not so many.
    #[must_use]
    pub fn at(&self, number: u64) -> Option<Duration> {
        let nanos = u128::from(number) * NANOS_PER_SECOND / u128::from(self.per_second);
        let nanos = u64::try_from(nanos).unwrap_or(u64::MAX);
        (number < self.count).then(|| Duration::from_nanos(nanos))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_do_not_drift() {
        let arrivals = Arrivals::new(3, 3_000_001);
        assert_eq!(arrivals.at(0), Some(Duration::ZERO));
        assert_eq!(arrivals.at(1), Some(Duration::from_nanos(333_333_333)));
        assert_eq!(arrivals.at(3_000_000), Some(Duration::from_secs(1_000_000)));
        assert_eq!(arrivals.at(3_000_001), None);
    }

    #[test]
    fn a_span_holds_those_that_arrive_in_it() {
        let arrivals = Arrivals::within(1000, Duration::from_millis(2500));
        assert_eq!(arrivals.count(), 2500);
        assert!(arrivals.at(2499).is_some_and(|at| at < Duration::from_millis(2500)));
        assert_eq!(Arrivals::within(0, Duration::from_millis(1)).count(), 1);
    }
}
