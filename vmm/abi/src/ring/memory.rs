//! The memory rings live in: little-endian fields and bytes that another side may change at any
//! time. The only place where shared memory is touched.

use core::ops::Deref;
use core::sync::atomic::{AtomicU8, AtomicU16, AtomicU32, AtomicU64, Ordering};

/// The memory a ring lives in. Two ship: [`SharedMemory`] and, in tests, a model checker's.
///
/// Accesses are little-endian and may race with the other side's: implementations use relaxed
/// atomics for fields and for frame bytes, so that a race yields wrong bytes, never undefined
/// behaviour. Offsets are from the region's start; one outside it is our own bug and panics.
pub trait Memory {
    /// Guest-physical address of offset 0: descriptors hold addresses, not offsets.
    fn base(&self) -> u64;
    /// Relaxed load.
    fn load_u16(&self, offset: u32) -> u16;
    /// Acquire load: pairs with [`Memory::store_u16_release`] of an index by the other side.
    fn load_u16_acquire(&self, offset: u32) -> u16;
    /// Relaxed store.
    fn store_u16(&self, offset: u32, value: u16);
    /// Release store: publishes everything stored before it.
    fn store_u16_release(&self, offset: u32, value: u16);
    /// Relaxed load.
    fn load_u32(&self, offset: u32) -> u32;
    /// Relaxed store.
    fn store_u32(&self, offset: u32, value: u32);
    /// Relaxed load.
    fn load_u64(&self, offset: u32) -> u64;
    /// Relaxed store.
    fn store_u64(&self, offset: u32, value: u64);
    /// Copies out of the region.
    fn read(&self, offset: u32, bytes: &mut [u8]);
    /// Copies into the region.
    fn write(&self, offset: u32, bytes: &[u8]);
    /// Sequentially consistent fence: orders a store before a later load.
    fn fence(&self);
}

/// References and shared handles to a memory are memories.
impl<T> Memory for T
where
    T: Deref,
    T::Target: Memory,
{
    fn base(&self) -> u64 {
        (**self).base()
    }
    fn load_u16(&self, offset: u32) -> u16 {
        (**self).load_u16(offset)
    }
    fn load_u16_acquire(&self, offset: u32) -> u16 {
        (**self).load_u16_acquire(offset)
    }
    fn store_u16(&self, offset: u32, value: u16) {
        (**self).store_u16(offset, value);
    }
    fn store_u16_release(&self, offset: u32, value: u16) {
        (**self).store_u16_release(offset, value);
    }
    fn load_u32(&self, offset: u32) -> u32 {
        (**self).load_u32(offset)
    }
    fn store_u32(&self, offset: u32, value: u32) {
        (**self).store_u32(offset, value);
    }
    fn load_u64(&self, offset: u32) -> u64 {
        (**self).load_u64(offset)
    }
    fn store_u64(&self, offset: u32, value: u64) {
        (**self).store_u64(offset, value);
    }
    fn read(&self, offset: u32, bytes: &mut [u8]) {
        (**self).read(offset, bytes);
    }
    fn write(&self, offset: u32, bytes: &[u8]) {
        (**self).write(offset, bytes);
    }
    fn fence(&self) {
        (**self).fence();
    }
}

/// A shared region mapped into this address space.
#[derive(Debug)]
pub struct SharedMemory {
    start: *mut u8,
    bytes: u32,
    base: u64,
}

// SAFETY: the pointer is only dereferenced by atomic accesses within the mapping, whose life the
// creator of the value guarantees; no thread-bound state is involved.
unsafe impl Send for SharedMemory {}

impl SharedMemory {
    /// Uses the `bytes` bytes at `start` as a region whose guest-physical address is `base`.
    ///
    /// # Safety
    /// The caller keeps `start..start + bytes` mapped readable and writable for as long as the
    /// value lives, `start` is aligned to 8, and nothing in this address space makes a Rust
    /// reference to any of it.
    #[must_use]
    pub const unsafe fn new(start: *mut u8, bytes: u32, base: u64) -> Self {
        Self { start, bytes, base }
    }

    /// Bytes of the region.
    #[must_use]
    pub fn bytes(&self) -> u32 {
        self.bytes
    }

    fn at<T>(&self, offset: u32) -> *mut T {
        let size = u32::try_from(size_of::<T>()).unwrap_or(u32::MAX);
        assert!(offset.is_multiple_of(size) && offset <= self.bytes - size, "inside the region");
        // SAFETY: the offset was just checked against the mapping the creator guarantees.
        unsafe { self.start.add(offset as usize).cast() }
    }

    fn check_range(&self, offset: u32, count: usize) {
        let end = u64::from(offset) + count as u64;
        assert!(end <= u64::from(self.bytes), "inside the region");
    }

    fn u8_at(&self, offset: u32) -> &AtomicU8 {
        // SAFETY: `at` returns an address inside the mapping; all access to it is atomic.
        unsafe { AtomicU8::from_ptr(self.at(offset)) }
    }

    fn u16_at(&self, offset: u32) -> &AtomicU16 {
        // SAFETY: `at` returns an aligned address inside the mapping; all access to it is atomic.
        unsafe { AtomicU16::from_ptr(self.at(offset)) }
    }

    fn u32_at(&self, offset: u32) -> &AtomicU32 {
        // SAFETY: `at` returns an aligned address inside the mapping; all access to it is atomic.
        unsafe { AtomicU32::from_ptr(self.at(offset)) }
    }

    fn u64_at(&self, offset: u32) -> &AtomicU64 {
        // SAFETY: `at` returns an aligned address inside the mapping; all access to it is atomic.
        unsafe { AtomicU64::from_ptr(self.at(offset)) }
    }
}

impl Memory for SharedMemory {
    fn base(&self) -> u64 {
        self.base
    }

    fn load_u16(&self, offset: u32) -> u16 {
        // ordering: relaxed; published by an index store elsewhere, or only a hint.
        self.u16_at(offset).load(Ordering::Relaxed)
    }

    fn load_u16_acquire(&self, offset: u32) -> u16 {
        // ordering: acquire; pairs with the other side's `store_u16_release` of the same index.
        self.u16_at(offset).load(Ordering::Acquire)
    }

    fn store_u16(&self, offset: u32, value: u16) {
        // ordering: relaxed; made visible by the index store that follows.
        self.u16_at(offset).store(value, Ordering::Relaxed);
    }

    fn store_u16_release(&self, offset: u32, value: u16) {
        // ordering: release; publishes descriptors, entries and frame bytes stored before it.
        self.u16_at(offset).store(value, Ordering::Release);
    }

    fn load_u32(&self, offset: u32) -> u32 {
        // ordering: relaxed; read behind an acquired index.
        self.u32_at(offset).load(Ordering::Relaxed)
    }

    fn store_u32(&self, offset: u32, value: u32) {
        // ordering: relaxed; made visible by the index store that follows.
        self.u32_at(offset).store(value, Ordering::Relaxed);
    }

    fn load_u64(&self, offset: u32) -> u64 {
        // ordering: relaxed; read behind an acquired index, or a value of its own.
        self.u64_at(offset).load(Ordering::Relaxed)
    }

    fn store_u64(&self, offset: u32, value: u64) {
        // ordering: relaxed; made visible by the index store that follows.
        self.u64_at(offset).store(value, Ordering::Relaxed);
    }

    fn read(&self, offset: u32, bytes: &mut [u8]) {
        self.check_range(offset, bytes.len());
        let mut at = offset;
        let (words, tail) = split_words_mut(offset, bytes);
        for word in words.chunks_exact_mut(8) {
            word.copy_from_slice(&self.load_u64(at).to_le_bytes());
            at += 8;
        }
        for byte in tail {
            // ordering: relaxed; frame bytes are published by an index.
            *byte = self.u8_at(at).load(Ordering::Relaxed);
            at += 1;
        }
    }

    fn write(&self, offset: u32, bytes: &[u8]) {
        self.check_range(offset, bytes.len());
        let mut at = offset;
        let whole = if offset.is_multiple_of(8) { bytes.len() & !7 } else { 0 };
        let (words, tail) = bytes.split_at(whole);
        for word in words.chunks_exact(8) {
            let mut value = [0; 8];
            value.copy_from_slice(word);
            self.store_u64(at, u64::from_le_bytes(value));
            at += 8;
        }
        for byte in tail {
            // ordering: relaxed; frame bytes are published by an index.
            self.u8_at(at).store(*byte, Ordering::Relaxed);
            at += 1;
        }
    }

    fn fence(&self) {
        // ordering: sequentially consistent; pairs with the other side's fence in the same
        // handshake (sleep against publish).
        core::sync::atomic::fence(Ordering::SeqCst);
    }
}

fn split_words_mut(offset: u32, bytes: &mut [u8]) -> (&mut [u8], &mut [u8]) {
    let whole = if offset.is_multiple_of(8) { bytes.len() & !7 } else { 0 };
    bytes.split_at_mut(whole)
}
