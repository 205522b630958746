//! The tables of an address space without what they map.
//!
//! Building tables is dear under a page-table hypervisor: it watches every frame that is a table,
//! so that a write to one above the last level is a trap of microseconds, and it forgets what it
//! knew when the frame becomes something else. Processes lie at much the same addresses, so the
//! emptied tables of one are kept for the next, in the CPU if they are there: no trap, no load of
//! CR3.

use abi::layout::{Flavour, PAGE_BYTES, USER_END, boot};
use core::cell::Cell;

use super::entry::Entry;
use super::{ENTRIES, LEAF_SHIFT, OutOfFrames, index, load, store};
use crate::frame::Frame;
use crate::instruction;
use crate::physical::{self, PAGE};
use crate::state::state;

/// How many are kept.
pub(crate) const SPARE_MAX: usize = 4;
/// Tables a skeleton may have to be kept: a program's and a few arenas'.
const SPARE_TABLES_MAX: usize = 48;
/// Index of the slot in a root that holds the kernel half.
pub(super) const KERNEL_SLOT: u64 = 511;
/// Address bits below the index into the three levels above the last, the root's first.
pub(super) const UPPER_SHIFTS: [u32; 3] = [39, 30, 21];

/// What the CPU may still remember of entries that changed while their root was loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stale {
    Nothing,
    One(u64),
    Many,
}

/// A root and the tables below it.
#[derive(Debug)]
pub(crate) struct Skeleton {
    root: Frame,
    table_count: usize,
    stale: Cell<Stale>,
}

impl Skeleton {
    /// A root without tables. `None` when RAM is used up.
    pub(super) fn new() -> Option<Self> {
        let root = Frame::odd()?;
        assert!(root.address() & PAGE_BYTES != 0, "a root lies at an odd page frame");
        store(root.address(), KERNEL_SLOT, load(boot::ROOT, KERNEL_SLOT));
        state().roots.borrow_mut().push(root.address());
        Some(Self { root, table_count: 1, stale: Cell::new(Stale::Nothing) })
    }

    /// The one kept last.
    pub(super) fn spare() -> Option<Self> {
        let spare = state().spares.borrow_mut().iter_mut().rev().find_map(Option::take)?;
        state().spare_frames.update(|frames| frames - spare.table_count);
        Some(spare)
    }

    /// Keeps it, now empty, for the next process.
    pub(super) fn keep(&mut self) {
        if self.table_count > SPARE_TABLES_MAX {
            return;
        }
        let mut spares = state().spares.borrow_mut();
        let Some(room) = spares.iter_mut().find(|spare| spare.is_none()) else { return };
        let kept = Self {
            root: self.root.clone(),
            table_count: self.table_count,
            stale: Cell::new(self.stale.get()),
        };
        *room = Some(kept);
        state().spare_frames.update(|frames| frames + self.table_count);
        state().reclaim.set(Some(release_spares));
    }

    pub(super) fn table_count(&self) -> usize {
        self.table_count
    }

    #[cfg(test)]
    pub(super) fn stale(&self) -> Stale {
        self.stale.get()
    }

    /// Guest-physical address of the root.
    pub(super) fn root(&self) -> u64 {
        self.root.address()
    }

    /// The table with the entry of a user address, if there is one.
    pub(super) fn table(&self, address: u64) -> Option<u64> {
        if address >= USER_END {
            return None;
        }
        let mut table = self.root();
        for shift in UPPER_SHIFTS {
            let entry = Entry(load(table, index(address, shift)));
            if entry.is_empty() {
                return None;
            }
            table = entry.gpa();
        }
        Some(table)
    }

    /// The table with the entry of a user address.
    pub(super) fn table_or_new(&mut self, address: u64) -> Result<u64, OutOfFrames> {
        let mut table = self.root();
        for shift in UPPER_SHIFTS {
            let entry = Entry(load(table, index(address, shift)));
            table = if entry.is_empty() {
                let new = Frame::zeroed().ok_or(OutOfFrames)?.into_address();
                self.table_count += 1;
                store(table, index(address, shift), Entry::table(new).0);
                new
            } else {
                entry.gpa()
            };
        }
        Ok(table)
    }

    /// Says that a present entry has lost rights or its page.
    pub(super) fn changed(&self, page: u64) {
        // The CPU forgets a page as it faults on it, and the hypervisor does likewise.
        if !self.is_loaded() || state().faulted_page.get() == page {
            return;
        }
        self.stale.set(match self.stale.get() {
            Stale::Nothing => Stale::One(page),
            Stale::One(other) if other == page => Stale::One(page),
            Stale::One(_) | Stale::Many => Stale::Many,
        });
    }

    /// Puts the root into the CPU, and makes it forget entries that have changed.
    pub(super) fn activate(&self) {
        let root = self.root();
        if state().loaded_root.get() != root {
            instruction::load_root(root);
            state().loaded_root.set(root);
        } else {
            match self.stale.get() {
                Stale::Nothing => return,
                Stale::One(page) => instruction::invalidate_page(page),
                Stale::Many => instruction::load_root(root),
            }
        }
        self.stale.set(Stale::Nothing);
    }

    /// Empties all tables of the last level, handing each entry to `release`.
    pub(super) fn clear(&self, mut release: impl FnMut(Entry)) {
        each_below(self.root(), UPPER_SHIFTS.len(), &mut |table, slot, entry, levels| {
            if levels == 0 {
                store(table, slot, Entry::EMPTY.0);
                release(entry);
            }
        });
        if self.is_loaded() {
            self.stale.set(Stale::Many);
        }
    }

    fn is_loaded(&self) -> bool {
        state().loaded_root.get() == self.root()
    }
}

impl Drop for Skeleton {
    fn drop(&mut self) {
        if self.root.share_count() > 1 {
            return; // kept
        }
        state().roots.borrow_mut().retain(|root| *root != self.root());
        if self.is_loaded() {
            instruction::load_root(boot::ROOT);
            state().loaded_root.set(boot::ROOT);
        }
        each_below(self.root(), UPPER_SHIFTS.len(), &mut |_, _, entry, levels| {
            if levels > 0 {
                // SAFETY: the entry of a table was made from `into_address`; all entries below
                // it have been seen, and the only way to it is being dropped.
                drop(unsafe { Frame::from_address(entry.gpa()) });
            }
        });
    }
}

/// Has CPU and host forget what they remember of all tables. In a VM that was put back in place
/// (`region::IS_RESET`) that is of its former life: nobody has told them of what the VMM wrote.
pub(super) fn forget_former_life() {
    if crate::boot::flavour() == Flavour::Pvm {
        for root in state().roots.borrow().iter() {
            tell_of(*root);
            each_below(*root, UPPER_SHIFTS.len(), &mut |_, _, entry, levels| {
                if levels > 0 {
                    tell_of(entry.gpa());
                }
            });
        }
    }
    instruction::load_root(state().loaded_root.get());
}

/// Has a page-table hypervisor forget a table. It watches stores to tables: one that cannot be to an
/// entry (a single byte in the middle of one) makes it forget a table of an upper level at once. One of
/// the last level it then no longer believes, until CR3 is loaded, when it looks at every entry.
fn tell_of(table: u64) {
    // SAFETY: a table is RAM in nobody's reference, and what is written is what is there.
    unsafe { physical::rewrite(table + 1) }
}

/// Gives every entry of the user half to `visit`, those below an entry before it, with its table,
/// slot, and how many levels lie below it.
fn each_below(table: u64, levels: usize, visit: &mut impl FnMut(u64, u64, Entry, usize)) {
    let slots = if levels == UPPER_SHIFTS.len() { ENTRIES / 2 } else { ENTRIES };
    for (slot, entry) in (0..slots).zip(entries(table)) {
        if entry.is_empty() {
            continue;
        }
        if levels > 0 {
            each_below(entry.gpa(), levels - 1, visit);
        }
        visit(table, slot, entry, levels);
    }
}

/// All entries of a table, in order: one check of its address for all of them.
fn entries(table: u64) -> impl Iterator<Item = Entry> {
    let start = physical::pointer(table, PAGE_BYTES).cast::<u64>();
    (0..PAGE / size_of::<Entry>()).map(move |slot| {
        // SAFETY: the whole table was just checked to lie in memory; it is aligned, and only
        // read and written by `paging` and the CPU.
        Entry(unsafe { start.wrapping_add(slot).read_volatile() })
    })
}

/// Gives the frames of all kept skeletons back.
fn release_spares() {
    while let Some(spare) = Skeleton::spare() {
        drop(spare);
    }
}

const _: () = assert!(UPPER_SHIFTS[2] == LEAF_SHIFT + 9);
