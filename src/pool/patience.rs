//! Patience: an invoke waits for a busy container of its function rather than has another one made,
//! while the guests it could be made in compute. Who is patient with whom: [`super::crowd`].

use crate::invoke::{Freshness, Nanos, VmId};

use super::crowd::Crowd;
use super::event::{Arrival, Effect};
use super::queue::Waiting;
use super::{Pool, Refusal};

/// How long after a look at a guest the next one is due.
const LOOK_NANOS: Nanos = 500_000;

/// Where a container would be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Room {
    /// In a VM of its key.
    OwnVm,
    /// In a VM that has yet to become one.
    NewVm,
}

/// How long an invoke waits for a busy container of its function.
#[derive(Clone, Copy, Debug)]
pub(super) enum Patience {
    None,
    /// As long as the limit says, and while what would be made has no core to run on, but no longer
    /// than half of the time it waits for anything.
    From {
        since_nanos: Nanos,
        half_nanos: Nanos,
    },
}

impl Patience {
    /// That of an invoke in the queue, or about to join it.
    pub(super) fn of(waiting: &Waiting) -> Self {
        let since_nanos = waiting.since_nanos;
        let half_nanos = since_nanos + waiting.until_nanos.saturating_sub(since_nanos) / 2;
        Self::From { since_nanos, half_nanos }
    }
}

impl Pool {
    /// Whether an invoke may have a container made for it there now, beside those busy ones of its
    /// function, and whether it may because a guest rests.
    ///
    /// # Errors
    /// It rather waits.
    pub(super) fn check_patience(
        &self,
        arrival: &Arrival,
        (crowd, room): (&Crowd, Room),
        patience: Patience,
        now: Nanos,
    ) -> Result<bool, Refusal> {
        let Patience::From { since_nanos, half_nanos } = patience else {
            return Ok(false);
        };
        // Of freshness `vm` each has a VM made for it anyway.
        if arrival.facts.freshness == Freshness::Vm || crowd.is_empty() {
            return Ok(false);
        }
        let patience_nanos = self.limits.patience_nanos;
        let has_core = || self.active.busy_count() < self.limits.guest_cores;
        let until_nanos = match patience_nanos == 0 || room == Room::OwnVm || has_core() {
            true => crowd.patience_end(since_nanos, patience_nanos).min(half_nanos),
            // It would take time from those that are at work, and answer nothing sooner.
            false => half_nanos,
        };
        if until_nanos <= now {
            return Ok(false);
        }
        let resting = self.resting.and_then(|vm| self.active.get(vm));
        match resting.is_some_and(|vm| vm.key() == arrival.key) {
            true => Ok(true),
            false => Err(Refusal::Patience { until_nanos }),
        }
    }

    /// One that waits out of patience is thought of again when a guest rests, and in time.
    pub(super) fn be_patient(
        &mut self,
        arrival: &Arrival,
        why: Refusal,
        now: Nanos,
        effects: &mut Vec<Effect>,
    ) {
        let Refusal::Patience { until_nanos } = why else {
            return;
        };
        self.look_alarm.at_latest(until_nanos.min(now.saturating_add(LOOK_NANOS)));
        if self.is_looking {
            self.active.look(&arrival.key, effects);
        }
    }

    /// A guest was looked at.
    pub(super) fn looked(&mut self, vm: VmId, is_resting: bool) {
        let Some(lodger) = self.active.get(vm).filter(|_| is_resting) else {
            return;
        };
        // One whose package is on the way waits for us.
        if lodger.interior().load_give_up_nanos().is_none() {
            self.resting = Some(vm);
            self.may_serve(lodger.key().user);
        }
    }
}
