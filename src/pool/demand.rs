//! How many warm VMs were taken lately: what the warming pool follows.
//!
//! Time is cut into windows of [`PoolLimits::demand_window_nanos`], beginning with a take. What was
//! taken in this window or the one before, whichever is more, is the demand: it rises with each
//! take and falls when two windows have passed without as many.

use crate::config::PoolLimits;
use crate::invoke::Nanos;

/// Takes of one kind of VM.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Takes {
    now: u32,
    before: u32,
    /// When the window in which `now` counts ends; 0: nothing counts.
    end_nanos: Nanos,
}

impl Takes {
    /// A VM was taken.
    pub(super) fn note(&mut self, limits: &PoolLimits, now: Nanos) {
        self.roll(limits, now);
        if self.end_nanos == 0 {
            self.end_nanos = now.saturating_add(limits.demand_window_nanos.max(1));
        }
        self.now = self.now.saturating_add(1);
    }

    /// Time has passed.
    pub(super) fn roll(&mut self, limits: &PoolLimits, now: Nanos) {
        let window = limits.demand_window_nanos.max(1);
        if self.end_nanos == 0 || now < self.end_nanos {
            return;
        }
        let has_missed_one = now - self.end_nanos >= window;
        self.before = if has_missed_one { 0 } else { self.now };
        self.now = 0;
        self.end_nanos = match self.before {
            0 => 0,
            _ => self.end_nanos.saturating_add(window),
        };
    }

    /// The demand.
    pub(super) fn count(&self) -> u32 {
        self.now.max(self.before)
    }

    /// When it may fall next.
    pub(super) fn next_change(&self) -> Option<Nanos> {
        (self.end_nanos != 0).then_some(self.end_nanos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn demand_rises_at_once_and_falls_after_two_windows() {
        let limits = PoolLimits { demand_window_nanos: 100, ..Config::default().pool_limits(1, 0) };
        let mut takes = Takes::default();
        assert_eq!((takes.count(), takes.next_change()), (0, None));
        for now in [1000, 1010, 1020] {
            takes.note(&limits, now);
        }
        assert_eq!((takes.count(), takes.next_change()), (3, Some(1100)));
        takes.roll(&limits, 1099);
        assert_eq!(takes.count(), 3);
        takes.roll(&limits, 1100);
        assert_eq!((takes.count(), takes.next_change()), (3, Some(1200)));
        takes.note(&limits, 1150);
        assert_eq!(takes.count(), 3);
        takes.roll(&limits, 1200);
        assert_eq!(takes.count(), 1);
        takes.roll(&limits, 1300);
        assert_eq!((takes.count(), takes.next_change()), (0, None));
    }

    #[test]
    fn a_long_silence_is_forgotten_at_once() {
        let limits = PoolLimits { demand_window_nanos: 100, ..Config::default().pool_limits(1, 0) };
        let mut takes = Takes::default();
        (0..9).for_each(|now| takes.note(&limits, now));
        takes.note(&limits, 100_000);
        assert_eq!(takes.count(), 1);
    }
}
