//! Invokes that have no answer yet: those in a VM and those that wait for one ([`Queue`]).
//!
//! Invariants: an invoke is in at most one of the two; the queue and the table have fixed room;
//! each invoke leaves exactly once, and whoever takes it out answers it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use crate::config::PoolLimits;
use crate::invoke::{ContainerId, InvokeId, Nanos, User, VmId};

use super::Hashing;
use super::alarm::Alarm;
use super::event::Arrival;
use super::queue::Queue;

/// Invokes without an answer.
#[derive(Debug)]
pub(super) struct Inflight {
    running: Vec<Option<Running>>,
    free: Vec<usize>,
    places: HashMap<InvokeId, usize, Hashing>,
    /// How many run of each user that has any.
    of_user: HashMap<User, u32, Hashing>,
    pub(super) queue: Queue,
    alarm: Alarm,
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

impl Inflight {
    pub(super) fn new(limits: &PoolLimits) -> Self {
        let running = usize::try_from(limits.inflight_max).unwrap_or(0);
        Self {
            running: vec![None; running],
            free: (0..running).rev().collect(),
            // Twice the room: a table more than half full would grow instead of tidying up.
            places: HashMap::with_capacity_and_hasher(2 * running, Hashing::default()),
            of_user: HashMap::with_capacity_and_hasher(2 * running, Hashing::default()),
            queue: Queue::new(limits),
            alarm: Alarm::never(),
        }
    }

    pub(super) fn running_count(&self) -> u32 {
        u32::try_from(self.places.len()).unwrap_or(u32::MAX)
    }

    pub(super) fn running_of(&self, user: &User) -> u32 {
        self.of_user.get(user).copied().unwrap_or(0)
    }

    pub(super) fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    pub(super) fn next_wake(&self) -> Option<Nanos> {
        let next = [self.alarm.next(), self.queue.next_wake()];
        next.into_iter().flatten().min()
    }

    /// An invoke is in a VM now.
    pub(super) fn begin(&mut self, running: Running) {
        let Some(place) = self.free.pop() else {
            unreachable!("nothing begins while the table is full");
        };
        self.alarm.at_latest(running.limit_nanos);
        let before = self.places.insert(running.arrival.invoke, place);
        assert!(before.is_none(), "an invoke's number is used once");
        *self.of_user.entry(running.arrival.key.user).or_default() += 1;
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
            self.alarm.at_latest(limit_nanos);
        }
    }

    /// Its client withdrew it: the guest has until `limit_nanos` to end it. Whether that is news.
    pub(super) fn cancelled(&mut self, invoke: InvokeId, limit_nanos: Nanos) -> bool {
        let Some(running) = self.running_mut(invoke) else {
            return false;
        };
        running.limit_nanos = running.limit_nanos.min(limit_nanos);
        let is_news = !std::mem::replace(&mut running.is_cancelled, true);
        self.alarm.at_latest(limit_nanos);
        is_news
    }

    fn running_mut(&mut self, invoke: InvokeId) -> Option<&mut Running> {
        self.running[*self.places.get(&invoke)?].as_mut()
    }

    /// Takes an invoke out of its VM; the caller answers it.
    pub(super) fn finish(&mut self, invoke: InvokeId) -> Option<Running> {
        let place = self.places.remove(&invoke)?;
        self.free.push(place);
        let running = self.running[place].take()?;
        let user = running.arrival.key.user;
        if let Entry::Occupied(mut count) = self.of_user.entry(user) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        Some(running)
    }

    /// An invoke in a VM that the node no longer waits for. Asked again until there is none.
    pub(super) fn overdue(&mut self, now: Nanos) -> Option<Running> {
        if !self.alarm.take_due(now) {
            return None;
        }
        let mut overdue = None;
        for running in self.running.iter().flatten() {
            self.alarm.at_latest(running.limit_nanos);
            if running.limit_nanos <= now {
                overdue = overdue.or(Some(*running));
            }
        }
        overdue
    }

    /// Every invoke in a VM, for simulations.
    pub(super) fn all_running(&self) -> impl Iterator<Item = &Running> {
        self.running.iter().flatten()
    }
}
