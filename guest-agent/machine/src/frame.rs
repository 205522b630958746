//! Frames: pages of the VM's RAM, handed out lowest first and counted.
//!
//! ```text
//! RAM  0 ── boot pages ── STACK_TOP ░free░ KERNEL ── image ── kernel_end │counts│bits│ ░free░
//! ```
//! A [`Frame`] is one share in a frame: `Clone` adds one, `Drop` gives it back, the last one frees
//! the frame. Page tables hold shares too. Lowest first keeps a snapshot compact and lets a fresh
//! process meet the pages the last one left mapped in the host.

use abi::layout::{BootInfo, PAGE_BYTES, boot};
use core::num::NonZeroU32;
use core::ops::Range;

use crate::physical::{self, PAGE};
use crate::state::state;

/// One frame in this many is kept for the kernel's heap.
const RESERVE_DIVISOR: usize = 64;

/// Even bits of a word of the bitmap, that is, even frames.
const EVEN: u64 = 0x5555_5555_5555_5555;

/// One share in one 4 KiB page of RAM.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame(NonZeroU32);

impl Frame {
    /// The lowest free frame, filled with zeros. `None` when RAM is used up.
    #[must_use]
    pub fn zeroed() -> Option<Self> {
        let frame = Self::uninitialised()?;
        frame.zero();
        Some(frame)
    }

    /// The lowest free frame with whatever bytes its last owner left: for callers that overwrite
    /// all of it before a program sees it.
    #[must_use]
    pub fn uninitialised() -> Option<Self> {
        take(|frames| frames.take_lowest(0)).map(Self)
    }

    /// A zeroed frame at an odd frame number: where roots lie.
    pub(crate) fn odd() -> Option<Self> {
        let frame = take(|frames| frames.take_lowest(EVEN)).map(Self)?;
        frame.zero();
        Some(frame)
    }

    /// Guest-physical address of its first byte.
    #[must_use]
    pub fn address(&self) -> u64 {
        u64::from(self.0.get()) * PAGE_BYTES
    }

    /// How many shares of it there are, page tables included.
    #[must_use]
    pub fn share_count(&self) -> u32 {
        state().frames.borrow().counts[self.index()]
    }

    /// Copies out of the frame.
    ///
    /// # Panics
    /// When the bytes do not lie inside the frame.
    pub fn read(&self, offset: usize, bytes: &mut [u8]) {
        let from = self.pointer(offset, bytes.len());
        // SAFETY: `pointer` checked the range; no reference to frame bytes is ever made, and
        // `bytes` is Rust memory, which never lies in a frame that has an owner here.
        unsafe { core::ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), bytes.len()) }
    }

    /// Copies into the frame.
    ///
    /// # Panics
    /// When the bytes do not lie inside the frame.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        let to = self.pointer(offset, bytes.len());
        // SAFETY: as in `read`.
        unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) }
    }

    /// Fills it with zeros.
    pub fn zero(&self) {
        let to = self.pointer(0, PAGE);
        // SAFETY: `pointer` checked the range; nothing else refers to frame bytes.
        unsafe { core::ptr::write_bytes(to, 0, PAGE) }
    }

    /// Fills `bytes` bytes from `offset` on with zeros.
    ///
    /// # Panics
    /// When they do not lie inside the frame.
    pub fn zero_range(&self, offset: usize, bytes: usize) {
        let to = self.pointer(offset, bytes);
        // SAFETY: `pointer` checked the range; nothing else refers to frame bytes.
        unsafe { core::ptr::write_bytes(to, 0, bytes) }
    }

    /// Copies another frame's bytes into this one.
    pub fn copy_from(&self, other: &Self) {
        let (to, from) = (self.pointer(0, PAGE), other.pointer(0, PAGE));
        // SAFETY: both ranges were checked; they may be the same frame, which `copy` allows.
        unsafe { core::ptr::copy(from, to, PAGE) }
    }

    /// Gives the share to a page table: the caller keeps the address instead.
    pub(crate) fn into_address(self) -> u64 {
        let address = self.address();
        core::mem::forget(self);
        address
    }

    /// Takes a share back.
    ///
    /// # Safety
    /// `address` came from [`Frame::into_address`] and its share was not taken back since.
    pub(crate) unsafe fn from_address(address: u64) -> Self {
        let index = u32::try_from(address / PAGE_BYTES).ok().and_then(NonZeroU32::new);
        Self(index.expect("a frame's address"))
    }

    fn index(&self) -> usize {
        self.0.get() as usize
    }

    fn pointer(&self, offset: usize, bytes: usize) -> *mut u8 {
        let end = offset.checked_add(bytes);
        assert!(end.is_some_and(|end| end <= PAGE), "inside the frame");
        physical::pointer(self.address() + offset as u64, bytes as u64)
    }
}

impl Clone for Frame {
    fn clone(&self) -> Self {
        let mut frames = state().frames.borrow_mut();
        let count = &mut frames.counts[self.index()];
        *count = count.checked_add(1).expect("fewer shares than page table entries");
        Self(self.0)
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        state().frames.borrow_mut().release(self.index());
    }
}

/// Frames that [`Frame::zeroed`] can still hand out: those nobody owns or that only wait for the
/// next process (see `paging`), less the kernel's reserve.
#[must_use]
pub fn free_count() -> usize {
    let frames = state().frames.borrow();
    (frames.free + state().spare_frames.get()).saturating_sub(frames.reserve)
}

/// Whether the kernel has used up half of what only it may take: whoever makes it grow now is to be
/// refused, before an allocation comes that cannot be.
#[must_use]
pub fn is_kernel_short() -> bool {
    #[cfg(target_os = "none")]
    let in_blocks = crate::heap::free_bytes();
    #[cfg(not(target_os = "none"))]
    let in_blocks = 0;
    let frames = state().frames.borrow();
    frames.free + in_blocks / PAGE < frames.reserve / 2
}

/// The lowest `count` free frames in a row, uninitialised: for the kernel's heap.
#[cfg_attr(
    not(any(target_os = "none", test)),
    expect(dead_code, reason = "only the kernel's heap takes runs")
)]
pub(crate) fn take_run(count: usize) -> Option<NonZeroU32> {
    take(|frames| frames.take_run(count))
}

/// Takes frames; when there are none, once more with what was kept in reserve.
fn take(from: impl Fn(&mut FrameTable) -> Option<NonZeroU32>) -> Option<NonZeroU32> {
    let taken = from(&mut state().frames.borrow_mut());
    if taken.is_some() {
        return taken;
    }
    let reclaim = state().reclaim.take()?;
    reclaim();
    from(&mut state().frames.borrow_mut())
}

/// Frames that can be handed out in all: RAM less boot pages, kernel image, this table and the
/// kernel's reserve.
#[must_use]
pub fn total_count() -> usize {
    let frames = state().frames.borrow();
    frames.total - frames.reserve
}

/// Share counts and a bitmap of used frames, both in RAM behind the kernel image.
pub(crate) struct FrameTable {
    counts: &'static mut [u32],
    used: &'static mut [u64],
    /// No word of `used` before this one has a clear bit.
    first: usize,
    free: usize,
    total: usize,
    /// Frames only the kernel's heap may take: programs that use up RAM do not end the kernel.
    reserve: usize,
}

impl FrameTable {
    pub(crate) const fn empty() -> Self {
        Self { counts: &mut [], used: &mut [], first: 0, free: 0, total: 0, reserve: 0 }
    }

    /// Lays the table into RAM behind the kernel image and frees the rest.
    ///
    /// # Safety
    /// `info` is true, was stored in the machine's state, and nothing uses RAM from its
    /// `kernel_end` on or between the boot stack and the kernel. Called once per machine.
    pub(crate) unsafe fn new(info: &BootInfo) -> Self {
        let frames = usize::try_from(info.ram_bytes / PAGE_BYTES).expect("a 64-bit machine");
        let words = frames.div_ceil(64);
        let counts_at = info.kernel_end.next_multiple_of(PAGE_BYTES);
        let used_at = (counts_at + frames as u64 * 4).next_multiple_of(8);
        let table_end = (used_at + words as u64 * 8).next_multiple_of(PAGE_BYTES);
        // SAFETY: the caller leaves this RAM to the table.
        let counts = unsafe { slice_at::<u32>(counts_at, frames) };
        // SAFETY: as above; it lies behind `counts`.
        let used = unsafe { slice_at::<u64>(used_at, words) };
        counts.fill(0);
        used.fill(u64::MAX);
        let mut table = Self { counts, used, first: 0, free: 0, total: 0, reserve: 0 };
        table.add(boot::STACK_TOP..boot::KERNEL.min(info.kernel_end));
        table.add(table_end..info.ram_bytes);
        table.reserve = table.total / RESERVE_DIVISOR;
        table
    }

    fn add(&mut self, range: Range<u64>) {
        for address in range.step_by(PAGE) {
            let index = usize::try_from(address / PAGE_BYTES).expect("a 64-bit machine");
            self.used[index / 64] &= !(1 << (index % 64));
            self.free += 1;
            self.total += 1;
        }
    }

    /// Takes the lowest free frame whose bit in a word is not in `forbidden`.
    fn take_lowest(&mut self, forbidden: u64) -> Option<NonZeroU32> {
        if self.free <= self.reserve {
            return None;
        }
        let mut is_first = true;
        for word in self.first..self.used.len() {
            let used = self.used[word];
            if is_first && used == u64::MAX {
                self.first = word + 1;
            } else {
                is_first = false;
            }
            let bit = (used | forbidden).trailing_ones() as usize;
            if bit < 64 {
                return Some(self.take(word * 64 + bit));
            }
        }
        None
    }

    /// Takes the lowest `count` free frames in a row.
    fn take_run(&mut self, count: usize) -> Option<NonZeroU32> {
        let mut length = 0;
        let mut index = self.first * 64;
        while index < self.counts.len() {
            let used = self.used[index / 64] >> (index % 64);
            if used & 1 == 0 {
                length += 1;
                index += 1;
            } else {
                length = 0;
                index += (used.trailing_ones() as usize).min(64 - index % 64);
            }
            if length == count {
                let start = index - count;
                (start..index).for_each(|frame| {
                    self.take(frame);
                });
                return u32::try_from(start).ok().and_then(NonZeroU32::new);
            }
        }
        None
    }

    fn take(&mut self, index: usize) -> NonZeroU32 {
        self.used[index / 64] |= 1 << (index % 64);
        self.counts[index] = 1;
        self.free -= 1;
        let number = u32::try_from(index).ok().and_then(NonZeroU32::new);
        number.expect("RAM_BYTES_MAX has fewer frames, and frame 0 is never free")
    }

    /// Gives one share of a frame back.
    pub(crate) fn release(&mut self, index: usize) {
        let count = &mut self.counts[index];
        *count = count.checked_sub(1).expect("a share of the frame");
        if *count == 0 {
            self.used[index / 64] &= !(1 << (index % 64));
            self.free += 1;
            self.first = self.first.min(index / 64);
        }
    }
}

/// # Safety
/// The caller leaves the RAM at `address` to the slice for ever.
unsafe fn slice_at<T>(address: u64, count: usize) -> &'static mut [T] {
    let start = physical::pointer(address, (count * size_of::<T>()) as u64).cast();
    // SAFETY: `pointer` checked that it is RAM; any bytes are a valid integer; the caller leaves
    // it to the slice; addresses are multiples of 8.
    unsafe { core::slice::from_raw_parts_mut(start, count) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host;

    #[test]
    fn frames_are_handed_out_lowest_first_and_come_back() {
        host::init(8 << 20);
        let free = free_count();
        let first = Frame::zeroed().unwrap();
        let second = Frame::zeroed().unwrap();
        assert_eq!(second.address(), first.address() + PAGE_BYTES);
        let address = first.address();
        drop(first);
        assert_eq!(Frame::zeroed().unwrap().address(), address);
        drop(second);
        assert_eq!(free_count(), free);
        assert!(free <= total_count());
    }

    #[test]
    fn a_shared_frame_lives_until_its_last_share_is_gone() {
        host::init(8 << 20);
        let free = free_count();
        let frame = Frame::zeroed().unwrap();
        let other = frame.clone();
        assert_eq!((frame.share_count(), free_count()), (2, free - 1));
        frame.write(4090, b"abcdef");
        drop(frame);
        let mut bytes = [0; 6];
        other.read(4090, &mut bytes);
        assert_eq!((&bytes, other.share_count()), (b"abcdef", 1));
        drop(other);
        assert_eq!(free_count(), free);
    }

    #[test]
    fn a_recycled_frame_is_zero() {
        host::init(8 << 20);
        let frame = Frame::zeroed().unwrap();
        frame.write(0, &[0xff; 4096]);
        let address = frame.address();
        drop(frame);
        let again = Frame::zeroed().unwrap();
        let mut bytes = [1; 4096];
        again.read(0, &mut bytes);
        assert_eq!(again.address(), address);
        assert_eq!(bytes, [0; 4096]);
    }

    #[test]
    fn odd_frames_are_odd_and_leave_even_ones_for_others() {
        host::init(8 << 20);
        let roots: Vec<_> = (0..100).map(|_| Frame::odd().unwrap()).collect();
        assert!(roots.iter().all(|root| root.address() & PAGE_BYTES != 0));
        let even = Frame::zeroed().unwrap();
        assert!(even.address() < roots[1].address());
    }

    #[test]
    fn exhaustion_is_none_and_every_frame_is_distinct() {
        host::init(4 << 20);
        let mut all = Vec::new();
        while let Some(frame) = Frame::zeroed() {
            all.push(frame);
        }
        assert_eq!((all.len(), free_count()), (total_count(), 0));
        assert!(all.windows(2).all(|pair| pair[0].address() < pair[1].address()));
        assert!(Frame::odd().is_none());
        all.clear();
        assert_eq!(free_count(), total_count());
    }

    #[test]
    fn a_run_is_in_a_row_and_steps_over_used_frames() {
        host::init(8 << 20);
        let frames: Vec<_> = (0..8).map(|_| Frame::zeroed().unwrap()).collect();
        let lowest = frames[2].address();
        let mut kept: Vec<_> = frames.into_iter().enumerate().collect();
        kept.retain(|(index, _)| ![2, 3, 5].contains(index));
        let run = take_run(2).unwrap();
        assert_eq!(u64::from(run.get()) * PAGE_BYTES, lowest);
        let long = take_run(100).unwrap();
        assert!(u64::from(long.get()) * PAGE_BYTES > kept[4].1.address());
    }

    #[test]
    #[should_panic(expected = "inside the frame")]
    fn a_write_past_the_frame_is_a_bug() {
        host::init(8 << 20);
        Frame::zeroed().unwrap().write(4095, &[0; 2]);
    }
}
