//! VMs that were told to end and still hold a slot. They are told again until they are gone.

use crate::config::PoolLimits;
use crate::invoke::{Nanos, VmId};

use super::alarm::Alarm;
use super::event::{Effect, RetireReason};
use super::vm::{Leaving as LeavingState, Vm};

/// VMs on their way out.
#[derive(Debug)]
pub(super) struct Leaving {
    vms: Vec<(Vm<LeavingState>, RetireReason)>,
    alarm: Alarm,
}

impl Leaving {
    pub(super) fn new(limits: &PoolLimits) -> Self {
        let slots = usize::try_from(limits.vms_max).unwrap_or(0);
        Self { vms: Vec::with_capacity(slots), alarm: Alarm::never() }
    }

    pub(super) fn count(&self) -> u32 {
        u32::try_from(self.vms.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn next_wake(&self) -> Option<Nanos> {
        self.alarm.next()
    }

    /// Tells a VM to end.
    pub(super) fn add<S>(
        &mut self,
        vm: Vm<S>,
        reason: RetireReason,
        remind_nanos: Nanos,
        effects: &mut Vec<Effect>,
    ) {
        effects.push(Effect::Retire { vm: vm.id(), reason });
        self.alarm.at_latest(remind_nanos);
        self.vms.push((vm.leave(remind_nanos), reason));
    }

    /// A VM is gone; whether it was here.
    pub(super) fn remove(&mut self, vm: VmId) -> bool {
        let place = self.vms.iter().position(|(leaving, _)| leaving.id() == vm);
        place.map(|place| self.vms.swap_remove(place)).is_some()
    }

    /// Tells those again that should be gone by now.
    pub(super) fn remind(&mut self, limits: &PoolLimits, now: Nanos, effects: &mut Vec<Effect>) {
        if !self.alarm.take_due(now) {
            return;
        }
        for place in 0..self.vms.len() {
            let (vm, reason) = self.vms.swap_remove(place);
            let vm = if vm.remind_nanos() <= now {
                effects.push(Effect::Retire { vm: vm.id(), reason });
                vm.reminded(now.saturating_add(limits.retire_patience_nanos))
            } else {
                vm
            };
            self.alarm.at_latest(vm.remind_nanos());
            self.vms.push((vm, reason));
            let last = self.vms.len() - 1;
            self.vms.swap(place, last);
        }
    }

    /// VMs of this room, and whether from a function's snapshot.
    pub(super) fn all(&self) -> impl Iterator<Item = (VmId, bool)> {
        self.vms.iter().map(|(vm, _)| (vm.id(), vm.snapshot().is_some()))
    }

    /// VMs of this room, for simulations.
    pub(super) fn ids(&self) -> impl Iterator<Item = VmId> {
        self.vms.iter().map(|(vm, _)| vm.id())
    }
}
