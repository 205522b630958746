//! Guest-physical memory as pointers: the direct map, or its stand-in on the host.

use abi::layout::{CLOCK_GPA, PAGE_BYTES, REGION_GPA, WINDOW_BYTES, WINDOW_GPA, region};

use crate::state::state;

/// [`PAGE_BYTES`] as a length in memory.
pub(crate) const PAGE: usize = 4096;

/// Pointer to `bytes` bytes of guest-physical memory.
///
/// # Panics
/// When they do not lie inside RAM, region, clock page or window: our own mistake.
pub(crate) fn pointer(gpa: u64, bytes: u64) -> *mut u8 {
    assert!(is_memory(gpa, bytes), "no memory at this guest-physical address");
    translate(gpa)
}

/// Writes to a byte of RAM what it holds.
///
/// # Safety
/// There is no exclusive reference to the byte, and the host lets the guest write there.
pub(crate) unsafe fn rewrite(gpa: u64) {
    let byte = pointer(gpa, 1);
    // SAFETY: it is memory, and nothing but this function runs, so nobody changes it in between.
    let value = unsafe { byte.read_volatile() };
    // SAFETY: as above; the caller says that it may be written.
    unsafe { byte.write_volatile(value) }
}

fn is_memory(gpa: u64, bytes: u64) -> bool {
    let Some(end) = gpa.checked_add(bytes) else { return false };
    let is_within = |start: u64, length: u64| gpa >= start && end <= start + length;
    is_within(0, state().ram_bytes.get())
        || is_within(WINDOW_GPA, WINDOW_BYTES)
        || is_within(REGION_GPA, u64::from(region::BYTES))
        || is_within(CLOCK_GPA, PAGE_BYTES)
}

#[cfg(target_os = "none")]
fn translate(gpa: u64) -> *mut u8 {
    core::ptr::with_exposed_provenance_mut(direct(gpa))
}

/// Virtual address of a guest-physical one.
#[cfg(target_os = "none")]
#[expect(clippy::cast_possible_truncation, reason = "the machine has 64 bits")]
pub(crate) const fn direct(gpa: u64) -> usize {
    (abi::layout::DIRECT_MAP + gpa) as usize
}

#[cfg(not(target_os = "none"))]
fn translate(gpa: u64) -> *mut u8 {
    crate::host::translate(gpa)
}

const _: () = assert!(PAGE as u64 == PAGE_BYTES);
