//! What the control thread has the vCPU's thread do: it alone may touch the stopped vCPU.

use abi::control::SEED_BYTES;
use std::os::fd::OwnedFd;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

/// One thing to do.
#[derive(Debug)]
pub(crate) enum Order {
    /// Put the VM back, whatever it is doing.
    Reset {
        /// Number of the restore it then is.
        generation: u64,
        /// Entropy for the guest.
        seed: [u8; SEED_BYTES],
        /// Compare it with its snapshot before it runs.
        is_verified: bool,
        /// When the node's message came.
        began_nanos: u64,
    },
    /// Write the VM into a snapshot, once it halts.
    Capture(OwnedFd),
}

/// The place for one order.
#[derive(Debug, Default)]
pub(crate) struct Orders {
    is_pending: AtomicBool,
    slot: Mutex<Option<Order>>,
}

impl Orders {
    /// Leaves an order; the caller then stops the vCPU. `false`: the one before is not done yet.
    pub(crate) fn leave(&self, order: Order) -> bool {
        let mut slot = self.slot.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let is_free = slot.is_none();
        if is_free {
            *slot = Some(order);
            // ordering: release; pairs with the acquire load below.
            self.is_pending.store(true, Ordering::Release);
        }
        is_free
    }

    /// Whether there is one.
    pub(crate) fn is_pending(&self) -> bool {
        // ordering: acquire; pairs with the release store of whoever left it.
        self.is_pending.load(Ordering::Acquire)
    }

    /// Takes it, if the vCPU is where it can be done.
    pub(crate) fn take(&self, is_halted: bool) -> Option<Order> {
        if !self.is_pending() {
            return None;
        }
        let mut slot = self.slot.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if matches!(*slot, Some(Order::Capture(_))) && !is_halted {
            return None;
        }
        // ordering: relaxed; only this thread clears it, and the lock orders the slot.
        self.is_pending.store(false, Ordering::Relaxed);
        slot.take()
    }
}
