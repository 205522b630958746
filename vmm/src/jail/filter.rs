//! The system calls a running VM needs, with the arguments it needs them with. Anything else
//! kills the process.

use crate::gone::Gone;
use crate::jail::Needs;
use crate::kvm::number;
use crate::pagemap;
use abi::control::PageFinder;
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
const PLAIN: [i64; 27] = [
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
    libc::SYS_mincore,
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
    libc::SYS_timerfd_settime,
    libc::SYS_write,
];

/// The filter, ready to be put on.
#[derive(Debug)]
pub(crate) struct Filter(BpfProgram);

impl Filter {
    /// For a VM with these needs; compiling it takes a quarter of a millisecond.
    pub(crate) fn new(needs: &Needs) -> Result<Self, Gone> {
        program(needs).map(Self).map_err(refused)
    }

    /// Puts it on every thread of the process.
    pub(super) fn apply(&self) -> Result<(), Gone> {
        apply_filter_all_threads(&self.0).map_err(refused)
    }
}

fn refused(error: seccompiler::Error) -> Gone {
    Gone::Host { doing: "filter system calls", error: io::Error::other(error) }
}

fn program(needs: &Needs) -> Outcome<BpfProgram> {
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
    let mut ioctls = calls(&number::RUN)?;
    if needs.writes_snapshot {
        rules.insert(libc::SYS_pwrite64, Vec::new());
        asked.push(control(F_ADD_SEALS)?);
    }
    if needs.writes_snapshot || needs.pagemap.is_some() {
        // What of a memfd was ever written, and the registers of the own vCPU.
        rules.insert(libc::SYS_lseek, Vec::new());
        ioctls.extend(calls(&number::CAPTURE)?);
    }
    if let Some(map) = needs.pagemap {
        ioctls.extend(calls(&number::RESET)?);
        if let Some(descriptor) = map.descriptor {
            let descriptor = u64::from(descriptor.unsigned_abs());
            match map.finder {
                PageFinder::Scan => {
                    ioctls.push(both((0, descriptor), (1, pagemap::scan_number()))?);
                }
                PageFinder::Entries | PageFinder::Everything => {
                    rules.insert(libc::SYS_pread64, vec![equal(0, descriptor)?]);
                }
            }
        }
    }
    rules.insert(libc::SYS_fcntl, asked);
    rules.insert(SYS_ioctl, ioctls);
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

/// `ioctl` with any of these request numbers.
fn calls(numbers: &[fn() -> std::ffi::c_ulong]) -> Outcome<Vec<SeccompRule>> {
    numbers.iter().map(|number| equal(1, number())).collect()
}

fn equal(argument: u8, value: u64) -> Outcome<SeccompRule> {
    Ok(SeccompRule::new(vec![condition(argument, value)?])?)
}

fn both(one: (u8, u64), other: (u8, u64)) -> Outcome<SeccompRule> {
    Ok(SeccompRule::new(vec![condition(one.0, one.1)?, condition(other.0, other.1)?])?)
}

fn condition(argument: u8, value: u64) -> Outcome<SeccompCondition> {
    Ok(SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Ram;
    use crate::pagemap::Pagemap;
    use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect};
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;
    use std::ptr::null_mut;

    /// Names what the confined copy of this test does.
    const DEED: &str = "PILOTLIGHT_TEST_DEED";

    const BOOT: Needs = Needs { writes_snapshot: true, pagemap: None };

    #[test]
    fn filters_compile_and_differ() {
        let ram = Ram::reserved(32 << 20).unwrap();
        let map = Pagemap::open(&ram);
        let hot = Needs { writes_snapshot: false, pagemap: Some(map.question()) };
        let capturable = Needs { writes_snapshot: true, ..hot };
        let lengths = [BOOT, hot, capturable].map(|needs| program(&needs).unwrap().len());
        assert!(lengths[0] < lengths[2] && lengths[1] < lengths[2], "{lengths:?}");
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
            "scan the page map of another descriptor" => {
                // SAFETY: a call without pointers.
                unsafe { libc::ioctl(0, pagemap::scan_number(), 0) };
            }
            "write a snapshot" => drop(rustix::io::pwrite(std::io::stdin(), b"x", 0)),
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
            let ram = Ram::reserved(32 << 20).unwrap();
            let map = Pagemap::open(&ram);
            let needs = Needs { writes_snapshot: false, pagemap: Some(map.question()) };
            Filter::new(&needs).unwrap().apply().unwrap();
            map.private(&ram, &mut Vec::new()).unwrap();
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
            "scan the page map of another descriptor",
            "write a snapshot",
            "signal another process",
            "seal a memfd",
        ] {
            assert_eq!(signal_of(deed), Some(libc::SIGSYS), "{deed}");
        }
    }
}
