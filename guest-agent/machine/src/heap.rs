//! The kernel's heap: small blocks by powers of two, everything else whole frames in a row.
//!
//! ```text
//! up to 2 KiB   a list of free blocks per power of two, refilled by cutting a frame
//! larger        the lowest run of free frames; freed frames go back at once
//! ```
//! Frames once cut stay with their list: the kernel's small objects come and go with containers,
//! so lists are as long as the VM's busiest moment made them.

use abi::layout::PAGE_BYTES;
use core::alloc::{GlobalAlloc, Layout};
use core::cell::Cell;
use core::ptr::null_mut;

use crate::frame;
use crate::physical::{self, PAGE};
use crate::state::state;

/// Smallest block: room for the list's pointer.
const BLOCK_BYTES_MIN: usize = 16;
/// Lists of 16, 32, ... 2048 bytes.
const LISTS: usize = 8;
/// Frames that are remembered: more than the kernel has when it is captured.
const TAKEN_MAX: usize = 256;
const BLOCK_BYTES_MAX: usize = BLOCK_BYTES_MIN << (LISTS - 1);

/// A free block: its first bytes point to the next one.
struct Block {
    next: *mut Block,
}

struct Heap {
    free: [Cell<*mut Block>; LISTS],
    /// Bytes in the lists.
    free_bytes: Cell<usize>,
    /// Frames it has, for [`touch`]; 0 where there is room for another.
    taken: [Cell<u32>; TAKEN_MAX],
}

// SAFETY: the kernel has one thread of execution (see `state`).
unsafe impl Sync for Heap {}

#[global_allocator]
static HEAP: Heap = Heap {
    free: [const { Cell::new(null_mut()) }; LISTS],
    free_bytes: Cell::new(0),
    taken: [const { Cell::new(0) }; TAKEN_MAX],
};

// SAFETY: blocks are as large and aligned as their list's power of two, which is at least the
// layout's size and alignment; runs are page aligned; a block is in a list or in use, never both.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match list_of(layout) {
            Some(list) => self.take_block(list),
            None => take_frames(layout),
        }
    }

    unsafe fn dealloc(&self, start: *mut u8, layout: Layout) {
        match list_of(layout) {
            // SAFETY: the caller hands back a block that `alloc` took from this list.
            Some(list) => unsafe { self.put_block(list, start.cast()) },
            None => release_frames(start, layout),
        }
    }
}

impl Heap {
    fn take_block(&self, list: usize) -> *mut u8 {
        if self.free[list].get().is_null() {
            self.cut_frame(list);
        }
        let block = self.free[list].get();
        if !block.is_null() {
            // SAFETY: blocks in a list are free memory with a pointer in front.
            self.free[list].set(unsafe { (*block).next });
            self.free_bytes.update(|bytes| bytes - (BLOCK_BYTES_MIN << list));
        }
        block.cast()
    }

    /// # Safety
    /// `block` is a block of this list's size that nobody uses.
    unsafe fn put_block(&self, list: usize, block: *mut Block) {
        // SAFETY: the block is free memory, large and aligned enough for a pointer.
        unsafe { block.write(Block { next: self.free[list].get() }) }
        self.free[list].set(block);
        self.free_bytes.update(|bytes| bytes + (BLOCK_BYTES_MIN << list));
    }

    /// Puts `to` in the place of `from`; a frame without a place is one that is not met.
    fn note(&self, from: u32, to: u32) {
        if let Some(place) = self.taken.iter().find(|taken| taken.get() == from) {
            place.set(to);
        }
    }

    fn cut_frame(&self, list: usize) {
        let Some(frame) = frame::take_run(1) else { return };
        self.note(0, frame.get());
        let start = physical::pointer(u64::from(frame.get()) * PAGE_BYTES, PAGE_BYTES);
        let bytes = BLOCK_BYTES_MIN << list;
        for offset in (0..PAGE).step_by(bytes).rev() {
            // SAFETY: the frame was just taken for the heap, and the blocks do not overlap.
            unsafe { self.put_block(list, start.wrapping_add(offset).cast()) }
        }
    }
}

/// Bytes that were cut into blocks and are nobody's.
pub(crate) fn free_bytes() -> usize {
    HEAP.free_bytes.get()
}

/// Meets frames of the heap, which the kernel will write to: those in `count` places from `from` on;
/// `false` when there are no more places.
pub(crate) fn touch(from: usize, count: usize) -> bool {
    let places = HEAP.taken.get(from..).unwrap_or_default();
    for frame in places.iter().take(count).map(Cell::get).filter(|frame| *frame != 0) {
        // SAFETY: the frame is memory, and the heap's; what is written back is what was read.
        unsafe { physical::rewrite(u64::from(frame) * PAGE_BYTES) }
    }
    places.len() > count
}

/// The list for a layout; `None` when it takes whole frames.
fn list_of(layout: Layout) -> Option<usize> {
    let bytes = layout.size().max(layout.align()).max(BLOCK_BYTES_MIN);
    if bytes > BLOCK_BYTES_MAX {
        return None;
    }
    let power = bytes.next_power_of_two().trailing_zeros() - BLOCK_BYTES_MIN.trailing_zeros();
    Some(power as usize)
}

fn take_frames(layout: Layout) -> *mut u8 {
    if layout.align() > PAGE {
        return null_mut();
    }
    let count = layout.size().div_ceil(PAGE);
    let run = frame::take_run(count);
    run.map_or(null_mut(), |first| {
        for frame in (first.get()..).take(count) {
            HEAP.note(0, frame);
        }
        physical::pointer(u64::from(first.get()) * PAGE_BYTES, (count * PAGE) as u64)
    })
}

fn release_frames(start: *mut u8, layout: Layout) {
    let gpa = start.addr() as u64 - abi::layout::DIRECT_MAP;
    let mut frames = state().frames.borrow_mut();
    let first = (gpa / PAGE_BYTES) as usize;
    for index in first..first + layout.size().div_ceil(PAGE) {
        frames.release(index);
        HEAP.note(u32::try_from(index).unwrap_or(0), 0);
    }
}
