//! Something that becomes ready at a time: what a `timerfd` waits for.

use core::cell::Cell;

use super::Notifier;
use crate::time::NEVER;

/// A time at which a notifier is raised, once or again and again.
#[derive(Debug)]
pub struct Alarm {
    at_nanos: Cell<u64>,
    interval_nanos: Cell<u64>,
    /// Times it rang since somebody asked.
    rings: Cell<u64>,
    notifier: Notifier,
}

impl Alarm {
    pub(super) fn new(notifier: Notifier) -> Self {
        let never = Cell::new(NEVER);
        Self { at_nanos: never, interval_nanos: Cell::new(0), rings: Cell::new(0), notifier }
    }

    /// Lets it ring at `at_nanos` (monotonic; `u64::MAX` never) and then every `interval_nanos`
    /// (0: once), and forgets earlier rings.
    pub fn set(&self, at_nanos: u64, interval_nanos: u64) {
        self.at_nanos.set(at_nanos);
        self.interval_nanos.set(interval_nanos);
        self.rings.set(0);
    }

    /// When it rings next, and how often.
    #[must_use]
    pub fn setting(&self) -> (u64, u64) {
        (self.at_nanos.get(), self.interval_nanos.get())
    }

    /// Counts the rings due until now.
    pub fn catch_up(&self, now_nanos: u64) {
        let (at, interval) = self.setting();
        if at > now_nanos {
            return;
        }
        let more = (now_nanos - at).checked_div(interval);
        self.rings.set(self.rings.get().saturating_add(1 + more.unwrap_or(0)));
        let next =
            more.map_or(NEVER, |more| at.saturating_add((more + 1).saturating_mul(interval)));
        self.at_nanos.set(next);
        self.notifier.raise();
    }

    /// Whether it has rung.
    #[must_use]
    pub fn has_rung(&self) -> bool {
        self.rings.get() > 0
    }

    /// How often it has rung since this was last asked.
    #[must_use]
    pub fn take_rings(&self) -> u64 {
        self.rings.take()
    }

    /// Raised at each ring.
    #[must_use]
    pub fn notifier(&self) -> &Notifier {
        &self.notifier
    }
}
