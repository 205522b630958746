//! Pages that come into being when they are touched: by an instruction (page fault) or by a
//! system call that copies.

use abi::layout::PAGE_BYTES;
use machine::frame::Frame;
use machine::paging::{Backing, Protection, View};

use super::{Access, Memory, Range, page_of};
use crate::errno::Errno;

/// Pages made at one fault: the aligned block around the address. A fault costs 14 to 28 us on a
/// page-table hypervisor, a page 1 us when the host has it and 11 to 38 us when it has not; four
/// pages bound the loss of either guess to about one fault.
const FAULT_AROUND_PAGES: u64 = 4;

/// What is wanted of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touch {
    /// A load.
    Read,
    /// A store.
    Write,
    /// An instruction fetch.
    Fetch,
}

/// Why a touch cannot be allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing is mapped there (`SEGV_MAPERR`).
    Unmapped,
    /// Something is, but not for this use (`SEGV_ACCERR`).
    Denied,
    /// The container or the VM has no page left.
    Exhausted,
}

impl From<Fault> for Errno {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Unmapped | Fault::Denied => Errno::FAULT,
            Fault::Exhausted => Errno::NOMEM,
        }
    }
}

impl Access {
    /// Whether it includes this use.
    #[must_use]
    pub fn allows(self, touch: Touch) -> bool {
        match touch {
            Touch::Read => !self.is_none(),
            Touch::Write => self.is_writable,
            Touch::Fetch => self.is_executable,
        }
    }
}

impl Memory {
    /// Makes the page at `address` exist for this use, and its neighbours while at it.
    ///
    /// # Errors
    /// See [`Fault`].
    pub fn touch(&mut self, address: u64, touch: Touch) -> Result<(), Fault> {
        let page = page_of(address);
        let Some((range, area)) = self.areas.find(page) else { return Err(Fault::Unmapped) };
        if !area.access.allows(touch) {
            return Err(Fault::Denied);
        }
        self.reveal(Range { start: page, end: page + PAGE_BYTES });
        if let Some((view, protection)) = self.space.lookup(page) {
            if touch == Touch::Write && !protection.is_writable {
                return self.own(page, view, area.access);
            }
            return Ok(());
        }
        if !area.kind.is_filled() {
            return Err(Fault::Unmapped);
        }
        self.fill(page, area.access)?;
        self.fill_around(page, range, area.access);
        self.charge_tables().map_err(|_| Fault::Exhausted)
    }

    /// Makes every page of `range` exist, zeros where there was none. The range lies in one area.
    ///
    /// # Errors
    /// [`Errno::NOMEM`] when pages run out on the way.
    pub fn populate(&mut self, range: Range) -> Result<(), Errno> {
        let Some((_, area)) = self.areas.find(range.start) else { return Err(Errno::NOMEM) };
        let mut page = range.start;
        while page < range.end {
            if self.space.lookup(page).is_none() {
                self.fill(page, area.access)?;
            }
            page += PAGE_BYTES;
        }
        self.charge_tables()
    }

    /// Makes every page of `range` that a program may touch exist.
    ///
    /// # Errors
    /// [`Errno::NOMEM`] when pages run out on the way.
    pub fn populate_all(&mut self, range: Range) -> Result<(), Errno> {
        let parts: alloc::vec::Vec<_> = self.areas.within(range).collect();
        let touchable = |area: &super::Area| area.kind.is_filled() && !area.access.is_none();
        let mut parts = parts.into_iter().filter(|(_, area)| touchable(area));
        parts.try_for_each(|(part, _)| self.populate(part))
    }

    fn fill(&mut self, page: u64, access: Access) -> Result<(), Fault> {
        let frame = self.charged_frame().map_err(|_| Fault::Exhausted)?;
        let protection = Protection {
            is_readable: !access.is_none(),
            is_writable: access.is_writable,
            is_executable: access.is_executable,
        };
        if self.space.map(page, Backing::Frame(frame), protection).is_err() {
            self.account.release(1);
            return Err(Fault::Exhausted);
        }
        self.pages += 1;
        self.note_page(page);
        Ok(())
    }

    /// Best effort: neighbours that cannot be had are left to their own faults.
    fn fill_around(&mut self, page: u64, range: Range, access: Access) {
        let block_bytes = FAULT_AROUND_PAGES * PAGE_BYTES;
        let start = page - page % block_bytes;
        let block = Range { start, end: start + block_bytes };
        let Some(block) = block.intersection(range) else { return };
        let mut page = block.start;
        while page < block.end {
            if self.space.lookup(page).is_none() && self.fill(page, access).is_err() {
                return;
            }
            page += PAGE_BYTES;
        }
    }

    /// Gives the process its own writable copy of a page it shares with the image window or with
    /// another process.
    fn own(&mut self, page: u64, view: View, access: Access) -> Result<(), Fault> {
        let protection = Protection::readable(true, access.is_executable);
        let is_new = match view {
            View::Clock => return Err(Fault::Denied),
            View::Frame { share_count: 1, .. } => {
                self.note_page(page);
                self.space.protect(page, protection);
                return Ok(());
            }
            View::Frame { .. } => false,
            View::Window(_) => true,
        };
        let frame = if is_new {
            self.charged_frame().map_err(|_| Fault::Exhausted)?
        } else {
            self.frame(Frame::uninitialised).ok_or(Fault::Exhausted)?
        };
        self.copy_page(page, &frame)?;
        self.space.unmap(page);
        let mapped = self.space.map(page, Backing::Frame(frame), protection);
        mapped.map_err(|_| Fault::Exhausted)?;
        self.pages += u64::from(is_new);
        self.note_page(page);
        Ok(())
    }

    fn copy_page(&self, page: u64, frame: &Frame) -> Result<(), Fault> {
        let mut bytes = [0; 512];
        for at in (0..PAGE_BYTES).step_by(bytes.len()) {
            self.space.read(page + at, &mut bytes).map_err(|_| Fault::Denied)?;
            frame.write(usize::try_from(at).unwrap_or(0), &bytes);
        }
        Ok(())
    }

    /// Copies from the program's memory.
    ///
    /// # Errors
    /// [`Errno::FAULT`] when part of it may not be read, [`Errno::NOMEM`] when a page of it
    /// cannot be had.
    pub fn read(&mut self, address: u64, bytes: &mut [u8]) -> Result<(), Errno> {
        if self.space.read(address, bytes).is_ok() {
            return Ok(());
        }
        self.touch_all(address, bytes.len(), Touch::Read)?;
        self.space.read(address, bytes).map_err(|_| Errno::FAULT)
    }

    /// Copies into the program's memory.
    ///
    /// # Errors
    /// As [`Memory::read`].
    pub fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), Errno> {
        if self.space.write(address, bytes).is_ok() {
            return Ok(());
        }
        self.touch_all(address, bytes.len(), Touch::Write)?;
        self.space.write(address, bytes).map_err(|_| Errno::FAULT)
    }

    /// Reads a NUL-terminated string of at most `room` bytes into `text`.
    ///
    /// # Errors
    /// [`Errno::FAULT`] as for [`Memory::read`]; [`Errno::NAMETOOLONG`] when it does not end.
    pub fn read_text(
        &mut self,
        address: u64,
        room: usize,
        text: &mut alloc::vec::Vec<u8>,
    ) -> Result<(), Errno> {
        let mut at = address;
        let mut chunk = [0; 64];
        while text.len() <= room {
            // Not past the page, which may be the last one mapped.
            let to_page_end = PAGE_BYTES - at % PAGE_BYTES;
            let count = usize::try_from(to_page_end).unwrap_or(chunk.len()).min(chunk.len());
            let part = &mut chunk[..count];
            self.read(at, part)?;
            if let Some(end) = part.iter().position(|byte| *byte == 0) {
                text.extend_from_slice(&part[..end]);
                return if text.len() <= room { Ok(()) } else { Err(Errno::NAMETOOLONG) };
            }
            text.extend_from_slice(part);
            at = at.checked_add(count as u64).ok_or(Errno::FAULT)?;
        }
        Err(Errno::NAMETOOLONG)
    }

    fn touch_all(&mut self, address: u64, count: usize, touch: Touch) -> Result<(), Errno> {
        let end = address.checked_add(count as u64).ok_or(Errno::FAULT)?;
        let mut page = page_of(address);
        while page < end {
            self.touch(page, touch)?;
            page += PAGE_BYTES;
        }
        Ok(())
    }
}
