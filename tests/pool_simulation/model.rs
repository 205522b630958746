//! What must be true of a pool, told from outside: a slow and simple model that follows events and
//! effects and knows no rooms, tables or alarms.

#![expect(clippy::unwrap_used, reason = "a number that does not fit fails the test, as it should")]

use std::collections::{BTreeMap, BTreeSet};

use abi::frame::code::INLINE_BYTES_MAX;
use pilotlight::config::PoolLimits;
use pilotlight::credential::ActiveKey;
use pilotlight::invoke::{BusyReason, ContainerId, Contract, InvokeId, Nanos, Status, User, VmId};
use pilotlight::pool::{
    Answer, Arrival, Blame, Effect, Event, FunctionFacts, KeyState, LoadId, PackageRef, Place,
    Pool, RetireReason, Whereabouts,
};

/// The model of one pool.
pub(crate) struct Model {
    limits: PoolLimits,
    vms: BTreeMap<VmId, Vm>,
    invokes: BTreeMap<InvokeId, Invoke>,
    facts: BTreeMap<u32, FunctionFacts>,
    published: BTreeMap<u64, KeyState>,
    published_warm: u32,
    last_vm: u64,
    is_stopping: bool,
    /// Invokes whose package was on the way before this step, and to which VM.
    loading: BTreeMap<InvokeId, VmId>,
    waiting: BTreeSet<InvokeId>,
    /// How often each kind of answer was given.
    pub(crate) answers: BTreeMap<&'static str, u64>,
}

struct Vm {
    state: State,
    since: Nanos,
    containers: BTreeMap<ContainerId, Container>,
    loads: BTreeMap<LoadId, Load>,
    load_last: u64,
    window_end: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    Starting,
    Warm,
    Active(ActiveKey),
    Leaving,
}

struct Container {
    facts: FunctionFacts,
    load: LoadId,
    busy: Option<InvokeId>,
    invokes: u64,
}

struct Load {
    package: PackageRef,
    is_there: bool,
}

struct Invoke {
    arrival: Arrival,
    arrived: Nanos,
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
            published: BTreeMap::new(),
            published_warm: 0,
            last_vm: 0,
            is_stopping: false,
            loading: BTreeMap::new(),
            waiting: BTreeSet::new(),
            answers: BTreeMap::new(),
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

    /// Follows one step and checks it.
    pub(crate) fn step(&mut self, event: &Event, now: Nanos, effects: &[Effect], pool: &Pool) {
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
            self.check_nobody_waits_in_vain();
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
                if let Some(vm) = self.vms.get_mut(&vm).filter(|vm| vm.state == State::Starting) {
                    vm.state = State::Warm;
                }
            }
            Event::Loaded { vm, load } => {
                if let Some(load) = self.active_load(vm, load) {
                    load.is_there = true;
                }
            }
            Event::LoadFailed { vm, load } => {
                if self.active_load(vm, load).is_some_and(|load| !load.is_there) {
                    self.vms.get_mut(&vm).unwrap().loads.remove(&load);
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
            Event::Stop => self.is_stopping = true,
        }
        vec![]
    }

    fn active_load(&mut self, vm: VmId, load: LoadId) -> Option<&mut Load> {
        let vm = self.vms.get_mut(&vm)?;
        matches!(vm.state, State::Active(_)).then(|| vm.loads.get_mut(&load))?
    }

    fn hear_outcome(&mut self, vm: VmId, invoke: InvokeId) -> Vec<Effect> {
        let state = self.vms.get(&vm).map(|vm| vm.state);
        if !matches!(state, Some(State::Active(_))) {
            return vec![];
        }
        let sent = self.invokes.get(&invoke).and_then(|invoke| invoke.sent);
        match sent {
            Some((place, _)) if place == vm => {
                vec![Effect::Answer { invoke, answer: Answer::Outcome }]
            }
            _ => vec![Effect::Retire { vm, reason: RetireReason::Fault(Blame::Guest) }],
        }
    }

    /// Takes note of an effect and checks that it may be.
    fn follow(&mut self, effect: &Effect, event: &Event, now: Nanos) {
        match *effect {
            Effect::Spawn { vm } => self.follow_spawn(vm, now),
            Effect::Assign { vm, invoke, key } => self.follow_assign(vm, invoke, key),
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
                let new = Container { facts, load, busy: None, invokes: 0 };
                assert!(vm.containers.insert(container, new).is_none(), "there already");
                let memory: u32 = vm.containers.values().map(|c| c.facts.memory_mib).sum();
                assert!(memory <= limits.memory_mib_max, "memory promised twice");
                let count = u32::try_from(vm.containers.len()).unwrap();
                assert!(count <= limits.containers_per_vm, "too many containers");
            }
            Effect::Dispatch { vm, container, invoke } => {
                self.follow_dispatch(vm, container, invoke)
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
            Effect::Retire { vm, .. } => {
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

    fn follow_spawn(&mut self, vm: VmId, now: Nanos) {
        assert!(!self.is_stopping, "starts although stopping");
        assert!(vm.0 > self.last_vm, "a VM's number is used once");
        self.last_vm = vm.0;
        let window_end = self.limits.window_start;
        self.vms.insert(
            vm,
            Vm {
                state: State::Starting,
                since: now,
                containers: BTreeMap::new(),
                loads: BTreeMap::new(),
                load_last: 0,
                window_end,
            },
        );
        assert!(self.vms.len() <= usize::try_from(self.limits.vms_max).unwrap(), "no slot");
        let count = |state| self.vms.values().filter(|vm| vm.state == state).count();
        let starting = u32::try_from(count(State::Starting)).unwrap();
        assert!(starting <= self.limits.spawns_at_once_max, "too many starts at once");
        let warm = u32::try_from(count(State::Warm)).unwrap();
        assert!(starting + warm <= self.limits.warm_max, "more than warm_max");
    }

    fn follow_assign(&mut self, vm: VmId, invoke: InvokeId, key: ActiveKey) {
        let open = self.invokes.get(&invoke).expect("for an open invoke");
        assert_eq!(open.arrival.key, key, "for another key");
        let vm = self.vms.get_mut(&vm).expect("not gone");
        assert_eq!(vm.state, State::Warm, "a VM serves one user");
        vm.state = State::Active(key);
        let of_user = self.count_of(&key.user);
        assert!(of_user <= self.limits.vms_per_user_max, "beyond the user's limit");
    }

    fn count_of(&self, user: &User) -> u32 {
        let is_of_user = |vm: &&Vm| matches!(vm.state, State::Active(key) if key.user == *user);
        u32::try_from(self.vms.values().filter(is_of_user).count()).unwrap()
    }

    fn follow_load(&mut self, vm: VmId, package: PackageRef, load: LoadId, place: Place) {
        let limits = self.limits;
        let facts = self.facts.values().find(|facts| facts.package == package).expect("known");
        let bytes = facts.package_bytes;
        let is_inline = bytes <= u64::try_from(INLINE_BYTES_MAX).unwrap();
        let vm = self.active(vm);
        assert!(load.0 > vm.load_last, "a load's number is used once");
        vm.load_last = load.0;
        assert!(vm.loads.values().all(|other| other.package != package), "loaded twice");
        match place {
            Place::Inline => assert!(is_inline, "too large for the ring"),
            Place::Window { offset } => {
                assert!(!is_inline && offset.is_multiple_of(4096), "window");
                assert!(offset >= vm.window_end, "window given out twice");
                vm.window_end = offset + bytes;
                let end = limits.window_start + limits.window_bytes;
                assert!(vm.window_end <= end, "beyond the window");
            }
        }
        vm.loads.insert(load, Load { package, is_there: false });
        let count = u32::try_from(vm.loads.len()).unwrap();
        assert!(count <= limits.packages_per_vm, "too many packages");
    }

    fn follow_dispatch(&mut self, vm: VmId, container: ContainerId, invoke: InvokeId) {
        let open = self.invokes.get_mut(&invoke).expect("an open invoke");
        assert_eq!(open.sent, None, "sent twice");
        open.sent = Some((vm, container));
        let arrival = open.arrival;
        let vm = self.active(vm);
        assert_eq!(vm.state, State::Active(arrival.key), "into another key's VM");
        let container = vm.containers.get_mut(&container).expect("a container");
        assert_eq!(container.busy, None, "two invokes in one container");
        assert_eq!(container.facts, arrival.facts, "another function's container");
        container.busy = Some(invoke);
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
            Answer::Busy(BusyReason::WaitedTooLong) => ("waited", waited && open.sent.is_none()),
            Answer::Busy(BusyReason::VmsDoNotStart) => ("no start", waited && open.sent.is_none()),
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

    /// Every open invoke is where it should be, and none is overdue after the clock was looked at.
    fn check_invokes(&mut self, pool: &Pool, now: Nanos, is_tick: bool) {
        self.loading.clear();
        self.waiting.clear();
        for (id, open) in &self.invokes {
            let place = pool.whereabouts(*id);
            let deadline = open.arrival.deadline_nanos;
            let limit = match (place, open.sent) {
                (Some(Whereabouts::Waiting), None) => {
                    self.waiting.insert(*id);
                    deadline.min(open.arrived.saturating_add(self.limits.queue_wait_nanos))
                }
                (Some(Whereabouts::Loading { vm }), None) => {
                    self.loading.insert(*id, vm);
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
        for vm in self.vms.values().filter(|vm| matches!(vm.state, State::Active(_))) {
            for container in vm.containers.values().filter(|c| c.busy.is_none()) {
                assert!(container.invokes < u64::MAX - 1, "a process that ended badly stays");
            }
        }
    }

    fn check_counts(&self, pool: &Pool) {
        let census = pool.census();
        let count = |is: fn(&Vm) -> bool| {
            u32::try_from(self.vms.values().filter(|vm| is(vm)).count()).unwrap()
        };
        assert_eq!(census.starting, count(|vm| vm.state == State::Starting), "starting");
        assert_eq!(census.warm, count(|vm| vm.state == State::Warm), "warm");
        assert_eq!(census.leaving, count(|vm| vm.state == State::Leaving), "leaving");
        let active = count(|vm| matches!(vm.state, State::Active(_)));
        assert_eq!(census.assigned + census.invoking, active, "active");
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

    fn check_published(&self) {
        let mut expected: BTreeMap<u64, KeyState> = BTreeMap::new();
        for (id, vm) in &self.vms {
            let State::Active(key) = vm.state else {
                continue;
            };
            let (count, memory) = self.taken(*id, vm);
            let has_room =
                count < self.limits.containers_per_vm && memory < self.limits.memory_mib_max;
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
        let warm = self.vms.values().filter(|vm| vm.state == State::Warm).count();
        assert_eq!(usize::try_from(self.published_warm), Ok(warm), "warm VMs published");
    }

    fn check_nobody_waits_in_vain(&self) {
        let running = self.invokes.len() - self.waiting.len();
        if self.waiting.is_empty() || running >= usize::try_from(self.limits.inflight_max).unwrap()
        {
            return;
        }
        let has_warm = self.vms.values().any(|vm| vm.state == State::Warm);
        for id in &self.waiting {
            let arrival = &self.invokes[id].arrival;
            let user = &arrival.key.user;
            let user_has_room = self.count_of(user) < self.limits.vms_per_user_max
                || self.vms.iter().any(|(id, vm)| {
                    let is_of_user = matches!(vm.state, State::Active(key) if key.user == *user);
                    is_of_user && self.taken(*id, vm).0 == 0
                });
            assert!(!(has_warm && user_has_room), "{id} waits though a VM is warm");
            for (place, vm) in &self.vms {
                let is_its_own = vm.state == State::Active(arrival.key);
                assert!(
                    !is_its_own || !self.fits(*place, vm, &arrival.facts),
                    "{id} waits in vain"
                );
            }
        }
    }

    fn fits(&self, id: VmId, vm: &Vm, facts: &FunctionFacts) -> bool {
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
        let is_spare = |(id, load): (&LoadId, &Load)| {
            let mut containers = vm.containers.values();
            load.is_there && containers.all(|c| c.load != *id || c.busy.is_none())
        };
        let has_entry = u32::try_from(vm.loads.len()).unwrap() < self.limits.packages_per_vm
            || vm.loads.iter().any(is_spare);
        count < self.limits.containers_per_vm
            && memory + facts.memory_mib <= self.limits.memory_mib_max
            && (has_package || (has_entry && (is_inline || end <= window)))
    }

    /// The pool asks to be woken in time for everything it owes.
    fn check_alarm(&self, pool: &Pool, now: Nanos, is_tick: bool) {
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
                State::Leaving => Nanos::MAX,
                State::Active(_) | State::Warm => Nanos::MAX,
            };
            assert!(wake <= limit, "{id} would be given up too late");
            assert!(vm.state != State::Leaving || wake != Nanos::MAX, "{id} is forgotten");
        }
    }
}
