//! From the first instruction to `kernel_main`, and what the VMM said about the machine.

use abi::layout::{BootInfo, Flavour};

use crate::state::state;

/// A copy of what the VMM said about the machine.
///
/// # Panics
/// Before boot has read it; on the host before `host::init`.
#[must_use]
pub fn info() -> BootInfo {
    state().info.get().expect("boot reads it first")
}

/// How the host runs this VM.
///
/// # Panics
/// As [`info`].
#[must_use]
pub fn flavour() -> Flavour {
    Flavour::from_number(info().flavour).expect("checked at boot")
}

#[cfg(target_os = "none")]
mod start;
#[cfg(target_os = "none")]
mod touch;
#[cfg(target_os = "none")]
pub(crate) use start::assert_stack;
#[cfg(target_os = "none")]
pub use touch::Touch;

/// The host has no kernel image to meet.
#[cfg(not(target_os = "none"))]
#[derive(Debug)]
pub struct Touch;

#[cfg(not(target_os = "none"))]
impl Touch {
    /// Nothing has been met.
    #[expect(clippy::new_without_default, reason = "as in a VM")]
    #[must_use]
    pub fn new() -> Self {
        Self
    }

    /// There is nothing more.
    pub fn more(&mut self) -> bool {
        false
    }
}
