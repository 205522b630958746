//! Meets a program's pages before it does.
//!
//! As for the kernel's own (`boot::touch`): after a restore the host knows no page of a program
//! that the snapshot holds, and its first request would pay for each, 5 to 9 us on a page-table
//! hypervisor and more where it writes.

use abi::layout::{Flavour, PAGE_BYTES, USER_END};

use super::AddressSpace;
use crate::{boot, physical};

impl AddressSpace {
    /// Reads each page programs may read, and writes to those they may write to what they hold:
    /// `pages_max` pages, of which `writes_max` are written. This address space is in the CPU then.
    pub fn touch(&self, pages_max: usize, mut writes_max: usize) {
        self.activate();
        let mut from = 0;
        for _ in 0..pages_max {
            let Some(page) = self.next_mapped(from, USER_END) else { return };
            from = page + PAGE_BYTES;
            let Some(entry) = self.entry(page).filter(|entry| entry.is_present()) else { continue };
            let byte = first_byte(page, entry.gpa());
            // SAFETY: the page is mapped readable in the address space that was just put into
            // the CPU, and its frame in the direct map; no Rust reference is to either.
            let value = unsafe { byte.read_volatile() };
            if entry.protection().is_writable && writes_max > 0 {
                writes_max -= 1;
                // SAFETY: as above, and writable; no program runs, so the byte is still that one.
                unsafe { byte.write_volatile(value) }
            }
        }
    }
}

/// Where the CPU has to go for the host to see what a program will do. A page-table hypervisor has
/// tables for each address space, and there the kernel may use programs' addresses; on others all
/// that counts is the guest-physical address, and programs' addresses are out of bounds (SMAP).
fn first_byte(page: u64, gpa: u64) -> *mut u8 {
    match boot::flavour() {
        Flavour::Pvm => program_address(page),
        Flavour::Stock => physical::pointer(gpa, 1),
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the machine has 64 bits")]
fn program_address(page: u64) -> *mut u8 {
    core::ptr::with_exposed_provenance_mut(page as usize)
}
