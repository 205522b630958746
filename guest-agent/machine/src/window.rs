//! The image window: packages and the root image, placed by the VMM, read-only.
//!
//! The node places a package before it says so and leaves it there until the guest was told to
//! forget it, so bytes that are in use never change. Touching a part where nothing was placed
//! ends the VM.

use abi::layout::WINDOW_GPA;

use crate::physical;

/// Copies out of the window.
///
/// # Panics
/// When the bytes lie outside the window.
pub fn read(offset: u64, into: &mut [u8]) {
    into.copy_from_slice(bytes(offset, into.len() as u64));
}

/// Bytes of the window.
///
/// # Panics
/// When they lie outside the window.
#[must_use]
pub fn bytes(offset: u64, length: u64) -> &'static [u8] {
    let gpa = WINDOW_GPA.checked_add(offset).expect("inside the window");
    let start = physical::pointer(gpa, length);
    let length = usize::try_from(length).expect("a 64-bit machine");
    // SAFETY: `pointer` checked that they lie in memory, and the window is the last of it; the
    // host keeps what it placed unchanged while the guest uses it.
    unsafe { core::slice::from_raw_parts(start, length) }
}

/// Guest-physical address of a page of the window, for mapping it into programs with
/// [`crate::paging::Backing::Window`].
#[must_use]
pub fn gpa(offset: u64) -> u64 {
    WINDOW_GPA + offset
}
