//! Invokes that wait for a VM, in the order they came.
//!
//! Each waits in its user's line, for room in that user's VMs or for a VM; those that wait for a VM
//! form a line across users. A line knows how fast it moves: who would only wait for an answer that
//! there is no room is told so at once.
//!
//! Invariants: fixed room, for all and for each user; a line's counts agree with what is there;
//! what an answer in a VM costs here does not grow with what others have waiting.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::config::PoolLimits;
use crate::invoke::{BusyReason, InvokeId, Nanos, User};

use super::Hashing;
use super::alarm::Alarm;
use super::event::{Arrival, SnapshotRef};
use super::kinds::Kinds;
use super::pace::Pace;

/// An invoke without a VM.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub(super) arrival: Arrival,
    pub(super) since_nanos: Nanos,
    /// When it gives up.
    pub(super) until_nanos: Nanos,
    /// Whether a warm VM would help.
    pub(super) wants_vm: bool,
}

/// Those that wait for the same.
#[derive(Clone, Copy, Debug)]
struct Line {
    waiting: u32,
    pace: Pace,
}

impl Line {
    fn empty() -> Self {
        Self { waiting: 0, pace: Pace::default() }
    }

    fn join(&mut self) {
        if self.waiting == 0 {
            self.pace = Pace::default();
        }
        self.waiting += 1;
    }

    fn wait(&self, now: Nanos) -> Option<Nanos> {
        self.pace.wait_behind(self.waiting, now).filter(|_| self.waiting > 0)
    }
}

/// Those of one user.
#[derive(Clone, Copy, Debug)]
struct UserLine {
    line: Line,
    kinds: Kinds,
}

/// The queue.
#[derive(Debug)]
pub(super) struct Queue {
    waiting: VecDeque<Waiting>,
    /// Of each user who has some waiting. Users choose their names, but no more of them are in it
    /// than may wait, so names chosen to collide make it no slower than a list.
    of_users: HashMap<User, UserLine, Hashing>,
    for_vms: Line,
    alarm: Alarm,
}

impl Queue {
    pub(super) fn new(limits: &PoolLimits) -> Self {
        let room = usize::try_from(limits.queue_max).unwrap_or(0);
        Self {
            waiting: VecDeque::with_capacity(room),
            // Twice the room: a table more than half full would grow instead of tidying up.
            of_users: HashMap::with_capacity_and_hasher(2 * room, Hashing::default()),
            for_vms: Line::empty(),
            alarm: Alarm::never(),
        }
    }

    pub(super) fn count(&self) -> u32 {
        u32::try_from(self.waiting.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn count_of(&self, user: &User) -> u32 {
        self.of_users.get(user).map_or(0, |of_user| of_user.line.waiting)
    }

    /// Of how many kinds a user's are; `None`: too many to tell.
    pub(super) fn kinds_of(&self, user: &User) -> Option<usize> {
        self.of_users.get(user).map_or(Some(0), |of_user| of_user.kinds.count())
    }

    /// Those that a warm VM would help.
    pub(super) fn wanting_vms(&self) -> u32 {
        self.for_vms.waiting
    }

    /// Of which snapshots the functions are of those that a warm VM would help, in their order. Looks
    /// through the queue: for when a VM may start.
    pub(super) fn wanted(&self) -> impl Iterator<Item = SnapshotRef> {
        let wanting = self.waiting.iter().filter(|waiting| waiting.wants_vm);
        wanting.map(|waiting| waiting.arrival.facts.snapshot)
    }

    pub(super) fn next_wake(&self) -> Option<Nanos> {
        self.alarm.next()
    }

    /// Puts an invoke at the end.
    ///
    /// # Errors
    /// There is no room, for anybody or for this user, or it would not get a VM before it gives up.
    pub(super) fn join(
        &mut self,
        waiting: Waiting,
        limits: &PoolLimits,
        now: Nanos,
    ) -> Result<(), BusyReason> {
        let user = waiting.arrival.key.user;
        if self.count() >= limits.queue_max {
            return Err(BusyReason::QueueFull);
        }
        if self.count_of(&user) >= limits.queue_per_user_max {
            return Err(BusyReason::UserQueueFull);
        }
        let in_own = self.of_users.get(&user).and_then(|of_user| of_user.line.wait(now));
        let expected = in_own.or_else(|| self.for_vms.wait(now).filter(|_| waiting.wants_vm));
        if expected.is_some_and(|wait| now.saturating_add(wait) > waiting.until_nanos) {
            return Err(BusyReason::WouldWaitTooLong);
        }
        let new = || UserLine { line: Line::empty(), kinds: Kinds::default() };
        let of_user = self.of_users.entry(user).or_insert_with(new);
        of_user.line.join();
        of_user.kinds.add(&waiting.arrival);
        if waiting.wants_vm {
            self.for_vms.join();
        }
        self.alarm.at_latest(waiting.until_nanos);
        self.waiting.push_back(waiting);
        Ok(())
    }

    /// The first at `place` or behind it, of this user if one is given.
    pub(super) fn first_from(&self, place: usize, user: Option<&User>) -> Option<(usize, Waiting)> {
        let mut rest = self.waiting.range(place..).zip(place..);
        let (found, place) =
            rest.find(|(waiting, _)| user.is_none_or(|user| waiting.arrival.key.user == *user))?;
        Some((place, *found))
    }

    /// Whether one waits that is of the same key and function as this one.
    pub(super) fn has_like(&self, arrival: &Arrival) -> bool {
        let of_user = self.of_users.get(&arrival.key.user);
        of_user.is_some_and(|of_user| of_user.kinds.has(arrival))
    }

    /// Whether a warm VM would help the one at `place`, as is known now.
    pub(super) fn set_wants_vm(&mut self, place: usize, wants_vm: bool) {
        let Some(waiting) = self.waiting.get_mut(place) else { return };
        match (std::mem::replace(&mut waiting.wants_vm, wants_vm), wants_vm) {
            (false, true) => self.for_vms.join(),
            (true, false) => self.for_vms.waiting -= 1,
            (true, true) | (false, false) => {}
        }
    }

    /// Takes out one that got a VM.
    pub(super) fn take_served(&mut self, place: usize, now: Nanos) {
        let Some(waiting) = self.waiting.get(place) else { return };
        if waiting.wants_vm {
            self.for_vms.pace.moved(now);
        }
        if let Some(of_user) = self.of_users.get_mut(&waiting.arrival.key.user) {
            of_user.line.pace.moved(now);
        }
        self.take(place);
    }

    /// Takes one out; the caller answers it.
    pub(super) fn take(&mut self, place: usize) -> Option<Waiting> {
        let waiting = self.waiting.remove(place)?;
        if waiting.wants_vm {
            self.for_vms.waiting -= 1;
        }
        let user = &waiting.arrival.key.user;
        if let Some(of_user) = self.of_users.get_mut(user) {
            of_user.kinds.remove(&waiting.arrival);
            of_user.line.waiting -= 1;
            if of_user.line.waiting == 0 {
                self.of_users.remove(user);
            }
        }
        Some(waiting)
    }

    /// Takes a certain invoke out; the caller answers it.
    pub(super) fn withdraw(&mut self, invoke: InvokeId) -> Option<Waiting> {
        let mut waiting = self.waiting.iter();
        let place = waiting.position(|waiting| waiting.arrival.invoke == invoke)?;
        self.take(place)
    }

    /// Takes out one whose wait is over. Asked again until there is none.
    pub(super) fn expired(&mut self, now: Nanos) -> Option<Waiting> {
        if !self.alarm.take_due(now) {
            return None;
        }
        let mut expired = None;
        for (place, waiting) in self.waiting.iter().enumerate() {
            self.alarm.at_latest(waiting.until_nanos);
            if waiting.until_nanos <= now {
                expired = Some(place);
                break;
            }
        }
        self.take(expired?)
    }

    /// All of them, for simulations.
    pub(super) fn all(&self) -> impl Iterator<Item = &Waiting> {
        self.waiting.iter()
    }

    /// Breaks no rule: for simulations.
    pub(super) fn check(&self) {
        let wanting = self.waiting.iter().filter(|waiting| waiting.wants_vm).count();
        assert_eq!(u32::try_from(wanting), Ok(self.for_vms.waiting), "the line for VMs adds up");
        let in_lines: u32 = self.of_users.values().map(|of_user| of_user.line.waiting).sum();
        assert_eq!(in_lines, self.count(), "users' lines add up");
        for (user, UserLine { line, kinds }) in &self.of_users {
            let of_user = self.waiting.iter().filter(|waiting| waiting.arrival.key.user == *user);
            let of_user: Vec<_> = of_user.map(|waiting| &waiting.arrival).collect();
            assert_eq!(u32::try_from(of_user.len()), Ok(line.waiting), "a user's line adds up");
            assert!(line.waiting > 0, "a line nobody waits in");
            let distinct: HashSet<_> =
                of_user.iter().map(|it| (it.key, it.facts.function)).collect();
            assert!(kinds.count().is_none_or(|kinds| kinds == distinct.len()), "kinds add up");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::credential::ActiveKey;
    use crate::invoke::{Contract, Freshness};
    use crate::pool::{FunctionFacts, FunctionRef, PackageRef, SnapshotRef};

    const MILLI: Nanos = 1_000_000;
    /// How long each may wait.
    const PATIENCE: Nanos = 1_000 * MILLI;

    fn limits() -> PoolLimits {
        Config::default().pool_limits(1, 0)
    }

    /// An invoke of a user that comes now.
    fn waiting(number: u64, user: &str, now: Nanos) -> Waiting {
        let facts = FunctionFacts {
            function: FunctionRef(1),
            package: PackageRef(1),
            snapshot: SnapshotRef(1),
            package_bytes: 1,
            contract: Contract::Stream,
            freshness: Freshness::Reuse,
            memory_mib: 1,
        };
        let key = ActiveKey::from_parts(User::new(user).unwrap(), [0; 32]);
        let (invoke, deadline_nanos) = (InvokeId(number), now + PATIENCE);
        let arrival = Arrival { invoke, key, facts, deadline_nanos };
        Waiting { arrival, since_nanos: now, until_nanos: deadline_nanos, wants_vm: true }
    }

    #[test]
    fn who_would_only_wait_for_a_refusal_gets_it_at_once() {
        let (limits, mut now) = (limits(), 0);
        let mut queue = Queue::new(&limits);
        for number in 0..30 {
            queue.join(waiting(number, "ada", now), &limits, now).unwrap();
        }
        // One every 100 ms, so whoever has more than nine before them waits longer than a second.
        for _ in 0..20 {
            now += 100 * MILLI;
            queue.take_served(0, now);
        }
        queue.check();
        assert_eq!(queue.count(), 10);
        let late = queue.join(waiting(100, "ada", now), &limits, now);
        assert_eq!(late, Err(BusyReason::WouldWaitTooLong));
        queue.take_served(0, now);
        queue.join(waiting(101, "ada", now), &limits, now).unwrap();
    }

    #[test]
    fn new_users_wait_for_vms_in_one_line() {
        let (limits, mut now) = (limits(), 0);
        let mut queue = Queue::new(&limits);
        for number in 0..200 {
            let user = format!("user{number}");
            queue.join(waiting(number, &user, now), &limits, now).unwrap();
        }
        for _ in 0..20 {
            now += 10 * MILLI;
            queue.take_served(0, now);
        }
        let late = queue.join(waiting(200, "late", now), &limits, now);
        assert_eq!(late, Err(BusyReason::WouldWaitTooLong), "180 times 10 ms");
        let in_own = Waiting { wants_vm: false, ..waiting(201, "own", now) };
        queue.join(in_own, &limits, now).expect("what others wait for does not concern it");
        queue.check();
    }

    #[test]
    fn a_line_that_dissolved_says_nothing_of_the_next() {
        let (limits, mut now) = (limits(), 0);
        let mut queue = Queue::new(&limits);
        for number in 0..10 {
            queue.join(waiting(number, "ada", now), &limits, now).unwrap();
        }
        while queue.count() > 0 {
            now += 500 * MILLI;
            queue.take_served(0, now);
        }
        for number in 10..20 {
            queue.join(waiting(number, "ada", now), &limits, now).unwrap();
        }
        queue.check();
    }
}
