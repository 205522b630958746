//! Meets the kernel's own pages before anybody waits for them.
//!
//! In a restored VM no page is in the tables the CPU uses, and a page-table hypervisor fills them
//! one fault (5 to 9 us) at a time as pages are touched. A first request would pay that for every
//! page of code it runs through and of the heap it uses; a VM that waits for one has the time. So
//! it is done before the VM is warm, or, where a request waits for it, when there is nothing else to
//! do; a few pages at a time, so that none is held up.

use abi::layout::{KERNEL_BASE, PAGE_BYTES, boot};

use super::start::STACK_BYTES;
use crate::frame::Frame;
use crate::heap;
use crate::physical::{self, PAGE};

/// Free frames that are written once: those the VMM has made present (`vmm::restore`), which the
/// first program and its tables get.
const FREE_FRAMES: usize = 96;

unsafe extern "C" {
    /// Where code and constants end; see `kernel.ld`.
    static kernel_text_end: u8;
}

/// Pages of the kernel's stack that are met.
const STACK_PAGES: u64 = 4;
/// Pages met at once: about 30 us, which is what a request that comes meanwhile waits.
const PAGES_AT_ONCE: usize = 4;

/// What of the kernel's code and constants, its heap, and the frames a first program will get, has
/// been met since the restore.
#[derive(Debug)]
pub struct Touch {
    code_bytes: usize,
    /// Frames of the heap; `None`: all.
    heap_frames: Option<usize>,
    frames: usize,
}

impl Touch {
    /// Nothing has been met.
    #[expect(clippy::new_without_default, reason = "a new one is what a restore leaves")]
    #[must_use]
    pub fn new() -> Self {
        Self { code_bytes: 0, heap_frames: Some(0), frames: 0 }
    }

    /// Meets a few more pages; `false` when all have been.
    pub fn more(&mut self) -> bool {
        let start = core::ptr::with_exposed_provenance::<u8>(start());
        let bytes = (&raw const kernel_text_end).addr().saturating_sub(start.addr());
        if self.code_bytes < bytes {
            let end = bytes.min(self.code_bytes + PAGES_AT_ONCE * PAGE);
            for offset in (self.code_bytes..end).step_by(PAGE) {
                let byte = start.wrapping_add(offset);
                // SAFETY: the kernel's image is mapped, and readable, from its first byte to this
                // symbol; nobody writes there.
                unsafe { byte.read_volatile() };
            }
            self.code_bytes = end;
            return true;
        }
        if let Some(from) = self.heap_frames {
            if from == 0 {
                touch_stack();
            }
            let is_more = heap::touch(from, PAGES_AT_ONCE);
            self.heap_frames = is_more.then_some(from + PAGES_AT_ONCE);
            return true;
        }
        let is_more = self.frames < FREE_FRAMES;
        if is_more {
            self.more_frames();
        }
        is_more
    }

    /// Frames are given out lowest first. Those that were met are taken again, because a program
    /// may have had some of them meanwhile; all are held until the last was taken, else it would be
    /// the same one again and again.
    fn more_frames(&mut self) {
        let mut frames = [const { None::<Frame> }; FREE_FRAMES];
        let end = FREE_FRAMES.min(self.frames + PAGES_AT_ONCE);
        for place in &mut frames[..end] {
            *place = Frame::uninitialised();
        }
        for frame in frames[self.frames..end].iter_mut().flatten() {
            frame.zero_range(0, 1);
        }
        self.frames = end;
    }
}

/// Meets the kernel's stack, as deep as a first request goes, and its end, which is looked at for
/// whether it went deeper than there is room.
fn touch_stack() {
    for page in 1..=STACK_PAGES {
        // SAFETY: the kernel's stack; what lies there is in nobody's reference while this runs
        // but as bytes that keep their value.
        unsafe { physical::rewrite(boot::STACK_TOP - page * PAGE_BYTES) }
    }
    // SAFETY: as above.
    unsafe { physical::rewrite(boot::STACK_TOP - STACK_BYTES) }
}

#[expect(clippy::cast_possible_truncation, reason = "the machine has 64 bits")]
const fn start() -> usize {
    (KERNEL_BASE + boot::KERNEL) as usize
}

const _: () = assert!(PAGE as u64 == PAGE_BYTES);
