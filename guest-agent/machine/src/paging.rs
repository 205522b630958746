//! User address spaces: the lower half of a root page table, the kernel's half shared.
//!
//! ```text
//! root (odd frame) ─► 512 GiB ─► 1 GiB ─► 2 MiB tables ─► entry ─► frame | window | clock page
//!   └ slot 511: the kernel half, the same in every root
//! ```
//! An entry that is not present but not zero keeps what is mapped there while no access is
//! allowed ([`Protection::NONE`]). Every frame named by an entry has one share held by the entry;
//! tables belong to the address space. User memory is read and written here by walking, so that a
//! bad pointer is an answer and never a fault of the kernel.

mod access;
mod entry;
mod skeleton;
mod touch;
mod walk;

pub(crate) use skeleton::{SPARE_MAX, Skeleton};
pub use touch::Met;

use abi::layout::{CLOCK_GPA, PAGE_BYTES, USER_END, WINDOW_BYTES, WINDOW_GPA};

use crate::frame::Frame;
use crate::physical;
use entry::Entry;

const ENTRIES: u64 = 512;
/// Address bits below the index into a table of pages.
const LEAF_SHIFT: u32 = 12;

/// What a page of user memory is.
#[derive(Debug, PartialEq, Eq)]
pub enum Backing {
    /// A frame of RAM; the mapping holds this share.
    Frame(Frame),
    /// A page of the image window, by guest-physical address; never writable.
    Window(u64),
    /// The clock page; never writable.
    Clock,
}

/// What a page of user memory is, without a share in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// A frame of RAM.
    Frame {
        /// Its guest-physical address.
        address: u64,
        /// All its shares, this mapping's included.
        share_count: u32,
    },
    /// A page of the image window, by guest-physical address.
    Window(u64),
    /// The clock page.
    Clock,
}

/// What programs may do with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protection {
    /// Any access at all; without it the page stays mapped and every access faults.
    pub is_readable: bool,
    /// Stores.
    pub is_writable: bool,
    /// Instruction fetches.
    pub is_executable: bool,
}

impl Protection {
    /// No access.
    pub const NONE: Self = Self { is_readable: false, is_writable: false, is_executable: false };
    /// Loads.
    pub const READ: Self = Self { is_readable: true, ..Self::NONE };
    /// Loads and stores.
    pub const READ_WRITE: Self = Self { is_writable: true, ..Self::READ };
    /// Loads and fetches.
    pub const READ_EXECUTE: Self = Self { is_executable: true, ..Self::READ };

    /// A readable page with these rights.
    #[must_use]
    pub const fn readable(is_writable: bool, is_executable: bool) -> Self {
        Self { is_readable: true, is_writable, is_executable }
    }
}

/// RAM is used up; nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfFrames;

/// A user address that is not mapped, or not for this access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadAddress;

/// The user half of an address space.
#[derive(Debug)]
pub struct AddressSpace(Skeleton);

impl AddressSpace {
    /// An empty one. `None` when RAM is used up.
    #[must_use]
    pub fn new() -> Option<Self> {
        Skeleton::spare().or_else(Skeleton::new).map(Self)
    }

    /// Frames its page tables take, the root included.
    #[must_use]
    pub fn table_count(&self) -> usize {
        self.0.table_count()
    }

    /// Maps the page at `page`; what was mapped there is dropped.
    ///
    /// # Errors
    /// [`OutOfFrames`] when a table is needed and there is no RAM for it; `backing` is dropped.
    ///
    /// # Panics
    /// When `page` is no page of the user half, a window address is none, or a page that is not
    /// RAM is to be writable.
    pub fn map(
        &mut self,
        page: u64,
        backing: Backing,
        protection: Protection,
    ) -> Result<(), OutOfFrames> {
        assert!(page.is_multiple_of(PAGE_BYTES) && page < USER_END, "a page of the user half");
        let table = self.0.table_or_new(page)?;
        let entry = Entry::new(into_gpa(backing, protection), protection);
        drop(self.replace(table, page, entry));
        Ok(())
    }

    /// Unmaps a page and returns what was there.
    pub fn unmap(&mut self, page: u64) -> Option<Backing> {
        let table = self.0.table(page)?;
        self.replace(table, page, Entry::EMPTY)
    }

    /// Changes what programs may do with a mapped page; nothing happens where none is mapped.
    ///
    /// # Panics
    /// When a page that is not RAM is to be writable.
    pub fn protect(&mut self, page: u64, protection: Protection) {
        let Some(table) = self.0.table(page) else { return };
        let old = Entry(load(table, index(page, LEAF_SHIFT)));
        if old.is_empty() {
            return;
        }
        let is_ram = old.gpa() < WINDOW_GPA && old.gpa() != CLOCK_GPA;
        assert!(is_ram || !protection.is_writable, "only RAM is writable");
        let new = Entry::new(old.gpa(), protection);
        if new != old {
            self.write_entry(table, page, old, new);
        }
    }

    /// What is mapped at a page, and how.
    #[must_use]
    pub fn lookup(&self, page: u64) -> Option<(View, Protection)> {
        let entry = self.entry(page)?;
        Some((view(entry.gpa()), entry.protection()))
    }

    /// What is mapped at a page, with a share of its own: how pages come into a second address
    /// space.
    #[must_use]
    pub fn share(&self, page: u64) -> Option<(Backing, Protection)> {
        let entry = self.entry(page)?;
        // SAFETY: the entry holds a share of the frame it names, if it names one; it keeps that
        // one, because what is made here is cloned and then forgotten.
        let held = core::mem::ManuallyDrop::new(unsafe { from_gpa(entry.gpa()) });
        let backing = match &*held {
            Backing::Frame(frame) => Backing::Frame(frame.clone()),
            Backing::Window(gpa) => Backing::Window(*gpa),
            Backing::Clock => Backing::Clock,
        };
        Some((backing, entry.protection()))
    }

    /// Puts this address space into the CPU, and makes it forget entries that have changed.
    pub(crate) fn activate(&self) {
        self.0.activate();
    }

    /// Whether a program may do what it is said to have faulted on: the CPU remembered an entry
    /// from before its rights were extended.
    pub(crate) fn is_allowed(&self, address: u64, is_write: bool, is_fetch: bool) -> bool {
        self.entry(address).is_some_and(|entry| entry.allows(is_write, is_fetch))
    }

    fn entry(&self, address: u64) -> Option<Entry> {
        let table = self.0.table(address)?;
        let entry = Entry(load(table, index(address, LEAF_SHIFT)));
        (!entry.is_empty()).then_some(entry)
    }

    fn replace(&self, table: u64, page: u64, new: Entry) -> Option<Backing> {
        let old = Entry(load(table, index(page, LEAF_SHIFT)));
        self.write_entry(table, page, old, new);
        // SAFETY: the old entry held the share and has just been overwritten.
        (!old.is_empty()).then(|| unsafe { from_gpa(old.gpa()) })
    }

    fn write_entry(&self, table: u64, page: u64, old: Entry, new: Entry) {
        store(table, index(page, LEAF_SHIFT), new.0);
        if old.is_present() && !new.extends(old) {
            self.0.changed(page);
        }
    }
}

impl Drop for AddressSpace {
    fn drop(&mut self) {
        self.0.clear(|entry| {
            // SAFETY: the entry held the share and has just been overwritten.
            drop(unsafe { from_gpa(entry.gpa()) });
        });
        self.0.keep();
    }
}

/// For a VM that was put back in place: has CPU and host forget the page tables of its former life.
/// Before a program's memory is touched.
pub fn forget_former_life() {
    skeleton::forget_former_life();
}

fn into_gpa(backing: Backing, protection: Protection) -> u64 {
    if let Backing::Frame(frame) = backing {
        return frame.into_address();
    }
    assert!(!protection.is_writable, "only RAM is writable");
    let Backing::Window(gpa) = backing else { return CLOCK_GPA };
    let is_window = (WINDOW_GPA..WINDOW_GPA + WINDOW_BYTES).contains(&gpa);
    assert!(is_window && gpa.is_multiple_of(PAGE_BYTES), "a page of the window");
    gpa
}

/// # Safety
/// If `gpa` names a frame, the caller hands its share over.
unsafe fn from_gpa(gpa: u64) -> Backing {
    match gpa {
        CLOCK_GPA => Backing::Clock,
        WINDOW_GPA.. => Backing::Window(gpa),
        // SAFETY: entries below the window are made from `Frame::into_address`; the caller hands
        // the share over.
        _ => Backing::Frame(unsafe { Frame::from_address(gpa) }),
    }
}

fn view(gpa: u64) -> View {
    match gpa {
        CLOCK_GPA => View::Clock,
        WINDOW_GPA.. => View::Window(gpa),
        address => {
            // SAFETY: the entry holds a share; this borrowed one is forgotten.
            let held = core::mem::ManuallyDrop::new(unsafe { Frame::from_address(address) });
            View::Frame { address, share_count: held.share_count() }
        }
    }
}

fn index(address: u64, shift: u32) -> u64 {
    (address >> shift) & (ENTRIES - 1)
}

fn load(table: u64, slot: u64) -> u64 {
    let entry = physical::pointer(table + slot * 8, 8).cast::<u64>();
    // SAFETY: `pointer` checked the address; tables are aligned and only read and written by
    // these two functions (and by the CPU, which sets accessed and dirty bits atomically).
    unsafe { entry.read_volatile() }
}

fn store(table: u64, slot: u64, value: u64) {
    let entry = physical::pointer(table + slot * 8, 8).cast::<u64>();
    // SAFETY: as in `load`; the table belongs to the address space that writes it.
    unsafe { entry.write_volatile(value) }
}

#[cfg(test)]
mod tests;
