//! What must be true of a pool, told from outside: a slow and simple model that follows events and
//! effects and knows no rooms, tables or alarms.

#![expect(clippy::unwrap_used, reason = "a number that does not fit fails the test, as it should")]

#[path = "checks.rs"]
mod checks;
#[path = "machine.rs"]
mod machine;
#[path = "starts.rs"]
mod starts;

use std::collections::{BTreeMap, BTreeSet};

use abi::frame::code::INLINE_BYTES_MAX;
use machine::{Container, Load, State, Vm};
use pilotlight::config::PoolLimits;
use pilotlight::credential::ActiveKey;
use pilotlight::invoke::{
    BusyReason, ContainerId, Contract, Freshness, InvokeId, Nanos, Status, User, VmId,
};
use pilotlight::pool::{
    Answer, Arrival, Blame, Effect, Event, FunctionFacts, KeyState, LoadId, PackageRef, Place,
    Pool, Pressure, ResetId, RetireReason, SnapshotRef,
};

/// The model of one pool.
pub(crate) struct Model {
    limits: PoolLimits,
    vms: BTreeMap<VmId, Vm>,
    invokes: BTreeMap<InvokeId, Invoke>,
    facts: BTreeMap<u32, FunctionFacts>,
    /// Functions VMs can be restored with.
    /// Of what VMs may be restored, and one of the functions each is good for.
    snapshots: BTreeMap<SnapshotRef, FunctionFacts>,
    pressure: Pressure,
    published: BTreeMap<u64, KeyState>,
    published_warm: u32,
    last_vm: u64,
    is_stopping: bool,
    /// Invokes whose package was on the way before this step, and to which VM.
    loading: BTreeMap<InvokeId, VmId>,
    waiting: BTreeSet<InvokeId>,
    /// One of these goes into a VM in this step.
    unblocked: Vec<InvokeId>,
    /// One more container may be made in this step, for a guest rests.
    rest: Option<ActiveKey>,
    /// An invoke comes in this step: those that cannot wait are not patient.
    is_arriving: bool,
    /// How often each kind of answer was given.
    pub(crate) answers: BTreeMap<&'static str, u64>,
    /// How often what else is to be simulated came about.
    pub(crate) sights: BTreeMap<&'static str, u64>,
}

struct Invoke {
    arrival: Arrival,
    arrived: Nanos,
    /// When it went into a VM, sent or not.
    entered: Option<Nanos>,
    sent: Option<(VmId, ContainerId)>,
    cancelled: Option<Nanos>,
    is_interrupted: bool,
}

impl Model {
    pub(crate) fn new(limits: PoolLimits) -> Self {
        Self {
            limits,
            vms: BTreeMap::new(),
            invokes: BTreeMap::new(),
            facts: BTreeMap::new(),
            snapshots: BTreeMap::new(),
            pressure: Pressure::Calm,
            published: BTreeMap::new(),
            published_warm: 0,
            last_vm: 0,
            is_stopping: false,
            loading: BTreeMap::new(),
            waiting: BTreeSet::new(),
            unblocked: Vec::new(),
            rest: None,
            is_arriving: false,
            answers: BTreeMap::new(),
            sights: BTreeMap::new(),
        }
    }

    /// Invokes without an answer.
    pub(crate) fn open(&self) -> Vec<InvokeId> {
        self.invokes.keys().copied().collect()
    }

    /// VMs that are not gone.
    pub(crate) fn vms(&self) -> Vec<VmId> {
        self.vms.keys().copied().collect()
    }

    fn sight(&mut self, name: &'static str) {
        *self.sights.entry(name).or_default() += 1;
    }

    /// Follows one step and checks it.
    pub(crate) fn step(&mut self, event: &Event, now: Nanos, effects: &[Effect], pool: &Pool) {
        self.rest = None;
        self.is_arriving = matches!(event, Event::Invoke(_));
        let mut expected = self.hear(event, now);
        for effect in effects {
            self.follow(effect, event, now);
            expected.retain(|wanted| wanted != effect);
        }
        assert!(expected.is_empty(), "missing effects: {expected:?}");
        pool.check();
        self.check_invokes(pool, now, *event == Event::Tick);
        self.check_counts(pool);
        self.check_published();
        if !self.is_stopping {
            self.check_nobody_waits_in_vain(pool, now);
            self.check_unblocked();
        }
        self.check_alarm(pool, now, *event == Event::Tick);
    }

    /// Takes note of an event; gives effects it must have.
    fn hear(&mut self, event: &Event, now: Nanos) -> Vec<Effect> {
        match *event {
            Event::Invoke(arrival) => {
                self.facts.insert(arrival.facts.function.0, arrival.facts);
                let invoke = Invoke {
                    arrival,
                    arrived: now,
                    entered: None,
                    sent: None,
                    cancelled: None,
                    is_interrupted: false,
                };
                assert!(self.invokes.insert(arrival.invoke, invoke).is_none(), "the world's own");
            }
            Event::Cancel { invoke } => {
                if let Some(open) = self.invokes.get_mut(&invoke) {
                    open.cancelled.get_or_insert(now);
                    return match open.sent {
                        Some(_) if open.is_interrupted => vec![],
                        Some((vm, _)) => vec![Effect::Interrupt { vm, invoke }],
                        None => vec![Effect::Answer { invoke, answer: Answer::Cancelled }],
                    };
                }
            }
            Event::SpawnDone { .. } | Event::Tick => {}
            Event::SpawnFailed { vm } => {
                let state = self.vms.get(&vm).map(|vm| vm.state);
                if matches!(state, Some(State::Starting | State::Leaving)) {
                    self.vms.remove(&vm);
                }
            }
            Event::Ready { vm } => {
                if let Some(vm) = self.vms.get_mut(&vm) {
                    match vm.state {
                        State::Starting => vm.state = State::Warm,
                        State::Waking(key) => vm.state = State::Active(key),
                        State::Warm | State::Active(_) | State::Resetting(_) | State::Leaving => {}
                    }
                }
            }
            Event::ResetDone { vm, reset, .. } => {
                let named = self.vms.get_mut(&vm);
                if let Some(vm) = named
                    && let State::Resetting(key) = vm.state
                {
                    match vm.reset == reset {
                        true => vm.state = State::Waking(key),
                        false => self.sight("late reset"),
                    }
                }
            }
            Event::Loaded { vm, load } => {
                if let Some(load) = self.active_load(vm, load) {
                    load.is_there = true;
                }
            }
            Event::LoadFailed { vm, load } => {
                if self.active_load(vm, load).is_some_and(|load| !load.is_there) {
                    let vm = self.vms.get_mut(&vm).unwrap();
                    let package = vm.loads.remove(&load).unwrap().package;
                    vm.window.retain(|(other, ..)| *other != package);
                }
            }
            Event::OutcomeArrived { vm, invoke, .. } => return self.hear_outcome(vm, invoke),
            Event::VmFault { vm, blame } => {
                let reason = RetireReason::Fault(blame);
                let state = self.vms.get(&vm).map(|vm| vm.state);
                if state.is_some_and(|state| state != State::Leaving) {
                    return vec![Effect::Retire { vm, reason }];
                }
            }
            Event::VmGone { vm, .. } => {
                self.vms.remove(&vm);
            }
            Event::SnapshotMade { facts } => {
                self.facts.insert(facts.function.0, facts);
                self.snapshots.insert(facts.snapshot, facts);
            }
            Event::SnapshotGone { snapshot } => {
                self.snapshots.remove(&snapshot);
            }
            Event::Looked { vm, is_resting } => {
                self.unblocked = if is_resting { self.patient_with(vm) } else { Vec::new() };
                self.rest = self.vms.get(&vm).filter(|_| is_resting).and_then(|vm| vm.state.key());
            }
            Event::Pressure { level } => self.pressure = level,
            Event::Stop => self.is_stopping = true,
        }
        vec![]
    }

    fn active_load(&mut self, vm: VmId, load: LoadId) -> Option<&mut Load> {
        let vm = self.vms.get_mut(&vm)?;
        matches!(vm.state, State::Active(_)).then(|| vm.loads.get_mut(&load))?
    }

    fn hear_outcome(&mut self, vm: VmId, invoke: InvokeId) -> Vec<Effect> {
        let Some(spoken) = self.vms.get(&vm).filter(|vm| vm.state.key().is_some()) else {
            return vec![];
        };
        let reset = ResetId(spoken.reset.0 + 1);
        let is_spent = spoken.is_spent && !self.is_stopping;
        let sent = self.invokes.get(&invoke).and_then(|invoke| invoke.sent);
        match sent {
            Some((place, _)) if place == vm => {
                let answer = Effect::Answer { invoke, answer: Answer::Outcome };
                let snapshot = self.invokes[&invoke].arrival.facts.snapshot;
                let behind = match self.is_superseded(spoken, snapshot) {
                    true => Effect::Retire { vm, reason: RetireReason::Superseded },
                    false => Effect::Reset { vm, reset },
                };
                [answer].into_iter().chain(is_spent.then_some(behind)).collect()
            }
            _ => vec![Effect::Retire { vm, reason: RetireReason::Fault(Blame::Guest) }],
        }
    }

    /// Whether a VM is of the base while one that has the program in it is warm.
    fn is_superseded(&self, vm: &Vm, snapshot: SnapshotRef) -> bool {
        let is_warm = |other: &Vm| {
            let prepared = other.prepared.map(|facts| facts.snapshot);
            other.state == State::Warm && prepared == Some(snapshot)
        };
        vm.prepared.is_none() && self.vms.values().any(is_warm)
    }

    /// Takes note of an effect and checks that it may be.
    fn follow(&mut self, effect: &Effect, event: &Event, now: Nanos) {
        match *effect {
            Effect::Spawn { vm, snapshot, is_awaited } => {
                self.follow_spawn(vm, snapshot, is_awaited, now);
            }
            Effect::Hasten { vm } => self.follow_hasten(vm, event),
            Effect::Assign { vm, invoke, key } => self.follow_assign(vm, invoke, key),
            Effect::Reassign { vm, invoke, key } => {
                assert_eq!(self.invokes[&invoke].arrival.key, key, "for another key");
                let vm = self.active(vm);
                assert_eq!(vm.state, State::Active(key), "a VM serves one user");
                assert!(!vm.is_told && vm.reset > ResetId(0), "it knows already");
                vm.is_told = true;
                self.sight("reassigned");
            }
            Effect::Reset { vm, reset } => self.follow_reset(vm, reset, now),
            Effect::Load { vm, package, load, place } => {
                self.follow_load(vm, package, load, place);
            }
            Effect::Forget { vm, load } => {
                let vm = self.active(vm);
                assert!(vm.containers.values().all(|other| other.load != load), "in use");
                assert!(vm.loads.remove(&load).is_some_and(|load| load.is_there), "not there");
            }
            Effect::Acquire { vm, container, function, load } => {
                let facts = self.facts[&function.0];
                let limits = self.limits;
                let vm = self.active(vm);
                assert!(vm.loads.get(&load).is_some_and(|load| load.is_there), "not there");
                assert_eq!(vm.loads[&load].package, facts.package, "another package");
                let new = Container { facts, load, busy: None, invokes: 0, made: None };
                assert!(vm.containers.insert(container, new).is_none(), "there already");
                let memory: u32 = vm.containers.values().map(|c| c.facts.memory_mib).sum();
                assert!(memory <= limits.memory_mib_max, "memory promised twice");
                let count = u32::try_from(vm.containers.len()).unwrap();
                assert!(count <= limits.containers_per_vm, "too many containers");
            }
            Effect::Dispatch { vm, container, invoke } => {
                self.follow_dispatch(vm, container, invoke, now)
            }
            Effect::Look { vm } => {
                self.active(vm);
            }
            Effect::Interrupt { vm, invoke } => {
                let open = self.invokes.get_mut(&invoke).expect("open");
                assert!(open.cancelled.is_some() && !open.is_interrupted, "nobody asked");
                assert!(open.sent.is_some_and(|(place, _)| place == vm), "another VM");
                open.is_interrupted = true;
            }
            Effect::Release { vm, container } => {
                let released = self.active(vm).containers.remove(&container).expect("a container");
                assert_eq!(released.busy, None, "released under an invoke");
            }
            Effect::Retire { vm, reason } => {
                let is_told_again = self.vms[&vm].state == State::Leaving;
                if is_told_again {
                } else if reason == RetireReason::ResetTimeout {
                    self.sight("reset timeout");
                } else if reason == RetireReason::Surplus {
                    self.sight("surplus");
                } else if reason == RetireReason::Superseded {
                    self.sight("superseded");
                } else if reason == RetireReason::Pressure {
                    self.follow_relief(vm);
                }
                let vm = self.vms.get_mut(&vm).expect("not gone");
                if vm.state != State::Leaving {
                    vm.state = State::Leaving;
                    vm.since = now;
                }
            }
            Effect::Answer { invoke, answer } => self.follow_answer(invoke, answer, event, now),
            Effect::PublishKey { fingerprint, state } => {
                self.published.insert(fingerprint, state);
            }
            Effect::PublishWarm { count } => self.published_warm = count,
            Effect::Report(_) => {}
        }
    }

    fn active(&mut self, vm: VmId) -> &mut Vm {
        let vm = self.vms.get_mut(&vm).expect("not gone");
        assert!(matches!(vm.state, State::Active(_)), "not active");
        vm
    }

    /// A VM is put back: nothing runs in it, and its guest will know nothing.
    fn follow_reset(&mut self, vm: VmId, reset: ResetId, now: Nanos) {
        assert!(!self.is_stopping, "reset although stopping");
        let is_there = |open: &Invoke| open.sent.is_some_and(|(place, _)| place == vm);
        assert!(!self.invokes.values().any(is_there), "reset under an invoke");
        self.sight("reset");
        let window_start = self.limits.window_start;
        let vm = self.active(vm);
        let State::Active(key) = vm.state else { unreachable!() };
        assert!(vm.is_spent && vm.entered.len() == 1, "reset without need");
        assert_eq!(reset, ResetId(vm.reset.0 + 1), "resets are counted");
        (vm.state, vm.since, vm.reset) = (State::Resetting(key), now, reset);
        // What was on its way may never have been placed.
        let coming: Vec<_> =
            vm.loads.values().filter(|load| !load.is_there).map(|load| load.package).collect();
        vm.window.retain(|(package, ..)| !coming.contains(package));
        vm.begin(window_start);
    }

    /// For memory only those go in which nothing runs, and those of users after the warm ones.
    fn follow_relief(&mut self, vm: VmId) {
        assert_eq!(self.pressure, Pressure::Tight, "nobody is short of memory");
        let is_there = |open: &Invoke| open.sent.is_some_and(|(place, _)| place == vm);
        let is_loading = self.loading.values().any(|place| *place == vm);
        assert!(!self.invokes.values().any(is_there) && !is_loading, "under an invoke");
        let warm = self.vms.values().filter(|vm| vm.state == State::Warm);
        let (base, prepared): (Vec<_>, Vec<_>) = warm.partition(|vm| vm.prepared.is_none());
        let is_base_least = u32::try_from(base.len()).unwrap() <= self.limits.warm_min;
        let is_least = is_base_least && prepared.is_empty();
        let is_warm = self.vms[&vm].state == State::Warm;
        assert!(is_warm != is_least, "warm VMs beyond the least go first");
        self.sight(if is_warm { "relief by a warm VM" } else { "relief by an idle VM" });
    }

    /// An invoke goes into a VM, whether it can be sent yet or not.
    fn enter(&mut self, invoke: InvokeId, vm: VmId) {
        let is_alone = self.invokes[&invoke].arrival.facts.freshness == Freshness::Vm;
        let function = self.invokes[&invoke].arrival.facts.function;
        let vm = self.active(vm);
        if !vm.entered.insert(invoke) {
            return;
        }
        assert!(vm.is_told, "into a VM that does not know whose it is");
        assert!(!vm.is_spent, "behind or beside an invoke of freshness vm");
        assert!(!is_alone || vm.entered.len() == 1, "freshness vm behind or beside another");
        let mut others = vm.containers.values();
        let has_others = others.any(|container| container.facts.function != function);
        assert!(!is_alone || !has_others, "freshness vm beside another's container");
        vm.is_spent = is_alone;
    }

    fn follow_assign(&mut self, vm: VmId, invoke: InvokeId, key: ActiveKey) {
        let open = self.invokes.get(&invoke).expect("for an open invoke");
        assert_eq!(open.arrival.key, key, "for another key");
        let vm = self.vms.get_mut(&vm).expect("not gone");
        assert_eq!(vm.state, State::Warm, "a VM serves one user");
        let facts = open.arrival.facts;
        let is_its = vm.prepared.is_none_or(|prepared| prepared.snapshot == facts.snapshot);
        assert!(is_its, "into a VM with another function in it");
        let is_prepared = vm.prepared.is_some();
        let is_twins = vm.prepared.is_some_and(|prepared| prepared.function != facts.function);
        vm.adopt(facts);
        vm.state = State::Active(key);
        vm.is_told = true;
        if is_prepared {
            self.sight("assigned with its function in it");
        }
        if is_twins {
            self.sight("assigned with another's function in it that is the same");
        }
        let of_user = self.count_of(&key.user);
        assert!(of_user <= self.limits.vms_per_user_max, "beyond the user's limit");
    }

    fn count_of(&self, user: &User) -> u32 {
        let is_of_user = |vm: &&Vm| vm.state.key().is_some_and(|key| key.user == *user);
        u32::try_from(self.vms.values().filter(is_of_user).count()).unwrap()
    }

    fn follow_load(&mut self, vm: VmId, package: PackageRef, load: LoadId, place: Place) {
        let limits = self.limits;
        let facts = self.facts.values().find(|facts| facts.package == package).expect("known");
        let bytes = facts.package_bytes;
        let is_inline = bytes <= u64::try_from(INLINE_BYTES_MAX).unwrap();
        let mut sight = None;
        let vm = self.active(vm);
        assert!(load.0 > vm.load_last, "a load's number is used once");
        vm.load_last = load.0;
        assert!(vm.loads.values().all(|other| other.package != package), "loaded twice");
        match place {
            Place::Inline => assert!(is_inline, "too large for the ring"),
            Place::Window { offset } => {
                let end = offset + bytes;
                assert!(!is_inline && offset.is_multiple_of(4096), "window");
                let kept = vm.window_kept(limits.window_start);
                assert!(offset >= kept, "over the root image or the snapshot's package");
                assert!(end <= limits.window_start + limits.window_bytes, "beyond the window");
                let is_over = |(_, at, until): &(_, u64, u64)| *at < end && offset < *until;
                let mut seen = vm.seen.iter();
                let is_seen = seen.any(|(at, until)| *at < end && offset < *until);
                assert!(!is_seen, "its guest may look at what lies there");
                let count = vm.window.len();
                vm.window.retain(|lying| !is_over(lying));
                sight = (vm.window.len() < count).then_some("window begun anew");
                vm.window.push((package, offset, end));
                vm.seen.push((offset, end));
                vm.window_end = end;
            }
            Place::Placed { offset } => {
                let mut lying = vm.window.iter();
                let is_it = lying.any(|(other, at, _)| (*other, *at) == (package, offset));
                assert!(!is_inline && is_it, "it does not lie there");
                vm.seen.push((offset, offset + bytes));
                sight = Some("still placed");
            }
        }
        vm.loads.insert(load, Load { package, is_there: false });
        let count = u32::try_from(vm.loads.len()).unwrap();
        assert!(count <= limits.packages_per_vm, "too many packages");
        if let Some(name) = sight {
            self.sight(name);
        }
    }

    fn follow_dispatch(&mut self, vm: VmId, container: ContainerId, invoke: InvokeId, now: Nanos) {
        let open = self.invokes.get_mut(&invoke).expect("an open invoke");
        assert_eq!(open.sent, None, "sent twice");
        open.sent = Some((vm, container));
        let is_first = open.entered.is_none();
        open.entered.get_or_insert(now);
        let arrival = open.arrival;
        let entered = open.entered;
        let into = self.vms[&vm].containers.get(&container);
        if is_first && into.is_some_and(|into| into.made.is_none()) {
            self.check_patience_was_over(invoke, &[], now);
        }
        self.enter(invoke, vm);
        let vm = self.active(vm);
        assert_eq!(vm.state, State::Active(arrival.key), "into another key's VM");
        let container = vm.containers.get_mut(&container).expect("a container");
        assert_eq!(container.busy, None, "two invokes in one container");
        assert_eq!(container.facts, arrival.facts, "another function's container");
        container.busy = Some(invoke);
        container.made = container.made.or(entered);
        container.invokes += 1;
    }

    fn follow_answer(&mut self, invoke: InvokeId, answer: Answer, event: &Event, now: Nanos) {
        let open = self.invokes.remove(&invoke).expect("answered once, and only what came");
        let deadline = open.arrival.deadline_nanos;
        let (limits, facts) = (&self.limits, &open.arrival.facts);
        let waited = now >= open.arrived.saturating_add(limits.queue_wait_nanos);
        let was_loading = self.loading.get(&invoke).copied();
        let is_arriving = matches!(event, Event::Invoke(arrival) if arrival.invoke == invoke);
        let (name, may_be) = match answer {
            Answer::Outcome => {
                let says_so = matches!(*event, Event::OutcomeArrived { vm, invoke: of, .. }
                    if of == invoke && open.sent.is_some_and(|(place, _)| place == vm));
                ("outcome", says_so)
            }
            Answer::Busy(BusyReason::QueueFull) => {
                let waiting = u32::try_from(self.waiting.len()).unwrap();
                ("queue full", is_arriving && waiting >= limits.queue_max)
            }
            Answer::Busy(BusyReason::UserQueueFull) => {
                let of_user = self.waiting.iter().filter_map(|id| self.invokes.get(id));
                let of_user = of_user.filter(|o| o.arrival.key.user == open.arrival.key.user);
                let waiting = u32::try_from(of_user.count()).unwrap();
                ("user queue full", is_arriving && waiting >= limits.queue_per_user_max)
            }
            // Of whom nobody waits, nobody can say how long that takes.
            Answer::Busy(BusyReason::WouldWaitTooLong) => {
                ("hopeless", is_arriving && self.waiting.iter().any(|other| *other != invoke))
            }
            Answer::Busy(BusyReason::WaitedTooLong) => ("waited", waited && open.sent.is_none()),
            Answer::Busy(BusyReason::VmsDoNotStart) => ("no start", waited && open.sent.is_none()),
            Answer::Busy(_) => ("of which the pool knows nothing", false),
            Answer::DeadlineInQueue => ("deadline", now >= deadline && open.sent.is_none()),
            Answer::DeadlineInVm { vm } => {
                let is_late = now >= deadline.saturating_add(limits.deadline_grace_nanos);
                let is_there = open.sent.is_some_and(|(place, _)| place == vm);
                ("deadline in VM", is_late && is_there && open.cancelled.is_none())
            }
            Answer::Cancelled => ("cancelled", open.cancelled.is_some()),
            Answer::VmGone { vm, .. } => {
                let place = open.sent.map(|(vm, _)| vm).or(was_loading);
                ("VM gone", place == Some(vm))
            }
            Answer::NotLoaded => {
                let failed = matches!(*event, Event::LoadFailed { vm, .. }
                    if was_loading == Some(vm) && open.sent.is_none());
                ("not loaded", failed)
            }
            Answer::TooLarge => {
                let too_much = facts.memory_mib > limits.memory_mib_max;
                ("too large", too_much || facts.package_bytes > limits.window_bytes)
            }
            Answer::Stopping => ("stopping", self.is_stopping && open.sent.is_none()),
        };
        assert!(may_be, "{answer:?} for {invoke} at {now} after {event:?}");
        *self.answers.entry(name).or_default() += 1;
        self.empty_container(&open, event);
    }

    fn empty_container(&mut self, open: &Invoke, event: &Event) {
        let Some((vm, container)) = open.sent else {
            return;
        };
        let Some(vm) = self.vms.get_mut(&vm) else {
            return;
        };
        if let Some(container) = vm.containers.get_mut(&container) {
            assert_eq!(container.busy, Some(open.arrival.invoke), "its own container");
            container.busy = None;
            let is_clean = matches!(event, Event::OutcomeArrived { status: Status::Exited, .. });
            // A resident process that ended badly must not stay; one that is rewound may end as it
            // likes.
            if !is_clean && container.facts.contract == Contract::Stream {
                container.invokes = u64::MAX - 1;
            }
        }
    }
}
