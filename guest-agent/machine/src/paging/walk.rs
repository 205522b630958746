//! Finding what is mapped without looking at every page.

use abi::layout::{PAGE_BYTES, USER_END};

use super::entry::Entry;
use super::skeleton::UPPER_SHIFTS;
use super::{AddressSpace, LEAF_SHIFT, index, load};

impl AddressSpace {
    /// The first page at or behind `from` and before `end` that is mapped, with or without
    /// access. Absent tables are skipped whole: a reservation of terabytes costs nothing.
    #[must_use]
    pub fn next_mapped(&self, from: u64, end: u64) -> Option<u64> {
        let end = end.min(USER_END);
        let mut page = from;
        while page < end {
            match self.gap_shift(page) {
                None => return Some(page),
                Some(shift) => page = (page | ((1 << shift) - 1)) + 1,
            }
        }
        None
    }

    /// Address bits below the highest level at which nothing is there for `page`.
    fn gap_shift(&self, page: u64) -> Option<u32> {
        let mut table = self.0.root();
        for shift in UPPER_SHIFTS.into_iter().chain([LEAF_SHIFT]) {
            let entry = Entry(load(table, index(page, shift)));
            if entry.is_empty() {
                return Some(shift);
            }
            table = entry.gpa();
        }
        debug_assert!(page.is_multiple_of(PAGE_BYTES), "callers pass pages");
        None
    }
}
