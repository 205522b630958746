//! Who the caller is. Programs run as root of their container, alone in their session.

use super::{CallResult, DONE, value};
use crate::errno::Errno;
use crate::process::Call;

pub(super) fn getpid(call: &mut Call<'_>) -> CallResult {
    value(call.process.id.number())
}

/// The program was started by nobody it could name.
pub(super) fn getppid(_call: &mut Call<'_>) -> CallResult {
    DONE
}

pub(super) fn getuid(_call: &mut Call<'_>) -> CallResult {
    DONE
}

/// Only the user and group it is already.
pub(super) fn setuid(call: &mut Call<'_>) -> CallResult {
    if call.unsigned_argument(0) == 0 { DONE } else { Err(Errno::INVAL) }
}

pub(super) fn getgroups(_call: &mut Call<'_>) -> CallResult {
    DONE
}

pub(super) fn getpgrp(call: &mut Call<'_>) -> CallResult {
    value(call.process.id.number())
}

pub(super) fn getpgid(call: &mut Call<'_>) -> CallResult {
    own(call)
}

pub(super) fn getsid(call: &mut Call<'_>) -> CallResult {
    own(call)
}

fn own(call: &mut Call<'_>) -> CallResult {
    let pid = call.process.id.number();
    match call.unsigned_argument(0) {
        0 => value(pid),
        asked if asked == pid => value(pid),
        _ => Err(Errno::SRCH),
    }
}
