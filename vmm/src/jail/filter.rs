//! The system calls a running VM needs, with the arguments it needs them with. Anything else
//! kills the process.

use crate::gone::Gone;
use crate::kvm::number;
use libc::{F_ADD_SEALS, F_GET_SEALS, F_GETFD, PROT_EXEC, SYS_ioctl};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter_all_threads,
};
use std::collections::BTreeMap;
use std::io;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;
type Outcome<T> = Result<T, seccompiler::Error>;

/// Any arguments: they name no file and reach nothing but this process and its descriptors.
const PLAIN: [i64; 25] = [
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fstat,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_read,
    libc::SYS_recvmsg,
    libc::SYS_restart_syscall,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_yield,
    libc::SYS_sendmsg,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    libc::SYS_write,
];

/// Only while a snapshot is written.
const CAPTURE: [i64; 2] = [libc::SYS_lseek, libc::SYS_pwrite64];

/// Puts the filter on every thread of the process.
pub(super) fn apply(is_boot: bool) -> Result<(), Gone> {
    let applied = program(is_boot).and_then(|program| apply_filter_all_threads(&program));
    applied.map_err(|error| Gone::Host {
        doing: "filter system calls",
        error: io::Error::other(error),
    })
}

fn program(is_boot: bool) -> Outcome<BpfProgram> {
    let mut rules: Rules = PLAIN.iter().map(|call| (*call, Vec::new())).collect();
    // Signals only to our own threads.
    let process = u64::from(std::process::id());
    rules.insert(libc::SYS_tgkill, vec![equal(0, process)?]);
    // Memory is never executable, neither at once nor later.
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        let mask = SeccompCmpOp::MaskedEq(u64::from(PROT_EXEC.unsigned_abs()));
        let condition = SeccompCondition::new(2, SeccompCmpArgLen::Dword, mask, 0)?;
        rules.insert(call, vec![SeccompRule::new(vec![condition])?]);
    }
    // Debug builds ask whether a descriptor is open before they close it.
    let mut asked = vec![control(F_GET_SEALS)?, control(F_GETFD)?];
    let mut ioctls = number::RUN.to_vec();
    if is_boot {
        rules.extend(CAPTURE.iter().map(|call| (*call, Vec::new())));
        asked.push(control(F_ADD_SEALS)?);
        ioctls.extend(number::CAPTURE);
    }
    rules.insert(libc::SYS_fcntl, asked);
    let ioctls: Outcome<Vec<_>> = ioctls.iter().map(|it| equal(1, it())).collect();
    rules.insert(SYS_ioctl, ioctls?);
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::KillProcess,
        SeccompAction::Allow,
        TargetArch::x86_64,
    )?;
    Ok(BpfProgram::try_from(filter)?)
}

/// `fcntl` with this command.
fn control(command: i32) -> Outcome<SeccompRule> {
    equal(1, u64::from(command.unsigned_abs()))
}

fn equal(argument: u8, value: u64) -> Outcome<SeccompRule> {
    let condition =
        SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)?;
    Ok(SeccompRule::new(vec![condition])?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_filters_compile_and_differ() {
        assert!(program(false).unwrap().len() < program(true).unwrap().len());
    }
}
