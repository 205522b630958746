//! Promise: code that has taken over a running VMM can open no file or socket, start no program, reach no
//! other process and make no code: the first try ends it. A debugger takes the VMM over here, of a real
//! node and under all of its walls. Needs KVM and root.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::fs;
use std::os::unix::fs::FileExt;

use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use syscalls::Sysno;

use self::support::node::{run, stream_package, wait_for_status, warm_process};
use self::support::served::Served;

const CONFIG: &str = "[pools]\nwarm_target = 2\nwarm_min = 2\n[snapshots]\ncount_max = 0\n";
/// The instruction by which a program asks the kernel.
const SYSCALL: [u8; 2] = [0x0f, 0x05];

/// A VMM that is held.
struct Taken {
    pid: Pid,
    /// A `syscall` in its own code.
    instruction: u64,
}

impl Taken {
    /// Holds the first thread of the VMM; the others go on.
    fn take(pid: Pid) -> Self {
        ptrace::attach(pid).unwrap();
        let stopped = waitpid(pid, Some(WaitPidFlag::__WALL)).unwrap();
        assert_eq!(stopped, WaitStatus::Stopped(pid, Signal::SIGSTOP));
        Self { pid, instruction: find_syscall(pid) }
    }

    /// Has it make this call, and says what became of it.
    fn call(&self, number: Sysno, arguments: [u64; 4]) -> WaitStatus {
        let before = ptrace::getregs(self.pid).unwrap();
        let mut registers = before;
        registers.rip = self.instruction;
        registers.rax = u64::try_from(number.id()).unwrap();
        // Not the end of a call that is to be made again.
        registers.orig_rax = u64::MAX;
        [registers.rdi, registers.rsi, registers.rdx, registers.r10] = arguments;
        ptrace::setregs(self.pid, registers).unwrap();
        ptrace::step(self.pid, None).unwrap();
        let found = waitpid(self.pid, Some(WaitPidFlag::__WALL)).unwrap();
        if let WaitStatus::Stopped(..) = found {
            self.answer_is(ptrace::getregs(self.pid).unwrap().rax);
            ptrace::setregs(self.pid, before).unwrap();
        }
        found
    }

    /// The allowed call, `getpid`, gave the process' number in its own namespace.
    fn answer_is(&self, answer: u64) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap();
        let own = status.lines().find_map(|line| line.strip_prefix("NSpid:")).unwrap();
        let own: u64 = own.split_whitespace().last().unwrap().parse().unwrap();
        assert_eq!(answer, own, "it did what it was told");
    }
}

/// Where in the VMM's code a `syscall` is.
fn find_syscall(pid: Pid) -> u64 {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let memory = fs::File::open(format!("/proc/{pid}/mem")).unwrap();
    let code = maps.lines().filter(|line| line.contains(" r-xp ") && line.contains("memfd:"));
    let found = code.into_iter().find_map(|line| {
        let (start, end) = line.split_once(' ').unwrap().0.split_once('-').unwrap();
        let [start, end] = [start, end].map(|text| u64::from_str_radix(text, 16).unwrap());
        let mut bytes = vec![0; usize::try_from(end - start).unwrap()];
        memory.read_exact_at(&mut bytes, start).unwrap();
        let place = bytes.windows(2).position(|window| window == SYSCALL)?;
        Some(start + u64::try_from(place).unwrap())
    });
    found.unwrap_or_else(|| panic!("no system call in {maps}"))
}

fn warm_vmm(node: &Served) -> Pid {
    Pid::from_raw(warm_process(&mut node.client(), 2))
}

#[test]
fn the_first_forbidden_call_is_the_last() {
    let node = Served::configured(CONFIG);
    let mut client = node.client();
    client.deploy(("ada", "echo"), &stream_package("echo-stream", &[])).unwrap();
    // Held and let go again, one lives on: it is the calls that end the others.
    let taken = Taken::take(warm_vmm(&node));
    assert!(matches!(taken.call(Sysno::getpid, [0; 4]), WaitStatus::Stopped(..)));
    ptrace::detach(taken.pid, None).unwrap();
    assert_eq!(run(&mut client, "ada", "echo", b"still there").response, b"still there");
    let status = client.status().unwrap();
    let mut vms = status["vms"].as_array().unwrap().iter();
    assert!(vms.any(|vm| vm["pid"] == taken.pid.as_raw()), "a look ended it: {status:#}");
    let executable = u64::try_from(nix::libc::PROT_EXEC).unwrap();
    let page = 4096;
    // Arguments that would do no harm where the call was let through.
    let forbidden = [
        (Sysno::open, [0; 4]),
        (Sysno::openat, [0; 4]),
        (Sysno::socket, [1, 1, 0, 0]),
        (Sysno::connect, [0; 4]),
        (Sysno::execve, [0; 4]),
        (Sysno::execveat, [0; 4]),
        (Sysno::ptrace, [0; 4]),
        (Sysno::process_vm_readv, [1, 0, 0, 0]),
        (Sysno::kill, [1, 0, 0, 0]),
        // The node, if it could be seen from there.
        (Sysno::tgkill, [1, 1, 0, 0]),
        (Sysno::fork, [0; 4]),
        (Sysno::clone, [0; 4]),
        (Sysno::clone3, [0; 4]),
        (Sysno::memfd_create, [0; 4]),
        (Sysno::mprotect, [0, page, executable, 0]),
        (Sysno::mmap, [0, page, executable, 0x22]),
        (Sysno::ioctl, [0, 0x5413, 0, 0]),
        (Sysno::prctl, [0; 4]),
        (Sysno::seccomp, [0; 4]),
        (Sysno::bpf, [0; 4]),
        (Sysno::io_uring_setup, [0; 4]),
        (Sysno::mount, [0; 4]),
        (Sysno::unshare, [0; 4]),
        (Sysno::setns, [0; 4]),
    ];
    for (call, arguments) in forbidden {
        let taken = Taken::take(warm_vmm(&node));
        let found = taken.call(call, arguments);
        let is_killed = matches!(found, WaitStatus::Signaled(_, Signal::SIGSYS, _));
        assert!(is_killed, "{call}: {found:?}");
        wait_for_status(&mut client, "the node to know", |status| {
            let vms = status["vms"].as_array().unwrap();
            vms.iter().all(|vm| vm["pid"] != taken.pid.as_raw())
        });
    }
    // Nobody's VM was anybody's: whoever comes next is served.
    warm_vmm(&node);
    client.deploy(("bob", "echo"), &stream_package("echo-stream", &[])).unwrap();
    assert_eq!(run(&mut client, "bob", "echo", b"well").response, b"well");
}
