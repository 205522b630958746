//! Guest memory in this process: RAM and the image window.
//!
//! ```text
//! RAM, first boot    one private memfd, so that its holes tell which pages were ever touched
//! RAM, restored      anonymous memory; over it, MAP_PRIVATE, the runs of the sealed snapshot
//!                    (what the first moments write may be a copy in anonymous memory instead)
//! window             a PROT_NONE reservation; packages and images are placed in it read-only
//! ```
//! Invariants: addresses never change while the VM lives; no Rust reference to guest memory is
//! ever made, bytes are copied; RAM is only touched here while the vCPU does not run.

use crate::snapshot::Run;
use abi::layout::{LARGE_PAGE_BYTES, PAGE_BYTES};
use memmap2::{MmapOptions, MmapRaw};
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::ptr::{copy_nonoverlapping, null_mut};

/// One page's bytes.
pub(crate) type Page = [u8; 4096];
/// A page nobody ever wrote.
pub(crate) const ZEROS: Page = [0; 4096];
/// What is compared at once.
type Line = [u64; 8];
const _: () = assert!(size_of::<Page>() as u64 == PAGE_BYTES);

/// The VM's RAM, mapped here.
#[derive(Debug)]
pub(crate) struct Ram {
    mapping: MmapRaw,
    /// Of a first boot: what backs the mapping.
    memfd: Option<OwnedFd>,
}

impl Ram {
    /// Zeros, for a first boot.
    pub(crate) fn blank(bytes: u64) -> io::Result<Self> {
        let memfd = region::sealed::shared("ram", bytes)?;
        let length = length(bytes)?;
        let mapping = MmapOptions::new().len(length).map_raw(memfd.as_raw_fd())?;
        Ok(Self { mapping, memfd: Some(memfd) })
    }

    /// Zeros that take no memory until they are written, for a snapshot to be laid over.
    pub(crate) fn reserved(bytes: u64) -> io::Result<Self> {
        let anonymous = MmapOptions::new().len(length(bytes)?).no_reserve_swap().map_anon()?;
        let ram = Self { mapping: MmapRaw::from(anonymous), memfd: None };
        ram.forbid_huge_pages()?;
        Ok(ram)
    }

    /// Forgets everything: zeros that take no memory, at the same address.
    pub(crate) fn clear(&mut self) -> io::Result<()> {
        let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
        self.map_anonymous(0, self.bytes(), flags)?;
        self.forbid_huge_pages()
    }

    /// A huge page for one written byte would cost 2 MiB of every idle VM.
    fn forbid_huge_pages(&self) -> io::Result<()> {
        let result = self.advise(0, self.bytes(), Advice::LinuxNoHugepage);
        // A kernel without huge pages does not know the advice.
        if is_unknown_advice(&result) { Ok(()) } else { result }
    }

    /// Zeros that are private and present already, instead of what the snapshot has there.
    pub(crate) fn renew(&mut self, run: Run) -> io::Result<()> {
        let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE | MapFlags::POPULATE;
        self.map_anonymous(u64::from(run.first) * PAGE_BYTES, run.bytes(), flags)
    }

    fn map_anonymous(&self, gpa: u64, bytes: u64, flags: MapFlags) -> io::Result<()> {
        let start = self.pointer(gpa, bytes)?;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: `pointer` checked that the range lies inside this mapping, which is ours alone
        // and has no references into it.
        unsafe { mmap_anonymous(start.cast(), length(bytes)?, protection, flags) }?;
        Ok(())
    }

    /// Puts pages of a sealed file, from `offset` on, over a run: private to this VM from the
    /// first write on. The caller has checked the file's length.
    pub(crate) fn overlay(&mut self, run: Run, file: impl AsFd, offset: u64) -> io::Result<()> {
        let start = self.pointer(u64::from(run.first) * PAGE_BYTES, run.bytes())?;
        let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
        let protection = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: `pointer` checked that the range lies inside this mapping, which is ours alone
        // and has no references into it; the file is sealed, so it cannot shrink under us.
        unsafe { mmap(start.cast(), length(run.bytes())?, protection, flags, file, offset) }?;
        Ok(())
    }

    /// Whether a page holds these bytes.
    pub(crate) fn holds(&self, number: u32, page: &Page) -> io::Result<bool> {
        let mut at = self.pointer(u64::from(number) * PAGE_BYTES, PAGE_BYTES)?.cast::<Line>();
        for line in page.as_chunks::<64>().0 {
            // SAFETY: the range was checked, is mapped and aligned to pages, the vCPU does not run
            // (module invariant), and any bytes are words.
            let found = unsafe { at.read() };
            let (words, _) = line.as_chunks::<8>();
            let pairs = found.iter().zip(words);
            if pairs.fold(0, |all, (a, b)| all | (a ^ u64::from_ne_bytes(*b))) != 0 {
                return Ok(false);
            }
            at = at.wrapping_add(1);
        }
        Ok(true)
    }

    /// Gives memory back that pages hold which were only read: nothing in them changes.
    pub(crate) fn forget(&self, run: Run) -> io::Result<()> {
        self.advise(u64::from(run.first) * PAGE_BYTES, run.bytes(), Advice::LinuxDontNeed)
    }

    /// The first of these pages that the host says is in memory, when it is asked by another way than
    /// the page map (`mincore`). No page exists afterwards that did not before.
    pub(crate) fn first_resident(&self, run: Run) -> io::Result<Option<u32>> {
        let start = self.pointer(u64::from(run.first) * PAGE_BYTES, run.bytes())?;
        let mut residents = [0; (LARGE_PAGE_BYTES / PAGE_BYTES) as usize];
        let asked = residents.get_mut(..run.pages as usize).ok_or(ErrorKind::InvalidInput)?;
        // SAFETY: `pointer` checked that the pages are this mapping's; the array has a byte for each of
        // them, which is what the kernel writes.
        let result =
            unsafe { libc::mincore(start.cast(), length(run.bytes())?, asked.as_mut_ptr()) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        let mut numbers = (run.first..).zip(asked.iter());
        Ok(numbers.find(|(_, resident)| **resident & 1 != 0).map(|(number, _)| number))
    }

    /// The pages that share a page table of the host's with this one.
    pub(crate) fn neighbours(&self, number: u32) -> Run {
        let (first, pages) = (self.address() / PAGE_BYTES, self.bytes() / PAGE_BYTES);
        let table = LARGE_PAGE_BYTES / PAGE_BYTES;
        let start = (first + u64::from(number)) / table * table;
        let (from, to) = (start.max(first) - first, (start + table - first).min(pages));
        let number = |page: u64| u32::try_from(page).unwrap_or(u32::MAX);
        Run { first: number(from), pages: number(to - from) }
    }

    /// Address of guest-physical 0 in this process.
    pub(crate) fn address(&self) -> u64 {
        self.mapping.as_ptr().addr() as u64
    }

    /// Bytes of RAM.
    pub(crate) fn bytes(&self) -> u64 {
        self.mapping.len() as u64
    }

    /// Copies into RAM.
    pub(crate) fn write(&mut self, gpa: u64, bytes: &[u8]) -> io::Result<()> {
        let to = self.pointer(gpa, bytes.len() as u64)?;
        // SAFETY: the range was checked, is mapped writable, and no reference to it exists.
        unsafe { copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
        Ok(())
    }

    /// Copies out of RAM.
    pub(crate) fn read(&self, gpa: u64, bytes: &mut [u8]) -> io::Result<()> {
        let from = self.pointer(gpa, bytes.len() as u64)?;
        // SAFETY: the range was checked and is mapped; the vCPU does not run (module invariant).
        unsafe { copy_nonoverlapping(from.cast_const(), bytes.as_mut_ptr(), bytes.len()) };
        Ok(())
    }

    /// Numbers of the pages that were ever touched, ascending. Only on a first boot.
    pub(crate) fn touched(&self) -> io::Result<Vec<u32>> {
        let memfd = self.memfd.as_ref().ok_or(ErrorKind::Unsupported)?;
        let number = |offset| u32::try_from(offset / PAGE_BYTES).unwrap_or(u32::MAX);
        let filled = filled(memfd)?;
        Ok(filled.into_iter().flat_map(|(start, end)| number(start)..number(end)).collect())
    }

    /// Makes pages private and present, so that the guest's first write costs no fault. Hosts
    /// before 5.14 cannot; there the guest faults them in.
    pub(crate) fn populate(&self, run: Run) -> io::Result<()> {
        let result =
            self.advise(u64::from(run.first) * PAGE_BYTES, run.bytes(), Advice::LinuxPopulateWrite);
        if is_unknown_advice(&result) { Ok(()) } else { result }
    }

    /// Maps the snapshot's pages that are in the page cache anyway; costs no memory of its own.
    pub(crate) fn populate_shared(&self, run: Run) -> io::Result<()> {
        let result =
            self.advise(u64::from(run.first) * PAGE_BYTES, run.bytes(), Advice::LinuxPopulateRead);
        if is_unknown_advice(&result) { Ok(()) } else { result }
    }

    fn advise(&self, gpa: u64, bytes: u64, advice: Advice) -> io::Result<()> {
        let start = self.pointer(gpa, bytes)?;
        // SAFETY: the range was checked, no reference to it exists and the vCPU does not run.
        Ok(unsafe { madvise(start.cast(), length(bytes)?, advice) }?)
    }

    fn pointer(&self, gpa: u64, bytes: u64) -> io::Result<*mut u8> {
        let end = gpa.checked_add(bytes).ok_or(ErrorKind::InvalidInput)?;
        if end > self.bytes() {
            return Err(io::Error::new(ErrorKind::InvalidInput, "outside of RAM"));
        }
        Ok(self.mapping.as_mut_ptr().wrapping_add(length(gpa)?))
    }
}

/// Stretches of a memfd that hold anything, in bytes, ascending: whole pages, whoever wrote them
/// and wherever the host keeps them. The rest reads as zeros.
pub(crate) fn filled(memfd: impl AsFd) -> io::Result<Vec<(u64, u64)>> {
    let mut filled = Vec::new();
    let mut at = 0;
    loop {
        let start = match seek(&memfd, SeekFrom::Data(at)) {
            Err(Errno::NXIO) => return Ok(filled),
            other => other?,
        };
        at = seek(&memfd, SeekFrom::Hole(start))?.next_multiple_of(PAGE_BYTES);
        filled.push((start, at));
    }
}

fn is_unknown_advice(result: &io::Result<()>) -> bool {
    result.as_ref().is_err_and(|error| error.kind() == ErrorKind::InvalidInput)
}

fn length(bytes: u64) -> io::Result<usize> {
    usize::try_from(bytes).map_err(|_| ErrorKind::InvalidInput.into())
}

/// The image window: address space reserved for good, filled piece by piece.
#[derive(Debug)]
pub(crate) struct Window {
    start: *mut u8,
    bytes: u64,
}

// SAFETY: the pointer is only ever handed to mmap, which any thread may call.
unsafe impl Send for Window {}

impl Window {
    /// Reserves the address space; nothing in it can be touched yet.
    pub(crate) fn reserve(bytes: u64) -> io::Result<Self> {
        // Aligned for large pages, so that the guest's 2 MiB mappings fit the host's.
        let slack = length(bytes + LARGE_PAGE_BYTES)?;
        let flags = MapFlags::PRIVATE | MapFlags::NORESERVE;
        // SAFETY: a new mapping at an address of the kernel's choice replaces nothing.
        let start = unsafe { mmap_anonymous(null_mut(), slack, ProtFlags::empty(), flags) }?;
        let start = start.cast::<u8>();
        let misaligned = start.addr() as u64 % LARGE_PAGE_BYTES;
        let skip = length((LARGE_PAGE_BYTES - misaligned) % LARGE_PAGE_BYTES)?;
        Ok(Self { start: start.wrapping_add(skip), bytes })
    }

    /// Address of the window's first byte in this process.
    pub(crate) fn address(&self) -> u64 {
        self.start.addr() as u64
    }

    /// Puts a sealed memfd at an offset, instead of whatever was there. The rest of its last page
    /// reads as zeros.
    pub(crate) fn place(&mut self, offset: u64, bytes: u64, memfd: impl AsFd) -> io::Result<()> {
        let end = offset.checked_add(bytes).ok_or(ErrorKind::InvalidInput)?;
        let is_inside = bytes != 0 && offset.is_multiple_of(PAGE_BYTES) && end <= self.bytes;
        if !is_inside || region::sealed::check_frozen(&memfd)? < bytes {
            return Err(io::Error::new(ErrorKind::InvalidInput, "not a place in the window"));
        }
        let to = self.start.wrapping_add(length(offset)?);
        let flags = MapFlags::SHARED | MapFlags::FIXED;
        // SAFETY: the range lies in the reservation, which is ours for ever and to which no
        // reference exists; the file is sealed, so it cannot shrink under the guest.
        unsafe { mmap(to.cast(), length(bytes)?, ProtFlags::READ, flags, memfd, 0) }?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn touched_pages_are_found_and_restored() {
        let mut ram = Ram::blank(32 << 20).unwrap();
        ram.write(5 * 4096, b"five").unwrap();
        ram.write(900 * 4096 + 4095, b"end").unwrap();
        assert_eq!(ram.touched().unwrap(), [5, 900, 901]);
        let mut file = vec![0; 4096];
        file.extend([7; 8192]);
        let memfd = region::sealed::frozen("test", &file).unwrap();
        let run = Run { first: 2, pages: 2 };
        let mut ram = Ram::reserved(32 << 20).unwrap();
        ram.overlay(run, &memfd, 4096).unwrap();
        ram.populate(Run { first: 3, pages: 40 }).unwrap();
        ram.populate_shared(run).unwrap();
        ram.write(2 * 4096, &[9]).unwrap();
        let mut bytes = [1; 3];
        ram.read(2 * 4096 - 1, &mut bytes).unwrap();
        assert_eq!(bytes, [0, 9, 7]);
        ram.read(4 * 4096 - 1, &mut bytes).unwrap();
        assert_eq!(bytes, [7, 0, 0]);
    }

    #[test]
    fn pages_are_compared_to_their_last_byte() {
        let mut ram = Ram::reserved(32 << 20).unwrap();
        assert!(ram.holds(8191, &ZEROS).unwrap());
        for at in [0, 63, 64, 4095] {
            ram.write(8191 * 4096 + at, &[1]).unwrap();
            assert!(!ram.holds(8191, &ZEROS).unwrap(), "{at}");
            ram.write(8191 * 4096 + at, &[0]).unwrap();
        }
        assert!(ram.holds(8191, &ZEROS).unwrap());
        assert!(ram.holds(8192, &ZEROS).is_err());
    }

    #[test]
    fn neighbours_are_those_of_one_page_table_and_no_more_than_there_are() {
        let ram = Ram::reserved(3 * LARGE_PAGE_BYTES).unwrap();
        let table = u32::try_from(LARGE_PAGE_BYTES / PAGE_BYTES).unwrap();
        let mut next = 0;
        while u64::from(next) < ram.bytes() / PAGE_BYTES {
            let run = ram.neighbours(next);
            assert_eq!(run.first, next);
            assert_eq!(ram.neighbours(next + run.pages - 1), run);
            let end = ram.address() + run.end() * PAGE_BYTES;
            let is_last = run.end() == ram.bytes() / PAGE_BYTES;
            assert!(
                run.pages <= table && (is_last || end.is_multiple_of(LARGE_PAGE_BYTES)),
                "{run:?}"
            );
            next += run.pages;
        }
    }

    #[test]
    fn cleared_and_renewed_pages_are_zeros() {
        let memfd = region::sealed::frozen("test", &[7; 8192]).unwrap();
        let mut ram = Ram::reserved(32 << 20).unwrap();
        ram.overlay(Run { first: 2, pages: 2 }, &memfd, 0).unwrap();
        ram.renew(Run { first: 3, pages: 1 }).unwrap();
        assert!(ram.holds(2, &[7; 4096]).unwrap() && ram.holds(3, &ZEROS).unwrap());
        ram.write(9 * 4096, &[1]).unwrap();
        ram.clear().unwrap();
        assert!([2, 3, 9].iter().all(|number| ram.holds(*number, &ZEROS).unwrap()));
    }

    #[test]
    fn ranges_outside_are_refused() {
        let mut ram = Ram::blank(32 << 20).unwrap();
        assert!(ram.write((32 << 20) - 1, &[0; 2]).is_err());
        assert!(ram.read(u64::MAX, &mut [0; 2]).is_err());
        let mut window = Window::reserve(1 << 20).unwrap();
        let memfd = region::sealed::frozen("test", &[1; 5000]).unwrap();
        window.place(0, 5000, &memfd).unwrap();
        window.place((1 << 20) - 8192, 5000, &memfd).unwrap();
        assert!(window.place((1 << 20) - 4096, 5000, &memfd).is_err());
        assert!(window.place(1, 10, &memfd).is_err());
        assert!(window.place(0, 5001, &memfd).is_err());
        assert!(window.place(0, 0, &memfd).is_err());
        let unsealed = region::sealed::shared("test", 4096).unwrap();
        assert!(window.place(0, 4096, &unsealed).is_err());
    }
}
