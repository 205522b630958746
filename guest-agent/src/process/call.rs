//! One system call in execution: who makes it, what it may touch, and how it ends or waits.

use super::{Process, System, Task};
use crate::errno::Errno;
use crate::signal::SignalSet;
use crate::time::NEVER;
use crate::world::ObjectId;

/// How a system call that did not fail goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is over with this value.
    Value(u64),
    /// It waits; what for was said in [`Call::block`] and the calls before it.
    Waits,
    /// A signal came while it waited: the handler runs, and then the call starts again if the
    /// action says so; otherwise it fails with EINTR.
    Interrupted,
    /// The registers hold all there is to say (`rt_sigreturn`), or the task is gone.
    Replaced,
}

/// A system call, and everything its execution may touch. Effects on other tasks are left in
/// [`System::effects`].
#[derive(Debug)]
pub struct Call<'a> {
    /// Who makes it.
    pub task: &'a mut Task,
    /// The task's process.
    pub process: &'a mut Process,
    /// What all processes share.
    pub system: &'a mut System,
}

impl Call<'_> {
    /// Argument `n`, from 0 to 5.
    #[must_use]
    pub fn argument(&self, n: usize) -> u64 {
        self.task.context.argument(n)
    }

    /// Argument `n` when it is an `int`.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the upper half of an int is undefined")]
    pub fn int_argument(&self, n: usize) -> i32 {
        self.argument(n) as i32
    }

    /// Argument `n` when it is an `unsigned int`.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "the upper half of an int is undefined")]
    pub fn unsigned_argument(&self, n: usize) -> u32 {
        self.argument(n) as u32
    }

    /// Copies a fixed number of bytes from the program.
    ///
    /// # Errors
    /// [`Errno::FAULT`] when they cannot be read.
    pub fn read_bytes<const N: usize>(&mut self, address: u64) -> Result<[u8; N], Errno> {
        let mut bytes = [0; N];
        self.process.memory.read(address, &mut bytes)?;
        Ok(bytes)
    }

    /// Copies bytes to the program.
    ///
    /// # Errors
    /// [`Errno::FAULT`] when they cannot be written.
    pub fn write_bytes(&mut self, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        self.process.memory.write(address, bytes)
    }

    /// Signals that could reach the task now.
    #[must_use]
    pub fn deliverable(&self) -> SignalSet {
        let pending = self.task.pending.set().union(self.process.pending.set());
        pending.difference(self.task.blocked)
    }

    /// Lets the task wait until `object` changes (too).
    pub fn wait_for(&mut self, object: ObjectId) {
        self.system.scheduler.wait_for(object, self.task.id);
    }

    /// The deadline of this call, set to `first` when the call is executed for the first time.
    pub fn deadline(&mut self, first: u64) -> u64 {
        if !self.task.call.has_waited {
            self.task.call.deadline_nanos = first;
        }
        self.task.call.deadline_nanos
    }

    /// Whether the call's deadline has passed.
    #[must_use]
    pub fn is_late(&self) -> bool {
        let deadline = self.task.call.deadline_nanos;
        deadline != NEVER && machine::clock::monotonic_nanos() >= deadline
    }

    /// Parks the task until something it waits for happens; a signal that can be taken now wins.
    #[must_use]
    pub fn block(&mut self) -> Answer {
        if self.deliverable() != SignalSet::EMPTY {
            self.system.scheduler.stop_waiting(self.task.id);
            return Answer::Interrupted;
        }
        self.task.call.has_waited = true;
        self.system.scheduler.wait_until(self.task.call.deadline_nanos, self.task.id);
        Answer::Waits
    }

    /// As [`Call::block`] for calls that fail with EINTR whatever the action says.
    ///
    /// # Errors
    /// [`Errno::INTR`] when a signal can be taken now.
    pub fn block_once(&mut self) -> Result<Answer, Errno> {
        let answer = self.block();
        if answer == Answer::Interrupted { Err(Errno::INTR) } else { Ok(answer) }
    }
}
