//! The warming pool: VMs that start, and VMs that are restored and nobody's yet.
//!
//! Most are restored from the base snapshot and fit any invoke. Others are restored from a
//! function's snapshot: only invokes of that function, and of any other's of the same code and
//! settings, take them, and find it loaded. How many of each follows what was taken lately
//! ([`super::demand`]): the base has its target and functions have none, and they share the room
//! beyond. While memory is short all shrink to the least. Each invoke that waits adds a VM, restored
//! from its function's snapshot where there is one. Starts that failed in a row make the next one come
//! later.

use crate::config::PoolLimits;
use crate::invoke::{Nanos, VmId};

use super::alarm::Alarm;
use super::demand::Takes;
use super::event::{FunctionFacts, Notice, Pressure, SnapshotRef};
use super::vm::{Start, Starting, Vm, Warm};

/// VMs that start and VMs that wait.
#[derive(Debug)]
pub(super) struct Warming {
    starting: Vec<Vm<Starting>>,
    warm: Vec<Vm<Warm>>,
    base: Kind,
    functions: Vec<(FunctionFacts, Kind)>,
    pressure: Pressure,
    /// Until then no VM comes or goes, while others are warm.
    hold_nanos: Nanos,
    alarm: Alarm,
    demand_alarm: Alarm,
}

/// What is known of VMs restored from one snapshot.
#[derive(Clone, Copy, Debug, Default)]
struct Kind {
    takes: Takes,
    target: u32,
    /// Starts that failed in a row.
    failures: u32,
    retry_nanos: Nanos,
}

impl Kind {
    /// A start failed: the next one waits, twice as long as the last time.
    fn failed(&mut self, limits: &PoolLimits, now: Nanos) -> Nanos {
        let pause = limits.spawn_backoff_min_nanos.saturating_mul(1 << self.failures.min(32));
        let retry_in_nanos = pause.min(limits.spawn_backoff_max_nanos);
        self.failures = self.failures.saturating_add(1);
        self.retry_nanos = now.saturating_add(retry_in_nanos);
        retry_in_nanos
    }
}

/// What else counts when it is decided whether a VM starts.
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
            base: Kind { target: limits.warm_target, ..Kind::default() },
            functions: Vec::new(),
            pressure: Pressure::Calm,
            hold_nanos: 0,
            alarm: Alarm::never(),
            demand_alarm: Alarm::never(),
        }
    }

    pub(super) fn starting_count(&self) -> u32 {
        count(self.starting.len())
    }

    /// Warm VMs of all kinds.
    pub(super) fn warm_count(&self) -> u32 {
        count(self.warm.len())
    }

    /// Warm VMs that fit anybody.
    pub(super) fn base_count(&self) -> u32 {
        self.warm_of(None)
    }

    /// VMs that are warm for anybody, or start for that or for an invoke that waits.
    pub(super) fn coming(&self) -> u32 {
        let starting = self.starting.iter();
        let coming = starting.filter(|vm| vm.snapshot().is_none() || vm.is_awaited());
        self.base_count() + count(coming.count())
    }

    fn warm_of(&self, snapshot: Option<SnapshotRef>) -> u32 {
        count(self.warm.iter().filter(|vm| vm.snapshot() == snapshot).count())
    }

    /// How many VMs of the base there are to be while nobody waits.
    pub(super) fn base_target(&self) -> u32 {
        self.base.target
    }

    /// Starts from the base that failed in a row.
    pub(super) fn failures(&self) -> u32 {
        self.base.failures
    }

    pub(super) fn is_under_pressure(&self) -> bool {
        self.pressure == Pressure::Tight
    }

    pub(super) fn next_wake(&self) -> Option<Nanos> {
        [self.alarm.next(), self.demand_alarm.next()].into_iter().flatten().min()
    }

    // ---- what is wanted

    /// VMs can be restored from a function's snapshot. That counts as a take: who deployed it is
    /// likely to want it.
    pub(super) fn add_function(&mut self, facts: FunctionFacts, limits: &PoolLimits, now: Nanos) {
        if self.functions.iter().all(|(known, _)| known.snapshot != facts.snapshot) {
            let mut kind = Kind::default();
            kind.takes.note(limits, now);
            self.demand_alarm.at_latest(kind.takes.next_change().unwrap_or(Nanos::MAX));
            self.functions.push((facts, kind));
            self.retarget(limits);
        }
    }

    /// No more VMs are restored from it; those there are become surplus.
    pub(super) fn remove_function(&mut self, snapshot: SnapshotRef) {
        self.functions.retain(|(known, _)| known.snapshot != snapshot);
    }

    /// Memory became short, or no longer is.
    pub(super) fn set_pressure(&mut self, pressure: Pressure, limits: &PoolLimits) {
        self.pressure = pressure;
        self.retarget(limits);
    }

    /// An invoke of a function of this snapshot took a warm VM. It counts for its own kind, if there
    /// is one, even when it had to take one of the base; what its kind may not follow counts for the
    /// base.
    fn note_take(&mut self, snapshot: SnapshotRef, limits: &PoolLimits, now: Nanos) {
        let mut functions = self.functions.iter_mut();
        let own = functions.find(|(known, _)| known.snapshot == snapshot).map(|(_, kind)| kind);
        let has_room = |kind: &Kind| kind.takes.count() < limits.warm_per_function_max;
        let counts_for_base = own.as_ref().is_none_or(|kind| !has_room(kind));
        for kind in own.into_iter().chain(counts_for_base.then_some(&mut self.base)) {
            kind.takes.note(limits, now);
            self.demand_alarm.at_latest(kind.takes.next_change().unwrap_or(Nanos::MAX));
        }
        self.retarget(limits);
    }

    /// Time has passed: demand may have fallen.
    pub(super) fn roll(&mut self, limits: &PoolLimits, now: Nanos) {
        if !self.demand_alarm.take_due(now) {
            return;
        }
        let functions = self.functions.iter_mut().map(|(_, kind)| kind);
        for kind in functions.chain([&mut self.base]) {
            kind.takes.roll(limits, now);
            self.demand_alarm.at_latest(kind.takes.next_change().unwrap_or(Nanos::MAX));
        }
        self.retarget(limits);
    }

    /// The base has its target in any case. What demand asks for beyond that shares the rest: at
    /// least half of it is for functions, the most wanted first, if they want as much.
    fn retarget(&mut self, limits: &PoolLimits) {
        if self.is_under_pressure() {
            self.base.target = limits.warm_min;
            self.functions.iter_mut().for_each(|(_, kind)| kind.target = 0);
            return;
        }
        let rest = limits.warm_max.saturating_sub(limits.warm_target);
        let growth = self.base.takes.count().saturating_sub(limits.warm_target).min(rest);
        let mut room = (rest - growth).max(rest.div_ceil(2));
        self.functions.sort_by_key(|(facts, kind)| (u32::MAX - kind.takes.count(), facts.snapshot));
        let mut of_functions = 0;
        for (_, kind) in &mut self.functions {
            kind.target = kind.takes.count().min(limits.warm_per_function_max).min(room);
            room -= kind.target;
            of_functions += kind.target;
        }
        self.base.target = limits.warm_target + growth.min(rest - of_functions);
    }

    /// The next VM to start, if any. `wanted` are the snapshots the functions are of of those that wait,
    /// in their order; `hasten` is told of VMs that start and that they wait for from now on.
    pub(super) fn next_start(
        &mut self,
        limits: &PoolLimits,
        demand: Demand,
        (wanted, hasten): (impl Iterator<Item = SnapshotRef>, impl FnMut(VmId)),
        now: Nanos,
    ) -> Option<Start> {
        let may_match = demand.waiting > 0 && self.may_match(limits);
        let left_over = if may_match { self.match_waiting(wanted, hasten) } else { None };
        let starting = self.starting_count();
        let room = limits.warm_max.saturating_sub(self.warm_count() + starting);
        if room == 0 || demand.free_slots == 0 {
            return None;
        }
        let enough = self.base.target.saturating_add(demand.waiting).min(limits.warm_max);
        if left_over.is_some() || self.coming() < enough {
            if now < self.base.retry_nanos {
                self.alarm.at_latest(self.base.retry_nanos);
                return None;
            }
            // After a failure one start at a time shows whether it works again. A burst has all
            // the starts there may be; replacing what was taken leaves cores to who took it.
            let is_urgent = demand.waiting > 0 || self.base_count() == 0;
            let at_once = match (self.base.failures, is_urgent) {
                (0, true) => limits.spawns_at_once_max,
                (0, false) => limits.spawns_at_once_max.div_ceil(4),
                (_, _) => 1,
            };
            if starting >= at_once {
                return None;
            }
            let function = left_over.and_then(|snapshot| self.startable(snapshot, now));
            return Some(Start { function, is_awaited: left_over.is_some() });
        }
        if starting > 0 || self.functions.first().is_none_or(|(_, kind)| kind.target == 0) {
            return None;
        }
        let function = Some(self.next_function(now)?);
        Some(Start { function, is_awaited: false })
    }

    /// The function whose snapshot this is, if VMs start from it.
    fn startable(&self, snapshot: SnapshotRef, now: Nanos) -> Option<FunctionFacts> {
        let mut functions = self.functions.iter();
        let (facts, kind) = functions.find(|(known, _)| known.snapshot == snapshot)?;
        (now >= kind.retry_nanos).then_some(*facts)
    }

    /// A function that lacks a VM.
    fn next_function(&mut self, now: Nanos) -> Option<FunctionFacts> {
        for place in 0..self.functions.len() {
            let (facts, kind) = self.functions[place];
            if self.warm_of(Some(facts.snapshot)) >= kind.target {
                continue;
            }
            if now >= kind.retry_nanos {
                return Some(facts);
            }
            self.alarm.at_latest(kind.retry_nanos);
        }
        None
    }

    /// A warm VM that nobody is going to want.
    pub(super) fn surplus(&self) -> Option<VmId> {
        let functions = self.warm.iter().filter_map(|vm| Some((vm.snapshot()?, vm.id())));
        let mut excess = functions.filter(|(snapshot, _)| {
            let known = self.functions.iter().find(|(known, _)| known.snapshot == *snapshot);
            let target = known.map_or(0, |(_, kind)| kind.target);
            self.warm_of(Some(*snapshot)) > target
        });
        if let Some((_, vm)) = excess.next() {
            return Some(vm);
        }
        let mut base = self.warm.iter().filter(|vm| vm.snapshot().is_none());
        (self.base_count() > self.base.target).then(|| base.next().map(Vm::id)).flatten()
    }

    /// A warm VM of the function that is wanted least.
    pub(super) fn least_wanted(&self) -> Option<VmId> {
        let place = |snapshot: &SnapshotRef| {
            self.functions.iter().position(|(known, _)| known.snapshot == *snapshot)
        };
        let functions = self.warm.iter().filter_map(|vm| Some((vm.snapshot()?, vm.id())));
        functions.max_by_key(|(snapshot, _)| place(snapshot).unwrap_or(usize::MAX)).map(|it| it.1)
    }

    // ---- VMs come and go

    pub(super) fn add(&mut self, vm: Vm<Starting>) {
        self.alarm.at_latest(vm.give_up_nanos());
        self.starting.push(vm);
    }

    /// Finds the VM that comes for each invoke that waits, in their order: one of its own snapshot, else
    /// one of the base. Gives the first for which none comes. `hasten` is told of VMs nobody waited for
    /// before.
    pub(super) fn match_waiting(
        &mut self,
        wanted: impl Iterator<Item = SnapshotRef>,
        mut hasten: impl FnMut(VmId),
    ) -> Option<SnapshotRef> {
        self.starting.iter_mut().for_each(|vm| vm.speak_for(false));
        let mut base = self.base_count();
        for snapshot in wanted {
            let mut free = self.starting.iter().enumerate().filter(|(_, vm)| !vm.is_spoken_for());
            let own = free.clone().find(|(_, vm)| vm.snapshot() == Some(snapshot));
            let found = own.or_else(|| free.find(|(_, vm)| vm.snapshot().is_none()));
            if let Some((place, _)) = found {
                let vm = &mut self.starting[place];
                vm.speak_for(true);
                if vm.await_it() {
                    hasten(vm.id());
                }
            } else if base > 0 {
                base -= 1;
            } else {
                return Some(snapshot);
            }
        }
        None
    }

    /// Whether it is of use to ask [`Warming::match_waiting`]: a VM may start, or be told.
    fn may_match(&self, limits: &PoolLimits) -> bool {
        self.starting_count() < limits.spawns_at_once_max
            || self.starting.iter().any(|vm| !vm.is_awaited())
    }

    /// A starting VM is ready. Gives whether it was awaited, and what the operator should know; `Err`:
    /// no such VM starts.
    pub(super) fn ready(&mut self, vm: VmId) -> Result<(bool, Option<Notice>), ()> {
        let starting = self.take_starting(vm).ok_or(())?;
        let (snapshot, is_awaited) = (starting.snapshot(), starting.is_awaited());
        self.warm.push(starting.ready());
        let Some(kind) = self.kind_mut(snapshot) else { return Ok((is_awaited, None)) };
        let was_failing = std::mem::take(&mut kind.failures) > 0;
        kind.retry_nanos = 0;
        let notice = (was_failing && snapshot.is_none()).then_some(Notice::SpawnRecovered);
        Ok((is_awaited, notice))
    }

    fn kind_mut(&mut self, snapshot: Option<SnapshotRef>) -> Option<&mut Kind> {
        let Some(snapshot) = snapshot else { return Some(&mut self.base) };
        let mut functions = self.functions.iter_mut();
        functions.find(|(known, _)| known.snapshot == snapshot).map(|(_, kind)| kind)
    }

    /// A VM was taken for an invoke: starting or ending others would take the cores it runs on.
    /// Further ones do not prolong the delay, so that a burst is followed.
    fn hold(&mut self, limits: &PoolLimits, now: Nanos) {
        if now >= self.hold_nanos {
            self.hold_nanos = now.saturating_add(limits.refill_delay_nanos);
        }
    }

    /// Whether VMs may come and go a little later, because nobody waits for one.
    pub(super) fn is_held(&mut self, waiting: u32, now: Nanos) -> bool {
        let is_held = waiting == 0 && self.base_count() > 0 && now < self.hold_nanos;
        if is_held {
            self.alarm.at_latest(self.hold_nanos);
        }
        is_held
    }

    /// Whether an invoke of this function finds a warm VM.
    pub(super) fn has_for(&self, snapshot: SnapshotRef) -> bool {
        self.place_for(snapshot).is_some()
    }

    /// Whether a warm VM has the program of this snapshot in it.
    pub(super) fn has_prepared(&self, snapshot: SnapshotRef) -> bool {
        self.warm_of(Some(snapshot)) > 0
    }

    /// Its own before one of the base; of them the one that became warm last: its memory is the
    /// likeliest to be in a cache.
    fn place_for(&self, snapshot: SnapshotRef) -> Option<usize> {
        let last = |snapshot| self.warm.iter().rposition(|vm| vm.snapshot() == snapshot);
        last(Some(snapshot)).or_else(|| last(None))
    }

    /// Takes a warm VM for an invoke of this function.
    pub(super) fn take_for(
        &mut self,
        facts: &FunctionFacts,
        limits: &PoolLimits,
        now: Nanos,
    ) -> Option<Vm<Warm>> {
        let mut vm = self.warm.remove(self.place_for(facts.snapshot)?);
        vm.interior_mut().adopt(facts);
        self.hold(limits, now);
        self.note_take(facts.snapshot, limits, now);
        Some(vm)
    }

    /// Takes any warm VM, to end it.
    pub(super) fn take_any(&mut self) -> Option<Vm<Warm>> {
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

    pub(super) fn is_awaited(&self, vm: VmId) -> bool {
        self.starting.iter().any(|starting| starting.id() == vm && starting.is_awaited())
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

    /// A start failed. Gives what the operator should know; that a function's snapshot is no good
    /// is told where the VM failed.
    pub(super) fn failed(
        &mut self,
        snapshot: Option<SnapshotRef>,
        limits: &PoolLimits,
        now: Nanos,
    ) -> Option<Notice> {
        let kind = self.kind_mut(snapshot)?;
        let retry_in_nanos = kind.failed(limits, now);
        let failures = kind.failures;
        snapshot.is_none().then_some(Notice::SpawnFailing { failures, retry_in_nanos })
    }

    /// VMs of this room, for simulations.
    pub(super) fn ids(&self) -> impl Iterator<Item = VmId> {
        self.starting.iter().map(Vm::id).chain(self.warm.iter().map(Vm::id))
    }

    /// VMs that start, and whether from a function's snapshot.
    pub(super) fn all_starting(&self) -> impl Iterator<Item = (VmId, bool)> {
        self.starting.iter().map(|vm| (vm.id(), vm.snapshot().is_some()))
    }

    /// Warm VMs, and whether from a function's snapshot.
    pub(super) fn all_warm(&self) -> impl Iterator<Item = (VmId, bool)> {
        self.warm.iter().map(|vm| (vm.id(), vm.snapshot().is_some()))
    }
}

fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::invoke::{Contract, Freshness};
    use crate::pool::{FunctionRef, PackageRef};

    fn start(warming: &mut Warming, number: u64, snapshot: Option<u32>, is_awaited: bool) {
        let limits = Config::default().pool_limits(1, 0);
        let function = snapshot.map(|number| FunctionFacts {
            function: FunctionRef(number),
            package: PackageRef(number),
            snapshot: SnapshotRef(number),
            package_bytes: 1,
            contract: Contract::Stream,
            freshness: Freshness::Reuse,
            memory_mib: 1,
        });
        warming.add(Vm::start_as(VmId(number), Start { function, is_awaited }, &limits, 0));
    }

    /// For whom none comes, and who was hastened.
    fn matched(warming: &mut Warming, wanted: &[u32]) -> (Option<u32>, Vec<u64>) {
        let mut hastened = Vec::new();
        let wanted = wanted.iter().map(|number| SnapshotRef(*number));
        let left_over = warming.match_waiting(wanted, |vm| hastened.push(vm.0));
        (left_over.map(|snapshot| snapshot.0), hastened)
    }

    #[test]
    fn each_that_waits_has_a_vm_that_suits_it_or_the_next_start() {
        let mut warming = Warming::new(&Config::default().pool_limits(1, 0));
        assert_eq!(matched(&mut warming, &[7, 8]), (Some(7), vec![]));
        // Two of another's, however many: the first in line is not passed over.
        start(&mut warming, 1, Some(8), true);
        start(&mut warming, 2, Some(8), true);
        assert_eq!(matched(&mut warming, &[7, 8, 8]), (Some(7), vec![]));
        assert_eq!(matched(&mut warming, &[8, 7, 8]), (Some(7), vec![]));
        assert_eq!(matched(&mut warming, &[8, 8, 8]), (Some(8), vec![]));
        assert_eq!(matched(&mut warming, &[8, 8]), (None, vec![]));
        // One of the base suits whoever has none of its own, and is told once.
        start(&mut warming, 3, None, false);
        assert_eq!(matched(&mut warming, &[8, 8]), (None, vec![]));
        assert_eq!(matched(&mut warming, &[8, 7, 8]), (None, vec![3]));
        assert_eq!(matched(&mut warming, &[8, 7, 8, 7]), (Some(7), vec![]));
        // So is one of its own snapshot that started for nobody.
        start(&mut warming, 4, Some(7), false);
        assert_eq!(matched(&mut warming, &[7, 7]), (None, vec![4]));
    }
}
