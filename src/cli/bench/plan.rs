//! How much is measured, and under which load.

use std::time::Duration;

use perf::Arrivals;

use super::super::fault::Fault;

/// Rounds a scenario is cut into, as far as batches stay below their limits.
pub(super) const ROUNDS: u64 = 20;

/// How requests come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Load {
    /// So many are open all the time; the next one goes when one is answered.
    Closed { concurrency: usize },
    /// So many arrive per second, whatever is open.
    Open { per_second: u64 },
}

impl Load {
    /// What the command line says.
    pub(super) fn of(rate: Option<u64>, concurrency: Option<usize>) -> Self {
        match rate {
            Some(per_second) => Self::Open { per_second },
            None => Self::Closed { concurrency: concurrency.unwrap_or(1) },
        }
    }

    /// One request after the other.
    pub(super) fn is_plain(self) -> bool {
        self == Self::Closed { concurrency: 1 }
    }

    /// Requests that may be open at once.
    pub(super) fn open_max(self) -> usize {
        match self {
            Self::Closed { concurrency } => concurrency,
            // What is beyond waits in the client, and that counts.
            Self::Open { .. } => 1024,
        }
    }

    /// Arrivals per second of an open loop.
    pub(super) fn rate(self) -> Option<u64> {
        match self {
            Self::Open { per_second } => Some(per_second),
            Self::Closed { .. } => None,
        }
    }

    /// Open requests of a closed loop.
    pub(super) fn concurrency(self) -> Option<usize> {
        match self {
            Self::Closed { concurrency } => Some(concurrency),
            Self::Open { .. } => None,
        }
    }
}

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) load: Load,
    /// Invokes at most.
    pub(super) count: u64,
    /// Time at most.
    pub(super) limit: Duration,
    /// Smallest and largest batch of a closed loop.
    pub(super) batch_min: u64,
    pub(super) batch_max: u64,
}

impl Plan {
    /// Fails where a scenario has a load of its own.
    pub(super) fn check(load: Load, scenario: &str, takes_load: bool) -> Result<(), Fault> {
        match load.is_plain() || takes_load {
            true => Ok(()),
            false => Err(Fault::new(format!(
                "{scenario} has a load of its own: leave out --rate and --concurrency"
            ))),
        }
    }

    /// Invokes in each batch of a closed loop.
    pub(super) fn batch(&self) -> u64 {
        let max = self.batch_max.max(self.batch_min).max(1);
        (self.count / ROUNDS).max(self.batch_min).clamp(1, max)
    }

    /// Arrivals of an open loop: they do not wait for anything, so it has no rounds.
    pub(super) fn arrivals(&self, per_second: u64) -> Arrivals {
        let all = Arrivals::within(per_second, self.limit);
        Arrivals::new(per_second, all.count().min(self.count))
    }

    /// How long what counts as one batch of an open loop is.
    pub(super) fn span(&self) -> Duration {
        let rounds = u32::try_from(ROUNDS).unwrap_or(u32::MAX);
        (self.limit / rounds).clamp(Duration::from_millis(50), Duration::from_secs(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(load: Load, count: u64, seconds: u64) -> Plan {
        let limit = Duration::from_secs(seconds);
        Plan { load, count, limit, batch_min: 1, batch_max: 500 }
    }

    #[test]
    fn batches_are_a_twentieth_within_their_limits() {
        let closed = Load::of(None, None);
        let batch = |count| plan(closed, count, 20).batch();
        assert_eq!([batch(2_000), batch(u64::MAX), batch(3)], [100, 500, 1]);
        let burst = Plan { batch_min: 200, batch_max: 200, ..plan(closed, 600, 20) };
        assert_eq!(burst.batch(), 200);
    }

    #[test]
    fn an_open_loop_is_over_by_count_or_time() {
        let arrivals = |count, seconds| {
            plan(Load::of(Some(1_000), None), count, seconds).arrivals(1_000).count()
        };
        assert_eq!((arrivals(u64::MAX, 10), arrivals(200, 10)), (10_000, 200));
        assert_eq!(plan(Load::of(Some(1), None), 1, 3_600).span(), Duration::from_secs(1));
    }

    #[test]
    fn a_scenario_with_a_load_of_its_own_takes_none() {
        assert!(Plan::check(Load::of(None, None), "cold", false).is_ok());
        assert!(Plan::check(Load::of(Some(5), None), "warm", true).is_ok());
        let refused = Plan::check(Load::of(None, Some(2)), "cold", false).unwrap_err();
        assert!(refused.to_string().contains("leave out --rate"), "{refused}");
    }
}
