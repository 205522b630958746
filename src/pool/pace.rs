//! How fast a line of waiting invokes moves, and so how long its last one is going to wait.
//!
//! What is measured is the time since somebody first left for a VM, over those who left behind them:
//! standing still counts, and what lies long back counts ever less. What the first waited for, one
//! more container or VM, says nothing of those behind. Nor does a line that just began to move, so
//! nothing is said before some have left.

use crate::invoke::Nanos;

/// Departures behind the first before they say something.
const EVIDENCE: u32 = 8;
/// Departures that count: with so many, the older half is forgotten.
const DEPARTURES_MAX: u32 = 64;

/// One line's.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    /// When the first left.
    since_nanos: Option<Nanos>,
    departures: u32,
}

impl Pace {
    /// One of them got a VM.
    pub(super) fn moved(&mut self, now: Nanos) {
        let Some(since) = &mut self.since_nanos else {
            self.since_nanos = Some(now);
            return;
        };
        self.departures += 1;
        if self.departures >= DEPARTURES_MAX {
            self.departures /= 2;
            *since = now - now.saturating_sub(*since) / 2;
        }
    }

    /// How long who comes behind `ahead` others is going to wait; `None`: nobody can tell.
    pub(super) fn wait_behind(&self, ahead: u32, now: Nanos) -> Option<Nanos> {
        let took = now.saturating_sub(self.since_nanos?);
        let wait = u64::from(ahead).saturating_add(1).saturating_mul(took);
        (self.departures >= EVIDENCE).then(|| wait / u64::from(self.departures))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line in which somebody leaves every `gap`, so many behind the first.
    fn moving(gap: Nanos, departures: u32) -> (Pace, Nanos) {
        let start = 1_000_000;
        let mut pace = Pace::default();
        for departure in 0..=u64::from(departures) {
            pace.moved(start + departure * gap);
        }
        (pace, start + u64::from(departures) * gap)
    }

    #[test]
    fn a_line_that_moves_tells_how_long_its_end_waits() {
        let (pace, now) = moving(1_000, 20);
        assert_eq!(pace.wait_behind(0, now), Some(1_000));
        assert_eq!(pace.wait_behind(9, now), Some(10_000));
    }

    #[test]
    fn one_that_just_formed_does_not() {
        let (pace, now) = moving(1_000, EVIDENCE - 1);
        assert_eq!(pace.wait_behind(1_000, now), None);
        let (pace, now) = moving(1_000, EVIDENCE);
        assert!(pace.wait_behind(1_000, now).is_some());
    }

    #[test]
    fn standing_still_counts_and_old_times_fade() {
        let (mut pace, mut now) = moving(1_000, 20);
        assert_eq!(pace.wait_behind(0, now + 20_000), Some(2_000));
        for _ in 0..10 * DEPARTURES_MAX {
            now += 5_000;
            pace.moved(now);
        }
        let wait = pace.wait_behind(0, now).unwrap();
        assert!((4_900..=5_100).contains(&wait), "{wait}");
    }
}
