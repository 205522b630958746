//! System calls that only concern the process that makes them. They run once, before the point a
//! process is rewound to ([`crate::process::rewind`]): every other call ends that stretch.
//!
//! The rule for a row: its answer is the same in every request of the container, and all it
//! changes is saved at the point (memory, signal actions and masks, the task).

use crate::process::Call;

/// `TCGETS`, `TIOCGWINSZ`: what C libraries ask a standard stream before they first use it.
const TERMINAL_QUESTIONS: [u64; 2] = [0x5401, 0x5413];
/// `F_GETFD`, `F_GETFL`.
const DESCRIPTOR_QUESTIONS: [u64; 2] = [1, 3];
const MAP_ANONYMOUS_PRIVATE: u64 = 0x22;
const MAP_SHARED_OR_ANONYMOUS: u64 = 0x23;
/// `AT_EMPTY_PATH`: the file is the descriptor's own.
const EMPTY_PATH: u64 = 0x1000;
/// Calls this kernel does not have and start-up code or copying loops try: sendfile, splice,
/// copy_file_range, rseq. They fail alike every time.
const MISSING: [u64; 4] = [40, 275, 326, 334];
/// `FUTEX_WAKE`, with or without `FUTEX_PRIVATE_FLAG`.
const FUTEX_WAKES: [u64; 2] = [1, 129];
/// Its own executable, a name that never changes.
const EXECUTABLE: &[u8] = b"/proc/self/exe";
/// Standard input, output and error are the same open files in every request.
const STANDARD_FILES: i32 = 3;
/// Entries of a `poll` that are looked at: the three standard files, as start-up code asks.
const POLLED_MAX: u64 = 3;

/// Whether the call the task is about to make concerns nothing outside its process.
pub fn is_inward(call: &mut Call<'_>) -> bool {
    match call.task.context.number() {
        // mprotect, munmap, brk, mremap, madvise, mlock and its kind: areas and pages are saved.
        10 | 11 | 12 | 25 | 28 | 149..=151 | 325 => true,
        // mmap: without a file it is as the others; with one it is a look at the file.
        9 => call.argument(3) & MAP_SHARED_OR_ANONYMOUS == MAP_ANONYMOUS_PRIVATE,
        // rt_sigaction, rt_sigprocmask, rt_sigpending, sigaltstack: saved; nobody is there yet who could send signals.
        13 | 14 | 127 | 131 => true,
        // arch_prctl, set_tid_address, set_robust_list, get_robust_list: of the task, saved.
        158 | 218 | 273 | 274 => true,
        number if MISSING.contains(&number) => true,
        // futex, a wake only: the one thread there is does not wait.
        202 => FUTEX_WAKES.contains(&call.argument(1)),
        // prctl: name and marks of the task, saved; else constant.
        157 => true,
        // getpid, gettid, getppid, user and group ids: the process stays the same one.
        39 | 186 | 102 | 104 | 107 | 108 | 110 | 111 | 118 | 120 | 121 | 124 => true,
        // uname, getrlimit, prlimit64, clock_getres, scheduling parameters, sched_getaffinity,
        // getcpu: constant as long as the VM lives, and nothing they set is kept.
        63 | 97 | 302 | 229 | 143 | 145..=148 | 204 | 309 => true,
        // readlink, readlinkat of the executable's own path.
        89 => reads(call, 0, EXECUTABLE),
        267 => reads(call, 1, EXECUTABLE),
        // poll: what start-up code asks of the standard files, that they are open.
        7 => asks_nothing(call),
        // ioctl, fcntl, fstat of a standard file: there are no terminals; flags and numbers of the
        // three never change.
        16 => is_standard(call) && TERMINAL_QUESTIONS.contains(&call.argument(1)),
        72 => is_standard(call) && DESCRIPTOR_QUESTIONS.contains(&call.argument(1)),
        5 => is_standard(call),
        // newfstatat, statx of the same, as C libraries and Rust's spell it.
        262 => is_standard(call) && call.argument(3) & EMPTY_PATH != 0 && reads(call, 1, b""),
        332 => is_standard(call) && call.argument(2) & EMPTY_PATH != 0 && reads(call, 1, b""),
        _ => false,
    }
}

fn is_standard(call: &Call<'_>) -> bool {
    (0..STANDARD_FILES).contains(&call.int_argument(0))
}

/// Whether argument `n` is this text.
fn reads(call: &mut Call<'_>, n: usize, text: &[u8]) -> bool {
    let mut found = alloc::vec::Vec::new();
    let address = call.argument(n);
    call.process.memory.read_text(address, text.len(), &mut found).is_ok() && found == text
}

/// Whether it is a `poll` of standard files only, for no event, that does not wait: its answer is
/// that they are open. Input that has come, or ended, does not show before the point.
fn asks_nothing(call: &mut Call<'_>) -> bool {
    let (address, count) = (call.argument(0), u64::from(call.unsigned_argument(1)));
    let is_short = call.int_argument(2) == 0 && count <= POLLED_MAX;
    is_short
        && (0..count).all(|index| {
            let entry = call.read_bytes::<8>(address.wrapping_add(index * 8));
            entry.is_ok_and(|bytes| {
                let descriptor = i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
                (0..STANDARD_FILES).contains(&descriptor) && bytes[4..6] == [0, 0]
            })
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::syscall::tests::Fixture;

    #[test]
    fn what_counts_as_missing_is_missing() {
        let mut fixture = Fixture::new();
        for number in MISSING {
            assert_eq!(fixture.call(number, [0; 6]), Some(-38), "{number} is ENOSYS");
        }
    }

    #[test]
    fn a_call_is_judged_by_its_arguments_too() {
        let mut fixture = Fixture::new();
        let path = fixture.scratch(b"/proc/self/exe\0");
        let other = fixture.scratch(b"/proc/self/maps\0");
        let empty = fixture.scratch(b"\0");
        let quiet = fixture.scratch(&[1, 0, 0, 0, 0, 0, 0, 0]);
        let asking = fixture.scratch(&[0, 0, 0, 0, 1, 0, 0, 0]);
        let elsewhere = fixture.scratch(&[3, 0, 0, 0, 0, 0, 0, 0]);
        let cases = [
            (12, [0; 6], true),
            (9, [0, 4096, 3, 0x22, u64::MAX, 0], true),
            (9, [0, 4096, 3, 0x21, u64::MAX, 0], false),
            (9, [0, 4096, 3, 0x2, 3, 0], false),
            (89, [path, 0, 0, 0, 0, 0], true),
            (89, [other, 0, 0, 0, 0, 0], false),
            (89, [8, 0, 0, 0, 0, 0], false),
            (7, [quiet, 1, 0, 0, 0, 0], true),
            (7, [quiet, 1, 1, 0, 0, 0], false),
            (7, [asking, 1, 0, 0, 0, 0], false),
            (7, [elsewhere, 1, 0, 0, 0, 0], false),
            (7, [quiet, 900, 0, 0, 0, 0], false),
            (16, [1, 0x5413, 0, 0, 0, 0], true),
            (16, [1, 0x541b, 0, 0, 0, 0], false),
            (72, [0, 3, 0, 0, 0, 0], true),
            (72, [0, 4, 0, 0, 0, 0], false),
            (72, [3, 3, 0, 0, 0, 0], false),
            (332, [0, empty, 0x1000, 0, 0, 0], true),
            (332, [0, path, 0x1000, 0, 0, 0], false),
            (262, [4, empty, 0, 0x1000, 0, 0], false),
            (202, [0, 129, 0, 0, 0, 0], true),
            (202, [0, 128, 0, 0, 0, 0], false),
        ];
        // Reading, writing, opening, clocks, random numbers, threads, ends: never.
        let outward = [0, 1, 2, 20, 35, 41, 56, 60, 96, 228, 231, 232, 257, 318, 95, 80];
        let outward = outward.into_iter().map(|number| (number, [0; 6], false));
        for (number, arguments, expected) in cases.into_iter().chain(outward) {
            let main = fixture.main();
            let mut call = fixture.processes.call(main).unwrap();
            call.task.context.set_syscall(number, arguments);
            assert_eq!(is_inward(&mut call), expected, "{number} {arguments:x?}");
        }
    }
}
