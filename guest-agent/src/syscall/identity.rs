//! Who the caller is, and which groups and sessions processes belong to. Programs run as root of their
//! container.

use super::{CallResult, DONE, value};
use crate::errno::Errno;
use crate::identity::ProcessId;
use crate::process::Call;

pub(super) fn getpid(call: &mut Call<'_>) -> CallResult {
    value(call.process.id.number())
}

/// Nobody that could be named has started the first program of a container.
pub(super) fn getppid(call: &mut Call<'_>) -> CallResult {
    value(call.system.family.parent_number(call.process.id))
}

pub(super) fn getuid(_call: &mut Call<'_>) -> CallResult {
    DONE
}

/// Only the user and group it is already.
pub(super) fn setuid(call: &mut Call<'_>) -> CallResult {
    if call.unsigned_argument(0) == 0 { DONE } else { Err(Errno::INVAL) }
}

/// As [`setuid`] for several: -1 leaves one as it is.
pub(super) fn setresuid(call: &mut Call<'_>) -> CallResult {
    let count = if matches!(call.task.context.number(), 113 | 114) { 2 } else { 3 };
    let is_kept = |id: u32| id == 0 || id == u32::MAX;
    if (0..count).all(|argument| is_kept(call.unsigned_argument(argument))) {
        DONE
    } else {
        Err(Errno::PERM)
    }
}

pub(super) fn getresuid(call: &mut Call<'_>) -> CallResult {
    for address in [call.argument(0), call.argument(1), call.argument(2)] {
        call.write_bytes(address, &[0; 4])?;
    }
    DONE
}

/// A process as an argument names it; 0 is the caller.
fn named(call: &Call<'_>, argument: usize) -> ProcessId {
    match call.unsigned_argument(argument) {
        0 => call.process.id,
        number => ProcessId::from_number(number),
    }
}

pub(super) fn setpgid(call: &mut Call<'_>) -> CallResult {
    let (id, group) = (named(call, 0), call.int_argument(1));
    if group < 0 {
        return Err(Errno::INVAL);
    }
    let group = if group == 0 { id } else { ProcessId::from_number(group.cast_unsigned()) };
    call.system.family.set_group(call.process.id, id, group)?;
    DONE
}

pub(super) fn setsid(call: &mut Call<'_>) -> CallResult {
    call.system.family.lead_session(call.process.id)?;
    value(call.process.id.number())
}

/// There are no other groups.
pub(super) fn setgroups(call: &mut Call<'_>) -> CallResult {
    if call.argument(0) == 0 { DONE } else { Err(Errno::PERM) }
}

/// Programs have no capabilities beyond their container.
pub(super) fn capget(call: &mut Call<'_>) -> CallResult {
    const VERSION: u32 = 0x2008_0522;
    const DATA_BYTES: usize = 24;
    let (header, data) = (call.argument(0), call.argument(1));
    let version = u32::from_le_bytes(call.read_bytes(header)?);
    let pid = u32::from_le_bytes(call.read_bytes(header.wrapping_add(4))?);
    if version != VERSION {
        call.write_bytes(header, &VERSION.to_le_bytes())?;
        return if data == 0 { DONE } else { Err(Errno::INVAL) };
    }
    if pid != 0 && pid != call.process.id.number() {
        return Err(Errno::SRCH);
    }
    if data != 0 {
        call.write_bytes(data, &[0; DATA_BYTES])?;
    }
    DONE
}

pub(super) fn getgroups(_call: &mut Call<'_>) -> CallResult {
    DONE
}

pub(super) fn getpgrp(call: &mut Call<'_>) -> CallResult {
    let (group, _) = call.system.family.place(call.process.id, call.process.id)?;
    value(group.number())
}

pub(super) fn getpgid(call: &mut Call<'_>) -> CallResult {
    let (group, _) = call.system.family.place(call.process.id, named(call, 0))?;
    value(group.number())
}

pub(super) fn getsid(call: &mut Call<'_>) -> CallResult {
    let (_, session) = call.system.family.place(call.process.id, named(call, 0))?;
    value(session.number())
}
