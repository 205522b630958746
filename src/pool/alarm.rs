//! The time at which a room has to be looked through: never later than the earliest deadline in
//! it, perhaps earlier, so that setting it costs nothing on the path of an invoke.

use crate::invoke::Nanos;

/// A lower bound of the deadlines in a room.
#[derive(Clone, Copy, Debug)]
pub(super) struct Alarm {
    at_nanos: Nanos,
}

impl Alarm {
    pub(super) fn never() -> Self {
        Self { at_nanos: Nanos::MAX }
    }

    /// A deadline entered the room.
    pub(super) fn at_latest(&mut self, nanos: Nanos) {
        self.at_nanos = self.at_nanos.min(nanos);
    }

    /// Whether the room has to be looked through. If so, nothing is set any more: the look sets
    /// it again.
    pub(super) fn take_due(&mut self, now: Nanos) -> bool {
        let is_due = now >= self.at_nanos;
        if is_due {
            *self = Self::never();
        }
        is_due
    }

    pub(super) fn next(&self) -> Option<Nanos> {
        (self.at_nanos != Nanos::MAX).then_some(self.at_nanos)
    }
}
