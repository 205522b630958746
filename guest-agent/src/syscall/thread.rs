//! Threads: making and ending them, futexes, thread pointers.

use alloc::boxed::Box;

use machine::clock::{monotonic_nanos, realtime_nanos};

use super::process::{self, Wanted};
use super::{CallResult, DONE, value};
use crate::errno::Errno;
use crate::futex::{ANY, Key};
use crate::process::system::TASKS_MAX;
use crate::process::{Answer, Call, Effect, Ending, Task};
use crate::signal::AlternateStack;
use crate::time::{NEVER, after, decode_timespec};

pub(super) const CLONE_VM: u64 = 0x100;
pub(super) const CLONE_FS: u64 = 0x200;
pub(super) const CLONE_FILES: u64 = 0x400;
pub(super) const CLONE_SIGHAND: u64 = 0x800;
const CLONE_THREAD: u64 = 0x1_0000;
pub(super) const CLONE_SET_THREAD_POINTER: u64 = 0x8_0000;
pub(super) const CLONE_PARENT_SET_TID: u64 = 0x10_0000;
pub(super) const CLONE_CHILD_CLEAR_TID: u64 = 0x20_0000;
pub(super) const CLONE_CHILD_SET_TID: u64 = 0x100_0000;
/// What makes a thread.
const THREAD: u64 = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD;

const FUTEX_WAIT: u32 = 0;
const FUTEX_WAKE: u32 = 1;
const FUTEX_REQUEUE: u32 = 3;
const FUTEX_COMPARE_REQUEUE: u32 = 4;
const FUTEX_WAKE_OPERATION: u32 = 5;
const FUTEX_WAIT_BITS: u32 = 9;
const FUTEX_WAKE_BITS: u32 = 10;
const FUTEX_PRIVATE: u32 = 128;
const FUTEX_REALTIME: u32 = 256;

const ARCH_SET_GS: u64 = 0x1001;
const ARCH_SET_FS: u64 = 0x1002;
const ARCH_GET_FS: u64 = 0x1003;
const ARCH_GET_GS: u64 = 0x1004;

/// Bytes of a `struct robust_list_head`.
const ROBUST_LIST_BYTES: u64 = 24;

/// A thread, or without what all threads share a process.
pub(super) fn clone(call: &mut Call<'_>) -> CallResult {
    let (clone_flags, stack) = (call.argument(0), call.argument(1));
    let (parent_tid, child_tid) = (call.argument(2), call.argument(3));
    if clone_flags & CLONE_THREAD == 0 {
        let (flags, thread_pointer) = (clone_flags, call.argument(4));
        let wanted = Wanted { flags, stack, parent_tid, child_tid, thread_pointer };
        return process::bear(call, &wanted);
    }
    if clone_flags & THREAD != THREAD {
        return Err(Errno::INVAL);
    }
    if call.system.family.tasks_beside(call.process.id) >= TASKS_MAX {
        return Err(Errno::AGAIN);
    }
    let id = call.system.new_task_id();
    let mut context = call.task.context.clone();
    context.set_result(0);
    if stack != 0 {
        context.set_rsp(stack);
    }
    if clone_flags & CLONE_SET_THREAD_POINTER != 0 && !context.set_fs_base(call.argument(4)) {
        return Err(Errno::PERM);
    }
    let number = id.number().to_le_bytes();
    if clone_flags & CLONE_PARENT_SET_TID != 0 {
        call.write_bytes(parent_tid, &number)?;
    }
    if clone_flags & CLONE_CHILD_SET_TID != 0 {
        call.write_bytes(child_tid, &number)?;
    }
    let mut task = Task::new(id, call.process.id, context);
    task.extended = call.task.extended.duplicate();
    task.blocked = call.task.blocked;
    task.stack = AlternateStack::NONE;
    task.name = call.task.name;
    if clone_flags & CLONE_CHILD_CLEAR_TID != 0 {
        task.clear_at_end = child_tid;
    }
    call.system.effects.push(Effect::Begin(Box::new(task)));
    value(id.number())
}

pub(super) fn exit(call: &mut Call<'_>) -> CallResult {
    let status = exit_status(call);
    call.system.effects.push(Effect::End(call.task.id, status));
    Ok(Answer::Replaced)
}

pub(super) fn exit_group(call: &mut Call<'_>) -> CallResult {
    let ending = Ending::Exited(exit_status(call));
    call.system.effects.push(Effect::EndProcess(call.process.id, ending));
    Ok(Answer::Replaced)
}

/// The low byte is all a parent ever sees.
fn exit_status(call: &Call<'_>) -> u8 {
    call.int_argument(0).to_le_bytes()[0]
}

pub(super) fn gettid(call: &mut Call<'_>) -> CallResult {
    value(call.task.id.number())
}

pub(super) fn set_tid_address(call: &mut Call<'_>) -> CallResult {
    call.task.clear_at_end = call.argument(0);
    gettid(call)
}

pub(super) fn set_robust_list(call: &mut Call<'_>) -> CallResult {
    if call.argument(1) != ROBUST_LIST_BYTES {
        return Err(Errno::INVAL);
    }
    call.task.robust_list = call.argument(0);
    DONE
}

/// A task can ask for its own list.
pub(super) fn get_robust_list(call: &mut Call<'_>) -> CallResult {
    let asked = call.unsigned_argument(0);
    if asked != 0 && asked != call.task.id.number() {
        return Err(Errno::SRCH);
    }
    let (head_at, bytes_at, head) = (call.argument(1), call.argument(2), call.task.robust_list);
    call.write_bytes(bytes_at, &ROBUST_LIST_BYTES.to_le_bytes())?;
    call.write_bytes(head_at, &head.to_le_bytes())?;
    DONE
}

pub(super) fn arch_prctl(call: &mut Call<'_>) -> CallResult {
    let address = call.argument(1);
    let context = &mut call.task.context;
    match context.argument(0) {
        ARCH_SET_FS if context.set_fs_base(address) => DONE,
        ARCH_SET_GS if context.set_gs_base(address) => DONE,
        ARCH_SET_FS | ARCH_SET_GS => Err(Errno::PERM),
        ARCH_GET_FS => {
            let base = context.fs_base();
            call.write_bytes(address, &base.to_le_bytes())?;
            DONE
        }
        ARCH_GET_GS => {
            let base = context.gs_base();
            call.write_bytes(address, &base.to_le_bytes())?;
            DONE
        }
        _ => Err(Errno::INVAL),
    }
}

pub(super) fn sched_yield(call: &mut Call<'_>) -> CallResult {
    call.system.is_yielding = true;
    DONE
}

/// There is one processor.
pub(super) fn sched_getaffinity(call: &mut Call<'_>) -> CallResult {
    const MASK_BYTES: u64 = 8;
    let (bytes, address) = (u64::from(call.unsigned_argument(1)), call.argument(2));
    if bytes < MASK_BYTES || !bytes.is_multiple_of(8) {
        return Err(Errno::INVAL);
    }
    call.write_bytes(address, &1_u64.to_le_bytes())?;
    value(MASK_BYTES)
}

pub(super) fn sched_setaffinity(call: &mut Call<'_>) -> CallResult {
    let [first] = call.read_bytes(call.argument(2))?;
    if call.unsigned_argument(1) != 0 && first & 1 != 0 { DONE } else { Err(Errno::INVAL) }
}

pub(super) fn getcpu(call: &mut Call<'_>) -> CallResult {
    for address in [call.argument(0), call.argument(1)] {
        if address != 0 {
            call.write_bytes(address, &[0; 4])?;
        }
    }
    DONE
}

pub(super) fn futex(call: &mut Call<'_>) -> CallResult {
    let operation = call.unsigned_argument(1);
    let count = usize::try_from(call.int_argument(2)).unwrap_or(0);
    let word = call.argument(0);
    let key = key(call, word)?;
    match operation & !(FUTEX_PRIVATE | FUTEX_REALTIME) {
        FUTEX_WAIT => {
            let timeout = call.argument(3);
            futex_wait(call, key, ANY, timeout, false)
        }
        FUTEX_WAIT_BITS => {
            let (timeout, bits) = (call.argument(3), call.unsigned_argument(5));
            futex_wait(call, key, bits, timeout, true)
        }
        FUTEX_WAKE => value(wake(call, key, count.max(1), ANY)),
        FUTEX_WAKE_BITS => {
            let bits = call.unsigned_argument(5);
            if bits == 0 {
                return Err(Errno::INVAL);
            }
            value(wake(call, key, count.max(1), bits))
        }
        FUTEX_REQUEUE => requeue(call, key, count),
        FUTEX_COMPARE_REQUEUE => {
            let expected = call.unsigned_argument(5);
            if load(call, word)? != expected {
                return Err(Errno::AGAIN);
            }
            requeue(call, key, count)
        }
        FUTEX_WAKE_OPERATION => wake_and_change(call, key, count),
        _ => Err(Errno::NOSYS),
    }
}

fn key(call: &mut Call<'_>, address: u64) -> Result<Key, Errno> {
    if !address.is_multiple_of(4) {
        return Err(Errno::INVAL);
    }
    let is_private = call.unsigned_argument(1) & FUTEX_PRIVATE != 0;
    let shared = if is_private { None } else { call.process.memory.shared_place(address) };
    Ok(shared.map_or(Key::Own(call.process.id, address), Key::Shared))
}

fn load(call: &mut Call<'_>, address: u64) -> Result<u32, Errno> {
    Ok(u32::from_le_bytes(call.read_bytes(address)?))
}

fn wake(call: &mut Call<'_>, key: Key, count: usize, bits: u32) -> usize {
    let effects = &mut call.system.effects;
    call.system.futexes.wake(key, count, bits, |task| effects.push(Effect::Complete(task, 0)))
}

/// Waits while the word is as expected. A wake completes the call from outside, so an execution
/// that finds itself still waiting is late or interrupted.
fn futex_wait(
    call: &mut Call<'_>,
    key: Key,
    bits: u32,
    timeout: u64,
    is_absolute: bool,
) -> CallResult {
    if bits == 0 {
        return Err(Errno::INVAL);
    }
    let task = call.task.id;
    if !call.task.call.has_waited {
        if load(call, call.argument(0))? != call.unsigned_argument(2) {
            return Err(Errno::AGAIN);
        }
        let deadline = futex_deadline(call, timeout, is_absolute)?;
        call.deadline(deadline);
        let is_private = call.unsigned_argument(1) & FUTEX_PRIVATE != 0;
        let futexes = &mut call.system.futexes;
        if is_private {
            futexes.wait_privately(key, task, bits);
        } else {
            futexes.wait(key, task, bits);
        }
    }
    if call.is_late() {
        call.system.futexes.forget(task);
        return Err(Errno::TIMEDOUT);
    }
    let answer = call.block();
    if answer == Answer::Interrupted {
        call.system.futexes.forget(task);
        // A relative time would start over.
        if timeout != 0 && !is_absolute {
            return Err(Errno::INTR);
        }
    }
    Ok(answer)
}

fn futex_deadline(call: &mut Call<'_>, timeout: u64, is_absolute: bool) -> Result<u64, Errno> {
    if timeout == 0 {
        return Ok(NEVER);
    }
    let nanos = decode_timespec(&call.read_bytes(timeout)?)?;
    if !is_absolute {
        return Ok(after(monotonic_nanos(), nanos));
    }
    if call.unsigned_argument(1) & FUTEX_REALTIME == 0 {
        return Ok(nanos);
    }
    Ok(after(monotonic_nanos(), nanos.saturating_sub(realtime_nanos())))
}

fn requeue(call: &mut Call<'_>, from: Key, count: usize) -> CallResult {
    let most = usize::try_from(call.argument(3)).unwrap_or(usize::MAX);
    let to = key(call, call.argument(4))?;
    let woken = if count == 0 { 0 } else { wake(call, from, count, ANY) };
    let moved = call.system.futexes.requeue(from, to, most);
    value(woken + moved)
}

/// `FUTEX_WAKE_OP` (futex(2)): changes a second word and wakes its waiters by what it held.
fn wake_and_change(call: &mut Call<'_>, first: Key, count: usize) -> CallResult {
    let second_word = call.argument(4);
    let second = key(call, second_word)?;
    let most = usize::try_from(call.argument(3)).unwrap_or(usize::MAX);
    let code = call.unsigned_argument(5);
    let (operation, comparison) = (code >> 28, code >> 24 & 0xf);
    let signed = |field: u32| (field << 20).cast_signed() >> 20;
    let (mut operand, expected) = (signed(code >> 12 & 0xfff), signed(code & 0xfff));
    if operation & 8 != 0 {
        operand = 1_i32.checked_shl(operand.cast_unsigned() & 31).unwrap_or(0);
    }
    let old = load(call, second_word)?.cast_signed();
    let new = match operation & 7 {
        0 => operand,
        1 => old.wrapping_add(operand),
        2 => old | operand,
        3 => old & !operand,
        4 => old ^ operand,
        _ => return Err(Errno::NOSYS),
    };
    let holds = match comparison {
        0 => old == expected,
        1 => old != expected,
        2 => old < expected,
        3 => old <= expected,
        4 => old > expected,
        5 => old >= expected,
        _ => return Err(Errno::NOSYS),
    };
    call.write_bytes(second_word, &new.to_le_bytes())?;
    let mut woken = wake(call, first, count.max(1), ANY);
    if holds {
        woken += wake(call, second, most.max(1), ANY);
    }
    value(woken)
}
