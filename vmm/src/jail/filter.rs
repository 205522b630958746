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
const PLAIN: [i64; 26] = [
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
    libc::SYS_pread64,
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
    // A VM that may be reset and verified is read and set while it runs.
    let ioctls = [&number::RUN[..], &number::RESET, &number::CAPTURE].concat();
    if is_boot {
        rules.extend(CAPTURE.iter().map(|call| (*call, Vec::new())));
        asked.push(control(F_ADD_SEALS)?);
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
    use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect};
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;
    use std::ptr::null_mut;

    /// Names what the confined copy of this test does.
    const DEED: &str = "PILOTLIGHT_TEST_DEED";

    #[test]
    fn both_filters_compile_and_differ() {
        assert!(program(false).unwrap().len() < program(true).unwrap().len());
    }

    fn anonymous(protection: ProtFlags) -> *mut std::ffi::c_void {
        // SAFETY: a new mapping at an address of the kernel's choice, never used.
        unsafe { mmap_anonymous(null_mut(), 4096, protection, MapFlags::PRIVATE) }.unwrap()
    }

    fn perform(deed: &str) {
        let writable = ProtFlags::READ | ProtFlags::WRITE;
        match deed {
            "nothing" => drop(anonymous(writable)),
            "open a file" => drop(std::fs::File::open("/")),
            "open a socket" => drop(std::net::UdpSocket::bind("127.0.0.1:0")),
            "start a thread" => drop(std::thread::Builder::new().spawn(|| ())),
            "map executable memory" => drop(anonymous(writable | ProtFlags::EXEC)),
            "make memory executable" => {
                let memory = anonymous(writable);
                // SAFETY: the page was mapped just now and nobody uses it.
                let _ = unsafe { mprotect(memory, 4096, MprotectFlags::EXEC) };
            }
            "control a terminal" => drop(rustix::io::ioctl_fionread(std::io::stdin())),
            "signal another process" => {
                // SAFETY: signal 0 is sent to nobody.
                unsafe { libc::syscall(libc::SYS_tgkill, 1, 1, 0) };
            }
            "seal a memfd" => drop(region::sealed::freeze(std::io::stdin())),
            other => panic!("unknown deed {other}"),
        }
    }

    /// Runs this very test in a process of its own, where it confines itself and does the deed.
    fn signal_of(deed: &str) -> Option<i32> {
        const NAME: &str = "jail::filter::tests::forbidden_calls_kill_the_process";
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", NAME, "--nocapture", "--test-threads", "1"]).env(DEED, deed);
        command.output().unwrap().status.signal()
    }

    #[test]
    fn forbidden_calls_kill_the_process() {
        if let Ok(deed) = std::env::var(DEED) {
            apply(false).unwrap();
            perform(&deed);
            std::process::exit(0);
        }
        assert_eq!(signal_of("nothing"), None, "what is needed is allowed");
        for deed in [
            "open a file",
            "open a socket",
            "start a thread",
            "map executable memory",
            "make memory executable",
            "control a terminal",
            "signal another process",
            "seal a memfd",
        ] {
            assert_eq!(signal_of(deed), Some(libc::SIGSYS), "{deed}");
        }
    }
}
