//! How long to look for work before sleeping: longer where that finds it, less where it does not,
//! never longer than a wake-up is worth. Pure; shards, guests and clients each have their own.
//!
//! ```text
//!  idle for      0 ...... limit ............. max ............
//!                  found        would have been    not worth it
//!  the limit       stays        doubles            halves, down to nothing
//! ```
//! The rule is the Linux kernel's for halting virtual CPUs (Documentation/virt/kvm/halt-polling.rst):
//! what counts is how long the idle time turned out to be, which a sleeper learns too when it is
//! woken. Traffic in bursts with long pauses settles at the gaps within a burst, not at `max`.

use crate::invoke::Nanos;

/// The smallest limit is this fraction of the largest; below it is nothing.
const FLOOR_DIVISOR: Nanos = 16;

/// How long one poller looks, and what came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Polling {
    max: Nanos,
    limit: Nanos,
    tally: Tally,
}

/// What polling found and cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Idle times that ended while it polled.
    pub hits: u64,
    /// Idle times that did not.
    pub misses: u64,
    /// Time polled in vain in those, nanoseconds.
    pub vain_nanos: Nanos,
}

impl Polling {
    /// Polls for `max` at first.
    #[must_use]
    pub fn new(max: Nanos) -> Self {
        Self { max, limit: max, tally: Tally::default() }
    }

    /// How long to look before sleeping, now.
    #[must_use]
    pub fn limit(&self) -> Nanos {
        self.limit
    }

    /// What polling found and cost so far.
    #[must_use]
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// Work came after an idle time of this length, polled and slept together.
    pub fn worked_after(&mut self, idle: Nanos) {
        if idle <= self.limit {
            self.tally.hits += 1;
        } else {
            self.tally.misses += 1;
            self.tally.vain_nanos += self.limit;
        }
        if idle > self.max {
            self.shrink();
        } else if idle > self.limit / 2 {
            // A gap this long is worth it; the next one may be a little longer.
            self.limit = (2 * self.limit).max(self.max / FLOOR_DIVISOR).min(self.max);
        }
    }

    /// Somebody else wanted the core meanwhile.
    pub fn shrink(&mut self) {
        self.limit /= 2;
        if self.limit < self.max / FLOOR_DIVISOR {
            self.limit = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: Nanos = 1_000_000;

    fn after(gaps: impl IntoIterator<Item = Nanos>) -> Polling {
        let mut polling = Polling::new(MAX);
        gaps.into_iter().for_each(|gap| polling.worked_after(gap));
        polling
    }

    #[test]
    fn rare_work_ends_polling_and_frequent_work_brings_it_back() {
        let mut polling = after([2 * MAX; 5]);
        assert_eq!(polling.limit(), 0);
        let tally = polling.tally();
        assert_eq!((tally.hits, tally.misses), (0, 5));
        assert_eq!(tally.vain_nanos, MAX + MAX / 2 + MAX / 4 + MAX / 8 + MAX / 16);
        polling.worked_after(30_000);
        assert_eq!(polling.limit(), MAX / 16, "one gap that polling would have covered");
        polling.worked_after(30_000);
        assert_eq!(polling.tally().hits, 1);
    }

    #[test]
    fn steady_work_keeps_the_limit_and_costs_nothing_in_vain() {
        let polling = after([20_000; 1_000]);
        assert_eq!((polling.limit(), polling.tally().vain_nanos), (MAX, 0));
    }

    #[test]
    fn bursts_settle_at_the_gaps_within_them() {
        let burst = [[30_000; 20].as_slice(), &[10 * MAX]].concat();
        let mut polling = after(burst.iter().copied().cycle().take(21 * 100));
        polling.worked_after(30_000);
        assert_eq!(polling.limit(), MAX / 16, "{polling:?}");
        let tally = polling.tally();
        assert!(tally.hits > 18 * 100, "{tally:?}");
        assert!(tally.vain_nanos < 100 * MAX / 4, "far less than polling to the end: {tally:?}");
    }

    #[test]
    fn gaps_just_beyond_the_limit_double_it_up_to_the_largest() {
        let mut polling = after([2 * MAX; 5]);
        for limit in [MAX / 16, MAX / 8, MAX / 4, MAX / 2, MAX, MAX] {
            polling.worked_after(MAX);
            assert_eq!(polling.limit(), limit);
        }
    }

    #[test]
    fn a_poller_that_may_not_poll_never_does() {
        let mut polling = Polling::new(0);
        [0, 1, 1_000_000].into_iter().for_each(|gap| polling.worked_after(gap));
        assert_eq!((polling.limit(), polling.tally().vain_nanos), (0, 0));
    }
}
