//! Signal actions, masks, stacks, and sending.

use machine::clock::monotonic_nanos;

use super::process::whose;
use super::{CallResult, DONE, value};
use crate::errno::Errno;
use crate::identity::{ProcessId, TaskId};
use crate::process::family::Whose;
use crate::process::{Answer, Call, Effect};
use crate::signal::{
    Action, AlternateStack, CODE_THREAD, CODE_USER, Information, Signal, SignalSet,
};
use crate::time::{after, decode_timespec};

const MASK_BLOCK: u32 = 0;
const MASK_UNBLOCK: u32 = 1;
const MASK_SET: u32 = 2;
/// Bytes of a signal set; programs say so in each call.
const SET_BYTES: u64 = 8;

fn check_set_bytes(bytes: u64) -> Result<(), Errno> {
    if bytes == SET_BYTES { Ok(()) } else { Err(Errno::INVAL) }
}

fn read_set(call: &mut Call<'_>, address: u64) -> Result<SignalSet, Errno> {
    Ok(SignalSet::mask(u64::from_le_bytes(call.read_bytes(address)?)))
}

pub(super) fn rt_sigaction(call: &mut Call<'_>) -> CallResult {
    let signal = Signal::from_number(call.argument(0)).ok_or(Errno::INVAL)?;
    let (new, old) = (call.argument(1), call.argument(2));
    check_set_bytes(call.argument(3))?;
    if new != 0 && (signal == Signal::KILL || signal == Signal::STOP) {
        return Err(Errno::INVAL);
    }
    let action = if new == 0 { None } else { Some(Action::decode(&call.read_bytes(new)?)) };
    if old != 0 {
        let before = call.process.actions.get(signal).encode();
        call.write_bytes(old, &before)?;
    }
    if let Some(action) = action {
        call.process.actions.set(signal, action);
        if call.process.actions.ignores(signal) {
            call.process.pending.remove(signal);
            call.task.pending.remove(signal);
        }
    }
    DONE
}

pub(super) fn rt_sigprocmask(call: &mut Call<'_>) -> CallResult {
    let (how, new, old) = (call.unsigned_argument(0), call.argument(1), call.argument(2));
    check_set_bytes(call.argument(3))?;
    let before = call.task.blocked;
    let after = if new == 0 {
        before
    } else {
        let set = read_set(call, new)?;
        match how {
            MASK_BLOCK => before.union(set),
            MASK_UNBLOCK => before.difference(set),
            MASK_SET => set,
            _ => return Err(Errno::INVAL),
        }
    };
    if old != 0 {
        call.write_bytes(old, &before.bits().to_le_bytes())?;
    }
    call.task.blocked = after;
    DONE
}

pub(super) fn rt_sigpending(call: &mut Call<'_>) -> CallResult {
    check_set_bytes(call.argument(1))?;
    let pending = call.task.pending.set().union(call.process.pending.set());
    let address = call.argument(0);
    let blocked = pending.bits() & call.task.blocked.bits();
    call.write_bytes(address, &blocked.to_le_bytes())?;
    DONE
}

pub(super) fn rt_sigsuspend(call: &mut Call<'_>) -> CallResult {
    check_set_bytes(call.argument(1))?;
    if call.task.call.mask.is_none() {
        let mask = read_set(call, call.argument(0))?;
        call.task.call.mask = Some(call.task.blocked);
        call.task.blocked = mask;
    }
    call.block_once()
}

pub(super) fn pause(call: &mut Call<'_>) -> CallResult {
    call.block_once()
}

pub(super) fn rt_sigreturn(call: &mut Call<'_>) -> CallResult {
    if let Err(ending) = call.return_from_handler() {
        call.system.effects.push(Effect::EndProcess(call.process.id, ending));
    }
    Ok(Answer::Replaced)
}

pub(super) fn sigaltstack(call: &mut Call<'_>) -> CallResult {
    let (new, old) = (call.argument(0), call.argument(1));
    let (before, stack_pointer) = (call.task.stack, call.task.context.rsp());
    let stack = if new == 0 {
        None
    } else {
        if before.holds(stack_pointer) {
            return Err(Errno::PERM);
        }
        Some(AlternateStack::decode(&call.read_bytes(new)?)?)
    };
    if old != 0 {
        call.write_bytes(old, &before.encode(stack_pointer))?;
    }
    if let Some(stack) = stack {
        call.task.stack = stack;
    }
    DONE
}

/// The signal in an argument: 0 only asks whether it could be sent.
fn wanted(call: &Call<'_>, argument: usize) -> Result<Option<Signal>, Errno> {
    match call.argument(argument) & 0xffff_ffff {
        0 => Ok(None),
        number => Signal::from_number(number).map(Some).ok_or(Errno::INVAL),
    }
}

fn information(call: &Call<'_>, signal: Signal, code: i32) -> Information {
    Information { signal, code, value: u64::from(call.process.id.number()), data: 0 }
}

/// Reaches whom the caller can see: its own container.
pub(super) fn kill(call: &mut Call<'_>) -> CallResult {
    let signal = wanted(call, 1)?;
    let whose = whose(call, call.int_argument(0))?;
    let receivers = call.system.family.addressed(call.process.id, whose);
    if receivers.is_empty() {
        return Err(Errno::SRCH);
    }
    if let Some(signal) = signal {
        let information = information(call, signal, CODE_USER);
        // The sender takes it before the call is over if it can, as POSIX asks.
        let effects = receivers.into_iter().map(|id| Effect::SignalProcess(id, information));
        call.system.effects.extend(effects);
    }
    DONE
}

pub(super) fn tkill(call: &mut Call<'_>) -> CallResult {
    let task = call.int_argument(0);
    signal_task(call, task, 1)
}

pub(super) fn tgkill(call: &mut Call<'_>) -> CallResult {
    let (process, task) = (call.unsigned_argument(0), call.unsigned_argument(1));
    if process != call.process.id.number() {
        // Of another process only the first thread is known.
        let id = ProcessId::from_number(process);
        let found = call.system.family.addressed(call.process.id, Whose::One(id));
        let (signal, task_id) = (wanted(call, 2)?, TaskId::from_number(task));
        if found.is_empty() || task != process {
            return Err(Errno::SRCH);
        }
        if let Some(signal) = signal {
            let information = information(call, signal, CODE_THREAD);
            call.system.effects.push(Effect::SignalTask(task_id, information));
        }
        return DONE;
    }
    let task = call.int_argument(1);
    signal_task(call, task, 2)
}

fn signal_task(call: &mut Call<'_>, task: i32, argument: usize) -> CallResult {
    let number = u32::try_from(task).ok().filter(|task| *task != 0).ok_or(Errno::INVAL)?;
    let signal = wanted(call, argument)?;
    let task = TaskId::from_number(number);
    if !call.process.tasks.contains(&task) {
        return Err(Errno::SRCH);
    }
    if let Some(signal) = signal {
        let information = information(call, signal, CODE_THREAD);
        call.system.effects.push(Effect::SignalTask(task, information));
    }
    DONE
}

/// Takes one of the signals in a set instead of having it delivered.
pub(super) fn rt_sigtimedwait(call: &mut Call<'_>) -> CallResult {
    check_set_bytes(call.argument(3))?;
    let awaited = read_set(call, call.argument(0))?;
    let (information_at, timeout) = (call.argument(1), call.argument(2));
    if !call.task.call.has_waited && timeout != 0 {
        let nanos = decode_timespec(&call.read_bytes(timeout)?)?;
        call.deadline(after(monotonic_nanos(), nanos));
    }
    let others = SignalSet::mask(!awaited.bits());
    let taken = call.task.pending.take(others).or_else(|| call.process.pending.take(others));
    if let Some(information) = taken {
        if information_at != 0 {
            call.write_bytes(information_at, &information.encode())?;
        }
        return value(information.signal.number());
    }
    if call.is_late() {
        return Err(Errno::AGAIN);
    }
    call.task.call.awaited = awaited;
    call.block_once()
}

/// Reads what a sender says of its signal; only the kernel may claim to be the kernel.
fn read_information(
    call: &mut Call<'_>,
    signal: usize,
    address: u64,
) -> Result<Option<Information>, Errno> {
    let bytes = call.read_bytes::<32>(address)?;
    let Some(signal) = wanted(call, signal)? else { return Ok(None) };
    let word = |at: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[at..at + 8]);
        u64::from_le_bytes(word)
    };
    let code = i32::from_le_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
    Ok(Some(Information { signal, code, value: word(16), data: word(24) }))
}

pub(super) fn rt_sigqueueinfo(call: &mut Call<'_>) -> CallResult {
    let process = ProcessId::from_number(call.unsigned_argument(0));
    let address = call.argument(2);
    let information = read_information(call, 1, address)?;
    if call.system.family.addressed(call.process.id, Whose::One(process)).is_empty() {
        return Err(Errno::SRCH);
    }
    // Only to itself may a process claim that the kernel or a `kill` of somebody else sent it.
    let is_claim = information.is_some_and(|it| it.code >= 0 || it.code == CODE_THREAD);
    if is_claim && process != call.process.id {
        return Err(Errno::PERM);
    }
    if let Some(information) = information {
        call.system.effects.push(Effect::SignalProcess(process, information));
    }
    DONE
}

pub(super) fn rt_tgsigqueueinfo(call: &mut Call<'_>) -> CallResult {
    let address = call.argument(3);
    let information = read_information(call, 2, address)?;
    let task = TaskId::from_number(call.unsigned_argument(1));
    let is_own = call.unsigned_argument(0) == call.process.id.number();
    if !is_own || !call.process.tasks.contains(&task) {
        return Err(Errno::SRCH);
    }
    if let Some(information) = information {
        call.system.effects.push(Effect::SignalTask(task, information));
    }
    DONE
}
