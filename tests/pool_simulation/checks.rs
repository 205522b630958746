//! What the model looks at after each step.

use std::collections::BTreeMap;

use abi::frame::code::INLINE_BYTES_MAX;
use pilotlight::invoke::{Freshness, InvokeId, Nanos, User, VmId};
use pilotlight::pool::{FunctionFacts, KeyState, LoadId, Pool, Whereabouts};

use super::{Invoke, Load, Model, State, Vm};

/// How soon after a look at a guest another one is due.
const LOOK_NANOS: Nanos = 500_000;

impl Model {
    /// Every open invoke is where it should be, and none is overdue after the clock was looked at.
    pub(super) fn check_invokes(&mut self, pool: &Pool, now: Nanos, is_tick: bool) {
        self.loading.clear();
        self.waiting.clear();
        let mut entered = Vec::new();
        let mut made = Vec::new();
        for (id, open) in &mut self.invokes {
            let place = pool.whereabouts(*id);
            let deadline = open.arrival.deadline_nanos;
            let limit = match (place, open.sent) {
                (Some(Whereabouts::Waiting), None) => {
                    self.waiting.insert(*id);
                    deadline.min(open.arrived.saturating_add(self.limits.queue_wait_nanos))
                }
                (Some(Whereabouts::Loading { vm }), None) => {
                    if open.entered.replace(open.entered.unwrap_or(now)).is_none() {
                        made.push(*id);
                    }
                    self.loading.insert(*id, vm);
                    entered.push((*id, vm));
                    deadline
                }
                (Some(Whereabouts::Running { vm, container }), Some(sent)) => {
                    assert_eq!((vm, container), sent, "runs where it was sent");
                    assert_eq!(pool.place_of(*id), Some(sent));
                    deadline.saturating_add(self.limits.deadline_grace_nanos)
                }
                (None, _) => panic!("{id} was forgotten"),
                other => panic!("{id} is nowhere: {other:?}"),
            };
            assert!(!is_tick || limit > now, "{id} is overdue");
            if let Some((vm, _)) = open.sent {
                let state = self.vms.get(&vm).map(|vm| vm.state);
                assert_eq!(state, Some(State::Active(open.arrival.key)), "{id} in a lost VM");
            }
        }
        for invoke in &made {
            self.check_patience_was_over(*invoke, &made, now);
        }
        for (invoke, vm) in entered {
            self.enter(invoke, vm);
        }
        for vm in self.vms.values().filter(|vm| matches!(vm.state, State::Active(_))) {
            for container in vm.containers.values().filter(|c| c.busy.is_none()) {
                assert!(container.invokes < u64::MAX - 1, "a process that ended badly stays");
            }
        }
    }

    pub(super) fn check_counts(&self, pool: &Pool) {
        let census = pool.census();
        let count = |is: fn(&Vm) -> bool| {
            u32::try_from(self.vms.values().filter(|vm| is(vm)).count()).unwrap()
        };
        assert_eq!(census.starting, count(|vm| vm.state == State::Starting), "starting");
        let is_base = |vm: &Vm| vm.state == State::Warm && vm.prepared.is_none();
        assert_eq!(census.warm, count(is_base), "warm");
        let is_prepared = |vm: &Vm| vm.state == State::Warm && vm.prepared.is_some();
        assert_eq!(census.prepared, count(is_prepared), "prepared");
        assert_eq!(census.leaving, count(|vm| vm.state == State::Leaving), "leaving");
        let active = count(|vm| matches!(vm.state, State::Active(_)));
        assert_eq!(census.assigned + census.invoking, active, "active");
        let resetting = count(|vm| matches!(vm.state, State::Resetting(_) | State::Waking(_)));
        assert_eq!(census.resetting, resetting, "resetting");
        assert_eq!(usize::try_from(census.waiting), Ok(self.waiting.len()), "waiting");
        let open = u32::try_from(self.invokes.len()).unwrap();
        assert_eq!(census.waiting + census.running, open, "every invoke is somewhere");
        assert!(
            census.running <= self.limits.inflight_max && census.waiting <= self.limits.queue_max
        );
    }

    /// Containers of a VM taken by invokes, those that wait for a package too, and their memory.
    fn taken(&self, id: VmId, vm: &Vm) -> (u32, u32) {
        let busy = vm.containers.values().filter(|c| c.busy.is_some());
        let loading = self.loading.iter().filter(|(_, place)| **place == id);
        let loading = loading.map(|(invoke, _)| self.invokes[invoke].arrival.facts.memory_mib);
        let taken = busy.map(|container| container.facts.memory_mib).chain(loading);
        taken.fold((0, 0), |(count, memory), mib| (count + 1, memory + mib))
    }

    pub(super) fn check_published(&self) {
        let mut expected: BTreeMap<u64, KeyState> = BTreeMap::new();
        for (id, vm) in &self.vms {
            let Some(key) = vm.state.key() else {
                continue;
            };
            let (count, memory) = self.taken(*id, vm);
            let is_open = matches!(vm.state, State::Active(_)) && !vm.is_spent;
            let has_room = is_open
                && count < self.limits.containers_per_vm
                && memory < self.limits.memory_mib_max;
            let state = expected.entry(key.fingerprint()).or_insert(KeyState::Full);
            if has_room {
                *state = KeyState::Room;
            }
        }
        for (key, state) in &self.published {
            let wanted = expected.remove(key).unwrap_or(KeyState::Absent);
            assert_eq!(*state, wanted, "published for {key:x}");
        }
        assert!(expected.is_empty(), "not published: {expected:?}");
        let is_base = |vm: &&Vm| vm.state == State::Warm && vm.prepared.is_none();
        let warm = self.vms.values().filter(is_base).count();
        assert_eq!(usize::try_from(self.published_warm), Ok(warm), "warm VMs published");
    }

    /// When the patience of an invoke ends, if it is to have some: others of its function are busy.
    /// Those `beside` it are not counted.
    fn patience_end(&self, open: &Invoke, beside: &[InvokeId], new_vm: bool) -> Option<Nanos> {
        let (key, facts) = (open.arrival.key, open.arrival.facts);
        let waits_until =
            open.arrival.deadline_nanos.min(open.arrived + self.limits.queue_wait_nanos);
        let half = open.arrived + (waits_until - open.arrived) / 2;
        let (mut busy, mut made) = (0_u32, None);
        for (id, vm) in self.vms.iter().filter(|(_, vm)| vm.state == State::Active(key)) {
            let of_it = vm.containers.values().filter(|it| it.facts.function == facts.function);
            for container in of_it.filter(|it| it.busy.is_some()) {
                busy += 1;
                made = made.max(container.made.filter(|made| *made > 0));
            }
            for (invoke, _) in self.loading.iter().filter(|(_, place)| *place == id) {
                let loading = self.invokes.get(invoke).filter(|other| other.sent.is_none());
                let of_it = loading.filter(|it| it.arrival.facts.function == facts.function);
                if let Some(loading) = of_it.filter(|_| !beside.contains(invoke)) {
                    busy += 1;
                    made = made.max(loading.entered);
                }
            }
        }
        let may_be_patient = busy > 0 && facts.freshness != Freshness::Vm;
        let loads = |id: &VmId| {
            let mut loading = self.loading.iter();
            loading.any(|(invoke, place)| place == id && self.invokes.contains_key(invoke))
        };
        let is_at_work = |(id, vm): &(&VmId, &Vm)| {
            loads(id) || vm.containers.values().any(|container| container.busy.is_some())
        };
        let at_work = self.vms.iter().filter(|it| is_at_work(it)).count();
        let is_crowded = new_vm && at_work >= usize::try_from(self.limits.guest_cores).unwrap();
        let patience = self.limits.patience_nanos;
        let since_last = made.map_or(0, |made| made + patience * (1 << (busy.max(1) - 1).min(10)));
        let end = since_last.max(open.arrived + patience).min(half);
        let end = if is_crowded && patience > 0 { half } else { end };
        may_be_patient.then_some(end)
    }

    /// A container was made for an invoke: nobody else's of its function was busy, or it was done
    /// with patience, or a guest rested, once.
    pub(super) fn check_patience_was_over(
        &mut self,
        invoke: InvokeId,
        beside: &[InvokeId],
        now: Nanos,
    ) {
        let open = &self.invokes[&invoke];
        // Whichever it was: a VM may have come to be its key's in this step.
        let is_over = self.patience_end(open, beside, false).is_none_or(|end| end <= now);
        if is_over || self.is_arriving {
            return;
        }
        let key = open.arrival.key;
        assert!(self.rest.take_if(|rest| *rest == key).is_some(), "{invoke} was not patient");
    }

    /// Invokes that wait, would fit into this VM, the only one of their key, and go in when its guest rests.
    pub(super) fn patient_with(&self, id: VmId) -> Vec<InvokeId> {
        let Some(vm) = self.vms.get(&id) else { return Vec::new() };
        let running = self.invokes.len() - self.waiting.len();
        let of_key = self.vms.values().filter(|other| other.state.key() == vm.state.key());
        let is_full = running >= usize::try_from(self.limits.inflight_max).unwrap()
            || vm.state.key().is_some_and(|key| self.is_user_full(&key.user));
        if is_full || of_key.count() > 1 || vm.loads.values().any(|load| !load.is_there) {
            return Vec::new();
        }
        let waiting = self.waiting.iter().filter(|invoke| {
            let arrival = &self.invokes[invoke].arrival;
            vm.state == State::Active(arrival.key) && self.fits(id, vm, &arrival.facts)
        });
        waiting.copied().collect()
    }

    /// Of those that a guest's rest was to help, one was helped.
    pub(super) fn check_unblocked(&mut self) {
        let unblocked = std::mem::take(&mut self.unblocked);
        if !unblocked.is_empty() {
            assert!(unblocked.iter().any(|it| !self.waiting.contains(it)), "nobody was helped");
            self.sight("helped by a guest at rest");
        }
    }

    /// Whether as many invokes of a user run as may; never more.
    pub(super) fn is_user_full(&self, user: &User) -> bool {
        let of_user = self.invokes.iter().filter(|(_, open)| open.arrival.key.user == *user);
        let running = of_user.filter(|(id, _)| !self.waiting.contains(id)).count();
        let limit = usize::try_from(self.limits.inflight_per_user_max).unwrap();
        assert!(running <= limit, "{user} has {running} at work");
        running == limit
    }

    pub(super) fn check_nobody_waits_in_vain(&mut self, pool: &Pool, now: Nanos) {
        let running = self.invokes.len() - self.waiting.len();
        if self.waiting.is_empty() || running >= usize::try_from(self.limits.inflight_max).unwrap()
        {
            return;
        }
        // Whose patience ends is looked after at the next tick, and that is due then.
        let wake = pool.next_wake().unwrap_or(Nanos::MAX);
        let (mut is_patient, mut held_back) = (false, false);
        for id in &self.waiting {
            let arrival = &self.invokes[id].arrival;
            if self.is_user_full(&arrival.key.user) {
                held_back = true;
                continue;
            }
            // One of several that want the same may have to wait for the next look.
            let may_wait = |new_vm| {
                let end = self.patience_end(&self.invokes[id], &[], new_vm);
                end.is_some_and(|end| wake <= end.max(now + LOOK_NANOS))
            };
            let suits = |vm: &Vm| vm.prepared.is_none_or(|facts| facts == arrival.facts);
            let has_warm = self.vms.values().any(|vm| vm.state == State::Warm && suits(vm));
            let user = &arrival.key.user;
            let user_has_room = self.count_of(user) < self.limits.vms_per_user_max
                || self.vms.iter().any(|(id, vm)| {
                    let is_of_user = matches!(vm.state, State::Active(key) if key.user == *user);
                    is_of_user && self.taken(*id, vm).0 == 0
                });
            if has_warm && user_has_room {
                assert!(may_wait(true), "{id} waits though a VM is warm");
                is_patient = true;
            }
            for (place, vm) in &self.vms {
                let is_its_own = vm.state == State::Active(arrival.key);
                if is_its_own && self.fits(*place, vm, &arrival.facts) {
                    let facts = &arrival.facts;
                    let mut containers = vm.containers.values().filter(|it| it.busy.is_none());
                    let has_idle = containers.any(|it| it.facts.function == facts.function);
                    assert!(
                        !has_idle && may_wait(false),
                        "{id} waits in vain: {facts:?} for {place}"
                    );
                    is_patient = true;
                }
            }
        }
        if held_back {
            self.sight("held back by what the user has at work");
        }
        if is_patient {
            assert!(wake <= now + LOOK_NANOS, "nobody looks at the guests");
            self.sight("patient");
        }
    }

    fn fits(&self, id: VmId, vm: &Vm, facts: &FunctionFacts) -> bool {
        let is_alone = facts.freshness == Freshness::Vm;
        let mut containers = vm.containers.values();
        let has_others = containers.any(|other| other.facts.function != facts.function);
        if vm.is_spent || (is_alone && (!vm.entered.is_empty() || has_others)) {
            return false;
        }
        let mut idle = vm.containers.values().filter(|c| c.busy.is_none());
        if idle.any(|container| container.facts.function == facts.function) {
            return true;
        }
        let (count, memory) = self.taken(id, vm);
        let has_package = vm.loads.values().any(|load| load.package == facts.package);
        let is_inline = facts.package_bytes <= u64::try_from(INLINE_BYTES_MAX).unwrap();
        let start = vm.window_end.next_multiple_of(4096);
        let window = self.limits.window_start + self.limits.window_bytes;
        let end = start + facts.package_bytes.next_multiple_of(4096);
        // A guest that has seen nothing of the window since its reset does not mind a new one.
        let kept = vm.window_kept(self.limits.window_start).next_multiple_of(4096);
        let fits_anew = kept + facts.package_bytes.next_multiple_of(4096) <= window;
        let has_place = is_inline || end <= window || (vm.seen.is_empty() && fits_anew);
        let is_spare = |(id, load): (&LoadId, &Load)| {
            let mut containers = vm.containers.values();
            load.is_there && containers.all(|c| c.load != *id || c.busy.is_none())
        };
        let has_entry = u32::try_from(vm.loads.len()).unwrap() < self.limits.packages_per_vm
            || vm.loads.iter().any(is_spare);
        count < self.limits.containers_per_vm
            && memory + facts.memory_mib <= self.limits.memory_mib_max
            && (has_package || (has_entry && has_place))
    }

    /// The pool asks to be woken in time for everything it owes.
    pub(super) fn check_alarm(&self, pool: &Pool, now: Nanos, is_tick: bool) {
        let wake = pool.next_wake().unwrap_or(Nanos::MAX);
        assert!(!is_tick || wake > now, "a tick leaves nothing due");
        let limits = &self.limits;
        for (id, open) in &self.invokes {
            let deadline = open.arrival.deadline_nanos;
            let limit = match (open.sent, open.cancelled) {
                (None, _) if self.waiting.contains(id) => {
                    deadline.min(open.arrived.saturating_add(limits.queue_wait_nanos))
                }
                (None, _) => deadline,
                (Some(_), None) => deadline.saturating_add(limits.deadline_grace_nanos),
                (Some(_), Some(since)) => since.max(deadline) + limits.deadline_grace_nanos,
            };
            assert!(wake <= limit, "{id} would be answered too late");
        }
        for (id, vm) in &self.vms {
            let limit = match vm.state {
                State::Starting => vm.since + limits.spawn_timeout_nanos,
                State::Resetting(_) | State::Waking(_) => vm.since + limits.reset_timeout_nanos,
                State::Leaving => Nanos::MAX,
                State::Active(_) | State::Warm => Nanos::MAX,
            };
            assert!(wake <= limit, "{id} would be given up too late");
            assert!(vm.state != State::Leaving || wake != Nanos::MAX, "{id} is forgotten");
        }
    }
}
