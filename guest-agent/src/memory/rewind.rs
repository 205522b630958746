//! The memory of a process as it was at one point, and the way back there.
//!
//! ```text
//!   save     each page gets a second share: no store reaches it any more
//!   run      a store copies its page first (`own`), as of any shared page; whatever becomes other
//!            than it was saved is on the list of changed pages
//!   rewind   saved bytes ─► the copy, which stays in its place: the next store faults no more
//! ```
//! That the saved frames never change follows from their shares alone; the list only says where
//! to look. It is kept from one rewind to the next, so that after the first few a rewind is a
//! handful of page copies and touches no page table.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use abi::layout::PAGE_BYTES;
use machine::frame::Frame;
use machine::paging::{Backing, Protection, View};

use super::area::Areas;
use super::{Area, Memory, Range, page_of, protection_of};
use crate::errno::Errno;

/// Pages that may be other than saved; one more and the saved state is let go of. Copying as many
/// back takes about as long as a fresh start.
const CHANGED_MAX: usize = 2048;
/// Pages made since the point that are zeroed and kept where the point has an area without them:
/// what a request's stack and heap grow by, so that the next one does not fault there.
const KEPT_MAX: u32 = 32;

/// Why a page is there but may not be touched yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withheld {
    /// Who touches it looks at something outside the process.
    Outside,
    /// It holds random bytes: as long as nobody has seen them, others are as good.
    Random,
}

#[derive(Debug)]
struct SavedPage {
    page: u64,
    backing: Backing,
    protection: Protection,
}

/// A memory as it was.
#[derive(Debug)]
pub(super) struct Saved {
    /// Ascending.
    pages: Vec<SavedPage>,
    areas: Areas,
    heap: Range,
    changed: BTreeSet<u64>,
    /// Copies of saved pages that a request has unmapped, for the rewind to map again.
    copies: BTreeMap<u64, Frame>,
    has_other_areas: bool,
}

/// A page that is withheld.
#[derive(Clone, Copy, Debug)]
pub(super) struct Held {
    page: u64,
    what: Withheld,
}

impl Saved {
    fn find(&self, page: u64) -> Option<&SavedPage> {
        let found = self.pages.binary_search_by_key(&page, |saved| saved.page);
        found.ok().map(|index| &self.pages[index])
    }
}

impl Memory {
    /// Takes all access to a page that is there, until it is touched or [`Memory::reveal_all`].
    pub fn withhold(&mut self, page: u64, what: Withheld) {
        self.space.protect(page, Protection::NONE);
        self.held.push(Held { page, what });
    }

    /// What is withheld at `address`.
    #[must_use]
    pub fn withheld(&self, address: u64) -> Option<Withheld> {
        let page = page_of(address);
        self.held.iter().find(|held| held.page == page).map(|held| held.what)
    }

    /// Whether something outside was looked at though it was withheld: by a system call, or past
    /// a change of its page's rights.
    #[must_use]
    pub fn has_peeked(&self) -> bool {
        self.has_peeked
    }

    /// Whether nothing could put all of it back: it is shared with nobody knows whom.
    #[must_use]
    pub fn is_beyond_saving(&self) -> bool {
        let is_lone = |page: u64| {
            let view = self.space.lookup(page).map(|(view, _)| view);
            matches!(view, Some(View::Frame { share_count: 1, .. }))
        };
        let mut shared = self.areas.iter().filter(|(_, area)| area.kind.is_shared());
        // A file that has no name and is not open keeps its pages nowhere else.
        self.has_shared
            || shared.any(|(range, _)| {
                let first = self.space.next_mapped(range.start, range.end);
                core::iter::successors(first, |page| {
                    self.space.next_mapped(page + PAGE_BYTES, range.end)
                })
                .any(is_lone)
            })
    }

    /// Gives access to all that is withheld; whether random bytes were still unseen.
    pub fn reveal_all(&mut self) -> bool {
        let held = core::mem::take(&mut self.held);
        held.iter().for_each(|held| self.give_access(held.page));
        held.iter().any(|held| held.what == Withheld::Random)
    }

    /// Gives access to what is withheld in `range`, because somebody reached for it.
    pub(super) fn reveal(&mut self, range: Range) {
        while let Some(index) =
            self.held.iter().position(|held| (range.start..range.end).contains(&held.page))
        {
            let held = self.held.swap_remove(index);
            self.has_peeked |= held.what == Withheld::Outside;
            self.give_access(held.page);
        }
    }

    fn give_access(&mut self, page: u64) {
        if let Some((view, _)) = self.space.lookup(page)
            && let Some((_, area)) = self.areas.find(page)
        {
            self.space.protect(page, protection_of(view, area));
        }
    }

    /// Saves everything as it is now. What was saved before is let go of.
    pub fn save(&mut self) {
        self.saved = None;
        let mut pages = Vec::new();
        let parts: Vec<_> = self.areas.iter().collect();
        for (range, area) in parts {
            let mut at = range.start;
            while let Some(page) = self.space.next_mapped(at, range.end) {
                at = page + PAGE_BYTES;
                let Some((backing, _)) = self.space.share(page) else { continue };
                let Some((view, old)) = self.space.lookup(page) else { continue };
                let protection = protection_of(view, area);
                if protection != old {
                    self.space.protect(page, protection);
                }
                pages.push(SavedPage { page, backing, protection });
            }
        }
        let (areas, heap) = (self.areas.clone(), self.heap);
        let (changed, copies) = (BTreeSet::new(), BTreeMap::new());
        self.saved = Some(Saved { pages, areas, heap, changed, copies, has_other_areas: false });
    }

    /// Whether there is a saved state to go back to.
    #[must_use]
    pub fn is_saved(&self) -> bool {
        self.saved.is_some()
    }

    /// Lets go of the saved state; pages then are the process's own again.
    pub fn forget_saved(&mut self) {
        self.saved = None;
    }

    /// Pages that the next rewind has to look at.
    #[must_use]
    pub fn changed_count(&self) -> usize {
        self.saved.as_ref().map_or(0, |saved| saved.changed.len())
    }

    /// Notes that the page at `page` may be other than saved.
    pub(super) fn note_page(&mut self, page: u64) {
        let Some(saved) = &mut self.saved else { return };
        saved.changed.insert(page);
        if saved.changed.len() > CHANGED_MAX {
            self.saved = None;
        }
    }

    /// Keeps a process's own copy of a saved page that it has unmapped: the page was written in
    /// this request and will be in the next, which then meets no fault.
    pub(super) fn keep_copy(&mut self, page: u64, backing: Backing) {
        if let Some(saved) = &mut self.saved
            && let Backing::Frame(frame) = backing
            && frame.share_count() == 1
            && saved.find(page).is_some_and(|it| matches!(it.backing, Backing::Frame(_)))
        {
            saved.copies.insert(page, frame);
        }
    }

    /// Notes that areas or the heap's end may be other than saved.
    pub(super) fn note_areas(&mut self) {
        if let Some(saved) = &mut self.saved {
            saved.has_other_areas = true;
        }
    }

    /// A frame of RAM; a saved state, which holds frames of its own, is let go of before there is
    /// none.
    pub(super) fn frame(&mut self, make: fn() -> Option<Frame>) -> Option<Frame> {
        let frame = make();
        if frame.is_some() || self.saved.take().is_none() {
            return frame;
        }
        make()
    }

    /// Goes back to the saved state, which stays saved.
    ///
    /// # Errors
    /// [`Errno::NOMEM`] when there is none, or a page that has to come back cannot; the memory is
    /// of no use then.
    pub fn rewind(&mut self) -> Result<(), Errno> {
        let mut saved = self.saved.take().ok_or(Errno::NOMEM)?;
        if saved.has_other_areas {
            self.areas = saved.areas.clone();
            self.heap = saved.heap;
            saved.has_other_areas = false;
        }
        let mut kept = 0;
        let mut changed = core::mem::take(&mut saved.changed);
        // First what goes, so that there is room for what comes back.
        changed.retain(|page| saved.find(*page).is_some() || self.clear(*page, &mut kept));
        let mut result = Ok(());
        let mut copies = core::mem::take(&mut saved.copies);
        changed.retain(|page| match saved.find(*page) {
            Some(page) if result.is_ok() => {
                self.put_back(page, &mut copies).unwrap_or_else(|error| {
                    result = Err(error);
                    true
                })
            }
            _ => true,
        });
        saved.changed = changed;
        self.saved = Some(saved);
        result
    }

    /// Zeroes a page that did not exist, where it may stay, or drops it; whether it stays.
    fn clear(&mut self, page: u64, kept: &mut u32) -> bool {
        let Some((backing, protection)) = self.space.share(page) else { return false };
        let area = self.areas.find(page).map(|(_, area)| area);
        let may_stay = |area: &Area| area.kind.is_filled() && area.access.is_writable;
        if let Backing::Frame(frame) = backing
            && frame.share_count() == OWN_SHARES
            && *kept < KEPT_MAX
            && let Some(area) = area.filter(may_stay)
        {
            *kept += 1;
            frame.zero();
            self.set_protection(
                page,
                protection,
                Protection::readable(true, area.access.is_executable),
            );
            return true;
        }
        self.drop_mapping(page);
        false
    }

    /// Puts a page back; whether it still is another frame than the saved one, with its bytes.
    fn put_back(
        &mut self,
        saved: &SavedPage,
        copies: &mut BTreeMap<u64, Frame>,
    ) -> Result<bool, Errno> {
        let page = saved.page;
        let area = self.areas.find(page).map(|(_, area)| area).ok_or(Errno::NOMEM)?;
        if let Some((backing, protection)) = self.space.share(page) {
            match (&backing, &saved.backing) {
                (now, then) if now == then => {
                    self.set_protection(page, protection, saved.protection);
                    return Ok(false);
                }
                (Backing::Frame(now), Backing::Frame(then))
                    if now.share_count() == OWN_SHARES && !area.kind.is_shared() =>
                {
                    copy_back(now, then);
                    let view = View::Frame { address: now.address(), share_count: 1 };
                    self.set_protection(page, protection, protection_of(view, area));
                    return Ok(true);
                }
                _ => {}
            }
        }
        self.drop_mapping(page);
        let (backing, protection, is_copy) = match (copies.remove(&page), &saved.backing) {
            (Some(copy), Backing::Frame(then)) if !area.kind.is_shared() => {
                copy_back(&copy, then);
                let view = View::Frame { address: copy.address(), share_count: 1 };
                (Backing::Frame(copy), protection_of(view, area), true)
            }
            (_, then) => (share_of(then), saved.protection, false),
        };
        let is_frame = matches!(backing, Backing::Frame(_));
        self.account.charge(u64::from(is_frame))?;
        self.pages += u64::from(is_frame);
        self.space.map(page, backing, protection).map_err(|_| Errno::NOMEM)?;
        Ok(is_copy)
    }

    fn set_protection(&mut self, page: u64, now: Protection, wanted: Protection) {
        if now != wanted {
            self.space.protect(page, wanted);
        }
    }
}

/// Shares of a page that is a process's own, while [`machine::paging::AddressSpace::share`] holds
/// one: the mapping's and that one.
const OWN_SHARES: u32 = 2;

fn copy_back(now: &Frame, then: &Frame) {
    // The planted defect: what was zeros stays as the request left it.
    #[cfg(feature = "planted-rewind-bug")]
    {
        let mut bytes = [0; super::PAGE];
        then.read(0, &mut bytes);
        if bytes.iter().all(|byte| *byte == 0) {
            return;
        }
    }
    now.copy_from(then);
}

fn share_of(backing: &Backing) -> Backing {
    match backing {
        Backing::Frame(frame) => Backing::Frame(frame.clone()),
        Backing::Window(gpa) => Backing::Window(*gpa),
        Backing::Clock => Backing::Clock,
    }
}
