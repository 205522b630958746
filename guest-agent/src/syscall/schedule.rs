//! Priorities and policies: there is one processor and one policy, round robin among equals.

use super::{CallResult, DONE, value};
use crate::errno::Errno;
use crate::process::Call;
use crate::process::scheduler::SLICE_NANOS;
use crate::time::encode_timespec;

const POLICY_OTHER: i32 = 0;
const POLICY_FIFO: i32 = 1;
const POLICY_ROUND_ROBIN: i32 = 2;
const POLICY_BATCH: i32 = 3;
const POLICY_IDLE: i32 = 5;
/// What `getpriority` answers for the niceness 0: 20 less that.
const PRIORITY: u64 = 20;

/// The process or task in the first argument has to be the caller's own.
fn check_own(call: &Call<'_>) -> Result<(), Errno> {
    let asked = call.unsigned_argument(0);
    let is_own = asked == 0
        || asked == call.process.id.number()
        || call.process.tasks.iter().any(|task| task.number() == asked);
    if is_own { Ok(()) } else { Err(Errno::SRCH) }
}

pub(super) fn getscheduler(call: &mut Call<'_>) -> CallResult {
    check_own(call)?;
    value(POLICY_OTHER)
}

pub(super) fn getparam(call: &mut Call<'_>) -> CallResult {
    check_own(call)?;
    let address = call.argument(1);
    call.write_bytes(address, &0_i32.to_le_bytes())?;
    DONE
}

pub(super) fn setparam(call: &mut Call<'_>) -> CallResult {
    check_own(call)?;
    let priority = i32::from_le_bytes(call.read_bytes(call.argument(1))?);
    if priority == 0 { DONE } else { Err(Errno::INVAL) }
}

/// Only the policy it has already.
pub(super) fn setscheduler(call: &mut Call<'_>) -> CallResult {
    check_own(call)?;
    let priority = i32::from_le_bytes(call.read_bytes(call.argument(2))?);
    match (call.int_argument(1), priority) {
        (POLICY_OTHER, 0) => DONE,
        (POLICY_FIFO | POLICY_ROUND_ROBIN, 1..=99) | (POLICY_BATCH | POLICY_IDLE, 0) => {
            Err(Errno::PERM)
        }
        _ => Err(Errno::INVAL),
    }
}

pub(super) fn get_priority_max(call: &mut Call<'_>) -> CallResult {
    priority_of(call, 99)
}

pub(super) fn get_priority_min(call: &mut Call<'_>) -> CallResult {
    priority_of(call, 1)
}

fn priority_of(call: &Call<'_>, real_time: u64) -> CallResult {
    match call.int_argument(0) {
        POLICY_FIFO | POLICY_ROUND_ROBIN => value(real_time),
        POLICY_OTHER | POLICY_BATCH | POLICY_IDLE => DONE,
        _ => Err(Errno::INVAL),
    }
}

pub(super) fn rr_get_interval(call: &mut Call<'_>) -> CallResult {
    check_own(call)?;
    let address = call.argument(1);
    call.write_bytes(address, &encode_timespec(SLICE_NANOS))?;
    DONE
}

pub(super) fn getpriority(call: &mut Call<'_>) -> CallResult {
    check_priority(call)?;
    value(PRIORITY)
}

/// Only the niceness it has already.
pub(super) fn setpriority(call: &mut Call<'_>) -> CallResult {
    check_priority(call)?;
    if call.int_argument(2) == 0 { DONE } else { Err(Errno::PERM) }
}

/// A process, a group or a user, each of which is the caller.
fn check_priority(call: &Call<'_>) -> Result<(), Errno> {
    let asked = call.unsigned_argument(1);
    let is_own = asked == 0 || asked == call.process.id.number();
    match call.unsigned_argument(0) {
        0 | 1 if is_own => Ok(()),
        2 if asked == 0 => Ok(()),
        0..=2 => Err(Errno::SRCH),
        _ => Err(Errno::INVAL),
    }
}

/// One processor: what a barrier would order is in order when another task runs
/// (`membarrier(2)`).
pub(super) fn membarrier(call: &mut Call<'_>) -> CallResult {
    /// GLOBAL, GLOBAL_EXPEDITED, PRIVATE_EXPEDITED and their registrations.
    const COMMANDS: u32 = 0x1f;
    const QUERY: u32 = 0;
    match call.unsigned_argument(0) {
        _ if call.unsigned_argument(1) != 0 => Err(Errno::INVAL),
        QUERY => value(COMMANDS),
        command if command.is_power_of_two() && command & COMMANDS != 0 => DONE,
        _ => Err(Errno::INVAL),
    }
}
