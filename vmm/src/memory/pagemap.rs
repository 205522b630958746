//! Which pages of a mapping exist here, as the kernel's page tables have it (`/proc/self/pagemap`;
//! Linux, Documentation/admin-guide/mm/pagemap.rst).
//!
//! Since Linux 6.7 one ioctl lists them; before, an entry of eight bytes is read for every page.

use abi::layout::PAGE_BYTES;
use rustix::io::pread;
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::fd::AsRawFd;
use vmm_sys_util::ioctl::ioctl_with_mut_ref;
use vmm_sys_util::ioctl_iowr_nr;

/// Argument of the ioctl (`struct pm_scan_arg`).
#[repr(C)]
#[derive(Debug, Default)]
struct Scan {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// What it answers with (`struct page_region`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct Found {
    start: u64,
    end: u64,
    categories: u64,
}

ioctl_iowr_nr!(PAGEMAP_SCAN, 'f' as u32, 16, Scan);

const IS_FILE: u64 = 1 << 2;
const IS_PRESENT: u64 = 1 << 3;
const IS_SWAPPED: u64 = 1 << 4;
const IS_ZERO: u64 = 1 << 5;
/// Bits of an entry that is read.
const ENTRY_FILE: u64 = 1 << 61;
const ENTRY_SWAPPED: u64 = 1 << 62;
const ENTRY_PRESENT: u64 = 1 << 63;
/// Regions asked for at once; a reset rarely has more.
const REGIONS: usize = 512;
/// Entries read at once.
const ENTRIES: usize = 512;

/// Request number, for the system-call filter.
pub(crate) fn request_number() -> std::ffi::c_ulong {
    PAGEMAP_SCAN()
}

/// Which pages are looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pages {
    /// Those that are this process' own: not the file's that is mapped, not the kernel's zeros.
    Private,
    /// Those that are mapped.
    Present,
}

/// The view of this process' page tables.
#[derive(Debug)]
pub(crate) struct Pagemap {
    file: File,
    has_scan: bool,
    regions: Box<[Found; REGIONS]>,
}

impl Pagemap {
    /// To be opened while there is a `/proc`, and without privileges: who has them when opening
    /// sees physical addresses, which a VMM that was taken over must not.
    pub(crate) fn open() -> io::Result<Self> {
        let before = capabilities(None)?;
        set_capabilities(None, CapabilitySets { effective: CapabilitySet::empty(), ..before })?;
        let file = File::open("/proc/self/pagemap");
        set_capabilities(None, before)?;
        let regions = Box::new([Found::default(); REGIONS]);
        let mut pagemap = Self { file: file?, has_scan: true, regions };
        let probe = pagemap.regions.as_ptr().addr() as u64 & !(PAGE_BYTES - 1);
        pagemap.has_scan = pagemap.scan(probe..probe + PAGE_BYTES, Pages::Present, |_| ()).is_ok();
        Ok(pagemap)
    }

    /// Shows the ranges of addresses, ascending, whose pages are so. `range` is page aligned.
    pub(crate) fn each(
        &mut self,
        range: Range<u64>,
        pages: Pages,
        mut show: impl FnMut(Range<u64>),
    ) -> io::Result<()> {
        if self.has_scan {
            return self.scan(range, pages, show);
        }
        let mut bytes = [0; ENTRIES * 8];
        let mut at = range.start;
        while at < range.end {
            let left = usize::try_from((range.end - at) / PAGE_BYTES).unwrap_or(ENTRIES);
            let wanted = &mut bytes[..left.min(ENTRIES) * 8];
            let count = pread(&self.file, &mut *wanted, at / PAGE_BYTES * 8)?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            for entry in wanted[..count].as_chunks::<8>().0 {
                if pages.has(u64::from_le_bytes(*entry)) {
                    show(at..at + PAGE_BYTES);
                }
                at += PAGE_BYTES;
            }
        }
        Ok(())
    }

    fn scan(
        &mut self,
        range: Range<u64>,
        pages: Pages,
        mut show: impl FnMut(Range<u64>),
    ) -> io::Result<()> {
        let not = if pages == Pages::Private { IS_FILE | IS_ZERO } else { 0 };
        let mut at = range.start;
        while at < range.end {
            let mut scan = Scan {
                size: size_of::<Scan>() as u64,
                start: at,
                end: range.end,
                vec: self.regions.as_mut_ptr().addr() as u64,
                vec_len: REGIONS as u64,
                category_inverted: not,
                category_mask: not,
                category_anyof_mask: IS_PRESENT | IS_SWAPPED,
                return_mask: IS_PRESENT,
                ..Scan::default()
            };
            // SAFETY: the ioctl reads and writes its argument, and at most `vec_len` regions at
            // `vec`, which is this value's own buffer; the addresses scanned are only looked up.
            let count = unsafe { ioctl_with_mut_ref(&self.file, PAGEMAP_SCAN(), &mut scan) };
            let Ok(count) = usize::try_from(count) else {
                return Err(io::Error::last_os_error());
            };
            for found in &self.regions[..count.min(REGIONS)] {
                show(found.start..found.end);
            }
            if scan.walk_end <= at {
                return Err(io::ErrorKind::InvalidData.into());
            }
            at = scan.walk_end;
        }
        Ok(())
    }
}

impl Pages {
    fn has(self, entry: u64) -> bool {
        let is_here = entry & (ENTRY_PRESENT | ENTRY_SWAPPED) != 0;
        match self {
            // The kernel's zero page passes for private; its bytes are no different.
            Self::Private => is_here && entry & ENTRY_FILE == 0,
            Self::Present => is_here,
        }
    }
}

impl AsRawFd for Pagemap {
    fn as_raw_fd(&self) -> i32 {
        self.file.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::Ram;
    use crate::snapshot::Run;

    fn private(pagemap: &mut Pagemap, ram: &Ram) -> Vec<u64> {
        let range = ram.address()..ram.address() + ram.bytes();
        let mut pages = Vec::new();
        let show = |found: Range<u64>| {
            pages.extend(found.step_by(4096).map(|at| (at - ram.address()) / PAGE_BYTES));
        };
        pagemap.each(range, Pages::Private, show).unwrap();
        pages
    }

    #[test]
    fn written_pages_are_private_and_read_ones_are_not() {
        let mut file = vec![0; 4096];
        file.extend([7; 16 * 4096]);
        let memfd = region::sealed::frozen("test", &file).unwrap();
        let run = Run { first: 8, pages: 16 };
        for has_scan in [true, false] {
            let mut ram = Ram::restored(32 << 20, &memfd, &[run], 4096).unwrap();
            let mut pagemap = Pagemap::open().unwrap();
            pagemap.has_scan &= has_scan;
            ram.populate_shared(run).unwrap();
            assert_eq!(private(&mut pagemap, &ram), [0; 0]);
            ram.write(9 * 4096, &[1]).unwrap();
            ram.write(10 * 4096, &[1]).unwrap();
            ram.write(5000 * 4096, &[1]).unwrap();
            assert_eq!(private(&mut pagemap, &ram), [9, 10, 5000]);
        }
    }
}
