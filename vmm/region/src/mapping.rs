//! Mappings of sealed memfds.

use crate::sealed;
use abi::ring::{Memory, SharedMemory};
use memmap2::{Mmap, MmapOptions, MmapRaw};
use std::fmt;
use std::io::{self, Error, ErrorKind};
use std::ops::Deref;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

/// A shared memfd, mapped readable and writable for as long as any clone lives. It is
/// [`Memory`], so ring ends own it: `Producer::new(region.clone(), layout)`.
#[derive(Clone, Debug)]
pub struct Region(Arc<Mapped>);

struct Mapped {
    /// Points into `_mapping`, which lives as long.
    memory: SharedMemory,
    _mapping: MmapRaw,
}

// SAFETY: `SharedMemory` only makes atomic accesses to memory that every thread of the process
// sees alike; `MmapRaw` is never touched after construction but by drop.
unsafe impl Sync for Mapped {}
// SAFETY: neither the pointer nor the mapping is bound to a thread.
unsafe impl Send for Mapped {}

impl fmt::Debug for Mapped {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.memory.fmt(formatter)
    }
}

impl Region {
    /// Maps a memfd of exactly `bytes` bytes that is sealed against shrinking and growing. `base`
    /// is the guest-physical address of its first byte.
    ///
    /// # Errors
    /// `InvalidInput` for another length, `PermissionDenied` for missing seals, else the kernel's.
    pub fn map(memfd: impl AsFd, bytes: u32, base: u64) -> io::Result<Self> {
        if sealed::check_shared(&memfd)? != u64::from(bytes) || bytes == 0 {
            return Err(Error::new(ErrorKind::InvalidInput, "the memfd has another length"));
        }
        let mapping = MmapOptions::new().len(bytes as usize).map_raw(memfd.as_fd().as_raw_fd())?;
        // SAFETY: the mapping is page aligned, `bytes` long, writable, cannot shrink (checked
        // above), is kept beside the value and handed to nobody else, so no reference is made.
        let memory = unsafe { SharedMemory::new(mapping.as_mut_ptr(), bytes, base) };
        Ok(Self(Arc::new(Mapped { memory, _mapping: mapping })))
    }

    /// The mapped memory.
    #[must_use]
    pub fn memory(&self) -> &SharedMemory {
        &self.0.memory
    }

    /// Address of the first byte in this process: what a hypervisor wants to know.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.0._mapping.as_ptr().addr() as u64
    }
}

impl Memory for Region {
    fn base(&self) -> u64 {
        self.memory().base()
    }
    fn load_u16(&self, offset: u32) -> u16 {
        self.memory().load_u16(offset)
    }
    fn load_u16_acquire(&self, offset: u32) -> u16 {
        self.memory().load_u16_acquire(offset)
    }
    fn store_u16(&self, offset: u32, value: u16) {
        self.memory().store_u16(offset, value);
    }
    fn store_u16_release(&self, offset: u32, value: u16) {
        self.memory().store_u16_release(offset, value);
    }
    fn load_u32(&self, offset: u32) -> u32 {
        self.memory().load_u32(offset)
    }
    fn store_u32(&self, offset: u32, value: u32) {
        self.memory().store_u32(offset, value);
    }
    fn load_u64(&self, offset: u32) -> u64 {
        self.memory().load_u64(offset)
    }
    fn store_u64(&self, offset: u32, value: u64) {
        self.memory().store_u64(offset, value);
    }
    fn read(&self, offset: u32, bytes: &mut [u8]) {
        self.memory().read(offset, bytes);
    }
    fn write(&self, offset: u32, bytes: &[u8]) {
        self.memory().write(offset, bytes);
    }
    fn fence(&self) {
        self.memory().fence();
    }
}

/// The bytes of a memfd that nobody can change any more.
#[derive(Debug)]
pub struct Contents(Mmap);

impl Contents {
    /// Maps a memfd whose size and contents are sealed.
    ///
    /// # Errors
    /// `PermissionDenied` for missing seals, else the kernel's.
    pub fn map(memfd: impl AsFd) -> io::Result<Self> {
        let bytes = sealed::check_frozen(&memfd)?;
        let bytes = usize::try_from(bytes).map_err(|_| ErrorKind::InvalidInput)?;
        let mapping = MmapOptions::new().len(bytes).map_if_safe(memfd.as_fd().as_raw_fd());
        mapping.map(Self).map_err(Error::other)
    }
}

impl Deref for Contents {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_mappings_show_the_same_memory() {
        let memfd = sealed::shared("test", 4096).unwrap();
        let one = Region::map(&memfd, 4096, 0).unwrap();
        let two = Region::map(&memfd, 4096, 0).unwrap();
        one.store_u64(8, 42);
        assert_eq!(two.load_u64(8), 42);
    }

    #[test]
    fn wrong_length_and_missing_seals_are_refused() {
        let memfd = sealed::shared("test", 4096).unwrap();
        assert!(Region::map(&memfd, 8192, 0).is_err());
        assert!(Contents::map(&memfd).is_err());
        assert!(Region::map(sealed::unsealed("test").unwrap(), 4096, 0).is_err());
    }

    #[test]
    fn contents_are_what_was_frozen() {
        let memfd = sealed::frozen("test", b"abc").unwrap();
        assert_eq!(&*Contents::map(&memfd).unwrap(), b"abc");
    }
}
