//! The Linux system-call ABI of x86-64: number -> function.
//!
//! A function gets the [`Call`] and answers with a value, an error, or that it waits; one that
//! waited is executed again from its start when something it waits for has changed, so it keeps
//! what it must in `CallState`. A number without a function fails with ENOSYS and is reported.

pub mod transfer;
pub mod descriptor;
pub mod path;
pub mod stat;
pub mod poll;
pub mod socket;
pub mod memory;
pub mod thread;
pub mod process;
pub mod signal;
pub mod time;
pub mod timer;
pub mod schedule;
pub mod identity;
pub mod system;
pub mod inward;

use crate::errno::Errno;
use crate::process::task::{CallState, State};
use crate::process::{Answer, Call, Ending};

/// Result of a system call's function.
pub type CallResult = Result<Answer, Errno>;

/// Success without a value.
const DONE: CallResult = Ok(Answer::Value(0));

/// Executes the system call the task is in, and delivers what signals it may have caused.
///
/// # Errors
/// How the process ends.
pub fn execute(call: &mut Call<'_>) -> Result<(), Ending> {
    call.task.state = State::Runnable;
    if grows(call.task.context.number()) && machine::frame::is_kernel_short() {
        return finish(call, -i64::from(Errno::NOMEM.number()));
    }
    match dispatch(call) {
        Ok(Answer::Value(value)) => finish(call, value.cast_signed()),
        Ok(Answer::Waits) => {
            call.task.state = State::Blocked;
            Ok(())
        }
        Ok(Answer::Interrupted) => {
            call.deliver(true)?;
            forget(call);
            Ok(())
        }
        Ok(Answer::Replaced) => {
            forget(call);
            Ok(())
        }
        Err(error) => finish(call, -i64::from(error.number())),
    }
}

/// Whether a call makes something that the kernel keeps for the program: processes, files, areas,
/// sockets, timers, names. Of most there is a limit for each process, of all together only this one.
fn grows(number: u64) -> bool {
    matches!(
        number,
        // open, mmap, mprotect, pipe, mremap, madvise, dup, dup2
        2 | 9 | 10 | 22 | 25 | 28 | 32 | 33
            // socket, accept, socketpair, clone, fork, vfork, execve, fcntl
            | 41 | 43 | 53 | 56..=59 | 72
            // mkdir, creat, link, symlink, rt_sigqueueinfo, epoll_create, timer_create, epoll_ctl
            | 83 | 85 | 86 | 88 | 129 | 213 | 222 | 233
            // openat, mkdirat, linkat, symlinkat, timerfd, eventfd, accept4, eventfd2, epoll_create1,
            // dup3, pipe2, rt_tgsigqueueinfo, execveat
            | 257 | 258 | 265 | 266 | 283 | 284 | 288 | 290..=293 | 297 | 322
    )
}

/// The result is set before signals are delivered, so that a handler's frame holds it; a mask
/// that held for the call alone ends behind that.
fn finish(call: &mut Call<'_>, result: i64) -> Result<(), Ending> {
    call.task.context.set_result(result);
    if call.task.call.mask.is_some() {
        call.deliver(false)?;
    }
    forget(call);
    Ok(())
}

fn forget(call: &mut Call<'_>) {
    if let Some(mask) = call.task.call.mask {
        call.task.blocked = mask;
    }
    call.task.call = CallState::FRESH;
}

/// One row per call, in the order of their numbers.
#[rustfmt::skip]
fn dispatch(call: &mut Call<'_>) -> CallResult {
    match call.task.context.number() {
        0 => transfer::read(call),
        1 => transfer::write(call),
        2 => path::open(call),
        3 => descriptor::close(call),
        4 => stat::stat(call),
        5 => stat::fstat(call),
        6 => stat::lstat(call),
        7 => poll::poll(call),
        8 => transfer::lseek(call),
        9 => memory::mmap(call),
        10 => memory::mprotect(call),
        11 => memory::munmap(call),
        12 => memory::brk(call),
        13 => signal::rt_sigaction(call),
        14 => signal::rt_sigprocmask(call),
        15 => signal::rt_sigreturn(call),
        16 => descriptor::ioctl(call),
        17 => transfer::pread64(call),
        18 => transfer::pwrite64(call),
        19 => transfer::readv(call),
        20 => transfer::writev(call),
        21 => path::access(call),
        22 => descriptor::pipe(call),
        23 => poll::select(call),
        24 => thread::sched_yield(call),
        25 => memory::mremap(call),
        26 => memory::msync(call),
        28 => memory::madvise(call),
        32 => descriptor::dup(call),
        33 => descriptor::dup2(call),
        34 => signal::pause(call),
        35 => time::nanosleep(call),
        36 => time::getitimer(call),
        37 => time::alarm(call),
        38 => time::setitimer(call),
        39 => identity::getpid(call),
        41 => socket::socket(call),
        42 => socket::connect(call),
        43 => socket::accept(call),
        44 => socket::sendto(call),
        45 => socket::recvfrom(call),
        46 => socket::sendmsg(call),
        47 => socket::recvmsg(call),
        48 => socket::shutdown(call),
        49 => socket::bind(call),
        50 => socket::listen(call),
        51 => socket::getsockname(call),
        52 => socket::getpeername(call),
        53 => socket::socketpair(call),
        54 => socket::setsockopt(call),
        55 => socket::getsockopt(call),
        56 => thread::clone(call),
        57 => process::fork(call),
        58 => process::vfork(call),
        59 => process::execve(call),
        60 => thread::exit(call),
        61 => process::wait4(call),
        62 => signal::kill(call),
        63 => system::uname(call),
        72 => descriptor::fcntl(call),
        73 => descriptor::flock(call),
        74 | 75 => descriptor::fsync(call),
        76 => path::truncate(call),
        77 => descriptor::ftruncate(call),
        79 => path::getcwd(call),
        80 => path::chdir(call),
        81 => path::fchdir(call),
        82 => path::rename(call),
        83 => path::mkdir(call),
        84 => path::rmdir(call),
        85 => path::creat(call),
        86 => path::link(call),
        87 => path::unlink(call),
        88 => path::symlink(call),
        89 => path::readlink(call),
        90 => path::chmod(call),
        91 => path::fchmod(call),
        92 | 94 => path::chown(call),
        93 => path::fchown(call),
        95 => path::umask(call),
        96 => time::gettimeofday(call),
        97 => system::getrlimit(call),
        98 => system::getrusage(call),
        99 => system::sysinfo(call),
        100 => system::times(call),
        102 | 104 | 107 | 108 | 122 | 123 => identity::getuid(call),
        105 | 106 => identity::setuid(call),
        109 => identity::setpgid(call),
        110 => identity::getppid(call),
        111 => identity::getpgrp(call),
        112 => identity::setsid(call),
        113 | 114 | 117 | 119 => identity::setresuid(call),
        115 => identity::getgroups(call),
        116 => identity::setgroups(call),
        118 | 120 => identity::getresuid(call),
        121 => identity::getpgid(call),
        124 => identity::getsid(call),
        125 => identity::capget(call),
        127 => signal::rt_sigpending(call),
        128 => signal::rt_sigtimedwait(call),
        129 => signal::rt_sigqueueinfo(call),
        130 => signal::rt_sigsuspend(call),
        131 => signal::sigaltstack(call),
        132 => path::utime(call),
        137 => stat::statfs(call),
        138 => stat::fstatfs(call),
        140 => schedule::getpriority(call),
        141 => schedule::setpriority(call),
        142 => schedule::setparam(call),
        143 => schedule::getparam(call),
        144 => schedule::setscheduler(call),
        145 => schedule::getscheduler(call),
        146 => schedule::get_priority_max(call),
        147 => schedule::get_priority_min(call),
        148 => schedule::rr_get_interval(call),
        149 | 150 | 325 => memory::mlock(call),
        151 => memory::mlockall(call),
        152 | 162 => Ok(Answer::Value(0)),
        157 => system::prctl(call),
        158 => thread::arch_prctl(call),
        160 => system::setrlimit(call),
        186 => thread::gettid(call),
        187 | 306 => descriptor::checked_file(call),
        200 => signal::tkill(call),
        201 => time::time(call),
        202 => thread::futex(call),
        203 => thread::sched_setaffinity(call),
        204 => thread::sched_getaffinity(call),
        213 => poll::epoll_create(call),
        217 => path::getdents64(call),
        218 => thread::set_tid_address(call),
        221 => descriptor::fadvise64(call),
        222 => timer::timer_create(call),
        223 => timer::timer_settime(call),
        224 => timer::timer_gettime(call),
        225 => timer::timer_getoverrun(call),
        226 => timer::timer_delete(call),
        228 => time::clock_gettime(call),
        229 => time::clock_getres(call),
        230 => time::clock_nanosleep(call),
        231 => thread::exit_group(call),
        232 => poll::epoll_wait(call),
        233 => poll::epoll_ctl(call),
        234 => signal::tgkill(call),
        235 => path::utimes(call),
        247 => process::waitid(call),
        257 => path::openat(call),
        258 => path::mkdirat(call),
        260 => path::fchownat(call),
        261 => path::futimesat(call),
        262 => stat::newfstatat(call),
        263 => path::unlinkat(call),
        264 => path::renameat(call),
        265 => path::linkat(call),
        266 => path::symlinkat(call),
        267 => path::readlinkat(call),
        268 => path::fchmodat(call),
        269 => path::faccessat(call),
        270 => poll::pselect6(call),
        271 => poll::ppoll(call),
        273 => thread::set_robust_list(call),
        274 => thread::get_robust_list(call),
        280 => path::utimensat(call),
        281 => poll::epoll_pwait(call),
        283 => timer::timerfd_create(call),
        284 => descriptor::eventfd(call),
        285 => descriptor::fallocate(call),
        286 => timer::timerfd_settime(call),
        287 => timer::timerfd_gettime(call),
        288 => socket::accept4(call),
        290 => descriptor::eventfd2(call),
        291 => poll::epoll_create1(call),
        292 => descriptor::dup3(call),
        293 => descriptor::pipe2(call),
        295 => transfer::preadv(call),
        296 => transfer::pwritev(call),
        297 => signal::rt_tgsigqueueinfo(call),
        302 => system::prlimit64(call),
        309 => thread::getcpu(call),
        316 => path::renameat2(call),
        318 => system::getrandom(call),
        322 => process::execveat(call),
        324 => schedule::membarrier(call),
        327 => transfer::preadv2(call),
        328 => transfer::pwritev2(call),
        332 => stat::statx(call),
        436 => descriptor::close_range(call),
        439 => path::faccessat2(call),
        441 => poll::epoll_pwait2(call),
        452 => path::fchmodat2(call),
        number => {
            call.system.note_missing(call.process, number);
            Err(Errno::NOSYS)
        }
    }
}

/// A value that is never negative as a signed number: a count, a descriptor, an id.
fn value(number: impl TryInto<u64>) -> CallResult {
    number.try_into().map(Answer::Value).map_err(|_| Errno::INVAL)
}

#[cfg(test)]
pub(crate) mod tests;
