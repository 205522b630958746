//! What a VM was restored from, and which of its pages are no longer that.

use crate::gone::{Doing, Gone};
use crate::memory::pagemap::{Pagemap, Pages};
use crate::memory::{PAGE, Page, Ram, ZEROS};
use crate::snapshot::{Run, Snapshot, VcpuState};
use abi::control::Restoring;
use abi::layout::PAGE_BYTES;
use region::Contents;
use std::ops::Range;

/// A snapshot in use.
#[derive(Debug)]
pub(crate) struct Origin {
    file: Contents,
    pub(crate) snapshot: Snapshot,
    pages_offset: u64,
    pub(crate) restoring: Restoring,
    pub(crate) pagemap: Pagemap,
    /// Numbers of pages, kept for its memory.
    own: Vec<u32>,
}

impl Origin {
    /// Of a snapshot that was parsed; the process still has its `/proc`.
    pub(crate) fn new(
        file: Contents,
        snapshot: Snapshot,
        pages_offset: u64,
        restoring: Restoring,
    ) -> Result<Self, Gone> {
        let pagemap = Pagemap::open().doing("open the page map")?;
        Ok(Self { file, snapshot, pages_offset, restoring, pagemap, own: Vec::new() })
    }

    /// The vCPU's registers as captured.
    pub(crate) fn state(&self) -> &VcpuState {
        &self.snapshot.state
    }

    /// The snapshot's pages, to be asked for in ascending order.
    pub(crate) fn pages(&self) -> Places<'_> {
        let (runs, offset) = (&self.snapshot.runs[..], self.pages_offset);
        Places { file: &self.file, runs, offset }
    }

    /// Takes the numbers of the pages that are the VM's own, ascending: all that it, or this
    /// process, ever wrote. To be given back with [`Origin::keep`].
    pub(crate) fn take_own(&mut self, ram: &Ram) -> Result<Vec<u32>, Gone> {
        let start = ram.address();
        let mut own = std::mem::take(&mut self.own);
        own.clear();
        let show = |found: Range<u64>| {
            let number = |address: u64| u32::try_from((address - start) / PAGE_BYTES).unwrap_or(0);
            own.extend(number(found.start)..number(found.end));
        };
        let all = start..start + ram.bytes();
        self.pagemap.each(all, Pages::Private, show).doing("find the guest's pages")?;
        Ok(own)
    }

    /// Keeps the list's memory.
    pub(crate) fn keep(&mut self, own: Vec<u32>) {
        self.own = own;
    }
}

/// Where pages are in a snapshot's file.
pub(crate) struct Places<'a> {
    file: &'a [u8],
    runs: &'a [Run],
    offset: u64,
}

impl<'a> Places<'a> {
    /// What a page is in the snapshot; no page before one that was asked for.
    pub(crate) fn page(&mut self, number: u32) -> &'a Page {
        while let [run, rest @ ..] = self.runs
            && run.end() <= u64::from(number)
        {
            self.offset += run.bytes();
            self.runs = rest;
        }
        let index = self.runs.first().and_then(|run| number.checked_sub(run.first));
        // Runs and the length of the file were checked against each other.
        let page = index.and_then(|index| {
            let at = usize::try_from(self.offset + u64::from(index) * PAGE_BYTES).ok()?;
            self.file.get(at..at + PAGE)?.first_chunk()
        });
        page.unwrap_or(&ZEROS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_found_in_the_file() {
        let runs = [Run { first: 2, pages: 2 }, Run { first: 9, pages: 1 }];
        let mut file = vec![0; PAGE];
        for byte in [1, 2, 3] {
            file.extend([byte; PAGE]);
        }
        let mut places = Places { file: &file, runs: &runs, offset: PAGE_BYTES };
        for (number, byte) in [(0, 0), (2, 1), (3, 2), (4, 0), (8, 0), (9, 3), (10, 0), (900, 0)] {
            assert_eq!(places.page(number)[5], byte, "{number}");
        }
    }
}
