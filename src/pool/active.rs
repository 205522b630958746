//! The active pool: VMs that are somebody's, idle or at work.
//!
//! VMs of one key form a chain through the slots, so that the way of a warm invoke is one look-up
//! by key and a short walk, without allocation.

use std::cmp::Reverse;
use std::collections::HashMap;

use crate::config::PoolLimits;
use crate::credential::ActiveKey;
use crate::invoke::{Freshness, Nanos, User, VmId};

use super::Hashing;
use super::alarm::Alarm;
use super::crowd::Crowd;
use super::event::{Effect, FunctionFacts, KeyState, ResetId};
use super::interior::{Fit, Interior};
use super::lodger::{Left, Lodger};
use super::vm::{Clean, Finished, Vm};

/// VMs that are somebody's.
#[derive(Debug)]
pub(super) struct Active {
    slots: Vec<Slot>,
    free: Vec<usize>,
    by_vm: HashMap<VmId, usize, Hashing>,
    by_key: HashMap<ActiveKey, Chain, Hashing>,
    /// Keys whose published state may be wrong.
    dirty: Vec<ActiveKey>,
    idle_alarm: Alarm,
    load_alarm: Alarm,
    reset_alarm: Alarm,
    idle_expiry_nanos: Nanos,
    reset_timeout_nanos: Nanos,
}

#[derive(Debug, Default)]
struct Slot {
    lodger: Option<Lodger>,
    next: Option<usize>,
}

#[derive(Debug)]
struct Chain {
    head: usize,
    published: KeyState,
}

impl Active {
    pub(super) fn new(limits: &PoolLimits) -> Self {
        let slots = usize::try_from(limits.vms_max).unwrap_or(0);
        Self {
            slots: (0..slots).map(|_| Slot::default()).collect(),
            free: (0..slots).rev().collect(),
            // Twice the room: a table more than half full would grow instead of tidying up.
            by_vm: HashMap::with_capacity_and_hasher(2 * slots, Hashing::default()),
            by_key: HashMap::with_capacity_and_hasher(2 * slots, Hashing::default()),
            dirty: Vec::with_capacity(slots),
            idle_alarm: Alarm::never(),
            load_alarm: Alarm::never(),
            reset_alarm: Alarm::never(),
            idle_expiry_nanos: limits.idle_expiry_nanos,
            reset_timeout_nanos: limits.reset_timeout_nanos,
        }
    }

    pub(super) fn count(&self) -> u32 {
        u32::try_from(self.by_vm.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn next_wake(&self) -> Option<Nanos> {
        let next = [self.idle_alarm.next(), self.load_alarm.next(), self.reset_alarm.next()];
        next.into_iter().flatten().min()
    }

    pub(super) fn lodgers(&self) -> impl Iterator<Item = &Lodger> {
        self.slots.iter().filter_map(|slot| slot.lodger.as_ref())
    }

    fn chain(&self, key: &ActiveKey) -> impl Iterator<Item = (usize, &Lodger)> {
        let mut at = self.by_key.get(key).map(|chain| chain.head);
        std::iter::from_fn(move || {
            let place = at?;
            let slot = &self.slots[place];
            at = slot.next;
            Some((place, slot.lodger.as_ref()?))
        })
    }

    /// The VM of this key that suits an invoke best: one with a resident container, else the one
    /// that rests, else one with the package, else the one with the fewest invokes.
    pub(super) fn choose(
        &self,
        key: &ActiveKey,
        facts: &FunctionFacts,
        resting: Option<VmId>,
    ) -> Option<(Fit, VmId)> {
        let mut best: Option<(bool, Fit, Reverse<u32>, VmId)> = None;
        for (_, lodger) in self.chain(key) {
            let Some(fit) = lodger.fit(facts) else {
                continue;
            };
            if fit == Fit::Resident {
                return Some((fit, lodger.id()));
            }
            let rests = resting == Some(lodger.id());
            let candidate = (rests, fit, Reverse(lodger.running()), lodger.id());
            let rank = |it: (bool, Fit, Reverse<u32>, VmId)| (it.0, it.1, it.2);
            if best.is_none_or(|best| rank(candidate) > rank(best)) {
                best = Some(candidate);
            }
        }
        best.map(|(_, fit, _, vm)| (fit, vm))
    }

    /// The busy containers of a function in the VMs of this key.
    pub(super) fn crowd(&self, key: &ActiveKey, facts: &FunctionFacts) -> Crowd {
        let mut crowd = Crowd::default();
        for (_, lodger) in self.chain(key) {
            let containers = lodger.interior().containers().iter();
            let of_it = containers.filter(|it| it.facts.function == facts.function);
            of_it.filter(|it| it.invoke().is_some()).for_each(|it| crowd.see(it));
        }
        crowd
    }

    /// Asks to look at the guests at work for this key, those that are not being looked at.
    pub(super) fn look(&self, key: &ActiveKey, effects: &mut Vec<Effect>) {
        for (_, lodger) in self.chain(key).filter(|(_, lodger)| lodger.running() > 0) {
            let look = Effect::Look { vm: lodger.id() };
            if !effects.contains(&look) {
                effects.push(look);
            }
        }
    }

    /// VMs of a user.
    pub(super) fn count_of(&self, user: &User) -> u32 {
        let of_user = self.lodgers().filter(|lodger| lodger.key().user == *user);
        u32::try_from(of_user.count()).unwrap_or(u32::MAX)
    }

    /// The VM idle for longest, of this user if one is given.
    pub(super) fn oldest_idle(&self, user: Option<&User>) -> Option<VmId> {
        let of_user =
            self.lodgers().filter(|lodger| user.is_none_or(|user| lodger.key().user == *user));
        let idle = of_user.filter_map(|lodger| Some((lodger.idle_since()?, lodger.id())));
        idle.min().map(|(_, vm)| vm)
    }

    /// VMs in which something runs.
    pub(super) fn busy_count(&self) -> u32 {
        let busy = self.lodgers().filter(|lodger| lodger.running() > 0);
        u32::try_from(busy.count()).unwrap_or(u32::MAX)
    }

    /// VMs that are idle.
    pub(super) fn idle_count(&self) -> u32 {
        let idle = self.lodgers().filter(|lodger| lodger.idle_since().is_some());
        u32::try_from(idle.count()).unwrap_or(u32::MAX)
    }

    /// A VM moves in. The pool never has more VMs than there are slots.
    pub(super) fn add(&mut self, vm: Vm<Clean>) {
        let Some(place) = self.free.pop() else {
            unreachable!("there are as many slots as VMs");
        };
        let (id, key) = (vm.id(), vm.key());
        self.idle_alarm.at_latest(vm.idle_since_nanos().saturating_add(self.idle_expiry_nanos));
        let absent = Chain { head: place, published: KeyState::Absent };
        let next = match self.by_key.entry(key) {
            std::collections::hash_map::Entry::Occupied(mut chain) => {
                Some(std::mem::replace(&mut chain.get_mut().head, place))
            }
            std::collections::hash_map::Entry::Vacant(vacant) => {
                vacant.insert(absent);
                None
            }
        };
        self.slots[place] = Slot { lodger: Some(Lodger::Clean(vm)), next };
        self.by_vm.insert(id, place);
        self.touch(key);
    }

    /// A VM moves out.
    pub(super) fn remove(&mut self, vm: VmId) -> Option<Lodger> {
        let place = self.by_vm.remove(&vm)?;
        let Slot { lodger, next } = std::mem::take(&mut self.slots[place]);
        let lodger = lodger?;
        let key = lodger.key();
        self.free.push(place);
        self.unlink(&key, place, next);
        self.touch(key);
        Some(lodger)
    }

    fn unlink(&mut self, key: &ActiveKey, place: usize, next: Option<usize>) {
        let Some(chain) = self.by_key.get_mut(key) else {
            return;
        };
        if chain.head == place {
            match next {
                Some(next) => chain.head = next,
                None => {
                    self.by_key.remove(key);
                }
            }
            return;
        }
        let mut at = Some(chain.head);
        while let Some(before) = at {
            at = self.slots[before].next;
            if at == Some(place) {
                self.slots[before].next = next;
                return;
            }
        }
    }

    pub(super) fn get(&self, vm: VmId) -> Option<&Lodger> {
        self.slots[*self.by_vm.get(&vm)?].lodger.as_ref()
    }

    /// The containers and packages of a VM.
    pub(super) fn interior_mut(&mut self, vm: VmId) -> Option<&mut Interior> {
        let place = *self.by_vm.get(&vm)?;
        let key = self.slots[place].lodger.as_ref()?.key();
        self.touch(key);
        self.slots[place].lodger.as_mut().map(Lodger::interior_mut)
    }

    /// An invoke entered a VM, alone if that is its freshness.
    pub(super) fn begin(&mut self, vm: VmId, freshness: Freshness) {
        self.change(vm, |lodger| match lodger {
            Lodger::Clean(vm) if freshness == Freshness::Vm => Lodger::Alone(vm.begin_alone()),
            Lodger::Clean(vm) => Lodger::Busy(vm.begin()),
            Lodger::Idle(vm) => Lodger::Busy(vm.begin()),
            Lodger::Busy(vm) => Lodger::Busy(vm.begin()),
            Lodger::Alone(_) | Lodger::Resetting(_) | Lodger::Waking(_) => {
                unreachable!("fit() lets nobody in")
            }
        });
    }

    /// An invoke left a VM.
    pub(super) fn finish(&mut self, vm: VmId, now: Nanos) -> Left {
        let give_up_nanos = now.saturating_add(self.reset_timeout_nanos);
        let mut left = Left::Busy;
        self.change(vm, |lodger| match lodger {
            Lodger::Busy(vm) => match vm.finish(now) {
                Finished::Idle(vm) => {
                    left = Left::Idle;
                    Lodger::Idle(vm)
                }
                Finished::Busy(vm) => Lodger::Busy(vm),
            },
            Lodger::Alone(vm) => {
                let vm = vm.finish(give_up_nanos);
                left = Left::Spent(vm.reset());
                Lodger::Resetting(vm)
            }
            Lodger::Clean(_) | Lodger::Idle(_) | Lodger::Resetting(_) | Lodger::Waking(_) => {
                unreachable!("a VM without an invoke has none that could end")
            }
        });
        match left {
            Left::Busy => {}
            Left::Idle => self.idle_alarm.at_latest(now.saturating_add(self.idle_expiry_nanos)),
            Left::Spent(_) => {
                self.reset_alarm.at_latest(give_up_nanos);
                self.touch_vm(vm);
            }
        }
        left
    }

    /// A VM was put back to its snapshot. An answer to an earlier reset says nothing.
    pub(super) fn reset_done(&mut self, vm: VmId, reset: ResetId) {
        let is_it = matches!(self.get(vm), Some(Lodger::Resetting(vm)) if vm.reset() == reset);
        if !is_it {
            return;
        }
        self.change(vm, |lodger| {
            let Lodger::Resetting(vm) = lodger else { return lodger };
            Lodger::Waking(vm.done())
        });
    }

    /// The guest of a VM that was reset is awake. Whether there is such a VM.
    pub(super) fn woke(&mut self, vm: VmId, now: Nanos) -> bool {
        if !matches!(self.get(vm), Some(Lodger::Waking(_))) {
            return false;
        }
        self.change(vm, |lodger| {
            let Lodger::Waking(vm) = lodger else { return lodger };
            Lodger::Clean(vm.ready(now))
        });
        self.idle_alarm.at_latest(now.saturating_add(self.idle_expiry_nanos));
        self.touch_vm(vm);
        true
    }

    /// Whether a VM is clean.
    pub(super) fn is_clean(&self, vm: VmId) -> bool {
        matches!(self.get(vm), Some(Lodger::Clean(_)))
    }

    /// A VM in which a reset takes too long. Asked again until there is none.
    pub(super) fn reset_overdue(&mut self, now: Nanos) -> Option<VmId> {
        if !self.reset_alarm.take_due(now) {
            return None;
        }
        let mut overdue = None;
        for lodger in self.slots.iter().filter_map(|slot| slot.lodger.as_ref()) {
            let Some(give_up_nanos) = lodger.reset_give_up() else {
                continue;
            };
            self.reset_alarm.at_latest(give_up_nanos);
            if give_up_nanos <= now {
                overdue = overdue.or(Some(lodger.id()));
            }
        }
        overdue
    }

    /// A VM that is being reset.
    pub(super) fn any_resetting(&self) -> Option<VmId> {
        let mut resetting = self.lodgers().filter(|lodger| lodger.reset_give_up().is_some());
        resetting.next().map(Lodger::id)
    }

    fn change(&mut self, vm: VmId, change: impl FnOnce(Lodger) -> Lodger) {
        let Some(place) = self.by_vm.get(&vm).copied() else {
            return;
        };
        let lodger = self.slots[place].lodger.take();
        self.slots[place].lodger = lodger.map(change);
    }

    /// A load is on its way.
    pub(super) fn expect_load(&mut self, give_up_nanos: Nanos) {
        self.load_alarm.at_latest(give_up_nanos);
    }

    /// A VM in which a load takes too long. Asked again until there is none.
    pub(super) fn load_overdue(&mut self, now: Nanos) -> Option<VmId> {
        if !self.load_alarm.take_due(now) {
            return None;
        }
        let mut overdue = None;
        for place in 0..self.slots.len() {
            let Some(lodger) = &self.slots[place].lodger else {
                continue;
            };
            let Some(give_up_nanos) = lodger.interior().load_give_up_nanos() else {
                continue;
            };
            self.load_alarm.at_latest(give_up_nanos);
            if give_up_nanos <= now {
                overdue = overdue.or(Some(lodger.id()));
            }
        }
        overdue
    }

    /// A VM that was idle for too long. Asked again until there is none.
    pub(super) fn idle_expired(&mut self, now: Nanos) -> Option<VmId> {
        if !self.idle_alarm.take_due(now) {
            return None;
        }
        let mut expired = None;
        for place in 0..self.slots.len() {
            let Some(lodger) = &self.slots[place].lodger else {
                continue;
            };
            let Some(since) = lodger.idle_since() else {
                continue;
            };
            let expiry = since.saturating_add(self.idle_expiry_nanos);
            self.idle_alarm.at_latest(expiry);
            if expiry <= now {
                expired = expired.or(Some(lodger.id()));
            }
        }
        expired
    }

    fn touch_vm(&mut self, vm: VmId) {
        if let Some(key) = self.get(vm).map(Lodger::key) {
            self.touch(key);
        }
    }

    fn touch(&mut self, key: ActiveKey) {
        if !self.dirty.contains(&key) {
            self.dirty.push(key);
        }
    }

    /// What this shard has for a key.
    pub(super) fn state_of(&self, key: &ActiveKey) -> KeyState {
        let mut state = KeyState::Absent;
        for (_, lodger) in self.chain(key) {
            if lodger.has_room() {
                return KeyState::Room;
            }
            state = KeyState::Full;
        }
        state
    }

    /// Tells the other shards what changed for them.
    pub(super) fn publish(&mut self, effects: &mut Vec<Effect>) {
        while let Some(key) = self.dirty.pop() {
            let state = self.state_of(&key);
            let before = match self.by_key.get_mut(&key) {
                Some(chain) => Some(std::mem::replace(&mut chain.published, state)),
                None => None,
            };
            if before != Some(state) {
                effects.push(Effect::PublishKey { fingerprint: key.fingerprint(), state });
            }
        }
    }

    /// Breaks no rule: for simulations.
    pub(super) fn check(&self) {
        assert_eq!(self.by_vm.len() + self.free.len(), self.slots.len(), "slots add up");
        for lodger in self.lodgers() {
            assert!(self.chain(&lodger.key()).any(|(_, other)| other.id() == lodger.id()));
            let containers = lodger.interior().containers().iter();
            let taken = containers.filter(|container| container.invoke().is_some()).count();
            assert_eq!(u32::try_from(taken), Ok(lodger.running()), "containers and invokes agree");
            lodger.interior().check();
        }
    }
}
