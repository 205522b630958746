//! Clocks, sleeping, alarms.

use machine::clock::{monotonic_nanos, realtime_nanos};

use super::{CallResult, DONE, value};
use crate::errno::Errno;
use crate::process::{Answer, Call};
use crate::time::{
    Clock, NEVER, SECOND_NANOS, after, decode_timespec, decode_timeval, encode_timespec,
    encode_timeval,
};

/// `TIMER_ABSTIME`.
const ABSOLUTE: u32 = 1;
/// `ITIMER_REAL`.
const TIMER_REAL: u32 = 0;

/// What a clock says, nanoseconds.
fn read_clock(call: &Call<'_>, clock: Clock) -> u64 {
    match clock {
        Clock::Realtime => realtime_nanos(),
        Clock::Monotonic => monotonic_nanos(),
        Clock::Process => call.process.run_nanos,
    }
}

/// A program's clock id; negative ones name the CPU clock of a process or task.
fn clock(call: &Call<'_>) -> Result<Clock, Errno> {
    match u64::try_from(call.int_argument(0)) {
        Ok(number) => Clock::from_number(number),
        Err(_) => Ok(Clock::Process),
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
    if clock == Clock::Process {
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

/// Time left to the alarm, and its interval.
fn alarm_state(call: &Call<'_>) -> (u64, u64) {
    let left = match call.process.alarm_nanos {
        NEVER => 0,
        at => at.saturating_sub(monotonic_nanos()).max(1),
    };
    (left, call.process.alarm_interval_nanos)
}

fn set_alarm(call: &mut Call<'_>, nanos: u64, interval_nanos: u64) {
    let at = if nanos == 0 { NEVER } else { after(monotonic_nanos(), nanos) };
    call.process.alarm_nanos = at;
    call.process.alarm_interval_nanos = interval_nanos;
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
    if call.unsigned_argument(0) == TIMER_REAL { Ok(()) } else { Err(Errno::INVAL) }
}

fn write_timer(call: &mut Call<'_>, address: u64) -> CallResult {
    let (left, interval) = alarm_state(call);
    call.write_bytes(address, &encode_timeval(interval))?;
    call.write_bytes(address.wrapping_add(16), &encode_timeval(left))?;
    DONE
}
