//! One thread of a program: its registers, what it waits for, its signals.

use machine::user::{Context, ExtendedState};

use crate::identity::{ProcessId, TaskId};
use crate::signal::{AlternateStack, Pending, SignalSet};
use crate::time::NEVER;

/// What a task does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Goes on in user mode.
    Runnable,
    /// Executes its system call (again).
    InCall,
    /// Waits for an event, a futex, a signal or its deadline.
    Blocked,
}

/// What a system call that waits keeps between its executions.
#[derive(Clone, Copy, Debug)]
pub struct CallState {
    /// The call was executed before and waited.
    pub has_waited: bool,
    /// When it stops waiting (monotonic nanoseconds).
    pub deadline_nanos: u64,
    /// Bytes moved so far.
    pub progress: u64,
    /// Signals it waits for (`rt_sigtimedwait`).
    pub awaited: SignalSet,
    /// Signal mask to go back to when the call is over (`ppoll`, `pselect6`, `epoll_pwait`).
    pub mask: Option<SignalSet>,
}

impl CallState {
    /// Nothing kept.
    pub const FRESH: Self = Self {
        has_waited: false,
        deadline_nanos: NEVER,
        progress: 0,
        awaited: SignalSet::EMPTY,
        mask: None,
    };
}

/// Bytes of a task's name, its NUL included (`TASK_COMM_LEN`).
pub const NAME_BYTES: usize = 16;

/// A thread.
#[derive(Debug)]
pub struct Task {
    /// Its name.
    pub id: TaskId,
    /// The process it belongs to.
    pub process: ProcessId,
    /// Its registers.
    pub context: Context,
    /// Its vector registers.
    pub extended: ExtendedState,
    /// What it does next.
    pub state: State,
    /// What its system call keeps.
    pub call: CallState,
    /// Signals it does not take now.
    pub blocked: SignalSet,
    /// Signals sent to it alone.
    pub pending: Pending,
    /// Stack its handlers ask for.
    pub stack: AlternateStack,
    /// Zeroed and woken when it ends (`CLONE_CHILD_CLEARTID`); 0 for none.
    pub clear_at_end: u64,
    /// Locks to give up when it ends (`set_robust_list`); 0 for none.
    pub robust_list: u64,
    /// Time it has run, less the present turn.
    pub run_nanos: u64,
    /// What `PR_SET_NAME` says, NUL padded.
    pub name: [u8; NAME_BYTES],
}

impl Task {
    /// A task about to start with these registers.
    #[must_use]
    pub fn new(id: TaskId, process: ProcessId, context: Context) -> Self {
        Self {
            id,
            process,
            context,
            extended: ExtendedState::fresh(),
            state: State::Runnable,
            call: CallState::FRESH,
            blocked: SignalSet::EMPTY,
            pending: Pending::default(),
            stack: AlternateStack::NONE,
            clear_at_end: 0,
            robust_list: 0,
            run_nanos: 0,
            name: [0; NAME_BYTES],
        }
    }

    /// The same task once more, to do `state` next.
    #[must_use]
    pub fn duplicate(&self, state: State) -> Self {
        Self {
            id: self.id,
            process: self.process,
            context: self.context.clone(),
            extended: self.extended.duplicate(),
            state,
            call: self.call,
            blocked: self.blocked,
            pending: self.pending.clone(),
            stack: self.stack,
            clear_at_end: self.clear_at_end,
            robust_list: self.robust_list,
            run_nanos: 0,
            name: self.name,
        }
    }

    /// It runs another program now, from these registers on.
    pub fn become_program(&mut self, context: Context, path: &[u8]) {
        self.context = context;
        self.extended = ExtendedState::fresh();
        self.stack = AlternateStack::NONE;
        self.clear_at_end = 0;
        self.robust_list = 0;
        self.set_name(super::table::name_of(path));
    }

    /// The name without its padding.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        let end = self.name.iter().position(|byte| *byte == 0).unwrap_or(NAME_BYTES);
        &self.name[..end]
    }

    /// Sets the name, cut to fit.
    pub fn set_name(&mut self, name: &[u8]) {
        let count = name.len().min(NAME_BYTES - 1);
        self.name = [0; NAME_BYTES];
        self.name[..count].copy_from_slice(&name[..count]);
    }
}
