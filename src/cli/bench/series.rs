//! Latencies of one thing, measured in batches: percentiles of all of them, and the median of
//! each batch, by which two runs are compared.

use std::time::Duration;

use perf::Latencies;

/// What is measured in batches.
#[derive(Clone, Debug, Default)]
pub(super) struct Series {
    pub(super) all: Latencies,
    batch: Latencies,
    medians: Vec<u64>,
}

impl Series {
    /// Counts one.
    pub(super) fn record(&mut self, latency: Duration) {
        self.all.record(latency);
        self.batch.record(latency);
    }

    /// Ends the batch, and returns what it held. An empty one is none.
    pub(super) fn end_batch(&mut self) -> Option<Latencies> {
        if self.batch.count() == 0 {
            return None;
        }
        self.medians.push(self.batch.summary().p50);
        Some(std::mem::take(&mut self.batch))
    }

    /// The median of each batch, nanoseconds.
    pub(super) fn medians(&self) -> &[u64] {
        &self.medians
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_batch_has_its_median() {
        let mut series = Series::default();
        for millis in [1, 3, 5] {
            (0..3).for_each(|more| series.record(Duration::from_millis(millis + more)));
            assert_eq!(series.end_batch().map(|batch| batch.count()), Some(3));
        }
        assert!(series.end_batch().is_none());
        let close = |nanos: u64, millis: u64| nanos.abs_diff(millis * 1_000_000) <= millis * 1_000;
        let medians = series.medians();
        assert!(medians.iter().zip([2, 4, 6]).all(|(nanos, millis)| close(*nanos, millis)));
        assert_eq!((medians.len(), series.all.count()), (3, 9));
    }
}
