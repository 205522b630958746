//! What every open file may touch besides itself: the queue of raised events and the entropy
//! pool. One per VM, shared by handle.
//!
//! An [`Event`] belongs to something that can become ready. Whoever makes it ready raises the
//! event; the scheduler drains the queue and lets each task that waits on it look again. Raising
//! allocates nothing once the queue has its room, and may be done from `Drop`.

mod alarm;
mod notifier;

use alloc::rc::{Rc, Weak};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use crate::entropy::Entropy;
use crate::time::NEVER;

pub use alarm::Alarm;
pub use notifier::Notifier;

/// Names one [`Event`] for as long as the VM lives; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectId(u64);

impl ObjectId {
    /// The number, for what shows an object's identity (`pipe:[7]`).
    #[must_use]
    pub fn number(self) -> u64 {
        self.0
    }
}

#[derive(Debug)]
struct Shared {
    next: Cell<u64>,
    raised: RefCell<Vec<ObjectId>>,
    alarms: RefCell<Vec<Weak<Alarm>>>,
    entropy: RefCell<Entropy>,
}

/// Handle to what all files of a VM share.
#[derive(Clone, Debug)]
pub struct World(Rc<Shared>);

/// Raised events the queue holds without allocating: more than one system call or agent step
/// raises.
const RAISED_ROOM: usize = 256;

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

impl World {
    /// A world without events, its entropy pool not yet seeded.
    #[must_use]
    pub fn new() -> Self {
        Self(Rc::new(Shared {
            next: Cell::new(1),
            raised: RefCell::new(Vec::with_capacity(RAISED_ROOM)),
            alarms: RefCell::new(Vec::new()),
            entropy: RefCell::new(Entropy::unseeded()),
        }))
    }

    /// A new event.
    #[must_use]
    pub fn event(&self) -> Event {
        let id = ObjectId(self.0.next.get());
        self.0.next.set(id.0 + 1);
        Event { id, world: self.clone() }
    }

    /// Gives the entropy pool its seed. Until then [`World::random`] panics: no program may run
    /// on guessable numbers.
    pub fn seed(&self, seed: [u8; 32]) {
        self.0.entropy.borrow_mut().seed(seed);
    }

    /// Fills `bytes` with unpredictable ones.
    pub fn random(&self, bytes: &mut [u8]) {
        self.0.entropy.borrow_mut().fill(bytes);
    }

    /// An alarm that is not set; the world forgets it when its last owner does.
    #[must_use]
    pub fn alarm(&self) -> Rc<Alarm> {
        let alarm = Rc::new(Alarm::new(Notifier::new(self)));
        let mut alarms = self.0.alarms.borrow_mut();
        alarms.retain(|alarm| alarm.strong_count() > 0);
        alarms.push(Rc::downgrade(&alarm));
        alarm
    }

    /// When the next alarm rings.
    #[must_use]
    pub fn next_alarm(&self) -> u64 {
        let alarms = self.0.alarms.borrow();
        let times = alarms.iter().filter_map(Weak::upgrade).map(|alarm| alarm.setting().0);
        times.min().unwrap_or(NEVER)
    }

    /// Lets every alarm ring whose time has come.
    pub fn ring_alarms(&self, now_nanos: u64) {
        let alarms = self.0.alarms.borrow();
        alarms.iter().filter_map(Weak::upgrade).for_each(|alarm| alarm.catch_up(now_nanos));
    }

    /// Takes one raised event off the queue; the order is of no meaning.
    #[must_use]
    pub fn take_raised(&self) -> Option<ObjectId> {
        self.0.raised.borrow_mut().pop()
    }

    fn raise(&self, id: ObjectId) {
        let mut raised = self.0.raised.borrow_mut();
        if !raised.contains(&id) {
            raised.push(id);
        }
    }
}

/// The right to say that something has changed. Each waitable thing owns one.
#[derive(Debug)]
pub struct Event {
    id: ObjectId,
    world: World,
}

impl Event {
    /// What tasks wait on.
    #[must_use]
    pub fn id(&self) -> ObjectId {
        self.id
    }

    /// Lets every task that waits on this look again.
    pub fn raise(&self) {
        self.world.raise(self.id);
    }

    /// The world it belongs to.
    #[must_use]
    pub fn world(&self) -> &World {
        &self.world
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_raised_twice_is_taken_once() {
        let world = World::new();
        let (first, second) = (world.event(), world.event());
        first.raise();
        second.raise();
        first.raise();
        let mut taken = [world.take_raised().unwrap(), world.take_raised().unwrap()];
        taken.sort();
        assert_eq!(taken, [first.id(), second.id()]);
        assert_eq!(world.take_raised(), None);
    }
}
