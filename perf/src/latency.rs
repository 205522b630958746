//! Latencies of one measured thing, kept in an HDR histogram.
//!
//! Closed loop: the next request starts after the last answer, so a slow answer delays those
//! behind it instead of counting against them. Good for the cost of one request; the latency
//! under a given load needs an open loop ([`crate::Arrivals`]).

use std::fmt;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::Serialize;

/// Longest latency that is told apart from longer ones.
const NANOS_MAX: u64 = 3_600_000_000_000;
/// Three significant digits: an error of at most 0.1 %.
const DIGITS: u8 = 3;

/// Latencies recorded so far.
#[derive(Clone)]
pub struct Latencies(Histogram<u64>);

/// Percentiles, nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "percentiles by name")]
pub struct Summary {
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p99_9: u64,
    pub p99_99: u64,
    pub max: u64,
}

/// Percentiles of something a figure is held against, nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[expect(missing_docs, reason = "percentiles by name")]
pub struct Baseline {
    pub p50: u64,
    pub p99: u64,
}

/// Figures; the histogram's thousands of buckets would say less.
impl fmt::Debug for Latencies {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{} latencies, {:?}", self.count(), self.summary())
    }
}

impl Default for Latencies {
    fn default() -> Self {
        Self::new()
    }
}

impl Latencies {
    /// None yet.
    ///
    /// # Panics
    /// Never: the bounds are constants that fit each other.
    #[must_use]
    pub fn new() -> Self {
        Self(Histogram::new_with_bounds(1, NANOS_MAX, DIGITS).expect("bounds that fit"))
    }

    /// Counts one.
    pub fn record(&mut self, latency: Duration) {
        let nanos = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        self.0.saturating_record(nanos);
    }

    /// Counts all that the other has counted.
    ///
    /// # Panics
    /// Never: both have the same bounds.
    pub fn merge(&mut self, other: &Self) {
        self.0.add(&other.0).expect("bounds that are the same");
    }

    /// How many were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// All percentiles.
    #[must_use]
    pub fn summary(&self) -> Summary {
        Summary {
            p50: self.at(0.5),
            p90: self.at(0.9),
            p99: self.at(0.99),
            p99_9: self.at(0.999),
            p99_99: self.at(0.9999),
            max: self.0.max(),
        }
    }

    /// Those a baseline is reported with.
    #[must_use]
    pub fn baseline(&self) -> Baseline {
        Baseline { p50: self.at(0.5), p99: self.at(0.99) }
    }

    /// What is behind it, for the files that other tools read.
    pub(crate) fn histogram(&self) -> &Histogram<u64> {
        &self.0
    }

    /// The counts of a histogram with any bounds; none if one of them is beyond ours.
    pub(crate) fn of(histogram: &Histogram<u64>) -> Option<Self> {
        let mut latencies = Self::new();
        latencies.0.add(histogram).ok().map(|()| latencies)
    }

    /// Nanoseconds that this share of all, 0 to 1, took at most; 0 if nothing was counted. The
    /// histogram's buckets round up; nothing took longer than the longest.
    #[must_use]
    pub fn at(&self, quantile: f64) -> u64 {
        self.0.value_at_quantile(quantile).min(self.0.max())
    }
}

/// How long `act` takes, unless it fails.
///
/// # Errors
/// The closure's own.
#[expect(clippy::disallowed_methods, reason = "measuring is what this crate is for")]
pub fn timed<T, E>(act: impl FnOnce() -> Result<T, E>) -> Result<(T, Duration), E> {
    let start = Instant::now();
    let done = act()?;
    Ok((done, start.elapsed()))
}

/// Tells the time since it was started.
#[derive(Clone, Copy, Debug)]
pub struct Watch(Instant);

impl Watch {
    /// Starts now.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "measuring is what this crate is for")]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// How long ago that was.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}

/// A moment until which measuring may go on.
#[derive(Clone, Copy, Debug)]
pub struct Deadline(Instant);

impl Deadline {
    /// `limit` from now.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "measuring is what this crate is for")]
    pub fn after(limit: Duration) -> Self {
        Self(Instant::now() + limit)
    }

    /// Whether it is over.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "measuring is what this crate is for")]
    pub fn has_passed(&self) -> bool {
        Instant::now() >= self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_what_was_recorded() {
        let mut latencies = Latencies::new();
        for micros in 1..=10_000 {
            latencies.record(Duration::from_micros(micros));
        }
        let summary = latencies.summary();
        let close = |nanos: u64, micros: u64| nanos.abs_diff(micros * 1000) <= micros;
        assert!(close(summary.p50, 5_000) && close(summary.p90, 9_000), "{summary:?}");
        assert!(close(summary.p99, 9_900) && close(summary.p99_9, 9_990), "{summary:?}");
        assert!(close(summary.p99_99, 9_999) && close(summary.max, 10_000), "{summary:?}");
        assert!(summary.p99_99 <= summary.max);
        assert_eq!(latencies.count(), 10_000);
        let baseline = latencies.baseline();
        assert_eq!((baseline.p50, baseline.p99), (summary.p50, summary.p99));
    }

    #[test]
    fn reports_have_the_documented_keys() {
        let mut latencies = Latencies::new();
        latencies.record(Duration::from_secs(7200));
        let keys = |value: serde_json::Value| {
            value.as_object().unwrap().keys().cloned().collect::<Vec<_>>()
        };
        let summary = serde_json::to_value(latencies.summary()).unwrap();
        assert_eq!(keys(summary), ["max", "p50", "p90", "p99", "p99_9", "p99_99"]);
        let baseline = serde_json::to_value(latencies.baseline()).unwrap();
        assert_eq!(keys(baseline), ["p50", "p99"]);
    }

    #[test]
    fn merged_ones_are_counted_once_each() {
        let [mut low, mut high] = [Latencies::new(), Latencies::new()];
        (1..=100).for_each(|micros| low.record(Duration::from_micros(micros)));
        (101..=200).for_each(|micros| high.record(Duration::from_micros(micros)));
        low.merge(&high);
        let mut all = Latencies::new();
        (1..=200).for_each(|micros| all.record(Duration::from_micros(micros)));
        assert_eq!((low.count(), low.summary()), (200, all.summary()));
    }

    #[test]
    fn a_failure_is_no_measurement() {
        assert_eq!(timed(|| Err::<(), _>("why")), Err("why"));
        let ((), took) = timed(|| -> Result<(), ()> {
            std::thread::yield_now();
            Ok(())
        })
        .unwrap();
        assert!(took > Duration::ZERO);
    }
}
