//! Timers: those behind descriptors (`timerfd`), and those that send signals (`timer_create`).

use machine::clock::monotonic_nanos;

use super::time::{clock, left_nanos, read_clock};
use super::transfer::file;
use super::{CallResult, DONE, value};
use crate::errno::Errno;
use crate::file::{Timer as TimerFile, flags};
use crate::identity::TaskId;
use crate::process::timer::{Receiver, Timer};
use crate::process::{Call, Schedule};
use crate::signal::{CODE_TIMER, Information, Signal};
use crate::time::{Clock, after, decode_timespec, encode_timespec};

/// `TIMER_ABSTIME`, `TFD_TIMER_ABSTIME`.
const ABSOLUTE: u32 = 1;
/// `TFD_TIMER_CANCEL_ON_SET`: clocks are never set here.
const CANCEL_ON_SET: u32 = 2;
const EVENT_SIGNAL: i32 = 0;
const EVENT_NONE: i32 = 1;
const EVENT_THREAD: i32 = 4;
/// Bytes of a `struct sigevent` that say anything.
const EVENT_BYTES: usize = 20;

/// The clock a timer may go by: CPU time is none.
fn timer_clock(call: &Call<'_>) -> Result<Clock, Errno> {
    match clock(call)? {
        Clock::Process | Clock::Thread => Err(Errno::INVAL),
        clock @ (Clock::Realtime | Clock::Monotonic) => Ok(clock),
    }
}

/// Reads a `struct itimerspec`; when it is due is monotonic.
fn read_schedule(
    call: &mut Call<'_>,
    address: u64,
    clock: Clock,
    is_absolute: bool,
) -> Result<Schedule, Errno> {
    let interval_nanos = decode_timespec(&call.read_bytes(address)?)?;
    let first = decode_timespec(&call.read_bytes(address.wrapping_add(16))?)?;
    if first == 0 {
        return Ok(Schedule::NONE);
    }
    let wait = if is_absolute { first.saturating_sub(read_clock(call, clock)) } else { first };
    Ok(Schedule { at_nanos: after(monotonic_nanos(), wait), interval_nanos })
}

fn write_schedule(call: &mut Call<'_>, address: u64, schedule: Schedule) -> Result<(), Errno> {
    call.write_bytes(address, &encode_timespec(schedule.interval_nanos))?;
    let left = encode_timespec(left_nanos(schedule.at_nanos));
    call.write_bytes(address.wrapping_add(16), &left)
}

pub(super) fn timerfd_create(call: &mut Call<'_>) -> CallResult {
    let clock = timer_clock(call)?;
    let create_flags = call.unsigned_argument(1);
    if create_flags & !(flags::CLOSE_ON_EXEC | flags::NONBLOCK) != 0 {
        return Err(Errno::INVAL);
    }
    let file = TimerFile::file(&call.system.world, clock, create_flags);
    let closes = create_flags & flags::CLOSE_ON_EXEC != 0;
    value(call.process.descriptors.insert(file, closes, 0)?)
}

pub(super) fn timerfd_settime(call: &mut Call<'_>) -> CallResult {
    let (set_flags, new, old) = (call.unsigned_argument(1), call.argument(2), call.argument(3));
    if set_flags & !(ABSOLUTE | CANCEL_ON_SET) != 0 {
        return Err(Errno::INVAL);
    }
    let file = file(call)?;
    let timer = file.timer().ok_or(Errno::INVAL)?;
    let schedule = read_schedule(call, new, timer.clock(), set_flags & ABSOLUTE != 0)?;
    timer.alarm().catch_up(monotonic_nanos());
    if old != 0 {
        let (at_nanos, interval_nanos) = timer.alarm().setting();
        write_schedule(call, old, Schedule { at_nanos, interval_nanos })?;
    }
    timer.alarm().set(schedule.at_nanos, schedule.interval_nanos);
    // The kernel has to look at its deadlines again.
    call.system.is_yielding = true;
    DONE
}

pub(super) fn timerfd_gettime(call: &mut Call<'_>) -> CallResult {
    let file = file(call)?;
    let alarm = file.timer().ok_or(Errno::INVAL)?.alarm();
    alarm.catch_up(monotonic_nanos());
    let (at_nanos, interval_nanos) = alarm.setting();
    let address = call.argument(1);
    write_schedule(call, address, Schedule { at_nanos, interval_nanos })?;
    DONE
}

pub(super) fn timer_create(call: &mut Call<'_>) -> CallResult {
    let clock = timer_clock(call)?;
    let (event, number_at) = (call.argument(1), call.argument(2));
    let (receiver, signal, data) = if event == 0 {
        (Receiver::Process, Signal::ALRM, None)
    } else {
        let (receiver, signal, data) = read_event(call, event)?;
        (receiver, signal, Some(data))
    };
    let information = Information { signal, code: CODE_TIMER, value: 0, data: 0 };
    let timer = Timer { clock, schedule: Schedule::NONE, receiver, information, overrun: 0 };
    let number = call.process.timers.add(timer)?;
    let shown = u32::try_from(number).map_err(|_| Errno::AGAIN)?;
    let timer = call.process.timers.get(number)?;
    timer.information.value = u64::from(shown);
    timer.information.data = data.unwrap_or(u64::from(shown));
    if let Err(error) = call.write_bytes(number_at, &shown.to_le_bytes()) {
        call.process.timers.remove(number)?;
        return Err(error);
    }
    DONE
}

/// Who gets which signal with what along, by a `struct sigevent`.
fn read_event(call: &mut Call<'_>, address: u64) -> Result<(Receiver, Signal, u64), Errno> {
    let bytes = call.read_bytes::<EVENT_BYTES>(address)?;
    let (data, rest) = bytes.split_first_chunk().ok_or(Errno::INVAL)?;
    let field = |at: usize| {
        let mut field = [0; 4];
        field.copy_from_slice(&rest[at..at + 4]);
        i32::from_le_bytes(field)
    };
    let (number, kind, task) = (field(0), field(4), field(8));
    let signal = u64::try_from(number).ok().and_then(Signal::from_number);
    let receiver = match kind {
        EVENT_NONE => Receiver::Nobody,
        EVENT_SIGNAL => Receiver::Process,
        EVENT_THREAD => {
            let task = TaskId::from_number(u32::try_from(task).map_err(|_| Errno::INVAL)?);
            if !call.process.tasks.contains(&task) {
                return Err(Errno::INVAL);
            }
            Receiver::Task(task)
        }
        _ => return Err(Errno::INVAL),
    };
    let signal = if kind == EVENT_NONE { signal.or(Some(Signal::ALRM)) } else { signal };
    Ok((receiver, signal.ok_or(Errno::INVAL)?, u64::from_le_bytes(*data)))
}

fn number(call: &Call<'_>) -> Result<usize, Errno> {
    usize::try_from(call.int_argument(0)).map_err(|_| Errno::INVAL)
}

pub(super) fn timer_settime(call: &mut Call<'_>) -> CallResult {
    let number = number(call)?;
    let (set_flags, new, old) = (call.unsigned_argument(1), call.argument(2), call.argument(3));
    let Timer { clock, schedule: before, .. } = *call.process.timers.get(number)?;
    let schedule = read_schedule(call, new, clock, set_flags & ABSOLUTE != 0)?;
    if old != 0 {
        write_schedule(call, old, before)?;
    }
    let timer = call.process.timers.get(number)?;
    (timer.schedule, timer.overrun) = (schedule, 0);
    call.system.is_yielding = true;
    DONE
}

pub(super) fn timer_gettime(call: &mut Call<'_>) -> CallResult {
    let number = number(call)?;
    let schedule = call.process.timers.get(number)?.schedule;
    let address = call.argument(1);
    write_schedule(call, address, schedule)?;
    DONE
}

pub(super) fn timer_getoverrun(call: &mut Call<'_>) -> CallResult {
    let number = number(call)?;
    let overrun = call.process.timers.get(number)?.overrun;
    value(i32::try_from(overrun).unwrap_or(i32::MAX))
}

pub(super) fn timer_delete(call: &mut Call<'_>) -> CallResult {
    let number = number(call)?;
    call.process.timers.remove(number)?;
    DONE
}
