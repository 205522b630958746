//! Processes and their tasks: who they are, what they own, how they start, wait and end.
//!
//! ```text
//!   start ─► exec ─► Task(s) ─► scheduler ─► kernel::turn runs one ─► system call or fault
//!                                  ▲                                      │
//!                                  └── event raised, deadline, futex ◄────┤
//!                      Notice ◄── end ◄───────────────────────────────────┘
//! ```
//! A [`Process`] owns memory, descriptors and signal actions; its [`Task`]s (threads) own
//! registers. The first process of a container is started by the agent, all others are its
//! descendants ([`family`]) and end with it. Ids are unique in the VM and are what programs see as
//! pid and tid.

pub mod table;
pub mod system;
pub mod family;
pub mod script;
pub mod executable;
pub mod rewind;
pub mod exec;
pub mod deliver;
pub mod call;
pub mod scheduler;
pub mod end;
pub mod stack;
pub mod timer;
mod robust;
pub mod task;
#[cfg(test)]
pub(crate) mod fixture;

use alloc::rc::Rc;
use alloc::vec::Vec;

use crate::file::Descriptors;
use crate::filesystem::View;
use crate::memory::Memory;
use crate::signal::{Actions, Pending};
use crate::socket::Network;
use crate::world::Event;

pub use call::{Answer, Call};
pub use end::{Ending, Notice, Usage};
pub use rewind::{Fresh, Gate, Rewind, Until};
pub use system::{Effect, System};
pub use table::{Processes, Rewinds, Start};
pub use task::Task;
pub use timer::{Schedule, Timers};

pub use crate::identity::{ProcessId, TaskId};

/// System call numbers that are remembered as missing; those of Linux end below.
const NUMBERS: usize = 512;

/// Which system calls a process has missed.
#[derive(Clone, Debug, Default)]
pub struct MissingCalls([u64; NUMBERS / 64]);

impl MissingCalls {
    /// Notes `number`; `true` the first time. Numbers Linux does not have are noted as one.
    pub fn note(&mut self, number: u64) -> bool {
        let number = usize::try_from(number).unwrap_or(NUMBERS).min(NUMBERS - 1);
        let word = &mut self.0[number / 64];
        let bit = 1 << (number % 64);
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }
}

/// What the tasks of a program share.
#[derive(Debug)]
pub struct Process {
    /// Its name.
    pub id: ProcessId,
    /// Number of its container.
    pub container: u32,
    /// Its address space.
    pub memory: Memory,
    /// Its open files.
    pub descriptors: Descriptors,
    /// Its file system, working directory and umask.
    pub view: View,
    /// Its container's network.
    pub network: Rc<Network>,
    /// What it does about signals.
    pub actions: Actions,
    /// Signals sent to it that any of its tasks may take.
    pub pending: Pending,
    /// Tasks that have not ended.
    pub tasks: Vec<TaskId>,
    /// Absolute path of its program.
    pub executable: Vec<u8>,
    /// Its arguments, a NUL behind each.
    pub command_line: Vec<u8>,
    /// Time its tasks have run, less the present turn.
    pub run_nanos: u64,
    /// What `run_nanos` was when the invoke began.
    pub run_nanos_before: u64,
    /// Raised when a child of its is over.
    pub children: Event,
    /// Time that those of its children had run that it has asked for, and theirs.
    pub children_nanos: u64,
    /// Of the first process of a container: time that others ran that are over, in this invoke.
    pub descendants_nanos: u64,
    /// Its task that waits for its memory, which a child has (`vfork`).
    pub lends: Option<TaskId>,
    /// The task that waits for the memory this process has.
    pub lender: Option<TaskId>,
    /// When `alarm` or `setitimer` sends SIGALRM.
    pub alarm: Schedule,
    /// What `timer_create` made.
    pub timers: Timers,
    /// The last fault looked like a stack that was too small.
    pub has_overflowed: bool,
    /// System calls it missed.
    pub missing: MissingCalls,
    /// How it comes to its next request.
    pub rewind: Rewind,
}
