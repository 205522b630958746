//! One stretch of a task: from where it stopped to its next trap, and the answer to that.

use machine::user::{self, Trap};

use crate::identity::TaskId;
use crate::process::task::State;
use crate::process::{Call, Effect, Ending, Processes};
use crate::signal::SignalSet;
use crate::syscall;

/// How a stretch ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// The task can go on at once.
    Goes,
    /// It waits, or is over.
    Stopped,
    /// It lets others run first.
    Yielded,
    /// The VMM took the CPU away.
    Interrupted,
}

/// Runs `task` up to and including its next trap.
pub(super) fn run(processes: &mut Processes, task: TaskId) -> Turn {
    let Some(mut call) = processes.call(task) else { return Turn::Stopped };
    let (trap, result) = stretch(&mut call);
    if let Err(ending) = result {
        call.system.effects.push(Effect::EndProcess(call.process.id, ending));
    }
    let has_yielded = core::mem::take(&mut call.system.is_yielding);
    processes.apply_effects();
    processes.settle();
    // One that was woken behind its own call is on the list of ready tasks already.
    if processes.is_ready(task) {
        return Turn::Stopped;
    }
    match processes.call(task) {
        None => Turn::Stopped,
        Some(call) if call.task.state == State::Blocked => Turn::Stopped,
        Some(_) if trap == Some(Trap::Interrupt) => Turn::Interrupted,
        Some(_) if has_yielded => Turn::Yielded,
        Some(_) => Turn::Goes,
    }
}

fn stretch(call: &mut Call<'_>) -> (Option<Trap>, Result<(), Ending>) {
    if call.task.state == State::InCall {
        return (None, syscall::execute(call));
    }
    if call.deliverable() != SignalSet::EMPTY
        && let Err(ending) = call.deliver(false)
    {
        return (None, Err(ending));
    }
    let Call { task, process, .. } = call;
    let trap = user::run(&mut task.context, &mut task.extended, process.memory.space());
    let result = match trap {
        Trap::Syscall => {
            if call.process.rewind.is_before_look() && !syscall::inward::is_inward(call) {
                call.pass_point_in_call();
            }
            syscall::execute(call)
        }
        Trap::PageFault { address, .. } => {
            call.pass_point_in_touch(address);
            call.page_fault(trap)
        }
        Trap::Fault { vector, code } => call.cpu_fault(vector, code),
        Trap::Interrupt => Ok(()),
    };
    (Some(trap), result)
}
