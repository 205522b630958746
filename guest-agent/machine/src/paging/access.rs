//! Reading and writing a program's memory on its behalf, with the rights the program has.

use abi::layout::{PAGE_BYTES, USER_END};
use core::sync::atomic::{AtomicU32, Ordering};

use super::{AddressSpace, BadAddress};
use crate::physical;

impl AddressSpace {
    /// Copies out of user memory.
    ///
    /// # Errors
    /// [`BadAddress`] when a byte is not readable; `bytes` is then filled up to there.
    pub fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), BadAddress> {
        let mut done = 0;
        while done < bytes.len() {
            let (from, room) = self.reach(address, done, bytes.len(), Access::Read)?;
            let into = &mut bytes[done..done + room];
            // SAFETY: `reach` returned `room` bytes of memory the program may read; user pages
            // are never the memory behind a Rust reference, so they do not overlap `into`.
            unsafe { core::ptr::copy_nonoverlapping(from, into.as_mut_ptr(), room) }
            done += room;
        }
        Ok(())
    }

    /// Copies into user memory.
    ///
    /// # Errors
    /// [`BadAddress`] when a byte is not writable; those before it have been written.
    pub fn write(&self, address: u64, bytes: &[u8]) -> Result<(), BadAddress> {
        let mut done = 0;
        while done < bytes.len() {
            let (to, room) = self.reach(address, done, bytes.len(), Access::Write)?;
            let from = &bytes[done..done + room];
            // SAFETY: `reach` returned `room` bytes of RAM the program may write; user pages
            // are never the memory behind a Rust reference, so they do not overlap `from`.
            unsafe { core::ptr::copy_nonoverlapping(from.as_ptr(), to, room) }
            done += room;
        }
        Ok(())
    }

    /// Fills user memory with zeros.
    ///
    /// # Errors
    /// [`BadAddress`] when a byte is not writable; those before it have been written.
    pub fn zero(&self, address: u64, bytes: usize) -> Result<(), BadAddress> {
        let mut done = 0;
        while done < bytes {
            let (to, room) = self.reach(address, done, bytes, Access::Write)?;
            // SAFETY: `reach` returned `room` bytes of RAM the program may write, behind no
            // Rust reference.
            unsafe { core::ptr::write_bytes(to, 0, room) }
            done += room;
        }
        Ok(())
    }

    /// Reads an aligned word, as a futex does.
    ///
    /// # Errors
    /// [`BadAddress`] when it is not aligned or not readable.
    pub fn load_u32(&self, address: u64) -> Result<u32, BadAddress> {
        // ordering: relaxed; programs only run when the kernel does not, on the same CPU.
        Ok(self.word(address, Access::Read)?.load(Ordering::Relaxed))
    }

    /// Writes `new` to an aligned word if it holds `current`, and returns what it held.
    ///
    /// # Errors
    /// [`BadAddress`] when it is not aligned or not writable.
    pub fn compare_exchange_u32(
        &self,
        address: u64,
        current: u32,
        new: u32,
    ) -> Result<u32, BadAddress> {
        let word = self.word(address, Access::Write)?;
        // ordering: relaxed; programs only run when the kernel does not, on the same CPU.
        let result = word.compare_exchange(current, new, Ordering::Relaxed, Ordering::Relaxed);
        Ok(result.unwrap_or_else(|held| held))
    }

    /// Guest-physical address of a byte the program may read: names a word shared by several
    /// address spaces.
    ///
    /// # Errors
    /// [`BadAddress`] when it is not readable.
    pub fn physical_address(&self, address: u64) -> Result<u64, BadAddress> {
        let entry = self.entry(address).filter(|entry| entry.is_present()).ok_or(BadAddress)?;
        Ok(entry.gpa() + address % PAGE_BYTES)
    }

    fn word(&self, address: u64, access: Access) -> Result<&AtomicU32, BadAddress> {
        if !address.is_multiple_of(4) {
            return Err(BadAddress);
        }
        let (word, _) = self.reach(address, 0, 4, access)?;
        // SAFETY: `reach` returned an address in a page the program may use this way; it is
        // aligned, so all four bytes lie in that page; the borrow of the address space keeps it
        // mapped, and the kernel only copies bytes there between, never during, atomic accesses.
        Ok(unsafe { AtomicU32::from_ptr(word.cast()) })
    }

    /// Pointer to the byte `done` bytes behind `address`, and how many of the `total` lie in its
    /// page from there on.
    fn reach(
        &self,
        address: u64,
        done: usize,
        total: usize,
        access: Access,
    ) -> Result<(*mut u8, usize), BadAddress> {
        let at = address.checked_add(done as u64).filter(|at| *at < USER_END).ok_or(BadAddress)?;
        let entry = self.entry(at).ok_or(BadAddress)?;
        let protection = entry.protection();
        let is_allowed = protection.is_readable
            && match access {
                Access::Read => true,
                Access::Write => protection.is_writable,
            };
        if !is_allowed {
            return Err(BadAddress);
        }
        let offset = at % PAGE_BYTES;
        let room = usize::try_from(PAGE_BYTES - offset).map_err(|_| BadAddress)?;
        let room = room.min(total - done);
        Ok((physical::pointer(entry.gpa() + offset, room as u64), room))
    }
}

#[derive(Clone, Copy)]
enum Access {
    Read,
    Write,
}
