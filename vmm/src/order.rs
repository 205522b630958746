//! What the node orders of the vCPU's thread, handed over by the control thread.
//!
//! ```text
//! control thread   lock ─ leave the order ─ signal, doorbell ─ unlock
//! vCPU's thread    out of KVM_RUN by the signal, or out of its wait by the doorbell ─ lock ─ take it
//! ```
//! The signal ends `KVM_RUN` whatever the guest does, and the doorbell stays rung, so the vCPU stops
//! in bounded time. Both are sent before the lock is free: whoever has taken an order has the
//! signal behind it, at the latest after its next system call.

use crate::gone::Gone;
use abi::control::SEED_BYTES;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What the vCPU's thread is to do with the stopped VM.
#[derive(Debug)]
pub(crate) enum Order {
    /// Put it back to its snapshot and run it.
    Reset(Reset),
    /// Write it, once it is idle, into this memfd.
    Capture(OwnedFd),
}

/// A reset the node asked for.
#[derive(Debug)]
pub(crate) struct Reset {
    /// Number of the VM's new life.
    pub(crate) generation: u64,
    /// Its entropy.
    pub(crate) seed: [u8; SEED_BYTES],
    /// How long it may be compared with the snapshot afterwards; 0: not at all.
    pub(crate) verify_nanos: u64,
    /// When the request came, monotonic nanoseconds.
    pub(crate) asked_nanos: u64,
}

/// The place for one order.
#[derive(Debug, Default)]
pub(crate) struct Orders {
    pending: Mutex<Option<Order>>,
    is_pending: AtomicBool,
}

impl Orders {
    fn lock(&self) -> MutexGuard<'_, Option<Order>> {
        // A panic ends the process.
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves an order and stops the vCPU by `stop`. On the control thread.
    pub(crate) fn give(
        &self,
        order: Order,
        stop: impl FnOnce() -> Result<(), Gone>,
    ) -> Result<(), Gone> {
        let mut pending = self.lock();
        if pending.replace(order).is_some() {
            return Err(Gone::Request("there is an order already"));
        }
        // ordering: release; pairs with the acquire load in `take`. The order itself is the lock's.
        self.is_pending.store(true, Ordering::Release);
        stop()
    }

    /// Whether an order waits to be taken.
    pub(crate) fn is_pending(&self) -> bool {
        // ordering: acquire; pairs with the release store in `give`.
        self.is_pending.load(Ordering::Acquire)
    }

    /// The order, if there is one for a VM in this state. On the vCPU's thread.
    pub(crate) fn take(&self, is_idle: bool) -> Option<Order> {
        if !self.is_pending() {
            return None;
        }
        let mut pending = self.lock();
        let order = pending.take_if(|order| is_idle || matches!(order, Order::Reset(_)))?;
        // ordering: release; as in `give`.
        self.is_pending.store(false, Ordering::Release);
        Some(order)
    }
}
