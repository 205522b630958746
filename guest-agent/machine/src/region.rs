//! The region shared with the node: control words and rings (`abi::layout::region`).

use abi::layout::{REGION_GPA, region};
use abi::ring::SharedMemory;

use crate::physical;

#[cfg(target_os = "none")]
struct Region(SharedMemory);

// SAFETY: the kernel has one thread of execution (see `state`), and all accesses are atomic.
#[cfg(target_os = "none")]
unsafe impl Sync for Region {}

#[cfg(target_os = "none")]
const START: *mut u8 = physical::direct(REGION_GPA) as *mut u8;

// SAFETY: the VMM maps the region before the first instruction and for the VM's whole life; it
// is page aligned, and nothing else in the kernel refers to it.
#[cfg(target_os = "none")]
static REGION: Region = Region(unsafe { SharedMemory::new(START, region::BYTES, REGION_GPA) });

/// The region.
#[cfg(target_os = "none")]
#[must_use]
pub fn memory() -> &'static SharedMemory {
    &REGION.0
}

/// The region of this thread's machine.
#[cfg(not(target_os = "none"))]
#[must_use]
pub fn memory() -> &'static SharedMemory {
    let start = physical::pointer(REGION_GPA, u64::from(region::BYTES));
    // SAFETY: the buffer is never freed, and only this module refers to it.
    let memory = unsafe { SharedMemory::new(start, region::BYTES, REGION_GPA) };
    Box::leak(Box::new(memory))
}
