//! How VMs come and go: starting, failing, ending, and what time does to all of them.

use crate::invoke::{BusyReason, Nanos, VmId};

use super::event::{Answer, Blame, Effect, Pressure, RetireReason, SnapshotRef};
use super::inflight::Running;
use super::interior::LivesOn;
use super::lodger::Lodger;
use super::vm::{Start, Vm};
use super::warming::Demand;
use super::{Pool, Serve};

impl Pool {
    pub(super) fn ready(&mut self, vm: VmId, now: Nanos, effects: &mut Vec<Effect>) {
        if self.active.woke(vm, now) {
            if self.is_stopping {
                self.expel(vm, RetireReason::Stopping, Blame::Nobody, now, effects);
            }
            // Its user's others may need its slot.
            if let Some(key) = self.key_of(vm) {
                self.may_serve(key.user);
            }
            return;
        }
        let Ok((is_awaited, notice)) = self.warming.ready(vm) else {
            return;
        };
        if !is_awaited {
            effects.push(Effect::Hasten { vm });
        }
        effects.extend(notice.map(Effect::Report));
        self.serve = Serve::Everybody;
    }

    pub(super) fn spawn_failed(&mut self, vm: VmId, now: Nanos, effects: &mut Vec<Effect>) {
        let starting = self.warming.take_starting(vm).map(|starting| starting.snapshot());
        if let Some(snapshot) = starting {
            self.note_failure(snapshot, now, effects);
        }
        if starting.is_some() || self.leaving.remove(vm) {
            self.serve = Serve::Everybody;
        }
    }

    fn note_failure(
        &mut self,
        snapshot: Option<SnapshotRef>,
        now: Nanos,
        effects: &mut Vec<Effect>,
    ) {
        let notice = self.warming.failed(snapshot, &self.limits, now);
        effects.extend(notice.map(Effect::Report));
    }

    /// A VM's process is over: nothing of it is left but its slot, and that is free.
    pub(super) fn gone(&mut self, vm: VmId, blame: Blame, now: Nanos, effects: &mut Vec<Effect>) {
        let starting = self.warming.take_starting(vm).map(|starting| starting.snapshot());
        let warm = self.warming.take_this_warm(vm).map(|warm| warm.snapshot());
        // A snapshot whose VMs die as soon as they are warm is as bad as one that does not start.
        if let Some(snapshot) = starting.or(warm.filter(|_| blame != Blame::Nobody)) {
            self.note_failure(snapshot, now, effects);
        }
        if starting.is_none() && warm.is_none() && !self.leaving.remove(vm) {
            self.empty(vm, blame, effects);
        }
        self.serve = Serve::Everybody;
    }

    /// Tells a VM to end, wherever it is.
    pub(super) fn expel(
        &mut self,
        vm: VmId,
        reason: RetireReason,
        blame: Blame,
        now: Nanos,
        effects: &mut Vec<Effect>,
    ) {
        let remind = now.saturating_add(self.limits.retire_patience_nanos);
        if let Some(starting) = self.warming.take_starting(vm) {
            let snapshot = starting.snapshot();
            self.leaving.add(starting, reason, remind, effects);
            if reason != RetireReason::Stopping {
                self.note_failure(snapshot, now, effects);
            }
        } else if let Some(warm) = self.warming.take_this_warm(vm) {
            let snapshot = warm.snapshot();
            self.leaving.add(warm, reason, remind, effects);
            if matches!(reason, RetireReason::Fault(_)) {
                self.note_failure(snapshot, now, effects);
            }
        } else {
            match self.empty(vm, blame, effects) {
                Some(Lodger::Clean(vm)) => self.leaving.add(vm, reason, remind, effects),
                Some(Lodger::Idle(vm)) => self.leaving.add(vm, reason, remind, effects),
                Some(Lodger::Busy(vm)) => self.leaving.add(vm, reason, remind, effects),
                Some(Lodger::Alone(vm)) => self.leaving.add(vm, reason, remind, effects),
                Some(Lodger::Resetting(vm)) => self.leaving.add(vm, reason, remind, effects),
                Some(Lodger::Waking(vm)) => self.leaving.add(vm, reason, remind, effects),
                None => {}
            }
        }
    }

    /// Takes a VM out of the active pool and answers the invokes in it.
    pub(super) fn empty(
        &mut self,
        vm: VmId,
        blame: Blame,
        effects: &mut Vec<Effect>,
    ) -> Option<Lodger> {
        let lodger = self.active.remove(vm)?;
        for container in lodger.interior().containers() {
            let Some(invoke) = container.invoke() else {
                continue;
            };
            let Some(running) = self.inflight.finish(invoke) else {
                continue;
            };
            // The defect that the simulation has to find: invokes whose package was on the way
            // are forgotten with their VM.
            if cfg!(feature = "planted-bugs") && !running.is_sent {
                continue;
            }
            effects.push(Effect::Answer { invoke, answer: Answer::VmGone { vm, blame } });
        }
        self.serve = Serve::Everybody;
        Some(lodger)
    }

    pub(super) fn tick(&mut self, now: Nanos, effects: &mut Vec<Effect>) {
        while let Some(running) = self.inflight.overdue(now) {
            self.give_up(&running, now, effects);
        }
        while let Some(waiting) = self.inflight.queue.expired(now) {
            let answer = match now >= waiting.arrival.deadline_nanos {
                true => Answer::DeadlineInQueue,
                false if self.warming.failures() > 0 => Answer::Busy(BusyReason::VmsDoNotStart),
                false => Answer::Busy(BusyReason::WaitedTooLong),
            };
            effects.push(Effect::Answer { invoke: waiting.arrival.invoke, answer });
        }
        while let Some(vm) = self.warming.overdue(now) {
            self.expel(vm, RetireReason::NotReady, Blame::Host, now, effects);
        }
        while let Some(vm) = self.active.load_overdue(now) {
            self.expel(vm, RetireReason::LoadTimeout, Blame::Host, now, effects);
        }
        while let Some(vm) = self.active.reset_overdue(now) {
            self.expel(vm, RetireReason::ResetTimeout, Blame::Host, now, effects);
        }
        while let Some(vm) = self.active.idle_expired(now) {
            self.expel(vm, RetireReason::Idle, Blame::Nobody, now, effects);
        }
        if self.look_alarm.take_due(now) {
            self.is_looking = true;
            self.serve = Serve::Everybody;
        }
        self.warming.roll(&self.limits, now);
        self.leaving.remind(&self.limits, now, effects);
    }

    /// The node waits no longer for an invoke. One that was sent takes its VM along: a guest that
    /// did not end it in time cannot be trusted to end anything.
    pub(super) fn give_up(&mut self, running: &Running, now: Nanos, effects: &mut Vec<Effect>) {
        let (invoke, vm) = (running.arrival.invoke, running.vm);
        let answer = match (running.is_cancelled, running.is_sent) {
            (true, _) => Answer::Cancelled,
            (false, true) => Answer::DeadlineInVm { vm },
            (false, false) => Answer::DeadlineInQueue,
        };
        effects.push(Effect::Answer { invoke, answer });
        if running.is_sent {
            self.take_out(invoke, LivesOn::No, now, effects);
            self.expel(vm, RetireReason::Unresponsive, Blame::Guest, now, effects);
        } else {
            self.leave_container(invoke, LivesOn::No, now, effects);
        }
    }

    pub(super) fn stop(&mut self, now: Nanos, effects: &mut Vec<Effect>) {
        self.is_stopping = true;
        while let Some(waiting) = self.inflight.queue.take(0) {
            let invoke = waiting.arrival.invoke;
            effects.push(Effect::Answer { invoke, answer: Answer::Stopping });
        }
        while let Some(vm) = self.warming.any_starting() {
            self.expel(vm, RetireReason::Stopping, Blame::Nobody, now, effects);
        }
        let remind = now.saturating_add(self.limits.retire_patience_nanos);
        while let Some(warm) = self.warming.take_any() {
            self.leaving.add(warm, RetireReason::Stopping, remind, effects);
        }
        while let Some(vm) = self.active.oldest_idle(None).or_else(|| self.active.any_resetting()) {
            self.expel(vm, RetireReason::Stopping, Blame::Nobody, now, effects);
        }
    }

    /// Starts VMs, and makes an idle one leave when every slot is taken and VMs are needed.
    pub(super) fn refill(&mut self, now: Nanos, effects: &mut Vec<Effect>) {
        if self.is_stopping {
            return;
        }
        let waiting = self.inflight.queue.wanting_vms();
        if self.warming.is_held(waiting, now) {
            return;
        }
        while let Some(start) = self.next_start(waiting, now, effects) {
            let vm = VmId(self.next_vm);
            self.next_vm += self.vm_stride;
            self.warming.add(Vm::start_as(vm, start, &self.limits, now));
            let snapshot = start.function.map(|facts| facts.snapshot);
            effects.push(Effect::Spawn { vm, snapshot, is_awaited: start.is_awaited });
        }
        if let Some(surplus) = self.warming.surplus().filter(|_| waiting == 0) {
            self.expel(surplus, RetireReason::Surplus, Blame::Nobody, now, effects);
        }
        self.free_slot(waiting, now, effects);
    }

    fn next_start(&mut self, waiting: u32, now: Nanos, effects: &mut Vec<Effect>) -> Option<Start> {
        let free_slots = self.limits.vms_max.saturating_sub(self.occupied());
        let demand = Demand { waiting, free_slots };
        let hasten = |vm| effects.push(Effect::Hasten { vm });
        let wanted = self.inflight.queue.wanted().take(usize::try_from(waiting).unwrap_or(0));
        self.warming.next_start(&self.limits, demand, (wanted, hasten), now)
    }

    /// Makes room for VMs of the base, and for those that invokes wait for: those of functions go for its target, those of users only
    /// for its least or for invokes that wait, as many at a time as may start then.
    fn free_slot(&mut self, waiting: u32, now: Nanos, effects: &mut Vec<Effect>) {
        // While VMs do not start, a free slot would help nobody.
        if self.warming.failures() > 0 {
            return;
        }
        let needed = self.limits.warm_min.max(waiting.min(self.limits.spawns_at_once_max));
        let wanted = self.warming.base_target().max(needed);
        let free_slots = self.limits.vms_max.saturating_sub(self.occupied());
        let free_warm = self
            .limits
            .warm_max
            .saturating_sub(self.warming.warm_count() + self.warming.starting_count());
        let coming = self.warming.coming();
        let is_short = |of: u32, room: u32| coming + self.leaving.count() + room < of;
        let least_wanted = self.warming.least_wanted();
        let goes = match least_wanted.filter(|_| is_short(wanted, free_slots.min(free_warm))) {
            Some(vm) => Some(vm),
            None if is_short(needed, free_slots) => self.active.oldest_idle(None),
            None => None,
        };
        if let Some(vm) = goes {
            self.expel(vm, RetireReason::SlotNeeded, Blame::Nobody, now, effects);
        }
    }

    /// The host is short of memory, or no longer.
    pub(super) fn pressure(&mut self, level: Pressure, now: Nanos, effects: &mut Vec<Effect>) {
        self.warming.set_pressure(level, &self.limits);
        if level == Pressure::Calm {
            return;
        }
        let reason = RetireReason::Pressure;
        let mut has_helped = false;
        while let Some(surplus) = self.warming.surplus() {
            self.expel(surplus, reason, Blame::Nobody, now, effects);
            has_helped = true;
        }
        if has_helped {
            return;
        }
        // A quarter each time: how much one gives back is seen only after it went.
        for _ in 0..self.active.idle_count().div_ceil(4) {
            if let Some(idle) = self.active.oldest_idle(None) {
                self.expel(idle, reason, Blame::Nobody, now, effects);
            }
        }
    }
}
