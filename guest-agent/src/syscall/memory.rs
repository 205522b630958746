//! `mmap` and its kind.

use abi::layout::{PAGE_BYTES, USER_END};
use machine::frame::Frame;
use machine::paging::Backing;

use super::{CallResult, DONE, value};
use crate::errno::Errno;
use crate::file::{FilePage, OpenFile, flags};
use crate::memory::{ADDRESS_MIN, Access, Area, AtFork, Kind, PAGE, Range, Sink};
use crate::process::Call;

const MAP_SHARED: u64 = 1;
const MAP_PRIVATE: u64 = 2;
const MAP_SHARED_VALIDATE: u64 = 3;
const MAP_TYPE: u64 = 0xf;
const MAP_FIXED: u64 = 0x10;
const MAP_ANONYMOUS: u64 = 0x20;
const MAP_POPULATE: u64 = 0x8000;
const MAP_FIXED_NOREPLACE: u64 = 0x10_0000;

const REMAP_MAY_MOVE: u64 = 1;
const REMAP_FIXED: u64 = 2;

const ADVICE_NORMAL: u64 = 0;
const ADVICE_SEQUENTIAL: u64 = 2;
const ADVICE_WILL_NEED: u64 = 3;
const ADVICE_DONT_NEED: u64 = 4;
const ADVICE_FREE: u64 = 8;
const ADVICE_DONT_FORK: u64 = 10;
const ADVICE_DO_FORK: u64 = 11;
const ADVICE_MERGEABLE: u64 = 12;
const ADVICE_NO_DUMP: u64 = 17;
const ADVICE_WIPE_ON_FORK: u64 = 18;
const ADVICE_KEEP_ON_FORK: u64 = 19;
const ADVICE_POPULATE_READ: u64 = 22;
const ADVICE_POPULATE_WRITE: u64 = 23;

/// Anonymous memory up to this size is made at once: whoever asks for a few pages uses them, and
/// each fault saved is worth more than a page.
const EAGER_BYTES: u64 = 4 * PAGE_BYTES;

/// A page-aligned stretch of the user half.
fn range(start: u64, bytes: u64) -> Result<Range, Errno> {
    if !start.is_multiple_of(PAGE_BYTES) {
        return Err(Errno::INVAL);
    }
    let bytes = bytes.checked_next_multiple_of(PAGE_BYTES).ok_or(Errno::INVAL)?;
    let end = start.checked_add(bytes).ok_or(Errno::INVAL)?;
    if end > USER_END { Err(Errno::NOMEM) } else { Ok(Range { start, end }) }
}

pub(super) fn mmap(call: &mut Call<'_>) -> CallResult {
    let (hint, bytes, prot) = (call.argument(0), call.argument(1), call.argument(2));
    let (map_flags, offset) = (call.argument(3), call.argument(5));
    let bytes = bytes.checked_next_multiple_of(PAGE_BYTES).ok_or(Errno::NOMEM)?;
    if bytes == 0 || !offset.is_multiple_of(PAGE_BYTES) {
        return Err(Errno::INVAL);
    }
    let is_shared = match map_flags & MAP_TYPE {
        MAP_PRIVATE => false,
        MAP_SHARED | MAP_SHARED_VALIDATE => true,
        _ => return Err(Errno::INVAL),
    };
    let access = Access::from_prot(prot);
    let file = if map_flags & MAP_ANONYMOUS == 0 {
        let file = call.process.descriptors.get(call.int_argument(4))?;
        check_file(&file, is_shared, access)?;
        Some(file)
    } else {
        None
    };
    let range = destination(call, hint, bytes, map_flags)?;
    let kind = match &file {
        Some(file) if is_shared => shared_kind(file),
        None if is_shared => Kind::SharedLater,
        _ => Kind::Mapped,
    };
    let area = Area { access, kind, at_fork: AtFork::Copied };
    call.process.memory.map(range, area)?;
    let filled = match file {
        Some(file) => fill_from_file(call, &file, range, offset, area),
        None => {
            let is_eager = bytes <= EAGER_BYTES || map_flags & MAP_POPULATE != 0;
            let result = if is_eager && !access.is_none() { populate(call, range) } else { Ok(()) };
            // What was only a guess, or only asked for, is no failure.
            if bytes <= EAGER_BYTES { result } else { Ok(()) }
        }
    };
    if let Err(error) = filled {
        call.process.memory.unmap(range);
        return Err(error);
    }
    value(range.start)
}

/// How a shared mapping of a file relates to it. What comes from an image never changes: a copy
/// of its pages is as good as the pages.
fn shared_kind(file: &OpenFile) -> Kind {
    match file.share_page(0) {
        Err(Errno::NODEV) => Kind::Mapped,
        _ if flags::writes(file.flags()) => Kind::Shared,
        _ => Kind::SharedReadOnly,
    }
}

/// A store to a shared mapping has to reach the file, or is refused rather than lost.
fn check_file(file: &OpenFile, is_shared: bool, access: Access) -> Result<(), Errno> {
    if !flags::reads(file.flags()) {
        return Err(Errno::ACCES);
    }
    if !is_shared || !access.is_writable {
        return Ok(());
    }
    if !flags::writes(file.flags()) {
        return Err(Errno::ACCES);
    }
    if shared_kind(file) == Kind::Shared { Ok(()) } else { Err(Errno::NODEV) }
}

fn destination(call: &Call<'_>, hint: u64, bytes: u64, map_flags: u64) -> Result<Range, Errno> {
    if map_flags & (MAP_FIXED | MAP_FIXED_NOREPLACE) == 0 {
        let start = call.process.memory.place(hint, bytes)?;
        return range(start, bytes);
    }
    let fixed = range(hint, bytes)?;
    if fixed.start < ADDRESS_MIN {
        return Err(Errno::PERM);
    }
    if map_flags & MAP_FIXED_NOREPLACE != 0 && !call.process.memory.is_free(fixed) {
        return Err(Errno::EXIST);
    }
    Ok(fixed)
}

fn populate(call: &mut Call<'_>, range: Range) -> Result<(), Errno> {
    call.process.memory.populate(range)
}

/// A private mapping of a file is its own copy, made at once; pages in the image window are not
/// copied. A shared one has the file's own pages, as many as there are now.
fn fill_from_file(
    call: &mut Call<'_>,
    file: &OpenFile,
    range: Range,
    offset: u64,
    area: Area,
) -> Result<(), Errno> {
    let length = file.stat()?.bytes;
    let mut page = range.start;
    while page < range.end {
        let at = offset.checked_add(page - range.start).ok_or(Errno::OVERFLOW)?;
        if at >= length {
            break;
        }
        let backing = if area.kind.is_shared() {
            Backing::Frame(file.share_page(at)?)
        } else {
            match file.map_page(at)? {
                FilePage::Window(gpa) => Backing::Window(gpa),
                FilePage::Bytes => Backing::Frame(copied_page(file, at)?),
            }
        };
        call.process.memory.map_backing(page, backing, area.access)?;
        page += PAGE_BYTES;
    }
    Ok(())
}

fn copied_page(file: &OpenFile, offset: u64) -> Result<Frame, Errno> {
    let frame = Frame::zeroed().ok_or(Errno::NOMEM)?;
    let mut buffer = [0; PAGE];
    let mut done = 0;
    while done < buffer.len() {
        match file.read_at(offset + done as u64, &mut Sink::kernel(&mut buffer[done..]))? {
            0 => break,
            count => done += count,
        }
    }
    frame.write(0, &buffer[..done]);
    Ok(frame)
}

pub(super) fn munmap(call: &mut Call<'_>) -> CallResult {
    let range = range(call.argument(0), call.argument(1)).map_err(|_| Errno::INVAL)?;
    if range.bytes() == 0 {
        return Err(Errno::INVAL);
    }
    call.process.memory.check_cuts(range)?;
    call.process.memory.unmap(range);
    DONE
}

pub(super) fn mprotect(call: &mut Call<'_>) -> CallResult {
    let range = range(call.argument(0), call.argument(1))?;
    if range.bytes() == 0 {
        return DONE;
    }
    call.process.memory.protect(range, Access::from_prot(call.argument(2)))?;
    DONE
}

pub(super) fn brk(call: &mut Call<'_>) -> CallResult {
    let end = call.argument(0);
    value(call.process.memory.brk(end))
}

pub(super) fn mremap(call: &mut Call<'_>) -> CallResult {
    let (old_start, old_bytes) = (call.argument(0), call.argument(1));
    let (new_bytes, remap_flags, wanted) = (call.argument(2), call.argument(3), call.argument(4));
    let old = range(old_start, old_bytes)?;
    let new_bytes = new_bytes.checked_next_multiple_of(PAGE_BYTES).ok_or(Errno::INVAL)?;
    let is_fixed = remap_flags & REMAP_FIXED != 0;
    if new_bytes == 0
        || old.bytes() == 0
        || remap_flags & !(REMAP_MAY_MOVE | REMAP_FIXED) != 0
        || is_fixed && remap_flags & REMAP_MAY_MOVE == 0
    {
        return Err(Errno::INVAL);
    }
    let memory = &mut call.process.memory;
    let (found, area) = memory.area_at(old.start).ok_or(Errno::FAULT)?;
    if old.end > found.end {
        return Err(Errno::FAULT);
    }
    // Where a file's pages would come from is not remembered.
    if area.kind.is_shared() && new_bytes > old.bytes() {
        return Err(Errno::NOMEM);
    }
    if !is_fixed && new_bytes <= old.bytes() {
        let cut = Range { start: old.start + new_bytes, end: old.end };
        memory.check_cuts(cut)?;
        memory.unmap(cut);
        return value(old.start);
    }
    let grown = Range { start: old.end, end: old.start.saturating_add(new_bytes) };
    if !is_fixed && grown.end <= USER_END && memory.is_free(grown) {
        memory.map(grown, area)?;
        return value(old.start);
    }
    if remap_flags & REMAP_MAY_MOVE == 0 {
        return Err(Errno::NOMEM);
    }
    let target = if is_fixed {
        let target = range(wanted, new_bytes)?;
        if target.intersection(old).is_some() || target.start < ADDRESS_MIN {
            return Err(Errno::INVAL);
        }
        target
    } else {
        range(memory.place(0, new_bytes)?, new_bytes)?
    };
    memory.check_cuts(old)?;
    memory.map(target, area)?;
    let kept = Range { start: old.start, end: old.start + old.bytes().min(new_bytes) };
    memory.move_pages(kept, target.start, area)?;
    memory.unmap(old);
    value(target.start)
}

/// `mlock`, `munlock`: nothing is ever swapped, so all a lock has to do is make the pages.
pub(super) fn mlock(call: &mut Call<'_>) -> CallResult {
    const MUNLOCK: u64 = 150;
    let (start, bytes) = (call.argument(0), call.argument(1));
    let into = start % PAGE_BYTES;
    let range = range(start - into, bytes.checked_add(into).ok_or(Errno::INVAL)?)?;
    if !call.process.memory.is_used(range) {
        return Err(Errno::NOMEM);
    }
    if call.task.context.number() != MUNLOCK {
        call.process.memory.populate_all(range)?;
    }
    DONE
}

/// As [`mlock`] for everything there is and will be; the pages are made when touched.
pub(super) fn mlockall(call: &mut Call<'_>) -> CallResult {
    let lock_flags = call.unsigned_argument(0);
    if lock_flags == 0 || lock_flags & !7 != 0 { Err(Errno::INVAL) } else { DONE }
}

/// Nothing has to be written back: shared pages are the file's own.
pub(super) fn msync(call: &mut Call<'_>) -> CallResult {
    range(call.argument(0), call.argument(1))?;
    DONE
}

pub(super) fn madvise(call: &mut Call<'_>) -> CallResult {
    let range = range(call.argument(0), call.argument(1))?;
    if range.bytes() == 0 {
        return DONE;
    }
    let memory = &mut call.process.memory;
    match call.task.context.argument(2) {
        // Freed memory may be gone at once.
        ADVICE_DONT_NEED | ADVICE_FREE => {
            memory.forget(range);
            DONE
        }
        advice
        @ (ADVICE_WIPE_ON_FORK | ADVICE_KEEP_ON_FORK | ADVICE_DONT_FORK | ADVICE_DO_FORK) => {
            memory.check_cuts(range)?;
            let is_file = |kind: Kind| kind.is_shared() || kind == Kind::SharedLater;
            if advice == ADVICE_WIPE_ON_FORK && memory.kinds(range).any(is_file) {
                return Err(Errno::INVAL);
            }
            memory.set_at_fork(
                range,
                match advice {
                    ADVICE_WIPE_ON_FORK => AtFork::Wiped,
                    ADVICE_DONT_FORK => AtFork::Left,
                    _ => AtFork::Copied,
                },
            );
            DONE
        }
        ADVICE_POPULATE_READ | ADVICE_POPULATE_WRITE => {
            if !memory.is_used(range) {
                return Err(Errno::NOMEM);
            }
            memory.populate_all(range)?;
            DONE
        }
        // Hints, and marks for a dump.
        ADVICE_NORMAL..=ADVICE_WILL_NEED | ADVICE_MERGEABLE..=ADVICE_NO_DUMP => DONE,
        _ => Err(Errno::INVAL),
    }
}

const _: () = assert!(ADVICE_SEQUENTIAL < ADVICE_WILL_NEED);
