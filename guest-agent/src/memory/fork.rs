//! A second memory like the first: pages are shared until one of the two writes.

use alloc::rc::Rc;

use abi::layout::PAGE_BYTES;
use machine::paging::Backing;

use super::fault::Touch;
use super::{Area, AtFork, Kind, Memory, PAGE, Range, protection_of};
use crate::errno::Errno;

/// Kernel memory that one more list of areas takes for each of them, at most.
const AREA_BYTES: u64 = 128;

impl Memory {
    /// What a child starts with. Both pay for every page: either may come to write all of them.
    ///
    /// # Errors
    /// [`Errno::NOMEM`] when the account or the VM has not as many pages left.
    pub fn duplicate(&mut self) -> Result<Self, Errno> {
        let room = machine::frame::free_count() as u64 * PAGE_BYTES;
        if self.areas.count() as u64 * AREA_BYTES > room {
            return Err(Errno::NOMEM);
        }
        let mut copy = Self::new(Rc::clone(&self.account), self.ceiling)?;
        copy.heap = self.heap;
        self.begin_sharing()?;
        let parts: alloc::vec::Vec<_> = self.areas.iter().collect();
        for (range, area) in parts {
            if area.at_fork == AtFork::Left {
                continue;
            }
            self.reveal(range);
            copy.areas.insert(range, area);
            if area.at_fork == AtFork::Copied {
                self.share_pages(range, area, &mut copy)?;
            }
        }
        copy.charge_tables()?;
        Ok(copy)
    }

    /// An address space in place of one that somebody else uses for a while: nothing runs in it.
    ///
    /// # Errors
    /// As [`Memory::new`].
    pub fn stand_in(&self) -> Result<Self, Errno> {
        Self::new(Rc::clone(&self.account), self.ceiling)
    }

    /// Makes shared memory what the name says: from here on its pages are the same in all who have it,
    /// so all of them have to be there, and none a saved state's.
    fn begin_sharing(&mut self) -> Result<(), Errno> {
        let parts: alloc::vec::Vec<_> = self.areas.iter().collect();
        let ahead = parts.into_iter().filter(|(_, area)| area.kind == Kind::SharedLater);
        for (range, area) in ahead {
            // Nothing puts shared pages back: what saves a state from here on must not.
            self.has_shared = true;
            if !area.access.is_writable {
                // They may be a saved state's, and become writable.
                self.forget_saved();
            }
            let touch = if area.access.is_writable { Touch::Write } else { Touch::Read };
            let touched = if area.access.is_none() {
                range.start..range.start
            } else {
                range.start..range.end
            };
            for page in touched.step_by(PAGE) {
                self.touch(page, touch)?;
            }
            self.areas.change(range, |area| area.kind = Kind::Shared);
            self.note_areas();
        }
        Ok(())
    }

    fn share_pages(&mut self, range: Range, area: Area, copy: &mut Self) -> Result<(), Errno> {
        let mut at = range.start;
        while let Some(page) = self.space.next_mapped(at, range.end) {
            at = page + PAGE_BYTES;
            let Some((backing, old)) = self.space.share(page) else { continue };
            let is_frame = matches!(backing, Backing::Frame(_));
            copy.account.charge(u64::from(is_frame))?;
            copy.pages += u64::from(is_frame);
            // With its second share the page is nobody's own any more: a store copies it first.
            let Some((view, _)) = self.space.lookup(page) else { continue };
            let protection = protection_of(view, area);
            copy.space.map(page, backing, protection).map_err(|_| Errno::NOMEM)?;
            if protection != old {
                self.space.protect(page, protection);
            }
        }
        Ok(())
    }
}
