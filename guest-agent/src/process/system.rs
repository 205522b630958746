//! What all processes share, and what a system call leaves to be done to others.

use alloc::boxed::Box;
use alloc::collections::{BTreeSet, VecDeque};
use alloc::rc::Rc;
use alloc::vec::Vec;

use super::exec::Image;
use super::executable::Executable;
use super::family::Family;
use super::scheduler::Scheduler;
use super::{Ending, Notice, Process, Task, exec};
use crate::errno::Errno;
use crate::futex::Futexes;
use crate::identity::{ProcessId, TaskId};
use crate::memory::{Account, Memory};
use crate::signal::Information;
use crate::vdso::Vdso;
use crate::world::World;

/// Most tasks of a container: each costs kernel memory besides its own.
pub const TASKS_MAX: usize = 512;
/// Largest number of a task, as Linux' default `pid_max`; numbers start over behind it.
const NUMBER_MAX: u32 = 4_194_303;
/// Missing system calls reported and not yet heard of; more are dropped.
const NOTICES_MAX: usize = 256;

/// What a system call does to other tasks and processes, or to its own end; applied behind it.
#[derive(Debug)]
pub enum Effect {
    /// The task's system call is over with this result.
    Complete(TaskId, i64),
    /// A new task begins.
    Begin(Box<Task>),
    /// A child begins, with its first task.
    Bear(Box<Process>, Box<Task>),
    /// Of the process of this task, the task alone goes on, as its first one.
    EndOthers(TaskId),
    /// The child in which this task's memory was goes on without it.
    GiveBack(TaskId, Box<Memory>, ProcessId),
    /// The task is over; if it was the process's last one, so is that, with this status.
    End(TaskId, u8),
    /// The process is over.
    EndProcess(ProcessId, Ending),
    /// A signal for whichever task of the process takes it.
    SignalProcess(ProcessId, Information),
    /// A signal for one task.
    SignalTask(TaskId, Information),
}

/// What all processes share.
#[derive(Debug)]
pub struct System {
    /// Events and entropy.
    pub world: World,
    /// Who waits at which futex.
    pub futexes: Futexes,
    /// Who runs next, who waits for what.
    pub scheduler: Scheduler,
    /// Who descends from whom.
    pub family: Family,
    /// What system calls did to others and has not been applied.
    pub effects: Vec<Effect>,
    /// What the agent has not heard yet.
    pub notices: VecDeque<Notice>,
    /// The running task asked to let others run.
    pub is_yielding: bool,
    /// Whose turn it is, and since when.
    pub(super) running: Option<Running>,
    /// The VM's number.
    pub vm: u64,
    pub(super) vdso: Option<Vdso>,
    /// Tasks there are.
    pub(super) numbers: BTreeSet<TaskId>,
    next_number: u32,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Running {
    pub(super) task: TaskId,
    pub(super) process: ProcessId,
    pub(super) since_nanos: u64,
}

impl System {
    pub(super) fn new(world: World) -> Self {
        Self {
            world,
            futexes: Futexes::default(),
            scheduler: Scheduler::default(),
            family: Family::default(),
            effects: Vec::new(),
            notices: VecDeque::new(),
            is_yielding: false,
            running: None,
            vm: 0,
            vdso: None,
            numbers: BTreeSet::new(),
            next_number: 1,
        }
    }

    /// Loads a program; see [`exec::load`].
    ///
    /// # Errors
    /// Why it cannot be.
    pub fn load(
        &self,
        executable: &Executable,
        account: Rc<Account>,
        is_held: bool,
    ) -> Result<Image, Errno> {
        let vdso = self.vdso.as_ref().ok_or(Errno::NOMEM)?;
        exec::load(executable, account, is_held, &self.world, vdso)
    }
    /// Reports a system call this kernel does not have, once per process and invoke.
    pub fn note_missing(&mut self, process: &mut Process, number: u64) {
        if process.missing.note(number) && self.notices.len() < NOTICES_MAX {
            self.notices.push_back(Notice::Missing {
                process: process.id,
                container: process.container,
                number: u32::try_from(number).unwrap_or(u32::MAX),
            });
        }
    }

    /// How long the present turn of the task that runs lasts already.
    #[must_use]
    pub fn turn_nanos(&self) -> u64 {
        let now = machine::clock::monotonic_nanos();
        self.running.map_or(0, |running| now.saturating_sub(running.since_nanos))
    }

    /// A number that stands for nothing. Numbers start over after four million.
    pub fn new_task_id(&mut self) -> TaskId {
        loop {
            let number = self.next_number;
            self.next_number = if number == NUMBER_MAX { 1 } else { number + 1 };
            let id = TaskId::from_number(number);
            if !self.family.uses(number) && !self.numbers.contains(&id) {
                return id;
            }
        }
    }

    pub(super) fn forget(&mut self, task: TaskId) {
        self.numbers.remove(&task);
        self.scheduler.forget(task);
        self.futexes.forget(task);
    }
}
