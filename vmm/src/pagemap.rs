//! What the host knows of RAM's pages, and tells without protecting any page again: which became
//! private to this process (every page the guest or this process has ever written, and those that
//! were made private up front), and which exist at all.
//!
//! The map is opened while there is a file system to open it in; the jail then leaves exactly this
//! question allowed on exactly this descriptor.

use crate::memory::Ram;
use crate::snapshot::{Run, join_page};
use abi::control::PageFinder;
use abi::layout::PAGE_BYTES;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};
use std::ffi::c_ulong;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use vmm_sys_util::ioctl::ioctl_with_mut_ref;
use vmm_sys_util::ioctl_iowr_nr;

/// Stretches of pages the host tells of at once; more of them take another call.
const STRETCHES: usize = 128;
/// Bytes of entries read at once, those of 2 MiB of RAM: on the stack, because memory that is asked
/// for and given back at every reset is faults at every reset.
const ENTRIES_BYTES: usize = 4096;

// Categories of pages and layout of the argument: `linux/fs.h`, since Linux 6.7
// (Documentation/admin-guide/mm/pagemap.rst).
const IS_FILE: u64 = 1 << 2;
const IS_PRESENT: u64 = 1 << 3;
const IS_SWAPPED: u64 = 1 << 4;
const IS_ZERO_PAGE: u64 = 1 << 5;

// An entry of the map (same document).
const ENTRY_IS_FILE: u64 = 1 << 61;
const ENTRY_IS_SWAPPED: u64 = 1 << 62;
const ENTRY_IS_PRESENT: u64 = 1 << 63;

/// What is asked of the map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sought {
    /// Neither a page of the file nor the shared page of zeros, and not nothing either.
    Private,
    /// Anything that has an entry in the page tables, whatever it is.
    Existing,
}

/// `struct page_region`.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
struct Stretch {
    start: u64,
    end: u64,
    categories: u64,
}

/// `struct pm_scan_arg`.
#[derive(Debug, Default)]
#[repr(C)]
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

ioctl_iowr_nr!(PAGEMAP_SCAN, 0x66, 16, Scan);

/// Request number of the scan, for the system-call filter.
pub(crate) fn scan_number() -> c_ulong {
    PAGEMAP_SCAN()
}

/// Does something without the capabilities this thread may use.
fn unprivileged<T>(act: impl FnOnce() -> Result<T, Errno>) -> Result<T, Errno> {
    let before = capabilities(None)?;
    set_capabilities(None, CapabilitySets { effective: CapabilitySet::empty(), ..before })?;
    let done = act();
    set_capabilities(None, before)?;
    done
}

/// How the map is asked, and by which descriptor where there is one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question {
    pub(crate) finder: PageFinder,
    pub(crate) descriptor: Option<RawFd>,
}

/// This process' page map.
#[derive(Debug)]
pub(crate) struct Pagemap {
    file: Option<OwnedFd>,
    finder: PageFinder,
}

impl Pagemap {
    /// Opens the map and finds out what the host can tell of it.
    pub(crate) fn open(ram: &Ram) -> Self {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        // Who has privileges when opening it sees physical addresses, which a VMM that was taken
        // over must not.
        let opened = unprivileged(|| rustix::fs::open("/proc/self/pagemap", flags, Mode::empty()));
        let Ok(file) = opened else {
            return Self { file: None, finder: PageFinder::Everything };
        };
        let mut map = Self { file: Some(file), finder: PageFinder::Everything };
        for finder in [PageFinder::Scan, PageFinder::Entries] {
            map.finder = finder;
            if map.private(ram, &mut Vec::new()).is_ok() {
                return map;
            }
        }
        Self { file: None, finder: PageFinder::Everything }
    }

    /// How pages are found.
    pub(crate) fn finder(&self) -> PageFinder {
        self.finder
    }

    /// What the system-call filter has to let through.
    pub(crate) fn question(&self) -> Question {
        Question { finder: self.finder, descriptor: self.file.as_ref().map(AsRawFd::as_raw_fd) }
    }

    /// Puts runs of all pages that may be private into `runs`, ascending.
    pub(crate) fn private(&self, ram: &Ram, runs: &mut Vec<Run>) -> io::Result<()> {
        self.find(Sought::Private, ram, runs)
    }

    /// Puts runs of all pages that are mapped here or swapped out into `runs`, ascending. Any
    /// other page nobody has touched since it was laid out: it is still the file's, or zeros.
    pub(crate) fn existing(&self, ram: &Ram, runs: &mut Vec<Run>) -> io::Result<()> {
        self.find(Sought::Existing, ram, runs)
    }

    fn find(&self, sought: Sought, ram: &Ram, runs: &mut Vec<Run>) -> io::Result<()> {
        runs.clear();
        match (self.finder, &self.file) {
            (PageFinder::Scan, Some(file)) => scan(file.as_fd(), sought, ram, runs),
            (PageFinder::Entries, Some(file)) => read_entries(file.as_fd(), sought, ram, runs),
            (PageFinder::Scan | PageFinder::Entries | PageFinder::Everything, _) => {
                runs.push(Run { first: 0, pages: number(ram.bytes()) });
                Ok(())
            }
        }
    }
}

fn number(bytes: u64) -> u32 {
    u32::try_from(bytes / PAGE_BYTES).unwrap_or(u32::MAX)
}

fn scan(map: BorrowedFd<'_>, sought: Sought, ram: &Ram, runs: &mut Vec<Run>) -> io::Result<()> {
    let excluded = match sought {
        Sought::Private => IS_FILE | IS_ZERO_PAGE,
        Sought::Existing => 0,
    };
    let mut stretches = [Stretch::default(); STRETCHES];
    let (base, end) = (ram.address(), ram.address() + ram.bytes());
    let mut start = base;
    while start < end {
        let mut scan = Scan {
            size: size_of::<Scan>() as u64,
            start,
            end,
            vec: (&raw mut stretches).addr() as u64,
            vec_len: STRETCHES as u64,
            category_inverted: excluded,
            category_mask: excluded,
            category_anyof_mask: IS_PRESENT | IS_SWAPPED,
            ..Scan::default()
        };
        // SAFETY: the argument is as the kernel defines it and names an array of this frame and
        // its true length, which outlives the call; nothing else is written.
        let found = unsafe { ioctl_with_mut_ref(&map.as_raw_fd(), PAGEMAP_SCAN(), &mut scan) };
        let found = usize::try_from(found).map_err(|_| io::Error::last_os_error())?;
        runs.extend(stretches.iter().take(found).map(|stretch| Run {
            first: number(stretch.start - base),
            pages: number(stretch.end - stretch.start),
        }));
        if scan.walk_end <= start {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        start = scan.walk_end;
    }
    Ok(())
}

fn read_entries(
    map: BorrowedFd<'_>,
    sought: Sought,
    ram: &Ram,
    runs: &mut Vec<Run>,
) -> io::Result<()> {
    let excluded = match sought {
        Sought::Private => ENTRY_IS_FILE,
        Sought::Existing => 0,
    };
    let mut bytes = [0; ENTRIES_BYTES];
    let (first, count) = (ram.address() / PAGE_BYTES, ram.bytes() / PAGE_BYTES);
    let mut at = 0;
    while at < count {
        let wanted = usize::try_from((count - at) * 8).unwrap_or(usize::MAX).min(bytes.len());
        let read = rustix::io::pread(map, &mut bytes[..wanted], (first + at) * 8)?;
        let entries = bytes[..read].as_chunks().0;
        if entries.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let is_sought = |entry: u64| {
            entry & (ENTRY_IS_PRESENT | ENTRY_IS_SWAPPED) != 0 && entry & excluded == 0
        };
        let found = (at..).zip(entries).filter(|(_, it)| is_sought(u64::from_le_bytes(**it)));
        for (index, _) in found {
            join_page(runs, u32::try_from(index).unwrap_or(u32::MAX), 0);
        }
        at += entries.len() as u64;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(map: &Pagemap, ram: &Ram) -> Vec<u32> {
        let mut runs = Vec::new();
        map.private(ram, &mut runs).unwrap();
        runs.into_iter().flat_map(Run::numbers).collect()
    }

    #[test]
    fn written_pages_are_found_and_read_ones_are_not() {
        let memfd = region::sealed::frozen("test", &[7; 4096 * 400]).unwrap();
        let mut ram = Ram::reserved(32 << 20).unwrap();
        ram.overlay(Run { first: 100, pages: 400 }, &memfd, 0).unwrap();
        ram.populate_shared(Run { first: 100, pages: 400 }).unwrap();
        let mut map = Pagemap::open(&ram);
        assert_eq!(numbers(&map, &ram), [0; 0], "reading makes nothing private");
        let mut byte = [0];
        ram.read(4096 * 3, &mut byte).unwrap();
        // Every other page: more stretches than one call tells of.
        let written: Vec<u32> = (50..450).step_by(2).chain([8191]).collect();
        for number in &written {
            ram.write(u64::from(*number) * 4096 + 5, &[1]).unwrap();
        }
        for finder in [map.finder, PageFinder::Entries] {
            map.finder = finder;
            let mut found = numbers(&map, &ram);
            // The entries of the map do not tell a page of zeros that was only read.
            found.retain(|number| *number != 3 || finder == PageFinder::Scan);
            assert_eq!(found, written, "{finder:?}");
        }
        for finder in [PageFinder::Scan, PageFinder::Entries] {
            map.finder = finder;
            let mut runs = Vec::new();
            map.existing(&ram, &mut runs).unwrap();
            let found: Vec<u32> = runs.into_iter().flat_map(Run::numbers).collect();
            let expected = [3].into_iter().chain((50..100).step_by(2)).chain(100..500);
            assert_eq!(found, expected.chain([8191]).collect::<Vec<_>>(), "{finder:?}");
        }
        map.finder = PageFinder::Everything;
        assert_eq!(numbers(&map, &ram).len(), 8192);
    }
}
