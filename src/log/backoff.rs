//! How long to wait before the next attempt: doubling, with jitter, up to a limit. Pure; the seed
//! is an argument.

use std::time::Duration;

/// Waits between attempts that failed in a row.
#[derive(Debug)]
pub(super) struct Backoff {
    first: Duration,
    longest: Duration,
    failures: u32,
    random: u64,
}

impl Backoff {
    pub(super) fn new(first: Duration, longest: Duration, seed: u64) -> Self {
        // The generator below would stay at 0.
        Self { first, longest, failures: 0, random: seed | 1 }
    }

    /// The wait after one more failure: between half and all of `first * 2^failures`, so that
    /// many nodes do not come back to a service in step.
    pub(super) fn next(&mut self) -> Duration {
        let full = self.first.saturating_mul(1 << self.failures.min(20)).min(self.longest);
        self.failures = self.failures.saturating_add(1);
        full / 2 + (full / 2).mul_f64(self.fraction())
    }

    /// An attempt succeeded.
    pub(super) fn reset(&mut self) {
        self.failures = 0;
    }

    /// Xorshift (Marsaglia 2003, "Xorshift RNGs"): spreading waits needs no better one.
    fn fraction(&mut self) -> f64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        f64::from((self.random >> 40) as u32 & 0xff_ffff) / f64::from(1 << 24)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_limit_and_start_again() {
        let (first, longest) = (Duration::from_millis(100), Duration::from_secs(1));
        let mut backoff = Backoff::new(first, longest, 7);
        for full in [100, 200, 400, 800, 1000, 1000] {
            let full = Duration::from_millis(full);
            let wait = backoff.next();
            assert!(wait >= full / 2 && wait <= full, "{wait:?} for {full:?}");
        }
        backoff.reset();
        assert!(backoff.next() <= first);
    }

    #[test]
    fn a_very_long_outage_does_not_overflow() {
        let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30), 0);
        assert!((0..100).map(|_| backoff.next()).all(|wait| wait <= Duration::from_secs(30)));
    }

    #[test]
    fn seeds_differ() {
        let wait = |seed| Backoff::new(Duration::from_secs(8), Duration::from_secs(8), seed).next();
        assert_ne!(wait(0x1234_5678_9abc), wait(0xfeed_0000_cafe));
    }
}
