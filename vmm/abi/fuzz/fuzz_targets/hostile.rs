//! A small ring in memory the fuzzer writes to between our steps, as a hostile peer would.

use abi::layout::REGION_GPA;
use abi::ring::{QueueLayout, SharedMemory};

/// Bytes of a slot.
pub const SLOT_BYTES: u32 = 64;
/// The ring: four slots, alone in its region, so that any step outside it panics.
pub const LAYOUT: QueueLayout = QueueLayout::first(0, 4, SLOT_BYTES);
const WORDS: usize = LAYOUT.end() as usize / 8;

/// Memory of one run.
pub struct Hostile {
    words: *mut [u64; WORDS],
}

impl Hostile {
    /// All zeros.
    pub fn new() -> Self {
        Self { words: Box::into_raw(Box::new([0; WORDS])) }
    }

    /// A handle for one end; it must not outlive `self`.
    pub fn shared(&self) -> SharedMemory {
        // SAFETY: the box is aligned to 8, that long, freed when `self` is dropped, which the
        // targets do last, and nobody else makes a reference into it.
        unsafe { SharedMemory::new(self.words.cast(), LAYOUT.end(), REGION_GPA) }
    }
}

impl Drop for Hostile {
    fn drop(&mut self) {
        // SAFETY: `new` made it from a box, and it is freed only here.
        drop(unsafe { Box::from_raw(self.words) });
    }
}

/// One write of the peer: which word, what value.
pub fn writes(data: &[u8]) -> impl Iterator<Item = (u32, u64)> {
    data.chunks_exact(10).map(|chunk| {
        let word = u16::from_le_bytes([chunk[0], chunk[1]]) as usize % WORDS;
        let mut value = [0; 8];
        value.copy_from_slice(&chunk[2..]);
        (word as u32 * 8, u64::from_le_bytes(value))
    })
}
