//! Waiting for files: `poll`, `select`, `epoll` and their variants.

use alloc::rc::Rc;
use alloc::vec;
use alloc::vec::Vec;

use machine::clock::monotonic_nanos;

use super::{CallResult, DONE, value};
use crate::errno::Errno;
use crate::file::descriptors::DESCRIPTORS_MAX;
use crate::file::{Epoll, OpenFile, flags};
use crate::process::{Answer, Call};
use crate::signal::SignalSet;
use crate::time::{NEVER, after, decode_timespec, decode_timeval};

/// Bytes of a `struct pollfd`.
const POLL_BYTES: u64 = 8;
/// Bytes of a `struct epoll_event`, which is packed on x86-64.
const EVENT_BYTES: usize = 12;
/// Most events one `epoll_wait` reports; a program that asks for more calls again.
const EVENTS_MAX: usize = 256;
/// Bits reported though nobody asked: `POLLERR`, `POLLHUP`.
const ALWAYS: u32 = flags::ready::ERR | flags::ready::HUP;
/// `POLLNVAL`.
const NOT_OPEN: u16 = 0x20;
/// What `select` counts as readable, writable, exceptional.
const SELECT_READ: u32 = flags::ready::IN | ALWAYS | 0x40 | 0x80;
const SELECT_WRITE: u32 = flags::ready::OUT | flags::ready::ERR | 0x100 | 0x200;
const SELECT_EXCEPT: u32 = 2;
/// `EPOLL_CTL_DEL`.
const EPOLL_DELETE: u32 = 2;

const MILLISECOND_NANOS: u64 = 1_000_000;

/// Lets only signals outside `mask` interrupt this call.
fn set_mask(call: &mut Call<'_>, address: u64, bytes: u64) -> Result<(), Errno> {
    if address == 0 || call.task.call.mask.is_some() {
        return Ok(());
    }
    if bytes != 8 {
        return Err(Errno::INVAL);
    }
    let mask = SignalSet::mask(u64::from_le_bytes(call.read_bytes(address)?));
    call.task.call.mask = Some(call.task.blocked);
    call.task.blocked = mask;
    Ok(())
}

/// Sets the deadline from milliseconds; negative ones mean never.
fn set_timeout_millis(call: &mut Call<'_>, millis: i32) {
    if !call.task.call.has_waited {
        let deadline = u64::try_from(millis)
            .map_or(NEVER, |millis| after(monotonic_nanos(), millis * MILLISECOND_NANOS));
        call.deadline(deadline);
    }
}

/// Sets the deadline from a `struct timespec`; none means never.
fn set_timeout(call: &mut Call<'_>, address: u64) -> Result<(), Errno> {
    if !call.task.call.has_waited && address != 0 {
        let nanos = decode_timespec(&call.read_bytes(address)?)?;
        call.deadline(after(monotonic_nanos(), nanos));
    }
    Ok(())
}

pub(super) fn poll(call: &mut Call<'_>) -> CallResult {
    let millis = call.int_argument(2);
    set_timeout_millis(call, millis);
    poll_files(call)
}

pub(super) fn ppoll(call: &mut Call<'_>) -> CallResult {
    let (mask, mask_bytes) = (call.argument(3), call.argument(4));
    set_timeout(call, call.argument(2))?;
    set_mask(call, mask, mask_bytes)?;
    poll_files(call)
}

fn poll_files(call: &mut Call<'_>) -> CallResult {
    let (address, count) = (call.argument(0), call.unsigned_argument(1));
    if usize::try_from(count).is_ok_and(|count| count > DESCRIPTORS_MAX) {
        return Err(Errno::INVAL);
    }
    let entries = (0..u64::from(count)).map(|index| address.wrapping_add(index * POLL_BYTES));
    let mut ready = 0_u64;
    for entry in entries.clone() {
        let bytes = call.read_bytes::<8>(entry)?;
        let found = poll_one(call, &bytes);
        call.write_bytes(entry.wrapping_add(6), &found.to_le_bytes())?;
        ready += u64::from(found != 0);
    }
    if ready != 0 || call.is_late() {
        return value(ready);
    }
    for entry in entries {
        let (descriptor, _) = poll_entry(&call.read_bytes::<8>(entry)?);
        if let Ok(file) = call.process.descriptors.get(descriptor) {
            file.objects(&mut |object| call.wait_for(object));
        }
    }
    call.block_once()
}

/// Descriptor and events asked for.
fn poll_entry(bytes: &[u8; 8]) -> (i32, u32) {
    let descriptor = i32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
    (descriptor, u32::from(u16::from_le_bytes([bytes[4], bytes[5]])))
}

fn poll_one(call: &Call<'_>, bytes: &[u8; 8]) -> u16 {
    let (descriptor, wanted) = poll_entry(bytes);
    if descriptor < 0 {
        return 0;
    }
    match call.process.descriptors.get(descriptor) {
        Ok(file) => u16::try_from(file.readiness() & (wanted | ALWAYS)).unwrap_or(0),
        Err(_) => NOT_OPEN,
    }
}

pub(super) fn select(call: &mut Call<'_>) -> CallResult {
    let timeout = call.argument(4);
    if !call.task.call.has_waited && timeout != 0 {
        let nanos = decode_timeval(&call.read_bytes(timeout)?)?;
        call.deadline(after(monotonic_nanos(), nanos));
    }
    select_files(call)
}

pub(super) fn pselect6(call: &mut Call<'_>) -> CallResult {
    set_timeout(call, call.argument(4))?;
    let pair = call.argument(5);
    if pair != 0 {
        let mask = u64::from_le_bytes(call.read_bytes(pair)?);
        let bytes = u64::from_le_bytes(call.read_bytes(pair.wrapping_add(8))?);
        set_mask(call, mask, bytes)?;
    }
    select_files(call)
}

/// One of the three sets of `select`, with what counts as ready in it.
struct SelectSet {
    address: u64,
    events: u32,
    wanted: Vec<u64>,
    found: Vec<u64>,
}

impl SelectSet {
    fn read(call: &mut Call<'_>, address: u64, events: u32, count: usize) -> Result<Self, Errno> {
        let words = count.div_ceil(64);
        let mut wanted = vec![0; words];
        if address != 0 {
            for (index, word) in wanted.iter_mut().enumerate() {
                let at = address.wrapping_add(index as u64 * 8);
                *word = u64::from_le_bytes(call.read_bytes(at)?);
            }
        }
        if let Some(last) = wanted.last_mut()
            && !count.is_multiple_of(64)
        {
            *last &= (1 << (count % 64)) - 1;
        }
        Ok(Self { address, events, wanted, found: vec![0; words] })
    }

    /// The descriptors asked for.
    fn descriptors(&self) -> impl Iterator<Item = usize> + '_ {
        let bits = self.wanted.iter().enumerate();
        bits.flat_map(|(word, bits)| {
            (0..64).filter(move |bit| bits & (1 << bit) != 0).map(move |bit| word * 64 + bit)
        })
    }

    fn look(&mut self, call: &Call<'_>) -> Result<u64, Errno> {
        let mut count = 0;
        for descriptor in self.descriptors().collect::<Vec<_>>() {
            let file = file_at(call, descriptor)?;
            if file.readiness() & self.events != 0 {
                self.found[descriptor / 64] |= 1 << (descriptor % 64);
                count += 1;
            }
        }
        Ok(count)
    }

    fn write(&self, call: &mut Call<'_>) -> Result<(), Errno> {
        if self.address != 0 {
            for (index, word) in self.found.iter().enumerate() {
                let at = self.address.wrapping_add(index as u64 * 8);
                call.write_bytes(at, &word.to_le_bytes())?;
            }
        }
        Ok(())
    }
}

fn file_at(call: &Call<'_>, descriptor: usize) -> Result<Rc<OpenFile>, Errno> {
    let descriptor = i32::try_from(descriptor).map_err(|_| Errno::BADF)?;
    call.process.descriptors.get(descriptor)
}

fn select_files(call: &mut Call<'_>) -> CallResult {
    let count = usize::try_from(call.int_argument(0)).map_err(|_| Errno::INVAL)?;
    let count = count.min(DESCRIPTORS_MAX);
    let addresses = [call.argument(1), call.argument(2), call.argument(3)];
    let mut sets = [
        SelectSet::read(call, addresses[0], SELECT_READ, count)?,
        SelectSet::read(call, addresses[1], SELECT_WRITE, count)?,
        SelectSet::read(call, addresses[2], SELECT_EXCEPT, count)?,
    ];
    let mut ready = 0;
    for set in &mut sets {
        ready += set.look(call)?;
    }
    if ready != 0 || call.is_late() {
        for set in &sets {
            set.write(call)?;
        }
        return value(ready);
    }
    for descriptor in sets.iter().flat_map(SelectSet::descriptors) {
        file_at(call, descriptor)?.objects(&mut |object| call.wait_for(object));
    }
    call.block_once()
}

pub(super) fn epoll_create(call: &mut Call<'_>) -> CallResult {
    if call.int_argument(0) <= 0 {
        return Err(Errno::INVAL);
    }
    make_epoll(call, 0)
}

pub(super) fn epoll_create1(call: &mut Call<'_>) -> CallResult {
    let create_flags = call.unsigned_argument(0);
    if create_flags & !flags::CLOSE_ON_EXEC != 0 {
        return Err(Errno::INVAL);
    }
    make_epoll(call, create_flags)
}

fn make_epoll(call: &mut Call<'_>, create_flags: u32) -> CallResult {
    let file = Epoll::file(&call.system.world, create_flags);
    let closes = create_flags & flags::CLOSE_ON_EXEC != 0;
    value(call.process.descriptors.insert(file, closes, 0)?)
}

pub(super) fn epoll_ctl(call: &mut Call<'_>) -> CallResult {
    let set = super::transfer::file(call)?;
    let (operation, descriptor) = (call.unsigned_argument(1), call.int_argument(2));
    let file = call.process.descriptors.get(descriptor)?;
    let (mut events, mut data) = (0, 0);
    if operation != EPOLL_DELETE {
        let bytes = call.read_bytes::<EVENT_BYTES>(call.argument(3))?;
        let (first, second) = bytes.split_at(4);
        events = u32::from_le_bytes(first.try_into().map_err(|_| Errno::INVAL)?);
        data = u64::from_le_bytes(second.try_into().map_err(|_| Errno::INVAL)?);
    }
    let epoll = set.epoll().ok_or(Errno::INVAL)?;
    epoll.control(operation, descriptor, &file, events, data)?;
    DONE
}

pub(super) fn epoll_wait(call: &mut Call<'_>) -> CallResult {
    let millis = call.int_argument(3);
    set_timeout_millis(call, millis);
    wait_for_events(call)
}

pub(super) fn epoll_pwait(call: &mut Call<'_>) -> CallResult {
    let (mask, mask_bytes) = (call.argument(4), call.argument(5));
    set_mask(call, mask, mask_bytes)?;
    epoll_wait(call)
}

pub(super) fn epoll_pwait2(call: &mut Call<'_>) -> CallResult {
    let (mask, mask_bytes) = (call.argument(4), call.argument(5));
    set_timeout(call, call.argument(3))?;
    set_mask(call, mask, mask_bytes)?;
    wait_for_events(call)
}

fn wait_for_events(call: &mut Call<'_>) -> CallResult {
    let set = super::transfer::file(call)?;
    let epoll = set.epoll().ok_or(Errno::INVAL)?;
    let (address, room) = (call.argument(1), call.int_argument(2));
    let room = usize::try_from(room).ok().filter(|room| *room > 0).ok_or(Errno::INVAL)?;
    let room = room.min(EVENTS_MAX);
    let memory = &mut call.process.memory;
    let (mut count, mut result) = (0, Ok(()));
    epoll.collect(&mut |events, data| {
        let mut bytes = [0; EVENT_BYTES];
        bytes[..4].copy_from_slice(&events.to_le_bytes());
        bytes[4..].copy_from_slice(&data.to_le_bytes());
        result = memory.write(address.wrapping_add((count * EVENT_BYTES) as u64), &bytes);
        count += 1;
        result.is_ok() && count < room
    });
    result?;
    if count != 0 || call.is_late() {
        return Ok(Answer::Value(count as u64));
    }
    set.objects(&mut |object| call.wait_for(object));
    call.block_once()
}
