//! One ring: a split virtqueue (VIRTIO 1.3, section 2.7) between two sides that do not trust each
//! other.
//!
//! The producer of frames is always the *driver*, the consumer always the *device*, whichever
//! side of the VM they are on:
//! ```text
//!            desc table        avail ring           used ring        slots
//! producer   writes            writes idx (rel)     reads idx (acq)  writes a frame
//! consumer   reads             reads idx (acq)      writes idx (rel) reads it
//!
//!   slot free ─push─► available ─pop─► used ─reclaim─► slot free
//! ```
//! Each slot is one descriptor and one frame. Slots are reused last-in first-out so that a quiet
//! ring touches few pages. Event suppression is the flag form of sections 2.7.7 and 2.7.10: a
//! consumer that polls sets `NO_NOTIFY`; before it sleeps it clears the flag, fences and looks
//! once more, while the producer publishes, fences and reads the flag. One of the two always sees
//! the other.
//!
//! What the other side wrote is copied, then checked, and never read twice. A side that breaks
//! a rule gives a [`RingFault`]; what follows from that is the caller's business.

mod memory;

pub use memory::{Memory, SharedMemory};

/// Most slots a ring may have.
pub const SLOTS_MAX: u16 = 128;

const DESCRIPTOR_BYTES: u32 = 16;
const USED_ELEMENT_BYTES: u32 = 8;
const DESCRIPTOR_NEXT: u16 = 1;
const DESCRIPTOR_WRITE: u16 = 2;
const DESCRIPTOR_INDIRECT: u16 = 4;
const USED_NO_NOTIFY: u16 = 1;
const AVAIL_NO_INTERRUPT: u16 = 1;
/// Descriptors one frame may be spread over; our producers use one, other drivers may use more.
const CHAIN_MAX: u16 = 8;

/// Where one ring lies in its region. All offsets in bytes from the region's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QueueLayout {
    descriptors: u32,
    available: u32,
    used: u32,
    data: u32,
    slots: u16,
    slot_bytes: u32,
}

impl QueueLayout {
    /// A ring at `start` (page aligned) with `slots` frames of at most `slot_bytes`.
    #[must_use]
    pub const fn first(start: u32, slots: u16, slot_bytes: u32) -> Self {
        assert!(slots.is_power_of_two() && slots <= SLOTS_MAX);
        assert!(start.is_multiple_of(4096));
        let available = start + slots as u32 * DESCRIPTOR_BYTES;
        let used = (available + 6 + 2 * slots as u32).next_multiple_of(4);
        let data = (used + 6 + USED_ELEMENT_BYTES * slots as u32).next_multiple_of(4096);
        Self { descriptors: start, available, used, data, slots, slot_bytes }
    }

    /// The ring that follows this one.
    #[must_use]
    pub const fn next(self, slots: u16, slot_bytes: u32) -> Self {
        Self::first(self.end(), slots, slot_bytes)
    }

    /// First byte behind the ring, page aligned.
    #[must_use]
    pub const fn end(self) -> u32 {
        (self.data + self.slots as u32 * self.slot_bytes).next_multiple_of(4096)
    }

    /// Bytes a frame may have.
    #[must_use]
    pub const fn slot_bytes(self) -> usize {
        self.slot_bytes as usize
    }

    /// Number of slots: the virtqueue's size.
    #[must_use]
    pub const fn slots(self) -> u16 {
        self.slots
    }

    /// Offset of the descriptor table.
    #[must_use]
    pub const fn descriptors(self) -> u32 {
        self.descriptors
    }

    /// Offset of the available ring.
    #[must_use]
    pub const fn available(self) -> u32 {
        self.available
    }

    /// Offset of the used ring.
    #[must_use]
    pub const fn used(self) -> u32 {
        self.used
    }

    /// Offset of slot 0.
    #[must_use]
    pub const fn data(self) -> u32 {
        self.data
    }

    fn descriptor(self, slot: u16) -> u32 {
        self.descriptors + u32::from(slot & (self.slots - 1)) * DESCRIPTOR_BYTES
    }

    fn available_entry(self, index: u16) -> u32 {
        self.available + 4 + 2 * u32::from(index & (self.slots - 1))
    }

    fn used_entry(self, index: u16) -> u32 {
        self.used + 4 + USED_ELEMENT_BYTES * u32::from(index & (self.slots - 1))
    }
}

/// The other side broke the virtqueue's rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RingFault {
    /// An index moved further than the ring is long.
    IndexJump,
    /// A used element names a descriptor that was not outstanding.
    NotOutstanding,
    /// A descriptor points outside the ring's slots.
    AddressOutside,
    /// A descriptor is writable, indirect, or its chain is too long.
    ForbiddenDescriptor,
    /// A frame is longer than a slot.
    FrameTooLong,
}

/// Why nothing was pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PushError {
    /// Every slot is taken; the consumer has to read first.
    Full,
    /// The frame is longer than a slot: our own mistake.
    TooLong,
    /// The consumer broke a rule.
    Fault(RingFault),
}

/// The side that sends frames (the driver).
#[derive(Debug)]
pub struct Producer<M> {
    memory: M,
    layout: QueueLayout,
    free: [u16; SLOTS_MAX as usize],
    free_count: u16,
    outstanding: [bool; SLOTS_MAX as usize],
    available_index: u16,
    used_index: u16,
}

impl<M: Memory> Producer<M> {
    /// A producer on a region that is still all zeros in this ring.
    #[must_use]
    pub fn new(memory: M, layout: QueueLayout) -> Self {
        let mut free = [0; SLOTS_MAX as usize];
        for (entry, slot) in free.iter_mut().zip((0..layout.slots).rev()) {
            *entry = slot;
        }
        // Nobody waits for room yet: no interrupt for used buffers.
        memory.store_u16(layout.available, AVAIL_NO_INTERRUPT);
        Self {
            memory,
            layout,
            free,
            free_count: layout.slots,
            outstanding: [false; SLOTS_MAX as usize],
            available_index: 0,
            used_index: 0,
        }
    }

    /// Puts one frame, the concatenation of `parts`, into a slot and publishes it.
    ///
    /// # Errors
    /// See [`PushError`]; nothing is sent then.
    pub fn push(&mut self, parts: &[&[u8]]) -> Result<(), PushError> {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let length = u32::try_from(length).map_err(|_| PushError::TooLong)?;
        if length > self.layout.slot_bytes {
            return Err(PushError::TooLong);
        }
        if self.free_count == 0 {
            self.reclaim().map_err(PushError::Fault)?;
        }
        let slot = self.take_slot().ok_or(PushError::Full)?;
        let start = self.layout.data + u32::from(slot) * self.layout.slot_bytes;
        let mut at = start;
        for part in parts {
            self.memory.write(at, part);
            at += u32::try_from(part.len()).unwrap_or(0);
        }
        self.publish(slot, start, length);
        Ok(())
    }

    /// Frames that can be pushed now without waiting.
    ///
    /// # Errors
    /// [`RingFault`] when the consumer returned something it was not given.
    pub fn room(&mut self) -> Result<u16, RingFault> {
        self.reclaim()?;
        Ok(self.free_count)
    }

    /// Whether every frame sent has been read.
    ///
    /// # Errors
    /// [`RingFault`] when the consumer returned something it was not given.
    pub fn is_drained(&mut self) -> Result<bool, RingFault> {
        Ok(self.room()? == self.layout.slots)
    }

    /// Whether the consumer sleeps and its doorbell has to be rung for what was pushed.
    #[must_use]
    pub fn needs_doorbell(&self) -> bool {
        self.memory.fence();
        self.memory.load_u16(self.layout.used) & USED_NO_NOTIFY == 0
    }

    /// Says whether this side waits for room, so that the consumer rings when it made some.
    /// After `true` the caller looks at [`Producer::room`] once more before it sleeps.
    pub fn wait_for_room(&mut self, waits: bool) {
        let flags = if waits { 0 } else { AVAIL_NO_INTERRUPT };
        self.memory.store_u16(self.layout.available, flags);
        self.memory.fence();
    }

    fn take_slot(&mut self) -> Option<u16> {
        let last = self.free_count.checked_sub(1)?;
        self.free_count = last;
        let slot = self.free[usize::from(last)];
        self.outstanding[usize::from(slot)] = true;
        Some(slot)
    }

    fn publish(&mut self, slot: u16, start: u32, length: u32) {
        let descriptor = self.layout.descriptor(slot);
        self.memory.store_u64(descriptor, self.memory.base() + u64::from(start));
        self.memory.store_u32(descriptor + 8, length);
        self.memory.store_u32(descriptor + 12, 0);
        self.memory.store_u16(self.layout.available_entry(self.available_index), slot);
        self.available_index = self.available_index.wrapping_add(1);
        self.memory.store_u16_release(self.layout.available + 2, self.available_index);
    }

    fn reclaim(&mut self) -> Result<(), RingFault> {
        let index = self.memory.load_u16_acquire(self.layout.used + 2);
        if index.wrapping_sub(self.used_index) > self.layout.slots - self.free_count {
            return Err(RingFault::IndexJump);
        }
        while self.used_index != index {
            let slot = self.memory.load_u32(self.layout.used_entry(self.used_index));
            let slot = u16::try_from(slot).map_err(|_| RingFault::NotOutstanding)?;
            let entry = self.outstanding.get_mut(usize::from(slot));
            let entry = entry.ok_or(RingFault::NotOutstanding)?;
            if !core::mem::replace(entry, false) {
                return Err(RingFault::NotOutstanding);
            }
            self.free[usize::from(self.free_count)] = slot;
            self.free_count += 1;
            self.used_index = self.used_index.wrapping_add(1);
        }
        Ok(())
    }
}

/// The side that receives frames (the device).
#[derive(Debug)]
pub struct Consumer<M> {
    memory: M,
    layout: QueueLayout,
    available_index: u16,
    used_index: u16,
}

impl<M: Memory> Consumer<M> {
    /// A consumer on a region that is still all zeros in this ring. It starts awake: the producer
    /// need not ring.
    #[must_use]
    pub fn new(memory: M, layout: QueueLayout) -> Self {
        memory.store_u16(layout.used, USED_NO_NOTIFY);
        Self { memory, layout, available_index: 0, used_index: 0 }
    }

    /// Takes the oldest frame: copies it to the front of `frame` and returns its length.
    ///
    /// # Errors
    /// [`RingFault`] when the producer broke a rule, or the frame is longer than `frame`.
    pub fn pop(&mut self, frame: &mut [u8]) -> Result<Option<usize>, RingFault> {
        let index = self.memory.load_u16_acquire(self.layout.available + 2);
        let ready = index.wrapping_sub(self.available_index);
        if ready == 0 {
            return Ok(None);
        }
        if ready > self.layout.slots {
            return Err(RingFault::IndexJump);
        }
        let head = self.memory.load_u16(self.layout.available_entry(self.available_index));
        let length = self.copy_chain(head, frame)?;
        self.available_index = self.available_index.wrapping_add(1);
        self.give_back(head);
        Ok(Some(length))
    }

    /// How many frames the producer says it has published and this side has not popped; a hostile
    /// one may say anything.
    #[must_use]
    pub fn ready(&self) -> u16 {
        let index = self.memory.load_u16_acquire(self.layout.available + 2);
        index.wrapping_sub(self.available_index)
    }

    /// Whether nothing is waiting to be popped.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ready() == 0
    }

    /// Says whether this side sleeps, so that the producer rings. After `true` the caller looks
    /// at [`Consumer::is_empty`] once more before it really sleeps.
    pub fn set_sleeping(&mut self, sleeps: bool) {
        self.memory.store_u16(self.layout.used, if sleeps { 0 } else { USED_NO_NOTIFY });
        self.memory.fence();
    }

    /// Whether the producer waits for room and has to be rung for what was popped.
    #[must_use]
    pub fn needs_doorbell(&self) -> bool {
        self.memory.fence();
        self.memory.load_u16(self.layout.available) & AVAIL_NO_INTERRUPT == 0
    }

    fn copy_chain(&self, head: u16, frame: &mut [u8]) -> Result<usize, RingFault> {
        let mut slot = head;
        let mut length = 0;
        for _ in 0..CHAIN_MAX {
            if slot >= self.layout.slots {
                return Err(RingFault::NotOutstanding);
            }
            let descriptor = self.layout.descriptor(slot);
            let address = self.memory.load_u64(descriptor);
            let bytes = self.memory.load_u32(descriptor + 8);
            let word = self.memory.load_u32(descriptor + 12);
            let (flags, next) = ((word & 0xffff) as u16, (word >> 16) as u16);
            if flags & (DESCRIPTOR_WRITE | DESCRIPTOR_INDIRECT) != 0 {
                return Err(RingFault::ForbiddenDescriptor);
            }
            let offset = self.offset_of(address, bytes)?;
            let end = length + bytes as usize;
            let into = frame.get_mut(length..end).ok_or(RingFault::FrameTooLong)?;
            self.memory.read(offset, into);
            length = end;
            if flags & DESCRIPTOR_NEXT == 0 {
                return Ok(length);
            }
            slot = next;
        }
        Err(RingFault::ForbiddenDescriptor)
    }

    /// Offset of `bytes` bytes at a guest-physical address, if they lie in this ring's slots.
    fn offset_of(&self, address: u64, bytes: u32) -> Result<u32, RingFault> {
        let offset = address.checked_sub(self.memory.base()).ok_or(RingFault::AddressOutside)?;
        let offset = u32::try_from(offset).map_err(|_| RingFault::AddressOutside)?;
        let end = offset.checked_add(bytes).ok_or(RingFault::AddressOutside)?;
        if offset < self.layout.data || end > self.layout.end() {
            return Err(RingFault::AddressOutside);
        }
        Ok(offset)
    }

    fn give_back(&mut self, head: u16) {
        let entry = self.layout.used_entry(self.used_index);
        self.memory.store_u32(entry, u32::from(head));
        self.memory.store_u32(entry + 4, 0);
        self.used_index = self.used_index.wrapping_add(1);
        self.memory.store_u16_release(self.layout.used + 2, self.used_index);
    }
}
