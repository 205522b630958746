//! Calls about descriptors themselves: closing, duplicating, flags, making pipes and events.

use alloc::rc::Rc;

use super::transfer::file;
use super::{CallResult, DONE, value};
use crate::errno::Errno;
use crate::file::{self, OpenFile, flags};
use crate::filesystem::lock::Held;
use crate::filesystem::open;
use crate::filesystem::record_lock::Record;
use crate::process::{Answer, Call};

const FCNTL_DUPLICATE: u32 = 0;
const FCNTL_GET_DESCRIPTOR: u32 = 1;
const FCNTL_SET_DESCRIPTOR: u32 = 2;
const FCNTL_GET_STATUS: u32 = 3;
const FCNTL_SET_STATUS: u32 = 4;
const FCNTL_GET_LOCK: u32 = 5;
const FCNTL_SET_LOCK: u32 = 6;
const FCNTL_SET_LOCK_WAIT: u32 = 7;
const FCNTL_DUPLICATE_CLOSING: u32 = 1030;

/// `FD_CLOEXEC`.
const CLOSES_ON_EXEC: u64 = 1;

const IOCTL_GET_READABLE: u32 = 0x541b;
const IOCTL_SET_NONBLOCKING: u32 = 0x5421;
const IOCTL_CLEAR_CLOSING: u32 = 0x5450;
const IOCTL_SET_CLOSING: u32 = 0x5451;

/// `CLOSE_RANGE_CLOEXEC`.
const RANGE_MARKS: u32 = 4;

pub(super) fn close(call: &mut Call<'_>) -> CallResult {
    let descriptor = call.int_argument(0);
    let closed = call.process.descriptors.remove(descriptor)?;
    open::forget_records(&closed, call.process.id);
    DONE
}

pub(super) fn close_range(call: &mut Call<'_>) -> CallResult {
    let (first, last) = (call.unsigned_argument(0), call.unsigned_argument(1));
    let range_flags = call.unsigned_argument(2);
    if first > last || range_flags & !RANGE_MARKS != 0 {
        return Err(Errno::INVAL);
    }
    if range_flags & RANGE_MARKS == 0 {
        let owner = call.process.id;
        let closed = |file: &OpenFile| open::forget_records(file, owner);
        call.process.descriptors.close_range(first, last, closed);
        return DONE;
    }
    let is_inside = |number: &i32| u32::try_from(*number).is_ok_and(|n| first <= n && n <= last);
    let open: alloc::vec::Vec<i32> = call.process.descriptors.numbers().filter(is_inside).collect();
    for number in open {
        call.process.descriptors.set_close_on_exec(number, true)?;
    }
    DONE
}

pub(super) fn dup(call: &mut Call<'_>) -> CallResult {
    let file = file(call)?;
    value(call.process.descriptors.insert(file, false, 0)?)
}

pub(super) fn dup2(call: &mut Call<'_>) -> CallResult {
    let (old, new) = (call.int_argument(0), call.int_argument(1));
    let file = file(call)?;
    if old == new {
        return value(new);
    }
    replace(call, new, file, false)
}

pub(super) fn dup3(call: &mut Call<'_>) -> CallResult {
    let (old, new) = (call.int_argument(0), call.int_argument(1));
    let new_flags = call.unsigned_argument(2);
    if old == new || new_flags & !flags::CLOSE_ON_EXEC != 0 {
        return Err(Errno::INVAL);
    }
    let file = file(call)?;
    replace(call, new, file, new_flags & flags::CLOSE_ON_EXEC != 0)
}

fn replace(call: &mut Call<'_>, new: i32, file: Rc<OpenFile>, closes: bool) -> CallResult {
    let before = call.process.descriptors.get(new);
    let given = call.process.descriptors.replace(new, file, closes)?;
    if let Ok(before) = before {
        open::forget_records(&before, call.process.id);
    }
    value(given)
}

pub(super) fn fcntl(call: &mut Call<'_>) -> CallResult {
    let file = file(call)?;
    let (descriptor, argument) = (call.int_argument(0), call.argument(2));
    let (operation, status) = (call.unsigned_argument(1), call.unsigned_argument(2));
    let descriptors = &mut call.process.descriptors;
    match operation {
        FCNTL_DUPLICATE | FCNTL_DUPLICATE_CLOSING => {
            let least = i32::try_from(argument).map_err(|_| Errno::INVAL)?;
            value(descriptors.insert(file, operation == FCNTL_DUPLICATE_CLOSING, least)?)
        }
        FCNTL_GET_DESCRIPTOR => value(u64::from(descriptors.close_on_exec(descriptor)?)),
        FCNTL_SET_DESCRIPTOR => {
            descriptors.set_close_on_exec(descriptor, argument & CLOSES_ON_EXEC != 0)?;
            DONE
        }
        FCNTL_GET_STATUS => value(file.flags()),
        FCNTL_SET_STATUS => {
            file.set_flags(status);
            DONE
        }
        FCNTL_GET_LOCK | FCNTL_SET_LOCK | FCNTL_SET_LOCK_WAIT => {
            lock_record(call, &file, operation)
        }
        _ => Err(Errno::INVAL),
    }
}

/// A `struct flock`: kind, whence, start, length, process.
fn lock_record(call: &mut Call<'_>, file: &OpenFile, operation: u32) -> CallResult {
    const READ: i16 = 0;
    const WRITE: i16 = 1;
    const UNLOCK: i16 = 2;
    let at = call.argument(2);
    let bytes = call.read_bytes::<32>(at)?;
    let short = |at: usize| i16::from_le_bytes([bytes[at], bytes[at + 1]]);
    let long = |at: usize| {
        let mut word = [0; 8];
        word.copy_from_slice(&bytes[at..at + 8]);
        i64::from_le_bytes(word)
    };
    let base = match short(2) {
        0 => 0,
        1 => file.position(),
        2 => file.stat()?.bytes,
        _ => return Err(Errno::INVAL),
    };
    let start = i64::try_from(base).ok().and_then(|base| base.checked_add(long(8)));
    let start = start.ok_or(Errno::OVERFLOW)?;
    let (start, end) = match long(16) {
        0 => (start, i64::MAX),
        length @ 1.. => (start, start.saturating_add(length)),
        length => (start.saturating_add(length), start),
    };
    let place = |at: i64| u64::try_from(at).map_err(|_| Errno::INVAL);
    let end = if end == i64::MAX { u64::MAX } else { place(end)? };
    let (kind, owner) = (short(0), call.process.id);
    let record = Record { owner, start: place(start)?, end, is_exclusive: kind == WRITE };
    let records = open::records(file).ok_or(Errno::BADF)?;
    if operation == FCNTL_GET_LOCK {
        return tell_conflict(call, at, records.conflict(&record));
    }
    let may = match kind {
        READ => flags::reads(file.flags()),
        WRITE => flags::writes(file.flags()),
        UNLOCK => {
            records.unlock(&record)?;
            return DONE;
        }
        _ => return Err(Errno::INVAL),
    };
    match if may { records.lock(record) } else { Err(Errno::BADF) } {
        Err(Errno::AGAIN) if operation == FCNTL_SET_LOCK_WAIT => {
            call.wait_for(records.released(&call.system.world));
            Ok(call.block())
        }
        result => result.map(|()| Answer::Value(0)),
    }
}

fn tell_conflict(call: &mut Call<'_>, at: u64, conflict: Option<Record>) -> CallResult {
    const UNLOCKED: i16 = 2;
    let Some(record) = conflict else {
        call.write_bytes(at, &UNLOCKED.to_le_bytes())?;
        return DONE;
    };
    let length = if record.end == u64::MAX { 0 } else { record.end - record.start };
    let mut bytes = [0; 28];
    bytes[..2].copy_from_slice(&i16::from(record.is_exclusive).to_le_bytes());
    bytes[8..16].copy_from_slice(&record.start.to_le_bytes());
    bytes[16..24].copy_from_slice(&length.to_le_bytes());
    bytes[24..].copy_from_slice(&record.owner.number().to_le_bytes());
    call.write_bytes(at, &bytes)?;
    DONE
}

pub(super) fn ioctl(call: &mut Call<'_>) -> CallResult {
    let file = file(call)?;
    let (descriptor, argument) = (call.int_argument(0), call.argument(2));
    match call.unsigned_argument(1) {
        IOCTL_GET_READABLE => {
            let count = i32::try_from(file.readable_bytes()?).unwrap_or(i32::MAX);
            call.write_bytes(argument, &count.to_le_bytes())?;
            DONE
        }
        IOCTL_SET_NONBLOCKING => {
            let is_set = i32::from_le_bytes(call.read_bytes(argument)?) != 0;
            let others = file.flags() & !flags::NONBLOCK;
            file.set_flags(if is_set { others | flags::NONBLOCK } else { others });
            DONE
        }
        IOCTL_SET_CLOSING => {
            call.process.descriptors.set_close_on_exec(descriptor, true)?;
            DONE
        }
        IOCTL_CLEAR_CLOSING => {
            call.process.descriptors.set_close_on_exec(descriptor, false)?;
            DONE
        }
        _ => Err(Errno::NOTTY),
    }
}

pub(super) fn pipe(call: &mut Call<'_>) -> CallResult {
    make_pipe(call, 0)
}

pub(super) fn pipe2(call: &mut Call<'_>) -> CallResult {
    let pipe_flags = call.unsigned_argument(1);
    make_pipe(call, pipe_flags)
}

fn make_pipe(call: &mut Call<'_>, pipe_flags: u32) -> CallResult {
    /// `O_DIRECT`: packets.
    const PACKETS: u32 = 0o40_000;
    if pipe_flags & !(flags::CLOSE_ON_EXEC | flags::NONBLOCK | PACKETS) != 0 {
        return Err(Errno::INVAL);
    }
    if pipe_flags & PACKETS != 0 {
        return Err(Errno::INVAL);
    }
    let account = call.process.memory.account();
    let (reader, writer) = file::pipe(&call.system.world, account, pipe_flags);
    insert_pair(call, [reader, writer], pipe_flags & flags::CLOSE_ON_EXEC != 0, 0)
}

/// Gives two files descriptors and writes their numbers where argument `at` points.
pub(super) fn insert_pair(
    call: &mut Call<'_>,
    files: [Rc<OpenFile>; 2],
    closes_on_exec: bool,
    at: usize,
) -> CallResult {
    let [first, second] = files;
    let descriptors = &mut call.process.descriptors;
    let first = descriptors.insert(first, closes_on_exec, 0)?;
    let second = match descriptors.insert(second, closes_on_exec, 0) {
        Ok(second) => second,
        Err(error) => {
            descriptors.remove(first)?;
            return Err(error);
        }
    };
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&first.to_le_bytes());
    bytes[4..].copy_from_slice(&second.to_le_bytes());
    let address = call.argument(at);
    if let Err(error) = call.write_bytes(address, &bytes) {
        call.process.descriptors.remove(first)?;
        call.process.descriptors.remove(second)?;
        return Err(error);
    }
    DONE
}

pub(super) fn eventfd(call: &mut Call<'_>) -> CallResult {
    make_event(call, 0)
}

pub(super) fn eventfd2(call: &mut Call<'_>) -> CallResult {
    let event_flags = call.unsigned_argument(1);
    make_event(call, event_flags)
}

fn make_event(call: &mut Call<'_>, event_flags: u32) -> CallResult {
    /// `EFD_SEMAPHORE`.
    const COUNTS_DOWN: u32 = 1;
    if event_flags & !(flags::CLOSE_ON_EXEC | flags::NONBLOCK | COUNTS_DOWN) != 0 {
        return Err(Errno::INVAL);
    }
    let first = u64::from(call.unsigned_argument(0));
    let file = file::eventfd(&call.system.world, first, event_flags);
    let closes = event_flags & flags::CLOSE_ON_EXEC != 0;
    value(call.process.descriptors.insert(file, closes, 0)?)
}

pub(super) fn fsync(call: &mut Call<'_>) -> CallResult {
    file(call)?.sync()?;
    DONE
}

pub(super) fn ftruncate(call: &mut Call<'_>) -> CallResult {
    let bytes = call.argument(1);
    file(call)?.truncate(bytes)?;
    DONE
}

/// `readahead`, `syncfs`: everything is in memory already.
pub(super) fn checked_file(call: &mut Call<'_>) -> CallResult {
    file(call)?;
    DONE
}

/// Only the form that makes a file longer; what it does not keep in store is made when written.
pub(super) fn fallocate(call: &mut Call<'_>) -> CallResult {
    let (offset, bytes) = (call.argument(2), call.argument(3));
    let file = file(call)?;
    if call.unsigned_argument(1) != 0 {
        return Err(Errno::OPNOTSUPP);
    }
    let end = i64::try_from(offset).ok().zip(i64::try_from(bytes).ok());
    let end = end.filter(|(_, bytes)| *bytes > 0).ok_or(Errno::INVAL)?;
    let end = end.0.checked_add(end.1).ok_or(Errno::FBIG)?.unsigned_abs();
    if !flags::writes(file.flags()) {
        return Err(Errno::BADF);
    }
    if end > file.stat()?.bytes {
        file.truncate(end)?;
    }
    DONE
}

/// `flock`: a lock belongs to an open file, so a program can meet its own.
pub(super) fn flock(call: &mut Call<'_>) -> CallResult {
    const SHARED: u32 = 1;
    const EXCLUSIVE: u32 = 2;
    const DO_NOT_WAIT: u32 = 4;
    const UNLOCK: u32 = 8;
    let file = file(call)?;
    let operation = call.unsigned_argument(1);
    let wanted = match operation & !DO_NOT_WAIT {
        SHARED => Held::Shared,
        EXCLUSIVE => Held::Exclusive,
        UNLOCK => Held::Nothing,
        _ => return Err(Errno::INVAL),
    };
    match open::lock(&file, wanted, &call.system.world) {
        Ok(()) => DONE,
        Err(None) => Err(Errno::INVAL),
        Err(Some(_)) if operation & DO_NOT_WAIT != 0 => Err(Errno::AGAIN),
        Err(Some(released)) => {
            call.wait_for(released);
            Ok(call.block())
        }
    }
}

/// Advice that everything is in memory already follows by itself.
pub(super) fn fadvise64(call: &mut Call<'_>) -> CallResult {
    file(call)?;
    DONE
}
