//! A region of shared memory for the ring tests: zeroed, owned, freed at the end.

#![expect(unsafe_code, reason = "the tests are the creator that SharedMemory asks promises of")]

use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};

use abi::layout::REGION_GPA;
use abi::ring::SharedMemory;

/// Memory both ends of a ring use through handles from [`Region::shared`].
#[derive(Debug)]
pub(crate) struct Region {
    start: *mut u8,
    bytes: u32,
}

impl Region {
    /// A region of zeros.
    pub(crate) fn zeroed(bytes: u32) -> Self {
        // SAFETY: the size is not zero: every ring has at least a page of data.
        let start = unsafe { alloc_zeroed(Self::layout(bytes)) };
        if start.is_null() {
            handle_alloc_error(Self::layout(bytes));
        }
        Self { start, bytes }
    }

    /// A handle on all of it. It must not outlive the region.
    pub(crate) fn shared(&self) -> SharedMemory {
        // SAFETY: the allocation is page aligned and lives until the region is dropped, which
        // each test does last; nobody makes a reference into it.
        unsafe { SharedMemory::new(self.start, self.bytes, REGION_GPA) }
    }

    fn layout(bytes: u32) -> Layout {
        Layout::from_size_align(bytes as usize, 4096).expect("a region fits the address space")
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: `zeroed` allocated it with this layout, and it is freed only here.
        unsafe { dealloc(self.start, Self::layout(self.bytes)) };
    }
}
