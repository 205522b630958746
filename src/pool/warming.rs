//! The warming pool: VMs that start, and VMs that are restored and nobody's yet.
//!
//! It decides when another one starts: up to a target, more while invokes wait for one, fewer and
//! later the more starts have failed in a row.

use crate::config::PoolLimits;
use crate::invoke::{Nanos, VmId};

use super::alarm::Alarm;
use super::event::Notice;
use super::vm::{Starting, Vm, Warm};

/// VMs that start and VMs that wait.
#[derive(Debug)]
pub(super) struct Warming {
    starting: Vec<Vm<Starting>>,
    warm: Vec<Vm<Warm>>,
    failures: u32,
    retry_nanos: Nanos,
    /// Until then no VM comes or goes, while others are warm.
    hold_nanos: Nanos,
    alarm: Alarm,
}

/// What else counts when the number of VMs to start is decided.
#[derive(Clone, Copy, Debug)]
pub(super) struct Demand {
    /// Invokes that wait for a warm VM.
    pub(super) waiting: u32,
    /// Slots no VM has.
    pub(super) free_slots: u32,
}

impl Warming {
    pub(super) fn new(limits: &PoolLimits) -> Self {
        let count = |count: u32| usize::try_from(count).unwrap_or(0);
        Self {
            starting: Vec::with_capacity(count(limits.spawns_at_once_max)),
            warm: Vec::with_capacity(count(limits.warm_max)),
            failures: 0,
            retry_nanos: 0,
            hold_nanos: 0,
            alarm: Alarm::never(),
        }
    }

    pub(super) fn starting_count(&self) -> u32 {
        count(self.starting.len())
    }

    pub(super) fn warm_count(&self) -> u32 {
        count(self.warm.len())
    }

    /// Starts that failed in a row.
    pub(super) fn failures(&self) -> u32 {
        self.failures
    }

    pub(super) fn next_wake(&self) -> Option<Nanos> {
        self.alarm.next()
    }

    /// How many VMs to start now.
    pub(super) fn shortage(&mut self, limits: &PoolLimits, demand: Demand, now: Nanos) -> u32 {
        let wanted = limits.warm_target.saturating_add(demand.waiting).min(limits.warm_max);
        let missing = wanted.saturating_sub(self.warm_count() + self.starting_count());
        if missing > 0 && now < self.retry_nanos {
            self.alarm.at_latest(self.retry_nanos);
            return 0;
        }
        // After a failure one start at a time shows whether it works again.
        let at_once = if self.failures > 0 { 1 } else { limits.spawns_at_once_max };
        missing.min(demand.free_slots).min(at_once.saturating_sub(self.starting_count()))
    }

    pub(super) fn add(&mut self, vm: Vm<Starting>) {
        self.alarm.at_latest(vm.give_up_nanos());
        self.starting.push(vm);
    }

    /// A starting VM is ready. Gives what the operator should know; `Err`: no such VM starts.
    pub(super) fn ready(&mut self, vm: VmId) -> Result<Option<Notice>, ()> {
        let starting = self.take_starting(vm).ok_or(())?;
        self.warm.push(starting.ready());
        let was_failing = std::mem::take(&mut self.failures) > 0;
        self.retry_nanos = 0;
        Ok(was_failing.then_some(Notice::SpawnRecovered))
    }

    /// A VM was taken for an invoke: starting or ending others would take the cores it runs on.
    /// Further ones do not prolong the delay, so that a burst is followed.
    pub(super) fn hold(&mut self, limits: &PoolLimits, now: Nanos) {
        if now >= self.hold_nanos {
            self.hold_nanos = now.saturating_add(limits.refill_delay_nanos);
        }
    }

    /// Whether VMs may come and go a little later, because nobody waits for one.
    pub(super) fn is_held(&mut self, waiting: u32, now: Nanos) -> bool {
        let is_held = waiting == 0 && self.warm_count() > 0 && now < self.hold_nanos;
        if is_held {
            self.alarm.at_latest(self.hold_nanos);
        }
        is_held
    }

    /// Takes the VM that became warm last: its memory is the likeliest to be in a cache.
    pub(super) fn take_warm(&mut self) -> Option<Vm<Warm>> {
        self.warm.pop()
    }

    pub(super) fn take_starting(&mut self, vm: VmId) -> Option<Vm<Starting>> {
        let place = self.starting.iter().position(|starting| starting.id() == vm)?;
        Some(self.starting.remove(place))
    }

    pub(super) fn take_this_warm(&mut self, vm: VmId) -> Option<Vm<Warm>> {
        let place = self.warm.iter().position(|warm| warm.id() == vm)?;
        Some(self.warm.remove(place))
    }

    pub(super) fn any_starting(&self) -> Option<VmId> {
        self.starting.first().map(Vm::id)
    }

    /// A starting VM whose time is over. The alarm is set anew once there is none.
    pub(super) fn overdue(&mut self, now: Nanos) -> Option<VmId> {
        if !self.alarm.take_due(now) {
            return None;
        }
        for vm in &self.starting {
            self.alarm.at_latest(vm.give_up_nanos());
        }
        let mut starting = self.starting.iter();
        starting.find(|vm| vm.give_up_nanos() <= now).map(Vm::id)
    }

    /// A start failed: the next one waits, twice as long as the last time.
    pub(super) fn failed(&mut self, limits: &PoolLimits, now: Nanos) -> Notice {
        let doublings = self.failures.min(32);
        let pause = limits.spawn_backoff_min_nanos.saturating_mul(1 << doublings);
        let retry_in_nanos = pause.min(limits.spawn_backoff_max_nanos);
        self.failures = self.failures.saturating_add(1);
        self.retry_nanos = now.saturating_add(retry_in_nanos);
        Notice::SpawnFailing { failures: self.failures, retry_in_nanos }
    }

    /// VMs of this room, for simulations.
    pub(super) fn ids(&self) -> impl Iterator<Item = VmId> {
        self.starting_ids().chain(self.warm_ids())
    }

    pub(super) fn starting_ids(&self) -> impl Iterator<Item = VmId> {
        self.starting.iter().map(Vm::id)
    }

    pub(super) fn warm_ids(&self) -> impl Iterator<Item = VmId> {
        self.warm.iter().map(Vm::id)
    }
}

fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}
