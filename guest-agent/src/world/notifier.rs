//! An event that counts how often it was raised, so that an edge-triggered watcher can tell
//! whether something has happened since it last looked.

use core::cell::Cell;

use super::{Event, ObjectId, World};

/// Says that the readiness of its owner may have grown.
#[derive(Debug)]
pub struct Notifier {
    event: Event,
    raises: Cell<u64>,
}

impl Notifier {
    /// A notifier nobody waits for yet.
    #[must_use]
    pub fn new(world: &World) -> Self {
        Self { event: world.event(), raises: Cell::new(0) }
    }

    /// What tasks wait on.
    #[must_use]
    pub fn id(&self) -> ObjectId {
        self.event.id()
    }

    /// Lets every waiter look again.
    pub fn raise(&self) {
        self.raises.set(self.raises.get().wrapping_add(1));
        self.event.raise();
    }

    /// How often it was raised.
    #[must_use]
    pub fn raises(&self) -> u64 {
        self.raises.get()
    }
}
