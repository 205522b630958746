//! Clocks, sleeping, alarms.

use machine::clock::{monotonic_nanos, realtime_nanos};

use super::{CallResult, DONE, value};
use crate::errno::Errno;
use crate::process::{Answer, Call, Schedule};
use crate::time::{
    Clock, NEVER, SECOND_NANOS, after, decode_timespec, decode_timeval, encode_timespec,
    encode_timeval,
};

/// `TIMER_ABSTIME`.
const ABSOLUTE: u32 = 1;
/// `ITIMER_REAL`.
const TIMER_REAL: u32 = 0;

/// What a clock says, nanoseconds.
pub(super) fn read_clock(call: &Call<'_>, clock: Clock) -> u64 {
    match clock {
        Clock::Realtime => realtime_nanos(),
        Clock::Monotonic => monotonic_nanos(),
        Clock::Process => call.process.run_nanos + call.system.turn_nanos(),
        Clock::Thread => call.task.run_nanos + call.system.turn_nanos(),
    }
}

/// A program's clock id; negative ones name the CPU clock of a process or a task by its number
/// (`MAKE_PROCESS_CPUCLOCK`). Only the caller's own can be asked for.
pub(super) fn clock(call: &Call<'_>) -> Result<Clock, Errno> {
    let id = call.int_argument(0);
    if let Ok(number) = u64::try_from(id) {
        return Clock::from_number(number);
    }
    let (owner, is_thread) = (u32::try_from(!(id >> 3)).unwrap_or(0), id & 4 != 0);
    let own = if is_thread { call.task.id.number() } else { call.process.id.number() };
    match (owner == 0 || owner == own, is_thread) {
        (true, true) => Ok(Clock::Thread),
        (true, false) => Ok(Clock::Process),
        (false, _) => Err(Errno::INVAL),
    }
}

pub(super) fn clock_gettime(call: &mut Call<'_>) -> CallResult {
    let now = read_clock(call, clock(call)?);
    let address = call.argument(1);
    call.write_bytes(address, &encode_timespec(now))?;
    DONE
}

pub(super) fn clock_getres(call: &mut Call<'_>) -> CallResult {
    clock(call)?;
    let address = call.argument(1);
    if address != 0 {
        call.write_bytes(address, &encode_timespec(1))?;
    }
    DONE
}

pub(super) fn gettimeofday(call: &mut Call<'_>) -> CallResult {
    let (time, zone) = (call.argument(0), call.argument(1));
    if time != 0 {
        call.write_bytes(time, &encode_timeval(realtime_nanos()))?;
    }
    if zone != 0 {
        call.write_bytes(zone, &[0; 8])?;
    }
    DONE
}

pub(super) fn time(call: &mut Call<'_>) -> CallResult {
    let (seconds, address) = (realtime_nanos() / SECOND_NANOS, call.argument(0));
    if address != 0 {
        call.write_bytes(address, &seconds.to_le_bytes())?;
    }
    value(seconds)
}

pub(super) fn nanosleep(call: &mut Call<'_>) -> CallResult {
    let nanos = decode_timespec(&call.read_bytes(call.argument(0))?)?;
    let rest = call.argument(1);
    sleep_until(call, after(monotonic_nanos(), nanos), rest)
}

pub(super) fn clock_nanosleep(call: &mut Call<'_>) -> CallResult {
    let clock = clock(call)?;
    if matches!(clock, Clock::Process | Clock::Thread) {
        return Err(Errno::OPNOTSUPP);
    }
    let nanos = decode_timespec(&call.read_bytes(call.argument(2))?)?;
    if call.unsigned_argument(1) & ABSOLUTE == 0 {
        let rest = call.argument(3);
        return sleep_until(call, after(monotonic_nanos(), nanos), rest);
    }
    let wait = nanos.saturating_sub(read_clock(call, clock));
    sleep_until(call, after(monotonic_nanos(), wait), 0)
}

/// Sleeps; interrupted, it writes the time that was left to `rest` unless that is 0.
fn sleep_until(call: &mut Call<'_>, deadline: u64, rest: u64) -> CallResult {
    let deadline = call.deadline(deadline);
    if call.is_late() {
        return DONE;
    }
    let answer = call.block();
    if answer != Answer::Interrupted {
        return Ok(answer);
    }
    if rest != 0 {
        let left = deadline.saturating_sub(monotonic_nanos());
        call.write_bytes(rest, &encode_timespec(left))?;
    }
    Err(Errno::INTR)
}

/// Time left to an instant: 0 for one that never comes, at least 1 for one that does.
pub(super) fn left_nanos(at_nanos: u64) -> u64 {
    match at_nanos {
        NEVER => 0,
        at => at.saturating_sub(monotonic_nanos()).max(1),
    }
}

/// Time left to the alarm, and its interval.
fn alarm_state(call: &Call<'_>) -> (u64, u64) {
    let Schedule { at_nanos, interval_nanos } = call.process.alarm;
    (left_nanos(at_nanos), interval_nanos)
}

fn set_alarm(call: &mut Call<'_>, nanos: u64, interval_nanos: u64) {
    let at_nanos = if nanos == 0 { NEVER } else { after(monotonic_nanos(), nanos) };
    call.process.alarm = Schedule { at_nanos, interval_nanos };
    // The kernel has to look at its deadlines again.
    call.system.is_yielding = true;
}

pub(super) fn alarm(call: &mut Call<'_>) -> CallResult {
    let (left, _) = alarm_state(call);
    let seconds = u64::from(call.unsigned_argument(0));
    set_alarm(call, seconds * SECOND_NANOS, 0);
    value(left.div_ceil(SECOND_NANOS))
}

pub(super) fn getitimer(call: &mut Call<'_>) -> CallResult {
    check_timer(call)?;
    let address = call.argument(1);
    write_timer(call, address)
}

pub(super) fn setitimer(call: &mut Call<'_>) -> CallResult {
    check_timer(call)?;
    let (new, old) = (call.argument(1), call.argument(2));
    let interval = decode_timeval(&call.read_bytes(new)?)?;
    let first = decode_timeval(&call.read_bytes(new.wrapping_add(16))?)?;
    if old != 0 {
        write_timer(call, old)?;
    }
    set_alarm(call, first, interval);
    DONE
}

fn check_timer(call: &Call<'_>) -> Result<(), Errno> {
    // The clocks of time in user mode and in all are not told apart.
    if call.unsigned_argument(0) == TIMER_REAL { Ok(()) } else { Err(Errno::INVAL) }
}

fn write_timer(call: &mut Call<'_>, address: u64) -> CallResult {
    let (left, interval) = alarm_state(call);
    call.write_bytes(address, &encode_timeval(interval))?;
    call.write_bytes(address.wrapping_add(16), &encode_timeval(left))?;
    DONE
}
