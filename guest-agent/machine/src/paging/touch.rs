//! Meets a program's pages before it does.
//!
//! As for the kernel's own (`boot::touch`): after a restore the host knows no page of a program
//! that the snapshot holds, and its first request would pay for each, 5 to 9 us on a page-table
//! hypervisor and more where it writes.

use abi::layout::{Flavour, PAGE_BYTES, USER_END};

use super::AddressSpace;
use crate::{boot, physical};

/// Pages met at once: what a request that comes meanwhile waits for.
const PAGES_AT_ONCE: usize = 8;
/// Pages that are met, and those of them that are written to and so become the VM's own: 256 KiB
/// of the 1 MiB that an idle VM may cost.
const PAGES_MAX: usize = 1024;
const WRITES_MAX: usize = 64;

/// What of a program's pages was met since the restore.
#[derive(Clone, Copy, Debug, Default)]
pub struct Met {
    next: u64,
    pages: usize,
    writes: usize,
}

impl AddressSpace {
    /// Reads a few more of the pages programs may read, and writes to those they may write to what
    /// they hold; `false` when all are met, or as many as may be. This address space is in the CPU
    /// then.
    pub fn touch(&self, met: &mut Met) -> bool {
        self.activate();
        for _ in 0..PAGES_AT_ONCE {
            let page = (met.pages < PAGES_MAX).then(|| self.next_mapped(met.next, USER_END));
            let Some(page) = page.flatten() else { return false };
            met.next = page + PAGE_BYTES;
            met.pages += 1;
            let Some(entry) = self.entry(page).filter(|entry| entry.is_present()) else { continue };
            let byte = first_byte(page, entry.gpa());
            // SAFETY: the page is mapped readable in the address space that was just put into
            // the CPU, and its frame in the direct map; no Rust reference is to either.
            let value = unsafe { byte.read_volatile() };
            if entry.protection().is_writable && met.writes < WRITES_MAX {
                met.writes += 1;
                // SAFETY: as above, and writable; no program runs, so the byte is still that one.
                unsafe { byte.write_volatile(value) }
                // The kernel writes to a program's stack and data by another address.
                // SAFETY: the page is RAM, as all that is writable, and in nobody's reference.
                unsafe { physical::rewrite(entry.gpa()) }
            }
        }
        true
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
