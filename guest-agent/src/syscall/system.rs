//! What kind of machine this is, limits, names, random numbers.

use abi::layout::PAGE_BYTES;
use machine::clock::monotonic_nanos;

use super::{CallResult, DONE, value};
use crate::errno::Errno;
use crate::file::descriptors::DESCRIPTORS_MAX;
use crate::filesystem::processes::{RELEASE, VERSION};
use crate::process::Call;
use crate::process::exec::STACK_BYTES;
use crate::process::system::TASKS_MAX;
use crate::process::task::NAME_BYTES;
use crate::time::{SECOND_NANOS, encode_timeval};

/// Bytes of each of the six fields of `struct utsname`.
const NAME_FIELD_BYTES: usize = 65;
/// No limit (`RLIM_INFINITY`).
const UNLIMITED: u64 = u64::MAX;
/// Ticks per second of `times`.
const TICK_NANOS: u64 = SECOND_NANOS / 100;
/// Random bytes made at once; a signal or the end of the call can come between two lots.
const RANDOM_LOT: usize = 256;
/// Most bytes of one `getrandom`.
const RANDOM_BYTES_MAX: u64 = 33_554_431;

pub(super) fn uname(call: &mut Call<'_>) -> CallResult {
    let mut host = [0; 24];
    let host = vm_name(call.system.vm, &mut host);
    let fields: [&[u8]; 6] =
        [b"Linux", host, RELEASE.as_bytes(), VERSION.as_bytes(), b"x86_64", b"(none)"];
    let mut bytes = [0; 6 * NAME_FIELD_BYTES];
    for (into, field) in bytes.chunks_exact_mut(NAME_FIELD_BYTES).zip(fields) {
        into[..field.len()].copy_from_slice(field);
    }
    let address = call.argument(0);
    call.write_bytes(address, &bytes)?;
    DONE
}

/// `vm-<number>`.
fn vm_name(vm: u64, buffer: &mut [u8; 24]) -> &[u8] {
    let mut start = buffer.len();
    let mut rest = vm;
    loop {
        start -= 1;
        buffer[start] = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    start -= 3;
    buffer[start..start + 3].copy_from_slice(b"vm-");
    &buffer[start..]
}

pub(super) fn sysinfo(call: &mut Call<'_>) -> CallResult {
    let account = call.process.memory.account();
    let (total, used) = (account.limit_bytes(), account.used_bytes());
    let mut bytes = [0; 112];
    let mut put = |at: usize, word: u64| bytes[at..at + 8].copy_from_slice(&word.to_le_bytes());
    put(0, monotonic_nanos() / SECOND_NANOS);
    put(32, total);
    put(40, total - used);
    bytes[80..82].copy_from_slice(&1_u16.to_le_bytes());
    bytes[104..108].copy_from_slice(&1_u32.to_le_bytes());
    let address = call.argument(0);
    call.write_bytes(address, &bytes)?;
    DONE
}

pub(super) fn getrusage(call: &mut Call<'_>) -> CallResult {
    let peak_bytes = call.process.memory.account().peak_bytes();
    let mut bytes = [0; 144];
    match call.int_argument(0) {
        // SELF, THREAD. Time in the kernel is not told apart.
        who @ (0 | 1) => {
            let before = if who == 0 { call.process.run_nanos } else { call.task.run_nanos };
            let run_nanos = before + call.system.turn_nanos();
            bytes[..16].copy_from_slice(&encode_timeval(run_nanos));
            let kilobytes = peak_bytes / 1024;
            bytes[32..40].copy_from_slice(&kilobytes.to_le_bytes());
        }
        // CHILDREN.
        -1 => {
            bytes[..16].copy_from_slice(&encode_timeval(call.process.children_nanos));
        }
        _ => return Err(Errno::INVAL),
    }
    let address = call.argument(1);
    call.write_bytes(address, &bytes)?;
    DONE
}

pub(super) fn times(call: &mut Call<'_>) -> CallResult {
    let address = call.argument(0);
    if address != 0 {
        let mut bytes = [0; 32];
        let ticks = (call.process.run_nanos + call.system.turn_nanos()) / TICK_NANOS;
        let of_children = call.process.children_nanos / TICK_NANOS;
        bytes[..8].copy_from_slice(&ticks.to_le_bytes());
        bytes[16..24].copy_from_slice(&of_children.to_le_bytes());
        call.write_bytes(address, &bytes)?;
    }
    value(monotonic_nanos() / TICK_NANOS)
}

/// Soft and hard limit of a resource; nothing can be raised, so both are the same.
fn limit(call: &Call<'_>, resource: u32) -> Result<u64, Errno> {
    let memory = call.process.memory.account().limit_bytes();
    Ok(match resource {
        // STACK
        3 => STACK_BYTES,
        // CORE
        4 => 0,
        // RSS, AS
        5 => memory,
        // NPROC
        6 => TASKS_MAX as u64,
        // NOFILE
        7 => DESCRIPTORS_MAX as u64,
        // MEMLOCK: nothing is ever swapped.
        8 => memory,
        // CPU, FSIZE, DATA, AS, LOCKS, SIGPENDING, MSGQUEUE, NICE, RTPRIO, RTTIME
        0..=2 | 9..=15 => UNLIMITED,
        _ => return Err(Errno::INVAL),
    })
}

fn encode_limit(limit: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&limit.to_le_bytes());
    bytes[8..].copy_from_slice(&limit.to_le_bytes());
    bytes
}

pub(super) fn getrlimit(call: &mut Call<'_>) -> CallResult {
    let limit = limit(call, call.unsigned_argument(0))?;
    let address = call.argument(1);
    call.write_bytes(address, &encode_limit(limit))?;
    DONE
}

/// Limits are what they are: asking for the same is fine, for another is refused.
fn check_new_limit(call: &mut Call<'_>, limit: u64, address: u64) -> Result<(), Errno> {
    let wanted = u64::from_le_bytes(call.read_bytes(address)?);
    if wanted == limit { Ok(()) } else { Err(Errno::PERM) }
}

pub(super) fn setrlimit(call: &mut Call<'_>) -> CallResult {
    let limit = limit(call, call.unsigned_argument(0))?;
    let address = call.argument(1);
    check_new_limit(call, limit, address)?;
    DONE
}

pub(super) fn prlimit64(call: &mut Call<'_>) -> CallResult {
    let pid = call.unsigned_argument(0);
    if pid != 0 && pid != call.process.id.number() {
        return Err(Errno::SRCH);
    }
    let limit = limit(call, call.unsigned_argument(1))?;
    let (new, old) = (call.argument(2), call.argument(3));
    if old != 0 {
        call.write_bytes(old, &encode_limit(limit))?;
    }
    if new != 0 {
        check_new_limit(call, limit, new)?;
    }
    DONE
}

pub(super) fn prctl(call: &mut Call<'_>) -> CallResult {
    const SET_PDEATHSIG: u32 = 1;
    const GET_DUMPABLE: u32 = 3;
    const SET_DUMPABLE: u32 = 4;
    const SET_NAME: u32 = 15;
    const GET_NAME: u32 = 16;
    const SET_NO_NEW_PRIVILEGES: u32 = 38;
    const GET_NO_NEW_PRIVILEGES: u32 = 39;
    let address = call.argument(1);
    match call.unsigned_argument(0) {
        SET_NAME => {
            let mut name = alloc::vec::Vec::new();
            match call.process.memory.read_text(address, NAME_BYTES - 1, &mut name) {
                Ok(()) | Err(Errno::NAMETOOLONG) => call.task.set_name(&name),
                Err(error) => return Err(error),
            }
            DONE
        }
        GET_NAME => {
            let name = call.task.name;
            call.write_bytes(address, &name)?;
            DONE
        }
        // There is no parent that could die, nothing is dumped, nothing gives privileges.
        SET_PDEATHSIG | SET_DUMPABLE | SET_NO_NEW_PRIVILEGES => DONE,
        GET_DUMPABLE => DONE,
        GET_NO_NEW_PRIVILEGES => value(1_u64),
        _ => Err(Errno::INVAL),
    }
}

pub(super) fn getrandom(call: &mut Call<'_>) -> CallResult {
    /// `GRND_NONBLOCK`, `GRND_RANDOM`, `GRND_INSECURE`: there is one pool, and it is seeded.
    const FLAGS: u32 = 7;
    if call.unsigned_argument(2) & !FLAGS != 0 {
        return Err(Errno::INVAL);
    }
    let (address, wanted) = (call.argument(0), call.argument(1).min(RANDOM_BYTES_MAX));
    let mut lot = [0; RANDOM_LOT];
    let mut done = 0;
    while done < wanted {
        let count = usize::try_from(wanted - done).unwrap_or(RANDOM_LOT).min(RANDOM_LOT);
        call.system.world.random(&mut lot[..count]);
        call.write_bytes(address.wrapping_add(done), &lot[..count])?;
        done += count as u64;
    }
    value(done)
}

const _: () = assert!(PAGE_BYTES == 4096, "what sysconf tells programs");
