//! Meets the kernel's own pages before anybody waits for them.
//!
//! In a restored VM no page is in the tables the CPU uses, and a page-table hypervisor fills them
//! one fault (5 to 9 us) at a time as pages are touched. A first request would pay that for every
//! page of code it runs through; a VM that becomes warm has the time.

use abi::layout::{KERNEL_BASE, PAGE_BYTES, boot};

use crate::frame::Frame;
use crate::physical::PAGE;

/// Free frames that are written once: those the VMM has made present (`vmm::restore`), which the
/// first program and its tables get.
const FREE_FRAMES: usize = 96;

unsafe extern "C" {
    /// Where code and constants end; see `kernel.ld`.
    static kernel_text_end: u8;
}

/// Touches the kernel's code and constants, and the frames a first program will get.
pub fn touch() {
    let end = (&raw const kernel_text_end).addr();
    let start = core::ptr::with_exposed_provenance::<u8>(start());
    for offset in (0..end.saturating_sub(start.addr())).step_by(PAGE) {
        let byte = start.wrapping_add(offset);
        // SAFETY: the kernel's image is mapped, and readable, from its first byte to this symbol;
        // nobody writes there.
        unsafe { byte.read_volatile() };
    }
    // All are held until the last was taken, else it would be the same frame again and again.
    let mut frames = [const { None::<Frame> }; FREE_FRAMES];
    for place in &mut frames {
        *place = Frame::uninitialised();
        if let Some(frame) = place {
            frame.zero_range(0, 1);
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the machine has 64 bits")]
const fn start() -> usize {
    (KERNEL_BASE + boot::KERNEL) as usize
}

const _: () = assert!(PAGE as u64 == PAGE_BYTES);
