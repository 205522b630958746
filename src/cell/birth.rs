//! A VM on its way: its VMM was started and told what to restore, and has not answered yet.
//!
//! Most of a restore is the host's kernel waiting for grace periods of its own, so several VMs on
//! their way at once take hardly longer than one.

use std::cell::Cell as Flag;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use abi::layout::region::IS_AWAITED;
use abi::ring::Memory;

use super::reply::{OwnReply, await_reply};
use super::{Cell, Generations, Infant, SharedParts};

/// One VMM that starts. Dropping it leaves its process to itself: end it with [`Birth::finish`].
pub(crate) struct Birth {
    infant: Infant,
    control: OwnedFd,
    shared: SharedParts,
    generation: u64,
    generations: Generations,
    is_unwanted: Flag<bool>,
}

impl Birth {
    pub(super) fn new(
        infant: Infant,
        control: OwnedFd,
        shared: SharedParts,
        (generation, generations): (u64, Generations),
    ) -> Self {
        Self { infant, control, shared, generation, generations, is_unwanted: Flag::new(false) }
    }

    /// The VM.
    pub(crate) fn vm(&self) -> u64 {
        self.infant.vm
    }

    /// Readable once the VMM has answered or is gone.
    pub(crate) fn control(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }

    /// An invoke waits for it.
    pub(crate) fn hasten(&self) {
        self.shared.region.store_u64(IS_AWAITED, 1);
        self.infant.set_quiet(false);
    }

    /// Ends the process, whatever it does.
    pub(crate) fn kill(&self) {
        self.is_unwanted.set(true);
        self.infant.kill();
    }

    /// Whether it was told to end.
    pub(crate) fn is_unwanted(&self) -> bool {
        self.is_unwanted.get()
    }

    /// Takes the VMM's answer, waiting for it.
    ///
    /// # Errors
    /// Why there is no VM, for the operator; nothing is left behind.
    pub(crate) fn finish(self) -> Result<(Cell, Infant), String> {
        let Self { mut infant, control, shared, generation, generations, .. } = self;
        let reason = match await_reply(&control, &infant) {
            Ok(OwnReply::Running { restore_nanos }) => {
                let SharedParts { region, status, doorbell, .. } = shared;
                let pid = infant.child.id();
                let cell = Cell {
                    control,
                    region,
                    status,
                    doorbell,
                    generation,
                    generations,
                    restore_nanos,
                    pid,
                };
                return Ok((cell, infant));
            }
            Ok(reply) => reply.describe(),
            Err(reason) => reason,
        };
        infant.kill();
        infant.reap();
        Err(reason)
    }
}
