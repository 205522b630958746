//! One address space: which areas it has, which of their pages exist, and what they cost.
//!
//! ```text
//!   0x1_0000        program, heap ─►             ◄─ mmap        stack  vDSO, clock      USER_END
//! ```
//! An [`area::Areas`] says what a program may touch; the page tables of `machine` hold the pages
//! that exist. A page comes into being at `execve`, when a system call or an instruction touches
//! it, or a few at a time around such a touch. Every page is charged to the container's
//! [`Account`].

pub mod account;
pub mod area;
mod describe;
pub mod fault;
mod fork;
pub mod rewind;
pub mod transfer;

use alloc::rc::Rc;
use alloc::vec::Vec;

use abi::layout::{PAGE_BYTES, USER_END};
use machine::frame::Frame;
use machine::paging::{AddressSpace, Backing, Protection, View};

pub use account::{Account, Charge};
pub use area::{Access, Area, AtFork, Kind, Range};
pub use fault::Fault;
pub use rewind::Withheld;
pub use transfer::{Sink, Source, Vectors};

use crate::errno::Errno;
use area::Areas;
use rewind::{Held, Saved};

/// Lowest address a program may map, as Linux' `mmap_min_addr`.
pub const ADDRESS_MIN: u64 = 0x1_0000;
/// Most areas of a process, as Linux' `max_map_count`.
const AREAS_MAX: usize = 65_530;

/// Bytes of a page, as a length.
pub const PAGE: usize = 4096;
const _: () = assert!(PAGE as u64 == PAGE_BYTES);

/// The page an address lies in.
const fn page_of(address: u64) -> u64 {
    address & !(PAGE_BYTES - 1)
}

/// The memory of a process.
#[derive(Debug)]
pub struct Memory {
    space: AddressSpace,
    areas: Areas,
    account: Rc<Account>,
    pages: u64,
    tables: u64,
    heap: Range,
    ceiling: u64,
    /// The state a rewind goes back to.
    saved: Option<Saved>,
    held: Vec<Held>,
    has_peeked: bool,
    /// It has had memory without a file that a child shared: that cannot be put back.
    has_shared: bool,
}

impl Memory {
    /// An address space with nothing in it, in which `mmap` places areas below `ceiling`.
    ///
    /// # Errors
    /// [`Errno::NOMEM`] when the VM has no frame for a root, or the account no page.
    pub fn new(account: Rc<Account>, ceiling: u64) -> Result<Self, Errno> {
        let space = AddressSpace::new().ok_or(Errno::NOMEM)?;
        let mut memory = Self {
            space,
            areas: Areas::default(),
            account,
            pages: 0,
            tables: 0,
            heap: Range { start: 0, end: 0 },
            ceiling,
            saved: None,
            held: Vec::new(),
            has_peeked: false,
            has_shared: false,
        };
        memory.charge_tables()?;
        Ok(memory)
    }

    /// The page tables, to run user mode in.
    #[must_use]
    pub fn space(&self) -> &AddressSpace {
        &self.space
    }

    /// The container's account.
    #[must_use]
    pub fn account(&self) -> &Rc<Account> {
        &self.account
    }

    /// Areas, ascending.
    pub fn areas(&self) -> impl Iterator<Item = (Range, Area)> + '_ {
        self.areas.iter()
    }

    /// The area that holds `address`.
    #[must_use]
    pub fn area_at(&self, address: u64) -> Option<(Range, Area)> {
        self.areas.find(address)
    }

    /// Where in RAM the byte at `address` lies, if it is one that processes share.
    #[must_use]
    pub fn shared_place(&self, address: u64) -> Option<u64> {
        let (_, area) = self.areas.find(address).filter(|(_, area)| area.kind.is_shared())?;
        debug_assert!(!area.kind.is_filled(), "its pages are there");
        let (View::Frame { address: frame, .. }, _) = self.space.lookup(page_of(address))? else {
            return None;
        };
        Some(frame + address % PAGE_BYTES)
    }

    /// Where an area of `bytes` bytes may go: at `hint` if that is free, else as high as possible.
    ///
    /// # Errors
    /// [`Errno::NOMEM`] when there is no such stretch.
    pub fn place(&self, hint: u64, bytes: u64) -> Result<u64, Errno> {
        let wanted = Range { start: page_of(hint), end: page_of(hint).saturating_add(bytes) };
        if wanted.start >= ADDRESS_MIN && wanted.end <= USER_END && self.areas.is_free(wanted) {
            return Ok(wanted.start);
        }
        self.areas
            .highest_gap(bytes, ADDRESS_MIN, self.ceiling)
            .or_else(|| self.areas.highest_gap(bytes, ADDRESS_MIN, USER_END))
            .ok_or(Errno::NOMEM)
    }

    /// What the areas in `range` are for.
    pub fn kinds(&self, range: Range) -> impl Iterator<Item = Kind> + '_ {
        self.areas.within(range).map(|(_, area)| area.kind)
    }

    /// Whether nothing is mapped in `range`.
    #[must_use]
    pub fn is_free(&self, range: Range) -> bool {
        self.areas.is_free(range)
    }

    /// Whether all of `range` is mapped.
    #[must_use]
    pub fn is_used(&self, range: Range) -> bool {
        self.areas.is_covered(range)
    }

    /// Makes `range` an area of its own, without pages; what was there is unmapped.
    ///
    /// # Errors
    /// [`Errno::NOMEM`] when the process has too many areas.
    pub fn map(&mut self, range: Range, area: Area) -> Result<(), Errno> {
        if self.areas.count() >= AREAS_MAX {
            return Err(Errno::NOMEM);
        }
        self.unmap(range);
        self.areas.insert(range, area);
        self.note_areas();
        Ok(())
    }

    /// Whether areas may be cut at the ends of `range`: each cut makes one more.
    ///
    /// # Errors
    /// [`Errno::NOMEM`] when the process has too many areas.
    pub fn check_cuts(&self, range: Range) -> Result<(), Errno> {
        let is_cut = |at: u64| self.areas.find(at).is_some_and(|(found, _)| found.start < at);
        let cuts = usize::from(is_cut(range.start)) + usize::from(is_cut(range.end));
        if self.areas.count() + cuts > AREAS_MAX { Err(Errno::NOMEM) } else { Ok(()) }
    }

    /// Removes everything in `range`.
    pub fn unmap(&mut self, range: Range) {
        self.discard(range);
        self.areas.remove(range);
        self.note_areas();
    }

    /// `MADV_DONTNEED`: lets go of the pages in `range` that are the process' own.
    pub fn forget(&mut self, range: Range) {
        let parts: Vec<_> = self.areas.within(range).collect();
        let is_own = |kind: Kind| kind.is_filled() && kind != Kind::SharedLater;
        let own = parts.into_iter().filter(|(_, area)| is_own(area.kind));
        own.for_each(|(part, _)| self.discard(part));
    }

    /// Lets go of the pages in `range`; the areas stay and read as zeros again.
    pub fn discard(&mut self, range: Range) {
        self.reveal(range);
        let mut at = range.start;
        while let Some(page) = self.space.next_mapped(at, range.end) {
            self.drop_page(page);
            at = page + PAGE_BYTES;
        }
    }

    /// Changes what may be done with `range`, all of which has to be in use.
    ///
    /// # Errors
    /// [`Errno::NOMEM`] when part of it is not, [`Errno::ACCES`] when part is of a file that may
    /// not be written; nothing is changed then.
    pub fn protect(&mut self, range: Range, access: Access) -> Result<(), Errno> {
        if !self.areas.is_covered(range) || self.areas.count() + 2 > AREAS_MAX {
            return Err(Errno::NOMEM);
        }
        if self.areas.within(range).all(|(_, area)| area.access == access) {
            return Ok(());
        }
        let is_refused = |area: Area| access.is_writable && area.kind == Kind::SharedReadOnly;
        if self.areas.within(range).any(|(_, area)| is_refused(area)) {
            return Err(Errno::ACCES);
        }
        self.reveal(range);
        self.areas.change(range, |area| area.access = access);
        self.note_areas();
        let parts: Vec<_> = self.areas.within(range).collect();
        parts.into_iter().for_each(|(part, area)| self.reprotect(part, area));
        Ok(())
    }

    /// Says what a copy of the process finds in `range`.
    pub fn set_at_fork(&mut self, range: Range, at_fork: AtFork) {
        self.areas.change(range, |area| area.at_fork = at_fork);
        self.note_areas();
    }

    /// Makes this the memory of a copy: what is to be wiped is, what is to be left is gone.
    pub fn fork_in_place(&mut self) {
        let parts: Vec<_> = self.areas.iter().collect();
        for (range, area) in parts {
            match area.at_fork {
                AtFork::Copied => {}
                AtFork::Wiped => self.discard(range),
                AtFork::Left => self.unmap(range),
            }
        }
    }

    /// Where the heap may start; `brk` grows it from there.
    pub fn set_heap(&mut self, start: u64) {
        self.heap = Range { start, end: start };
    }

    /// `brk`: moves the end of the heap and returns where it is then. A refused move leaves it.
    pub fn brk(&mut self, end: u64) -> u64 {
        let heap = self.heap;
        if end < heap.start || end > USER_END {
            return heap.end;
        }
        let (old, new) = (heap.end.next_multiple_of(PAGE_BYTES), end.next_multiple_of(PAGE_BYTES));
        if new > old {
            let grown = Range { start: old, end: new };
            let is_affordable = grown.bytes() <= self.account.limit_bytes();
            let area =
                Area { access: Access::READ_WRITE, kind: Kind::Heap, at_fork: AtFork::Copied };
            if !is_affordable || !self.areas.is_free(grown) || self.map(grown, area).is_err() {
                return heap.end;
            }
        } else if new < old {
            self.unmap(Range { start: new, end: old });
        }
        self.heap.end = end;
        self.note_areas();
        end
    }

    /// Moves the pages of `from` to `to`, which is free and at least as long; the areas are the
    /// caller's business.
    ///
    /// # Errors
    /// [`Errno::NOMEM`] when a page table cannot be made; the pages not yet moved stay then.
    pub fn move_pages(&mut self, from: Range, to: u64, area: Area) -> Result<(), Errno> {
        self.reveal(from);
        let mut at = from.start;
        while let Some(page) = self.space.next_mapped(at, from.end) {
            at = page + PAGE_BYTES;
            let Some((view, _)) = self.space.lookup(page) else { continue };
            let protection = protection_of(view, area);
            let Some(backing) = self.space.unmap(page) else { continue };
            let target = to + (page - from.start);
            self.note_page(page);
            self.note_page(target);
            self.space.map(target, backing, protection).map_err(|_| Errno::NOMEM)?;
        }
        self.charge_tables()
    }

    /// Puts a page of the machine at `page`: part of the image window, or the clock.
    ///
    /// # Errors
    /// [`Errno::NOMEM`] when the account or the VM has no page left.
    pub fn map_backing(
        &mut self,
        page: u64,
        backing: Backing,
        access: Access,
    ) -> Result<(), Errno> {
        let is_shared = self.areas.find(page).is_some_and(|(_, area)| area.kind.is_shared());
        let (is_frame, is_own) = match &backing {
            Backing::Frame(frame) => (true, frame.share_count() == 1 || is_shared),
            Backing::Window(_) | Backing::Clock => (false, false),
        };
        if is_frame {
            self.account.charge(1)?;
        }
        let protection = if access.is_none() {
            Protection::NONE
        } else {
            Protection::readable(access.is_writable && is_own, access.is_executable)
        };
        self.drop_page(page);
        if self.space.map(page, backing, protection).is_err() {
            if is_frame {
                self.account.release(1);
            }
            return Err(Errno::NOMEM);
        }
        self.pages += u64::from(is_frame);
        self.charge_tables()
    }

    fn drop_page(&mut self, page: u64) {
        self.note_page(page);
        if let Some(backing) = self.space.unmap(page) {
            self.release(&backing);
            self.keep_copy(page, backing);
        }
    }

    fn drop_mapping(&mut self, page: u64) {
        if let Some(backing) = self.space.unmap(page) {
            self.release(&backing);
        }
    }

    fn release(&mut self, backing: &Backing) {
        if matches!(backing, Backing::Frame(_)) {
            self.account.release(1);
            self.pages -= 1;
        }
    }

    fn reprotect(&mut self, range: Range, area: Area) {
        let mut at = range.start;
        while let Some(page) = self.space.next_mapped(at, range.end) {
            at = page + PAGE_BYTES;
            if let Some((view, old)) = self.space.lookup(page) {
                let new = protection_of(view, area);
                if new != old {
                    self.note_page(page);
                    self.space.protect(page, new);
                }
            }
        }
    }

    /// A zeroed frame that is paid for.
    fn charged_frame(&mut self) -> Result<Frame, Errno> {
        self.account.charge(1)?;
        self.frame(Frame::zeroed).ok_or_else(|| {
            self.account.release(1);
            Errno::NOMEM
        })
    }

    /// Charges page tables made since the last time.
    fn charge_tables(&mut self) -> Result<(), Errno> {
        let tables = self.space.table_count() as u64;
        let new = tables.saturating_sub(self.tables);
        self.account.charge(new)?;
        self.tables += new;
        Ok(())
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.account.release(self.pages + self.tables);
    }
}

/// How a page is mapped: pages that others share or that are not RAM of the process are never
/// writable, but a file's that are shared on purpose; a store copies them first.
fn protection_of(view: View, area: Area) -> Protection {
    let access = area.access;
    if access.is_none() {
        return Protection::NONE;
    }
    let is_own = match view {
        View::Frame { share_count, .. } => share_count == 1 || area.kind.is_shared(),
        View::Window(_) | View::Clock => false,
    };
    Protection::readable(access.is_writable && is_own, access.is_executable)
}
