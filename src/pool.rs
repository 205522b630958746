//! One shard's pools: a pure state machine, `(event, now) -> effects`.
//!
//! ```text
//!            ┌ warming ──────────┐ assign ┌ active ─────────────────┐ retire ┌ leaving ┐
//!  spawn ──► │ Starting ─► Warm  │ ─────► │ Assigned ◄─► Invoking   │ ─────► │ Leaving │ ──► gone
//!            └───────────────────┘        │ Clean ► Alone ► Resetting│        └─────────┘
//!                                         └─▲──────────────────┘────┘
//!  invoke ─► inflight: waiting ─► running (package on the way ─► sent) ─► answer
//! ```
//! Above it: the shard, which collects events, performs effects and owns the only clock. Below it:
//! the types of `invoke` and the limits of `config`. It does no I/O, reads no clock, draws nothing
//! at random and allocates nothing for an invoke.
//!
//! Invariants, checked at every step of the simulation (`tests/pool_simulation.rs`):
//! * rooms add up: each VM is in one room, VMs and free slots are the slots;
//! * a VM serves one user and one key in its life;
//! * an invoke of freshness `vm` has its VM to itself: nothing ran in it since its restore or reset,
//!   nothing runs beside it, and nothing after it before the VM was reset;
//! * each invoke gets exactly one answer, and none waits while a room could take it, unless it is
//!   patient: a busy container of its function is likely to take it sooner than a new one;
//! * queues, containers, memory, packages and starts stay within their limits;
//! * events that come late, twice or never, or lie, break none of these.

pub mod event;
pub mod vm;
pub mod index;
mod active;
mod alarm;
mod crowd;
mod demand;
mod inflight;
mod interior;
mod kinds;
mod leaving;
mod lodger;
mod pace;
mod patience;
mod queue;
mod turnover;
mod view;
mod warming;

use std::hash::{BuildHasherDefault, DefaultHasher};

use crate::config::PoolLimits;
use crate::credential::ActiveKey;
use crate::invoke::{BusyReason, Freshness, InvokeId, Nanos, Status, User, VmId};

pub use event::{
    Answer, Arrival, Blame, Effect, Event, FunctionFacts, FunctionRef, KeyState, LoadId, Notice,
    PackageRef, Place, Pressure, ResetId, RetireReason, SnapshotRef,
};
pub use view::{Census, Sight, Whereabouts};

use active::Active;
use alarm::Alarm;
use crowd::Crowd;
use inflight::{Inflight, Running};
use interior::{Entry, Fit, LivesOn};
use leaving::Leaving;
use lodger::Left;
use patience::{Patience, Room};
use queue::Waiting;
use warming::Warming;

/// Keys are digests under the node's secret or numbers the node gave: nobody outside chooses
/// where they land, so the hash needs no secret of its own.
type Hashing = BuildHasherDefault<DefaultHasher>;

/// One shard's pools.
#[derive(Debug)]
pub struct Pool {
    limits: PoolLimits,
    warming: Warming,
    active: Active,
    leaving: Leaving,
    inflight: Inflight,
    /// When the guests that invokes are patient with are looked at again.
    look_alarm: Alarm,
    /// Whether this step may ask for looks.
    is_looking: bool,
    /// A VM whose guest rests though its programs are busy: one more may be made in this step.
    resting: Option<VmId>,
    next_vm: u64,
    vm_stride: u64,
    published_warm: u32,
    is_stopping: bool,
    serve: Serve,
    refused: Refused,
}

/// Which waiting invokes may have a room since this step.
#[derive(Clone, Copy, Debug)]
enum Serve {
    Nobody,
    User(User),
    Everybody,
}

/// Who found no room in this look through the queue, and beside whom: others that want the same do
/// not either, for nothing has become free meanwhile that is not looked at again. Only their
/// patience is their own.
type Refused = Vec<(ActiveKey, FunctionRef, (Crowd, Room), Refusal)>;

/// How many of them are remembered; further ones are tried one by one.
const REFUSED_MAX: usize = 16;

/// Why an invoke has no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    /// No VM of its key has room and no VM is warm for it.
    NoWarm,
    /// Its user has as many VMs as one may, and all are at work.
    UserLimit,
    /// As many invokes run as may.
    InflightFull,
    /// As many invokes of its user run as may.
    UserInflightFull,
    /// It waits for a busy container of its function, at most until then.
    Patience { until_nanos: Nanos },
}

impl Pool {
    /// Empty pools of shard `shard` out of `shards`. The first [`Event::Tick`] starts VMs.
    #[must_use]
    pub fn new(limits: PoolLimits, shard: u16, shards: u16) -> Self {
        Self {
            warming: Warming::new(&limits),
            active: Active::new(&limits),
            leaving: Leaving::new(&limits),
            inflight: Inflight::new(&limits),
            look_alarm: Alarm::never(),
            is_looking: false,
            resting: None,
            limits,
            next_vm: u64::from(shard) + 1,
            vm_stride: u64::from(shards.max(1)),
            published_warm: 0,
            is_stopping: false,
            serve: Serve::Nobody,
            refused: Vec::with_capacity(REFUSED_MAX),
        }
    }

    /// Takes an event and appends what is to be done.
    pub fn step(&mut self, event: Event, now: Nanos, effects: &mut Vec<Effect>) {
        match event {
            Event::Invoke(arrival) => self.arrive(arrival, now, effects),
            Event::Cancel { invoke } => self.cancel(invoke, now, effects),
            // What counts is the guest's own sign of life.
            Event::SpawnDone { .. } => {}
            Event::SpawnFailed { vm } => self.spawn_failed(vm, now, effects),
            Event::Ready { vm } => self.ready(vm, now, effects),
            Event::ResetDone { vm, reset, .. } => self.active.reset_done(vm, reset),
            Event::Loaded { vm, load } => self.loaded(vm, load, effects),
            Event::LoadFailed { vm, load } => self.load_failed(vm, load, now, effects),
            Event::OutcomeArrived { vm, invoke, status } => {
                self.outcome(vm, invoke, status, now, effects);
            }
            Event::VmFault { vm, blame } => {
                self.expel(vm, RetireReason::Fault(blame), blame, now, effects);
            }
            Event::VmGone { vm, blame } => self.gone(vm, blame, now, effects),
            Event::SnapshotMade { facts } => self.snapshot_made(facts, now),
            Event::SnapshotGone { snapshot } => self.warming.remove_function(snapshot),
            Event::Looked { vm, is_resting } => self.looked(vm, is_resting),
            Event::Pressure { level } => self.pressure(level, now, effects),
            Event::Tick => self.tick(now, effects),
            Event::Stop => self.stop(now, effects),
        }
        // Refilling may make a VM leave, and that may give its user's waiting invokes room; each
        // round takes an idle VM, so the rounds end.
        self.serve_waiting(now, effects);
        self.refill(now, effects);
        while !matches!(self.serve, Serve::Nobody) {
            self.serve_waiting(now, effects);
            self.refill(now, effects);
        }
        (self.is_looking, self.resting) = (false, None);
        self.publish(effects);
    }

    /// When [`Event::Tick`] is due; `None`: not before something else happens.
    #[must_use]
    pub fn next_wake(&self) -> Option<Nanos> {
        let rooms = [self.warming.next_wake(), self.active.next_wake()];
        let others = [self.leaving.next_wake(), self.inflight.next_wake(), self.look_alarm.next()];
        rooms.into_iter().chain(others).flatten().min()
    }

    /// Whether an invoke waits for this VM, which starts.
    #[must_use]
    pub fn is_awaited(&self, vm: VmId) -> bool {
        self.warming.is_awaited(vm)
    }

    fn occupied(&self) -> u32 {
        let warming = self.warming.warm_count() + self.warming.starting_count();
        warming + self.active.count() + self.leaving.count()
    }

    // ---- an invoke comes in

    fn arrive(&mut self, arrival: Arrival, now: Nanos, effects: &mut Vec<Effect>) {
        let invoke = arrival.invoke;
        let mut refuse = |answer| effects.push(Effect::Answer { invoke, answer });
        if self.is_stopping {
            return refuse(Answer::Stopping);
        }
        if !self.can_ever_fit(&arrival.facts) {
            return refuse(Answer::TooLarge);
        }
        if arrival.deadline_nanos <= now {
            return refuse(Answer::DeadlineInQueue);
        }
        let wait_end = now.saturating_add(self.limits.queue_wait_nanos);
        let mut waiting = Waiting {
            arrival,
            since_nanos: now,
            until_nanos: wait_end.min(arrival.deadline_nanos),
            wants_vm: false,
        };
        let Err(refusal) = self.place(&arrival, Patience::of(&waiting), now, effects) else {
            return;
        };
        waiting.wants_vm = refusal == Refusal::NoWarm;
        let joined = self.inflight.queue.join(waiting, &self.limits, now);
        // Who cannot wait at all is not patient, but does not overtake those that are.
        if joined.is_err()
            && matches!(refusal, Refusal::Patience { .. })
            && !self.inflight.queue.has_like(&arrival)
            && self.place(&arrival, Patience::None, now, effects).is_ok()
        {
            return;
        }
        match joined {
            Ok(()) => {
                self.is_looking = true;
                self.be_patient(&arrival, refusal, now, effects);
            }
            Err(reason) => effects.push(Effect::Answer { invoke, answer: Answer::Busy(reason) }),
        }
    }

    /// A function whose snapshot fits no VM is started from the base, or refused.
    fn snapshot_made(&mut self, facts: FunctionFacts, now: Nanos) {
        if self.can_ever_fit(&facts) {
            self.warming.add_function(facts, &self.limits, now);
        }
    }

    fn can_ever_fit(&self, facts: &FunctionFacts) -> bool {
        facts.memory_mib <= self.limits.memory_mib_max
            && facts.package_bytes <= self.limits.window_bytes
    }

    /// Gives an invoke a room: in a VM of its key, else in a warm VM.
    fn place(
        &mut self,
        arrival: &Arrival,
        patience: Patience,
        now: Nanos,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        if self.inflight.is_full() {
            return Err(Refusal::InflightFull);
        }
        if self.inflight.running_of(&arrival.key.user) >= self.limits.inflight_per_user_max {
            return Err(Refusal::UserInflightFull);
        }
        let chosen = self.active.choose(&arrival.key, &arrival.facts, self.resting);
        if chosen.is_none() && self.is_at_limit(&arrival.key.user) {
            return Err(Refusal::UserLimit);
        }
        let is_resident = chosen.is_some_and(|(fit, _)| fit == Fit::Resident);
        let mut has_rest = false;
        if !is_resident {
            let crowd = self.active.crowd(&arrival.key, &arrival.facts);
            let room = if chosen.is_some() { Room::OwnVm } else { Room::NewVm };
            has_rest = self.check_patience(arrival, (&crowd, room), patience, now)?;
        }
        match chosen {
            Some((_, vm)) => {
                if self.active.is_clean(vm) {
                    let (invoke, key) = (arrival.invoke, arrival.key);
                    effects.push(Effect::Reassign { vm, invoke, key });
                }
                self.enter(vm, arrival, now, effects);
            }
            None => self.place_in_warm(arrival, now, effects)?,
        }
        if has_rest {
            self.resting = None;
        }
        Ok(())
    }

    /// What holds back this user's invokes, if it is what they have at work themselves.
    #[must_use]
    pub fn held_back(&self, user: &User) -> Option<BusyReason> {
        if self.inflight.running_of(user) >= self.limits.inflight_per_user_max {
            return Some(BusyReason::UserAtWork { is_vms: false });
        }
        self.is_at_limit(user).then_some(BusyReason::UserAtWork { is_vms: true })
    }

    /// Whether a user has as many VMs as one may, and all are at work.
    fn is_at_limit(&self, user: &User) -> bool {
        self.active.count_of(user) >= self.limits.vms_per_user_max
            && self.active.oldest_idle(Some(user)).is_none()
    }

    fn place_in_warm(
        &mut self,
        arrival: &Arrival,
        now: Nanos,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        if self.active.count_of(&arrival.key.user) >= self.limits.vms_per_user_max {
            // An idle VM of the user that does not suit gives way to one that will.
            let idle = self.active.oldest_idle(Some(&arrival.key.user));
            let idle = idle.ok_or(Refusal::UserLimit)?;
            if !self.warming.has_for(arrival.facts.snapshot) {
                return Err(Refusal::NoWarm);
            }
            self.expel(idle, RetireReason::SlotNeeded, Blame::Nobody, now, effects);
        }
        let facts = &arrival.facts;
        let warm = self.warming.take_for(facts, &self.limits, now).ok_or(Refusal::NoWarm)?;
        // A new VM has room: others of its key may join, also those refused before it.
        self.may_serve(arrival.key.user);
        let vm = warm.id();
        effects.push(Effect::Assign { vm, invoke: arrival.invoke, key: arrival.key });
        self.active.add(warm.assign(arrival.key, now));
        self.enter(vm, arrival, now, effects);
        Ok(())
    }

    /// Puts an invoke into a VM that has room for it.
    fn enter(&mut self, vm: VmId, arrival: &Arrival, now: Nanos, effects: &mut Vec<Effect>) {
        let Some(interior) = self.active.interior_mut(vm) else {
            unreachable!("the VM was just chosen");
        };
        let load_timeout_nanos = self.limits.load_timeout_nanos;
        let (invoke, facts) = (arrival.invoke, &arrival.facts);
        let entry = Entry { vm, invoke, facts, now, load_timeout_nanos };
        let (container, is_sent) = interior.enter(&entry, effects);
        self.active.begin(vm, facts.freshness);
        let deadline = arrival.deadline_nanos;
        let mut limit_nanos = deadline.saturating_add(self.limits.deadline_grace_nanos);
        if !is_sent {
            self.active.expect_load(now.saturating_add(load_timeout_nanos));
            limit_nanos = deadline;
        }
        self.inflight.begin(Running {
            arrival: *arrival,
            vm,
            container,
            is_sent,
            is_cancelled: false,
            limit_nanos,
        });
    }

    fn serve_waiting(&mut self, now: Nanos, effects: &mut Vec<Effect>) {
        let user = match std::mem::replace(&mut self.serve, Serve::Nobody) {
            Serve::Nobody => return,
            Serve::User(user) => Some(user),
            Serve::Everybody => None,
        };
        let queue = &self.inflight.queue;
        let mut left = user.map_or(queue.count(), |user| queue.count_of(&user));
        let mut refused = std::mem::take(&mut self.refused);
        let mut place = 0;
        while left > 0
            && let Some((found, waiting)) = self.inflight.queue.first_from(place, user.as_ref())
        {
            left -= 1;
            place = found;
            match self.place_once(&waiting, &mut refused, now, effects) {
                Ok(()) => self.inflight.queue.take_served(place, now),
                Err(Refusal::InflightFull) => break,
                Err(refusal) => {
                    self.inflight.queue.set_wants_vm(place, refusal == Refusal::NoWarm);
                    self.be_patient(&waiting.arrival, refusal, now, effects);
                    place += 1;
                    // The rest wants what was refused. Whose patience ends is found by ticks.
                    let kinds = user.and_then(|user| self.inflight.queue.kinds_of(&user));
                    if !self.is_looking && kinds == Some(refused.len()) {
                        break;
                    }
                }
            }
        }
        refused.clear();
        self.refused = refused;
    }

    /// [`Pool::place`], unless the same was refused before.
    fn place_once(
        &mut self,
        waiting: &Waiting,
        refused: &mut Refused,
        now: Nanos,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Refusal> {
        let arrival = &waiting.arrival;
        let (key, function) = (arrival.key, arrival.facts.function);
        let mut before = refused.iter();
        let before = before.find(|before| (before.0, before.1) == (key, function)).copied();
        if let Some((_, _, (crowd, room), refusal)) = before {
            self.check_patience(arrival, (&crowd, room), Patience::of(waiting), now)?;
            if !matches!(refusal, Refusal::Patience { .. }) {
                return Err(refusal);
            }
        }
        let placed = self.place(arrival, Patience::of(waiting), now, effects);
        if let Err(refusal) = placed
            && before.is_none()
            && refused.len() < REFUSED_MAX
        {
            let crowd = self.active.crowd(&key, &arrival.facts);
            let chosen = self.active.choose(&key, &arrival.facts, None);
            let room = if chosen.is_some() { Room::OwnVm } else { Room::NewVm };
            refused.push((key, function, (crowd, room), refusal));
        }
        placed
    }

    fn may_serve(&mut self, user: User) {
        // A full table holds back everybody, so its first free place is anybody's.
        let others_wait = self.inflight.is_full();
        self.serve = match self.serve {
            Serve::Nobody if !others_wait => Serve::User(user),
            Serve::User(other) if other == user && !others_wait => Serve::User(user),
            Serve::Nobody | Serve::User(_) | Serve::Everybody => Serve::Everybody,
        };
    }

    // ---- an invoke goes out

    fn outcome(
        &mut self,
        vm: VmId,
        invoke: InvokeId,
        status: Status,
        now: Nanos,
        effects: &mut Vec<Effect>,
    ) {
        if self.active.get(vm).is_none() {
            return;
        }
        let is_its_own = self.place_of(invoke).is_some_and(|(place, _)| place == vm);
        if !is_its_own {
            effects.push(Effect::Report(Notice::StrangeOutcome { vm }));
            let reason = RetireReason::Fault(Blame::Guest);
            self.expel(vm, reason, Blame::Guest, now, effects);
            return;
        }
        let lives_on = if status == Status::Exited { LivesOn::Yes } else { LivesOn::No };
        effects.push(Effect::Answer { invoke, answer: Answer::Outcome });
        self.leave_container(invoke, lives_on, now, effects);
    }

    /// Takes an answered invoke out of its container and its VM, and sees what becomes of that.
    fn leave_container(
        &mut self,
        invoke: InvokeId,
        lives_on: LivesOn,
        now: Nanos,
        effects: &mut Vec<Effect>,
    ) {
        let snapshot = self.inflight.running(invoke).map(|it| it.arrival.facts.snapshot);
        let Some((vm, left)) = self.take_out(invoke, lives_on, now, effects) else {
            return;
        };
        match left {
            Left::Busy => {}
            Left::Idle | Left::Spent(_) if self.is_stopping => {
                self.expel(vm, RetireReason::Stopping, Blame::Nobody, now, effects);
            }
            // Its user may be served, as `take_out` has seen to: here, or by a VM for another key
            // that it gives way to.
            Left::Idle => {}
            // Behind a reset the next request would load its program again; in the warm one it is there.
            Left::Spent(_) if snapshot.is_some_and(|it| self.is_superseded(vm, it)) => {
                self.expel(vm, RetireReason::Superseded, Blame::Nobody, now, effects);
            }
            Left::Spent(reset) => effects.push(Effect::Reset { vm, reset }),
        }
    }

    /// Whether a VM of the base serves requests for which one that has their program in it is warm.
    fn is_superseded(&self, vm: VmId, snapshot: SnapshotRef) -> bool {
        let of_base = self.active.get(vm).is_some_and(|vm| vm.interior().prepared().is_none());
        of_base && self.warming.has_prepared(snapshot)
    }

    /// Takes an invoke out of its container and its VM.
    fn take_out(
        &mut self,
        invoke: InvokeId,
        lives_on: LivesOn,
        now: Nanos,
        effects: &mut Vec<Effect>,
    ) -> Option<(VmId, Left)> {
        if let Some(running) = self.inflight.running(invoke) {
            self.may_serve(running.arrival.key.user);
        }
        let running = self.inflight.finish(invoke)?;
        let vm = running.vm;
        // What is in a VM that is reset ends with that.
        let is_alone = running.arrival.facts.freshness == Freshness::Vm;
        if let Some(interior) = self.active.interior_mut(vm).filter(|_| !is_alone) {
            match running.is_sent {
                true => interior.finish(vm, running.container, lives_on, now, effects),
                false => interior.abandon(running.container),
            }
        }
        Some((vm, self.active.finish(vm, now)))
    }

    fn cancel(&mut self, invoke: InvokeId, now: Nanos, effects: &mut Vec<Effect>) {
        let answer = Effect::Answer { invoke, answer: Answer::Cancelled };
        if self.inflight.queue.withdraw(invoke).is_some() {
            effects.push(answer);
            return;
        }
        let Some(running) = self.inflight.running(invoke) else {
            return;
        };
        if !running.is_sent {
            effects.push(answer);
            self.leave_container(invoke, LivesOn::No, now, effects);
            return;
        }
        let vm = running.vm;
        let limit_nanos = now.saturating_add(self.limits.deadline_grace_nanos);
        if self.inflight.cancelled(invoke, limit_nanos) {
            effects.push(Effect::Interrupt { vm, invoke });
        }
    }

    // ---- packages

    fn loaded(&mut self, vm: VmId, load: LoadId, effects: &mut Vec<Effect>) {
        let grace = self.limits.deadline_grace_nanos;
        let Some(interior) = self.active.interior_mut(vm) else {
            return;
        };
        let inflight = &mut self.inflight;
        interior.loaded(vm, load, effects, |invoke| {
            let deadline = inflight.running(invoke).map(|running| running.arrival.deadline_nanos);
            inflight.sent(invoke, deadline.unwrap_or(0).saturating_add(grace));
        });
        self.package_settled(vm);
    }

    /// A package that came or failed may give way to another in its VM.
    fn package_settled(&mut self, vm: VmId) {
        if let Some(key) = self.key_of(vm) {
            self.may_serve(key.user);
        }
    }

    fn load_failed(&mut self, vm: VmId, load: LoadId, now: Nanos, effects: &mut Vec<Effect>) {
        let Some(interior) = self.active.interior_mut(vm) else {
            return;
        };
        if !interior.load_failed(load) {
            return;
        }
        self.package_settled(vm);
        while let Some(invoke) = self.active.get(vm).and_then(|vm| vm.interior().awaiting(load)) {
            effects.push(Effect::Answer { invoke, answer: Answer::NotLoaded });
            self.leave_container(invoke, LivesOn::No, now, effects);
        }
    }

    fn publish(&mut self, effects: &mut Vec<Effect>) {
        self.active.publish(effects);
        let count = self.warming.base_count();
        if std::mem::replace(&mut self.published_warm, count) != count {
            effects.push(Effect::PublishWarm { count });
        }
    }
}
