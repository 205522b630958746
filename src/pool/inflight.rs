//! Invokes that have no answer yet: those in a VM and those that wait for one.
//!
//! Invariants: an invoke is in at most one of the two; the queue and the table have fixed room;
//! each invoke leaves exactly once, and whoever takes it out answers it.

use std::collections::{HashMap, VecDeque};

use crate::config::PoolLimits;
use crate::credential::ActiveKey;
use crate::invoke::{BusyReason, ContainerId, InvokeId, Nanos, User, VmId};

use super::Hashing;
use super::alarm::Alarm;
use super::event::Arrival;

/// Invokes without an answer.
#[derive(Debug)]
pub(super) struct Inflight {
    running: Vec<Option<Running>>,
    free: Vec<usize>,
    places: HashMap<InvokeId, usize, Hashing>,
    waiting: VecDeque<Waiting>,
    running_alarm: Alarm,
    waiting_alarm: Alarm,
}

/// An invoke in a VM.
#[derive(Clone, Copy, Debug)]
pub(super) struct Running {
    pub(super) arrival: Arrival,
    pub(super) vm: VmId,
    pub(super) container: ContainerId,
    /// Whether it was sent; before that its package is on the way.
    pub(super) is_sent: bool,
    pub(super) is_cancelled: bool,
    /// When the node stops waiting for the guest.
    pub(super) limit_nanos: Nanos,
}

/// An invoke without a VM.
#[derive(Clone, Copy, Debug)]
pub(super) struct Waiting {
    pub(super) arrival: Arrival,
    /// When it gives up.
    pub(super) until_nanos: Nanos,
    /// Whether a warm VM would help.
    pub(super) wants_vm: bool,
}

impl Inflight {
    pub(super) fn new(limits: &PoolLimits) -> Self {
        let count = |count: u32| usize::try_from(count).unwrap_or(0);
        let running = count(limits.inflight_max);
        Self {
            running: vec![None; running],
            free: (0..running).rev().collect(),
            // Twice the room: a table more than half full would grow instead of tidying up.
            places: HashMap::with_capacity_and_hasher(2 * running, Hashing::default()),
            waiting: VecDeque::with_capacity(count(limits.queue_max)),
            running_alarm: Alarm::never(),
            waiting_alarm: Alarm::never(),
        }
    }

    pub(super) fn running_count(&self) -> u32 {
        u32::try_from(self.places.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn waiting_count(&self) -> u32 {
        u32::try_from(self.waiting.len()).unwrap_or(u32::MAX)
    }

    /// Waiting invokes that a warm VM would help.
    pub(super) fn wanting_vms(&self) -> u32 {
        let wanting = self.waiting.iter().filter(|waiting| waiting.wants_vm);
        u32::try_from(wanting.count()).unwrap_or(u32::MAX)
    }

    pub(super) fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    pub(super) fn next_wake(&self) -> Option<Nanos> {
        let next = [self.running_alarm.next(), self.waiting_alarm.next()];
        next.into_iter().flatten().min()
    }

    /// An invoke is in a VM now.
    pub(super) fn begin(&mut self, running: Running) {
        let Some(place) = self.free.pop() else {
            unreachable!("nothing begins while the table is full");
        };
        self.running_alarm.at_latest(running.limit_nanos);
        let before = self.places.insert(running.arrival.invoke, place);
        assert!(before.is_none(), "an invoke's number is used once");
        self.running[place] = Some(running);
    }

    pub(super) fn running(&self, invoke: InvokeId) -> Option<&Running> {
        self.running[*self.places.get(&invoke)?].as_ref()
    }

    /// It was sent to the guest: now the guest may be late too.
    pub(super) fn sent(&mut self, invoke: InvokeId, limit_nanos: Nanos) {
        if let Some(running) = self.running_mut(invoke) {
            running.is_sent = true;
            running.limit_nanos = limit_nanos;
            self.running_alarm.at_latest(limit_nanos);
        }
    }

    /// Its client withdrew it: the guest has until `limit_nanos` to end it. Whether that is news.
    pub(super) fn cancelled(&mut self, invoke: InvokeId, limit_nanos: Nanos) -> bool {
        let Some(running) = self.running_mut(invoke) else {
            return false;
        };
        running.limit_nanos = running.limit_nanos.min(limit_nanos);
        let is_news = !std::mem::replace(&mut running.is_cancelled, true);
        self.running_alarm.at_latest(limit_nanos);
        is_news
    }

    fn running_mut(&mut self, invoke: InvokeId) -> Option<&mut Running> {
        self.running[*self.places.get(&invoke)?].as_mut()
    }

    /// Takes an invoke out of its VM; the caller answers it.
    pub(super) fn finish(&mut self, invoke: InvokeId) -> Option<Running> {
        let place = self.places.remove(&invoke)?;
        self.free.push(place);
        self.running[place].take()
    }

    /// An invoke in a VM that the node no longer waits for. Asked again until there is none.
    pub(super) fn overdue(&mut self, now: Nanos) -> Option<Running> {
        if !self.running_alarm.take_due(now) {
            return None;
        }
        let mut overdue = None;
        for running in self.running.iter().flatten() {
            self.running_alarm.at_latest(running.limit_nanos);
            if running.limit_nanos <= now {
                overdue = overdue.or(Some(*running));
            }
        }
        overdue
    }

    /// Puts an invoke at the end of the queue.
    ///
    /// # Errors
    /// When the queue has no room, for anybody or for this user.
    pub(super) fn wait(&mut self, waiting: Waiting, limits: &PoolLimits) -> Result<(), BusyReason> {
        if self.waiting_count() >= limits.queue_max {
            return Err(BusyReason::QueueFull);
        }
        if self.waiting_of(&waiting.arrival.key.user) >= limits.queue_per_user_max {
            return Err(BusyReason::UserQueueFull);
        }
        self.waiting_alarm.at_latest(waiting.until_nanos);
        self.waiting.push_back(waiting);
        Ok(())
    }

    fn waiting_of(&self, user: &User) -> u32 {
        let of_user = self.waiting.iter().filter(|waiting| waiting.arrival.key.user == *user);
        u32::try_from(of_user.count()).unwrap_or(u32::MAX)
    }

    /// The first waiting invoke at `place` or behind it, of this key if one is given.
    pub(super) fn waiting_from(
        &self,
        place: usize,
        key: Option<&ActiveKey>,
    ) -> Option<(usize, Arrival)> {
        let mut rest = self.waiting.iter().enumerate().skip(place);
        let found = rest.find(|(_, waiting)| key.is_none_or(|key| waiting.arrival.key == *key));
        found.map(|(place, waiting)| (place, waiting.arrival))
    }

    pub(super) fn set_wants_vm(&mut self, place: usize, wants_vm: bool) {
        if let Some(waiting) = self.waiting.get_mut(place) {
            waiting.wants_vm = wants_vm;
        }
    }

    pub(super) fn take_waiting(&mut self, place: usize) -> Option<Waiting> {
        self.waiting.remove(place)
    }

    /// Takes a certain invoke out of the queue; the caller answers it.
    pub(super) fn withdraw(&mut self, invoke: InvokeId) -> Option<Waiting> {
        let mut waiting = self.waiting.iter();
        let place = waiting.position(|waiting| waiting.arrival.invoke == invoke)?;
        self.waiting.remove(place)
    }

    /// Takes an invoke whose wait is over out of the queue. Asked again until there is none.
    pub(super) fn expired(&mut self, now: Nanos) -> Option<Waiting> {
        if !self.waiting_alarm.take_due(now) {
            return None;
        }
        let mut expired = None;
        for (place, waiting) in self.waiting.iter().enumerate() {
            self.waiting_alarm.at_latest(waiting.until_nanos);
            if waiting.until_nanos <= now {
                expired = expired.or(Some(place));
            }
        }
        self.waiting.remove(expired?)
    }

    /// Every invoke in a VM, for simulations.
    pub(super) fn all_running(&self) -> impl Iterator<Item = &Running> {
        self.running.iter().flatten()
    }

    /// Every waiting invoke, for simulations.
    pub(super) fn all_waiting(&self) -> impl Iterator<Item = &Waiting> {
        self.waiting.iter()
    }
}
