//! The world around a pool: VMs that start, answer, fail and lie, clients that come and go. It
//! turns effects into later events, loses some, repeats some, and makes some up.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use pilotlight::config::PoolLimits;
use pilotlight::credential::ActiveKey;
use pilotlight::invoke::{Contract, Freshness, InvokeId, Nanos, Status, User, VmId};
use pilotlight::pool::{
    Arrival, Blame, Effect, Event, FunctionFacts, FunctionRef, LoadId, PackageRef, Pool, Pressure,
    ResetId, SnapshotRef,
};

use crate::model::Model;
use crate::random::Random;

const MILLI: Nanos = 1_000_000;

/// Chances out of a thousand that something goes wrong.
struct Chaos {
    lost: u64,
    repeated: u64,
    failed: u64,
    died: u64,
    lied: u64,
    cancelled: u64,
    snapshots: u64,
    pressure: u64,
}

/// A pool, its model, and everything that happens to them.
pub(crate) struct World {
    random: Random,
    chaos: Chaos,
    pub(crate) pool: Pool,
    pub(crate) model: Model,
    now: Nanos,
    /// What will happen, in order of time; the number tells equal times apart.
    coming: BinaryHeap<Reverse<(Nanos, u64)>>,
    events: BTreeMap<u64, Event>,
    sequence: u64,
    next_invoke: u64,
    keys: Vec<ActiveKey>,
    functions: Vec<FunctionFacts>,
    pause_nanos: Nanos,
    effects: Vec<Effect>,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let limits = draw_limits(&mut random);
        let calm = random.chance(300);
        let mut chance = |most| if calm { 0 } else { random.between(0, most) };
        let chaos = Chaos {
            lost: chance(30),
            repeated: chance(30),
            failed: chance(200),
            died: chance(10),
            lied: chance(10),
            cancelled: chance(100),
            snapshots: random.between(0, 60),
            pressure: random.between(0, 20),
        };
        let functions = draw_functions(&mut random);
        let users = random.small(1, 4);
        let keys = (0..users * 2).map(|number| draw_key(number, users)).collect();
        let pause_nanos = random.between(1, 20) * MILLI / 2;
        Self {
            pool: Pool::new(limits, 0, 1),
            model: Model::new(limits),
            random,
            chaos,
            now: 0,
            coming: BinaryHeap::new(),
            events: BTreeMap::new(),
            sequence: 0,
            next_invoke: 1,
            keys,
            functions,
            pause_nanos,
            effects: Vec::new(),
        }
    }

    /// Lives through so many events, then stops the pool and waits until nothing is left.
    pub(crate) fn live(&mut self, count: u64) {
        self.step(Event::Tick);
        for _ in 0..count {
            self.invent();
            let event = self.next_event();
            self.step(event);
        }
        self.chaos.lied = 0;
        self.step(Event::Stop);
        let mut patience = 0;
        while !self.pool.is_stopped() {
            patience += 1;
            assert!(patience < 100_000, "stops at last: {:?}", self.pool.census());
            let event = self.next_event();
            self.step(event);
        }
        assert!(self.model.open().is_empty(), "every invoke was answered");
        assert!(self.model.vms().is_empty(), "every VM is gone");
    }

    fn step(&mut self, event: Event) {
        self.effects.clear();
        self.pool.step(event, self.now, &mut self.effects);
        self.model.step(&event, self.now, &self.effects, &self.pool);
        let effects = std::mem::take(&mut self.effects);
        for effect in &effects {
            self.react(effect);
        }
        self.effects = effects;
    }

    /// Whatever comes first: an event on its way, or the pool's alarm, perhaps late.
    fn next_event(&mut self) -> Event {
        let wake = self.pool.next_wake();
        let coming = self.coming.peek().map(|Reverse((at, _))| *at);
        let late = if self.random.chance(50) { self.random.between(0, 50) * MILLI } else { 0 };
        let wake = wake.map(|wake| wake.saturating_add(late));
        if let Some(wake) = wake.filter(|wake| coming.is_none_or(|coming| *wake <= coming)) {
            self.now = self.now.max(wake);
            return Event::Tick;
        }
        let Some(Reverse((at, number))) = self.coming.pop() else {
            self.now += MILLI;
            return Event::Tick;
        };
        self.now = self.now.max(at);
        self.events.remove(&number).expect("each number has its event")
    }

    fn schedule(&mut self, event: Event, least: Nanos, most: Nanos) {
        if self.random.chance(self.chaos.lost) {
            return;
        }
        let times = if self.random.chance(self.chaos.repeated) { 2 } else { 1 };
        for _ in 0..times {
            let at = self.now + self.random.between(least, most);
            self.sequence += 1;
            self.events.insert(self.sequence, event);
            self.coming.push(Reverse((at, self.sequence)));
        }
    }

    /// How the world answers an effect.
    fn react(&mut self, effect: &Effect) {
        match *effect {
            Effect::Spawn { vm, .. } => {
                self.schedule(Event::SpawnDone { vm }, MILLI, 5 * MILLI);
                if self.random.chance(self.chaos.failed) {
                    self.schedule(Event::SpawnFailed { vm }, MILLI, 20 * MILLI);
                } else {
                    self.schedule(Event::Ready { vm }, MILLI, 20 * MILLI);
                }
            }
            Effect::Reset { vm, reset } => {
                if self.random.chance(self.chaos.failed / 4) {
                    let blame = Blame::Host;
                    self.schedule(Event::VmFault { vm, blame }, 0, 5 * MILLI);
                } else {
                    let dirty_pages = self.random.small(0, 100);
                    let done = Event::ResetDone { vm, reset, dirty_pages };
                    self.schedule(done, 0, 2 * MILLI);
                    // So late that another reset may be under way.
                    if self.random.chance(5 * self.chaos.repeated) {
                        self.schedule(done, 0, 60 * MILLI);
                    }
                    // Mostly behind it.
                    self.schedule(Event::Ready { vm }, 19 * MILLI / 10, 8 * MILLI);
                }
            }
            Effect::Load { vm, load, .. } => {
                let has_failed = self.random.chance(self.chaos.failed);
                let event = if has_failed {
                    Event::LoadFailed { vm, load }
                } else {
                    Event::Loaded { vm, load }
                };
                self.schedule(event, 0, 10 * MILLI);
            }
            Effect::Dispatch { vm, invoke, .. } => {
                let bad = [Status::Signalled, Status::DeadlineExceeded, Status::NoRoom];
                let has_failed = self.random.chance(self.chaos.failed);
                let status = self.random.pick(&bad).filter(|_| has_failed);
                let status = status.unwrap_or(Status::Exited);
                self.schedule(Event::OutcomeArrived { vm, invoke, status }, 0, 30 * MILLI);
            }
            Effect::Look { vm } => {
                let is_resting = self.random.chance(300);
                self.schedule(Event::Looked { vm, is_resting }, 0, MILLI / 2);
            }
            Effect::Interrupt { vm, invoke } => {
                let status = Status::Cancelled;
                // The outcome may be on its way already; a real guest sends only one.
                let is_coming = self.events.values().any(
                    |event| matches!(event, Event::OutcomeArrived { invoke: of, .. } if *of == invoke),
                );
                if !is_coming {
                    self.schedule(Event::OutcomeArrived { vm, invoke, status }, 0, 5 * MILLI);
                }
            }
            Effect::Retire { vm, .. } => {
                self.schedule(Event::VmGone { vm, blame: Blame::Nobody }, 0, 20 * MILLI);
            }
            Effect::Assign { .. }
            | Effect::Reassign { .. }
            | Effect::Forget { .. }
            | Effect::Acquire { .. }
            | Effect::Release { .. }
            | Effect::Answer { .. }
            | Effect::PublishKey { .. }
            | Effect::PublishWarm { .. }
            | Effect::Hasten { .. }
            | Effect::Report(_) => {}
        }
    }

    /// What happens of its own: clients, deaths, lies.
    fn invent(&mut self) {
        if self.random.chance(350) {
            let arrival = self.draw_arrival();
            let pause = self.pause_nanos;
            // The world loses no invoke: its number is given when it comes in.
            let (lost, repeated) = (self.chaos.lost, self.chaos.repeated);
            (self.chaos.lost, self.chaos.repeated) = (0, 0);
            self.schedule(Event::Invoke(arrival), 0, pause);
            (self.chaos.lost, self.chaos.repeated) = (lost, repeated);
            if self.random.chance(self.chaos.cancelled) {
                self.schedule(Event::Cancel { invoke: arrival.invoke }, 0, 60 * MILLI);
            }
        }
        if self.random.chance(self.chaos.snapshots) {
            let facts = self.random.pick(&self.functions).expect("there are functions");
            let event = match self.random.chance(850) {
                true => Event::SnapshotMade { facts },
                false => Event::SnapshotGone { snapshot: facts.snapshot },
            };
            self.schedule(event, 0, MILLI);
        }
        if self.random.chance(self.chaos.pressure) {
            let level = self.random.pick(&[Pressure::Calm, Pressure::Tight]);
            self.schedule(Event::Pressure { level: level.unwrap_or(Pressure::Calm) }, 0, MILLI);
        }
        let blames = [Blame::Nobody, Blame::Guest, Blame::Host];
        let blame = self.random.pick(&blames).unwrap_or(Blame::Host);
        let dying = self.random.chance(self.chaos.died).then(|| self.any_vm()).flatten();
        if let Some(vm) = dying {
            let event = match self.random.chance(500) {
                true => Event::VmGone { vm, blame },
                false => Event::VmFault { vm, blame },
            };
            self.schedule(event, 0, MILLI);
        }
        let liar = self.random.chance(self.chaos.lied).then(|| self.any_vm()).flatten();
        if let Some(lie) = liar.and_then(|vm| self.draw_lie(vm)) {
            self.schedule(lie, 0, MILLI);
        }
    }

    fn any_vm(&mut self) -> Option<VmId> {
        // Also VMs that are long gone, or never were.
        let old = VmId(self.random.between(1, 50));
        let vms = self.model.vms();
        if self.random.chance(100) { Some(old) } else { self.random.pick(&vms) }
    }

    fn draw_lie(&mut self, vm: VmId) -> Option<Event> {
        let reset = ResetId(self.random.small(0, 3));
        let open = self.model.open();
        let old = InvokeId(self.random.between(1, self.next_invoke));
        let invoke = self.random.pick(&open).filter(|_| self.random.chance(700)).unwrap_or(old);
        let load = LoadId(self.random.between(1, 4));
        self.random.pick(&[
            Event::OutcomeArrived { vm, invoke, status: Status::Exited },
            Event::Loaded { vm, load },
            Event::LoadFailed { vm, load },
            Event::Ready { vm },
            Event::ResetDone { vm, reset, dirty_pages: 0 },
            Event::SpawnFailed { vm },
            Event::Cancel { invoke },
        ])
    }

    fn draw_arrival(&mut self) -> Arrival {
        let invoke = InvokeId(self.next_invoke);
        self.next_invoke += 1;
        let key = self.random.pick(&self.keys).expect("there are keys");
        let facts = self.random.pick(&self.functions).expect("there are functions");
        let patience = match self.random.chance(100) {
            true => self.random.between(0, 30) * MILLI,
            false => self.random.between(50, 500) * MILLI,
        };
        // Seldom a deadline that has passed already.
        let deadline_nanos = self.now + patience;
        Arrival { invoke, key, facts, deadline_nanos }
    }
}

fn draw_limits(random: &mut Random) -> PoolLimits {
    let vms_max = random.small(1, 8);
    let warm_max = random.small(1, vms_max);
    let warm_target = random.small(0, warm_max).min(random.small(0, warm_max));
    PoolLimits {
        vms_max,
        warm_max,
        warm_target,
        warm_per_function_max: random.small(0, 3),
        demand_window_nanos: random.between(20, 400) * MILLI,
        warm_min: random.small(0, warm_target),
        containers_per_vm: random.small(1, 4),
        vms_per_user_max: random.small(1, 4),
        packages_per_vm: random.small(1, 3),
        patience_nanos: random.between(0, 20).saturating_sub(5) * MILLI,
        inflight_max: random.small(1, 24),
        inflight_per_user_max: random.small(1, 16),
        queue_max: random.small(0, 12),
        queue_per_user_max: random.small(1, 12),
        queue_wait_nanos: random.between(5, 200) * MILLI,
        idle_expiry_nanos: random.between(10, 400) * MILLI,
        spawns_at_once_max: random.small(1, 3),
        spawn_timeout_nanos: random.between(15, 60) * MILLI,
        refill_delay_nanos: random.between(0, 10) * MILLI,
        spawn_backoff_min_nanos: random.between(1, 20) * MILLI,
        spawn_backoff_max_nanos: random.between(20, 200) * MILLI,
        load_timeout_nanos: random.between(5, 60) * MILLI,
        reset_timeout_nanos: random.between(5, 60) * MILLI,
        deadline_grace_nanos: random.between(1, 20) * MILLI,
        retire_patience_nanos: random.between(10, 60) * MILLI,
        guest_cores: random.small(1, 3),
        memory_mib_max: random.small(64, 256),
        window_start: random.between(0, 3) * 4096,
        window_bytes: random.between(50, 400) * 4096,
    }
}

/// Some are twins: another user's, or under another name, and the same in all else.
fn draw_functions(random: &mut Random) -> Vec<FunctionFacts> {
    let mut functions: Vec<FunctionFacts> = Vec::new();
    for number in 0..random.small(1, 6) {
        let other = random.pick(&functions).filter(|_| random.chance(300));
        functions.push(match other {
            Some(twin) => FunctionFacts { function: FunctionRef(number), ..twin },
            None => draw_function(random, number),
        });
    }
    functions
}

fn draw_function(random: &mut Random, number: u32) -> FunctionFacts {
    let contract = if random.chance(500) { Contract::Stream } else { Contract::Program };
    let kinds = [Freshness::Reuse, Freshness::Fork, Freshness::Vm];
    let freshness = random.pick(&kinds).expect("one of three");
    // Packages follow from their number, so that functions may share one.
    let package = random.small(0, 4);
    let package_bytes = [3_000, 64 * 1024, 100_000, 300_001, 1_000_000][package as usize];
    FunctionFacts {
        function: FunctionRef(number),
        package: PackageRef(package),
        snapshot: SnapshotRef(number),
        package_bytes,
        contract,
        freshness,
        memory_mib: random.small(8, 100),
    }
}

/// Keys `n` and `n + users` belong to one user: two logging services.
fn draw_key(number: u32, users: u32) -> ActiveKey {
    let user = User::new(&format!("user-{}", number % users)).expect("a name");
    let mut digest = [0; 32];
    digest[..4].copy_from_slice(&(number + 1).to_le_bytes());
    ActiveKey::from_parts(user, digest)
}
