//! A way in for the checks of hostile bytes (`fuzz/checks`): the reader of kernels. No part of the
//! crate's interface.

use std::ops::Range;

/// Where a kernel's segments come to lie in `ram_bytes` of RAM, if the file is a kernel.
#[must_use]
pub fn kernel_places(elf: &[u8], ram_bytes: u64) -> Option<Vec<Range<u64>>> {
    crate::boot::places(elf, ram_bytes)
}
