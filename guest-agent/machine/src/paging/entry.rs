//! One page table entry (AMD64 manual volume 2, section 5.4).

use super::Protection;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
/// Software bit: the entry keeps its page though it is not present.
const KEPT: u64 = 1 << 9;
/// Software bits: protection to return, as the CPU's bits mean nothing without `PRESENT`.
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Bits the CPU would set, set from the start: nobody here reads them, and a page-table hypervisor
/// then neither writes them for us nor holds back from filling in neighbours (a fault per page).
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;

/// An entry of any level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry(pub(super) u64);

impl Entry {
    /// Nothing is mapped.
    pub(super) const EMPTY: Self = Self(0);

    /// A page.
    pub(super) fn new(gpa: u64, protection: Protection) -> Self {
        let mut bits = gpa & ADDRESS | USER | KEPT | ACCESSED | DIRTY;
        if protection.is_readable {
            bits |= PRESENT;
        }
        if protection.is_writable {
            bits |= WRITABLE;
        }
        if !protection.is_executable {
            bits |= NO_EXECUTE;
        }
        Self(bits)
    }

    /// A table below this one; pages decide about rights.
    pub(super) fn table(gpa: u64) -> Self {
        Self(gpa & ADDRESS | USER | WRITABLE | PRESENT | ACCESSED)
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(super) fn is_present(self) -> bool {
        self.0 & PRESENT != 0
    }

    /// Whether it maps the same page as `old` and takes no right away: the CPU may go on using
    /// what it remembers of `old`, at the price of a fault that repeating the access cures.
    pub(super) fn extends(self, old: Self) -> bool {
        let (now, before) = (self.protection(), old.protection());
        self.gpa() == old.gpa()
            && now.is_readable >= before.is_readable
            && now.is_writable >= before.is_writable
            && now.is_executable >= before.is_executable
    }

    /// Whether a program's access is allowed.
    pub(super) fn allows(self, is_write: bool, is_fetch: bool) -> bool {
        let protection = self.protection();
        protection.is_readable
            && (protection.is_writable || !is_write)
            && (protection.is_executable || !is_fetch)
    }

    pub(super) fn gpa(self) -> u64 {
        self.0 & ADDRESS
    }

    pub(super) fn protection(self) -> Protection {
        Protection {
            is_readable: self.is_present(),
            is_writable: self.0 & WRITABLE != 0,
            is_executable: self.0 & NO_EXECUTE == 0,
        }
    }
}
