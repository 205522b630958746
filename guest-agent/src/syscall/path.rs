//! Calls that take paths, and directory listings.

use alloc::rc::Rc;
use alloc::vec::Vec;

use machine::clock::realtime_nanos;

use super::{CallResult, DONE, value};
use crate::errno::Errno;
use crate::file::{DirectoryEntry, OpenFile, flags};
use crate::filesystem::{Caller, PATH_BYTES_MAX, View};
use crate::process::Call;
use crate::time::{SECOND_NANOS, decode_timespec, decode_timeval, nanos_part};

/// Descriptor that means the current directory (`AT_FDCWD`).
const CURRENT_DIRECTORY: i32 = -100;
/// `AT_SYMLINK_NOFOLLOW`.
pub(super) const NO_FOLLOW: u32 = 0x100;
/// `AT_REMOVEDIR`, and `AT_EACCESS` for `faccessat2`.
const REMOVES_DIRECTORY: u32 = 0x200;
const EFFECTIVE_ACCESS: u32 = 0x200;
/// `AT_EMPTY_PATH`.
pub(super) const EMPTY_PATH: u32 = 0x1000;
/// `UTIME_NOW` and `UTIME_OMIT`.
const TIME_NOW: i64 = 0x3fff_ffff;
const TIME_OMIT: i64 = 0x3fff_fffe;
/// Bytes of a `struct linux_dirent64` in front of the name.
const ENTRY_BYTES: usize = 19;

/// A directory descriptor and a path, as the `*at` calls have them.
pub(super) struct At {
    pub(super) directory: Option<Rc<OpenFile>>,
    pub(super) path: Vec<u8>,
}

impl At {
    /// Reads them from the arguments `directory` and `directory + 1`.
    pub(super) fn read(call: &mut Call<'_>, directory: usize) -> Result<Self, Errno> {
        let path = read_path(call, call.argument(directory + 1))?;
        let descriptor = call.int_argument(directory);
        let is_free = descriptor == CURRENT_DIRECTORY || path.starts_with(b"/");
        let directory =
            if is_free { None } else { Some(call.process.descriptors.get(descriptor)?) };
        Ok(Self { directory, path })
    }

    /// A path alone, from argument `index`.
    pub(super) fn current(call: &mut Call<'_>, index: usize) -> Result<Self, Errno> {
        Ok(Self { directory: None, path: read_path(call, call.argument(index))? })
    }

    pub(super) fn directory(&self) -> Option<&OpenFile> {
        self.directory.as_deref()
    }
}

/// The path at an address.
pub(super) fn read_path(call: &mut Call<'_>, address: u64) -> Result<Vec<u8>, Errno> {
    let mut path = Vec::with_capacity(64);
    call.process.memory.read_text(address, PATH_BYTES_MAX - 1, &mut path)?;
    Ok(path)
}

/// The file system, and who looks at it.
pub(super) fn with_caller<T>(call: &Call<'_>, act: impl FnOnce(&View, &Caller<'_>) -> T) -> T {
    let process = &*call.process;
    let caller = Caller {
        process: process.id.number(),
        parent: call.system.family.parent_number(process.id),
        task: call.task.id.number(),
        executable: &process.executable,
        command_line: &process.command_line,
        name: call.task.name(),
        memory: &|text| process.memory.describe(&process.executable, text),
        descriptors: &process.descriptors,
    };
    act(&process.view, &caller)
}

pub(super) fn open(call: &mut Call<'_>) -> CallResult {
    let at = At::current(call, 0)?;
    let (open_flags, mode) = (call.unsigned_argument(1), call.unsigned_argument(2));
    open_at(call, &at, open_flags, mode)
}

pub(super) fn creat(call: &mut Call<'_>) -> CallResult {
    let at = At::current(call, 0)?;
    let mode = call.unsigned_argument(1);
    open_at(call, &at, flags::CREATE | flags::WRITE_ONLY | flags::TRUNCATE, mode)
}

pub(super) fn openat(call: &mut Call<'_>) -> CallResult {
    let at = At::read(call, 0)?;
    let (open_flags, mode) = (call.unsigned_argument(2), call.unsigned_argument(3));
    open_at(call, &at, open_flags, mode)
}

fn open_at(call: &mut Call<'_>, at: &At, open_flags: u32, mode: u32) -> CallResult {
    let opened = with_caller(call, |view, caller| {
        view.open(caller, at.directory(), &at.path, open_flags, mode)
    })?;
    let closes = open_flags & flags::CLOSE_ON_EXEC != 0;
    value(call.process.descriptors.insert(opened, closes, 0)?)
}

pub(super) fn access(call: &mut Call<'_>) -> CallResult {
    let at = At::current(call, 0)?;
    let mode = call.unsigned_argument(1);
    check_access(call, &at, mode)
}

pub(super) fn faccessat(call: &mut Call<'_>) -> CallResult {
    let at = At::read(call, 0)?;
    let mode = call.unsigned_argument(2);
    check_access(call, &at, mode)
}

pub(super) fn faccessat2(call: &mut Call<'_>) -> CallResult {
    if call.unsigned_argument(3) & !(NO_FOLLOW | EFFECTIVE_ACCESS) != 0 {
        return Err(Errno::INVAL);
    }
    faccessat(call)
}

fn check_access(call: &Call<'_>, at: &At, mode: u32) -> CallResult {
    if mode & !7 != 0 {
        return Err(Errno::INVAL);
    }
    with_caller(call, |view, caller| view.access(caller, at.directory(), &at.path, mode))?;
    DONE
}

pub(super) fn readlink(call: &mut Call<'_>) -> CallResult {
    let at = At::current(call, 0)?;
    let (address, room) = (call.argument(1), call.int_argument(2));
    read_link(call, &at, address, room)
}

pub(super) fn readlinkat(call: &mut Call<'_>) -> CallResult {
    let at = At::read(call, 0)?;
    let (address, room) = (call.argument(2), call.int_argument(3));
    read_link(call, &at, address, room)
}

fn read_link(call: &mut Call<'_>, at: &At, address: u64, room: i32) -> CallResult {
    let room = usize::try_from(room).ok().filter(|room| *room > 0).ok_or(Errno::INVAL)?;
    let mut target = alloc::vec![0; room.min(PATH_BYTES_MAX)];
    let count = with_caller(call, |view, caller| {
        view.read_link(caller, at.directory(), &at.path, &mut target)
    })?;
    call.write_bytes(address, &target[..count])?;
    value(count)
}

pub(super) fn getcwd(call: &mut Call<'_>) -> CallResult {
    let mut path = call.process.view.current_directory();
    path.push(0);
    let (address, room) = (call.argument(0), call.argument(1));
    if (path.len() as u64) > room {
        return Err(Errno::RANGE);
    }
    call.write_bytes(address, &path)?;
    value(path.len())
}

pub(super) fn chdir(call: &mut Call<'_>) -> CallResult {
    let at = At::current(call, 0)?;
    call.process.view.change_directory(None, &at.path)?;
    DONE
}

pub(super) fn fchdir(call: &mut Call<'_>) -> CallResult {
    let file = super::transfer::file(call)?;
    call.process.view.change_to(&file)?;
    DONE
}

pub(super) fn mkdir(call: &mut Call<'_>) -> CallResult {
    let at = At::current(call, 0)?;
    let mode = call.unsigned_argument(1);
    call.process.view.make_directory(None, &at.path, mode)?;
    DONE
}

pub(super) fn mkdirat(call: &mut Call<'_>) -> CallResult {
    let at = At::read(call, 0)?;
    let mode = call.unsigned_argument(2);
    call.process.view.make_directory(at.directory(), &at.path, mode)?;
    DONE
}

pub(super) fn rmdir(call: &mut Call<'_>) -> CallResult {
    let at = At::current(call, 0)?;
    call.process.view.remove_directory(None, &at.path)?;
    DONE
}

pub(super) fn unlink(call: &mut Call<'_>) -> CallResult {
    let at = At::current(call, 0)?;
    call.process.view.unlink(None, &at.path)?;
    DONE
}

pub(super) fn unlinkat(call: &mut Call<'_>) -> CallResult {
    let at = At::read(call, 0)?;
    match call.unsigned_argument(2) {
        0 => call.process.view.unlink(at.directory(), &at.path)?,
        REMOVES_DIRECTORY => call.process.view.remove_directory(at.directory(), &at.path)?,
        _ => return Err(Errno::INVAL),
    }
    DONE
}

pub(super) fn rename(call: &mut Call<'_>) -> CallResult {
    let (from, to) = (At::current(call, 0)?, At::current(call, 1)?);
    rename_at(call, &from, &to, 0)
}

pub(super) fn renameat(call: &mut Call<'_>) -> CallResult {
    let (from, to) = (At::read(call, 0)?, At::read(call, 2)?);
    rename_at(call, &from, &to, 0)
}

pub(super) fn renameat2(call: &mut Call<'_>) -> CallResult {
    let (from, to) = (At::read(call, 0)?, At::read(call, 2)?);
    let rename_flags = call.unsigned_argument(4);
    rename_at(call, &from, &to, rename_flags)
}

fn rename_at(call: &Call<'_>, from: &At, to: &At, rename_flags: u32) -> CallResult {
    let view = &call.process.view;
    view.rename(from.directory(), &from.path, to.directory(), &to.path, rename_flags)?;
    DONE
}

pub(super) fn link(call: &mut Call<'_>) -> CallResult {
    let (from, to) = (At::current(call, 0)?, At::current(call, 1)?);
    call.process.view.link(None, &from.path, None, &to.path)?;
    DONE
}

pub(super) fn linkat(call: &mut Call<'_>) -> CallResult {
    let (from, to) = (At::read(call, 0)?, At::read(call, 2)?);
    call.process.view.link(from.directory(), &from.path, to.directory(), &to.path)?;
    DONE
}

pub(super) fn symlink(call: &mut Call<'_>) -> CallResult {
    let (target, at) = (At::current(call, 0)?, At::current(call, 1)?);
    call.process.view.symlink(&target.path, None, &at.path)?;
    DONE
}

pub(super) fn symlinkat(call: &mut Call<'_>) -> CallResult {
    let (target, at) = (At::current(call, 0)?, At::read(call, 1)?);
    call.process.view.symlink(&target.path, at.directory(), &at.path)?;
    DONE
}

pub(super) fn truncate(call: &mut Call<'_>) -> CallResult {
    let at = At::current(call, 0)?;
    let bytes = call.argument(1);
    if i64::try_from(bytes).is_err() {
        return Err(Errno::INVAL);
    }
    with_caller(call, |view, caller| view.truncate(caller, None, &at.path, bytes))?;
    DONE
}

pub(super) fn chmod(call: &mut Call<'_>) -> CallResult {
    let at = At::current(call, 0)?;
    let mode = call.unsigned_argument(1);
    with_caller(call, |view, caller| view.set_mode(caller, None, &at.path, mode))?;
    DONE
}

pub(super) fn fchmod(call: &mut Call<'_>) -> CallResult {
    let mode = call.unsigned_argument(1);
    super::transfer::file(call)?.set_mode(mode)?;
    DONE
}

pub(super) fn fchmodat(call: &mut Call<'_>) -> CallResult {
    let at = At::read(call, 0)?;
    let mode = call.unsigned_argument(2);
    with_caller(call, |view, caller| view.set_mode(caller, at.directory(), &at.path, mode))?;
    DONE
}

pub(super) fn fchmodat2(call: &mut Call<'_>) -> CallResult {
    match call.unsigned_argument(3) {
        0 => fchmodat(call),
        // A link's own mode cannot be changed, as on Linux.
        NO_FOLLOW => Err(Errno::OPNOTSUPP),
        _ => Err(Errno::INVAL),
    }
}

/// Everything belongs to user and group 0: only they can be given it.
fn check_owner(user: u32, group: u32) -> CallResult {
    let is_kept = |id: u32| id == 0 || id == u32::MAX;
    if is_kept(user) && is_kept(group) { DONE } else { Err(Errno::PERM) }
}

pub(super) fn chown(call: &mut Call<'_>) -> CallResult {
    let at = At::current(call, 0)?;
    with_caller(call, |view, caller| view.stat(caller, None, &at.path, false))?;
    check_owner(call.unsigned_argument(1), call.unsigned_argument(2))
}

pub(super) fn fchown(call: &mut Call<'_>) -> CallResult {
    super::transfer::file(call)?;
    check_owner(call.unsigned_argument(1), call.unsigned_argument(2))
}

pub(super) fn fchownat(call: &mut Call<'_>) -> CallResult {
    let at = At::read(call, 0)?;
    if !at.path.is_empty() || call.unsigned_argument(4) & EMPTY_PATH == 0 {
        with_caller(call, |view, caller| view.stat(caller, at.directory(), &at.path, false))?;
    }
    check_owner(call.unsigned_argument(2), call.unsigned_argument(3))
}

pub(super) fn umask(call: &mut Call<'_>) -> CallResult {
    let umask = call.unsigned_argument(0);
    value(call.process.view.set_umask(umask))
}

pub(super) fn utimensat(call: &mut Call<'_>) -> CallResult {
    let times = read_times(call, call.argument(2))?;
    let follows = call.unsigned_argument(3) & NO_FOLLOW == 0;
    if call.argument(1) == 0 {
        super::transfer::file(call)?.set_times(times)?;
        return DONE;
    }
    let at = At::read(call, 0)?;
    with_caller(call, |view, caller| {
        view.set_times(caller, at.directory(), &at.path, times, follows)
    })?;
    DONE
}

/// Times as `struct utimbuf` has them: seconds.
pub(super) fn utime(call: &mut Call<'_>) -> CallResult {
    let (at, address) = (At::current(call, 0)?, call.argument(1));
    let mut times = [Some(realtime_nanos()); 2];
    if address != 0 {
        for (time, place) in times.iter_mut().zip([0, 8]) {
            let seconds = u64::from_le_bytes(call.read_bytes(address.wrapping_add(place))?);
            *time = Some(seconds.saturating_mul(SECOND_NANOS));
        }
    }
    set_times(call, &at, times)
}

pub(super) fn utimes(call: &mut Call<'_>) -> CallResult {
    let at = At::current(call, 0)?;
    let times = read_timevals(call, call.argument(1))?;
    set_times(call, &at, times)
}

pub(super) fn futimesat(call: &mut Call<'_>) -> CallResult {
    let times = read_timevals(call, call.argument(2))?;
    if call.argument(1) == 0 {
        super::transfer::file(call)?.set_times(times)?;
        return DONE;
    }
    let at = At::read(call, 0)?;
    set_times(call, &at, times)
}

fn set_times(call: &Call<'_>, at: &At, times: [Option<u64>; 2]) -> CallResult {
    with_caller(call, |view, caller| {
        view.set_times(caller, at.directory(), &at.path, times, true)
    })?;
    DONE
}

fn read_timevals(call: &mut Call<'_>, address: u64) -> Result<[Option<u64>; 2], Errno> {
    let mut times = [Some(realtime_nanos()); 2];
    if address != 0 {
        for (time, place) in times.iter_mut().zip([0, 16]) {
            *time = Some(decode_timeval(&call.read_bytes(address.wrapping_add(place))?)?);
        }
    }
    Ok(times)
}

fn read_times(call: &mut Call<'_>, address: u64) -> Result<[Option<u64>; 2], Errno> {
    let now = realtime_nanos();
    if address == 0 {
        return Ok([Some(now); 2]);
    }
    let mut times = [None; 2];
    for (time, at) in times.iter_mut().zip([0, 16]) {
        let bytes = call.read_bytes(address.wrapping_add(at))?;
        *time = match nanos_part(&bytes) {
            TIME_NOW => Some(now),
            TIME_OMIT => None,
            _ => Some(decode_timespec(&bytes)?),
        };
    }
    Ok(times)
}

pub(super) fn getdents64(call: &mut Call<'_>) -> CallResult {
    let file = super::transfer::file(call)?;
    let (address, room) = (call.argument(1), call.unsigned_argument(2));
    let room = usize::try_from(room).map_err(|_| Errno::INVAL)?;
    let mut done = 0;
    let mut result = Ok(());
    file.read_directory(&mut |entry| {
        let mut bytes = [0; ENTRY_BYTES + crate::filesystem::NAME_BYTES_MAX + 8];
        let count = encode_entry(entry, &mut bytes);
        if done + count > room {
            if done == 0 {
                result = Err(Errno::INVAL);
            }
            return false;
        }
        result = call.write_bytes(address.wrapping_add(done as u64), &bytes[..count]);
        done += count;
        result.is_ok()
    })?;
    result?;
    value(done)
}

/// Writes a `struct linux_dirent64` and returns its length, a multiple of 8.
fn encode_entry(entry: &DirectoryEntry<'_>, bytes: &mut [u8]) -> usize {
    let room = bytes.len() - ENTRY_BYTES - 8;
    let name = &entry.name[..entry.name.len().min(room)];
    let count = (ENTRY_BYTES + name.len() + 1).next_multiple_of(8);
    bytes[..8].copy_from_slice(&entry.inode.to_le_bytes());
    bytes[8..16].copy_from_slice(&entry.next_offset.to_le_bytes());
    bytes[16..18].copy_from_slice(&u16::try_from(count).unwrap_or(0).to_le_bytes());
    bytes[18] = entry.kind;
    bytes[ENTRY_BYTES..ENTRY_BYTES + name.len()].copy_from_slice(name);
    count
}
