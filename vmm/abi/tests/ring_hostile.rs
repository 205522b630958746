//! The other side of a ring is hostile: every rule it can break is found and named, and whatever
//! it writes, we neither panic nor touch memory outside the ring.

mod shared;

use std::cell::Cell;

use abi::layout::REGION_GPA;
use abi::ring::{Consumer, Memory, Producer, PushError, QueueLayout, RingFault, SharedMemory};
use proptest::prelude::*;

use shared::Region;

const SLOTS: u16 = 4;
const SLOT_BYTES: u32 = 64;
const LAYOUT: QueueLayout = QueueLayout::first(4096, SLOTS, SLOT_BYTES);
const REGION_BYTES: u32 = LAYOUT.end() + 4096;

/// A ring whose every access is checked to stay inside it, though the region is larger.
struct Watched {
    memory: SharedMemory,
    accesses: Cell<u64>,
}

impl Watched {
    fn new(region: &Region) -> Self {
        Self { memory: region.shared(), accesses: Cell::new(0) }
    }

    fn check(&self, offset: u32, bytes: usize) -> &SharedMemory {
        let end = u64::from(offset) + bytes as u64;
        assert!(offset >= LAYOUT.descriptors() && end <= u64::from(LAYOUT.end()), "in the ring");
        self.accesses.set(self.accesses.get() + 1);
        &self.memory
    }
}

impl Memory for Watched {
    fn base(&self) -> u64 {
        self.memory.base()
    }
    fn load_u16(&self, offset: u32) -> u16 {
        self.check(offset, 2).load_u16(offset)
    }
    fn load_u16_acquire(&self, offset: u32) -> u16 {
        self.check(offset, 2).load_u16_acquire(offset)
    }
    fn store_u16(&self, offset: u32, value: u16) {
        self.check(offset, 2).store_u16(offset, value);
    }
    fn store_u16_release(&self, offset: u32, value: u16) {
        self.check(offset, 2).store_u16_release(offset, value);
    }
    fn load_u32(&self, offset: u32) -> u32 {
        self.check(offset, 4).load_u32(offset)
    }
    fn store_u32(&self, offset: u32, value: u32) {
        self.check(offset, 4).store_u32(offset, value);
    }
    fn load_u64(&self, offset: u32) -> u64 {
        self.check(offset, 8).load_u64(offset)
    }
    fn store_u64(&self, offset: u32, value: u64) {
        self.check(offset, 8).store_u64(offset, value);
    }
    fn read(&self, offset: u32, bytes: &mut [u8]) {
        self.check(offset, bytes.len()).read(offset, bytes);
    }
    fn write(&self, offset: u32, bytes: &[u8]) {
        self.check(offset, bytes.len()).write(offset, bytes);
    }
    fn fence(&self) {
        self.memory.fence();
    }
}

/// One descriptor as the specification lays it out (VIRTIO 1.3, 2.7.5).
#[derive(Clone, Copy, Debug)]
struct Descriptor {
    address: u64,
    bytes: u32,
    flags: u16,
    next: u16,
}

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// A good descriptor for the slot with this number.
fn good(slot: u16) -> Descriptor {
    let address = REGION_GPA + u64::from(LAYOUT.data() + u32::from(slot) * SLOT_BYTES);
    Descriptor { address, bytes: 8, flags: 0, next: 0 }
}

/// Writes descriptors from number 0 on, offers `head` and sets the index.
fn offer(memory: &impl Memory, descriptors: &[Descriptor], head: u16, index: u16) {
    for (at, descriptor) in (LAYOUT.descriptors()..).step_by(16).zip(descriptors) {
        memory.store_u64(at, descriptor.address);
        memory.store_u32(at + 8, descriptor.bytes);
        memory.store_u16(at + 12, descriptor.flags);
        memory.store_u16(at + 14, descriptor.next);
    }
    memory.store_u16(LAYOUT.available() + 4, head);
    memory.store_u16_release(LAYOUT.available() + 2, index);
}

/// What a consumer says to this offer, with room for `room` bytes.
fn pop(descriptors: &[Descriptor], head: u16, index: u16, room: usize) -> Result<usize, RingFault> {
    let region = Region::zeroed(REGION_BYTES);
    let mut consumer = Consumer::new(Watched::new(&region), LAYOUT);
    offer(&region.shared(), descriptors, head, index);
    let popped = consumer.pop(&mut vec![0; room]);
    popped.map(|length| length.expect("something was offered"))
}

#[test]
fn a_good_offer_is_taken() {
    assert_eq!(pop(&[good(0)], 0, 1, 64), Ok(8));
    assert_eq!(pop(&[good(0)], 0, SLOTS, 64), Ok(8));
}

#[test]
fn index_jump() {
    assert_eq!(pop(&[good(0)], 0, SLOTS + 1, 64), Err(RingFault::IndexJump));
    assert_eq!(pop(&[good(0)], 0, u16::MAX, 64), Err(RingFault::IndexJump));
}

#[test]
fn head_or_next_beyond_the_table() {
    assert_eq!(pop(&[good(0)], SLOTS, 1, 64), Err(RingFault::NotOutstanding));
    assert_eq!(pop(&[good(0)], u16::MAX, 1, 64), Err(RingFault::NotOutstanding));
    let chain = [Descriptor { flags: NEXT, next: SLOTS, ..good(0) }];
    assert_eq!(pop(&chain, 0, 1, 64), Err(RingFault::NotOutstanding));
}

#[test]
fn address_outside() {
    let data = REGION_GPA + u64::from(LAYOUT.data());
    let end = REGION_GPA + u64::from(LAYOUT.end());
    let cases = [
        (0, 8),
        (REGION_GPA, 8),
        (REGION_GPA - 1, 8),
        (data - 1, 8),
        (end - 7, 8),
        (end, 1),
        (data, u32::MAX),
        (REGION_GPA + u64::from(u32::MAX), 1),
        (REGION_GPA + (1 << 32), 8),
        (u64::MAX, 8),
        (u64::MAX, u32::MAX),
    ];
    for (address, bytes) in cases {
        let bad = Descriptor { address, bytes, ..good(0) };
        assert_eq!(pop(&[bad], 0, 1, 64), Err(RingFault::AddressOutside), "{address:x} {bytes}");
    }
}

#[test]
fn forbidden_descriptor() {
    for flags in [WRITE, INDIRECT, WRITE | INDIRECT, NEXT | INDIRECT] {
        let bad = Descriptor { flags, ..good(0) };
        assert_eq!(pop(&[bad], 0, 1, 64), Err(RingFault::ForbiddenDescriptor), "flags {flags}");
    }
    // A chain that bites its tail ends all the same.
    let circle =
        [Descriptor { flags: NEXT, next: 1, ..good(0) }, Descriptor { flags: NEXT, ..good(1) }];
    assert_eq!(pop(&circle, 0, 1, 1000), Err(RingFault::ForbiddenDescriptor));
}

#[test]
fn frame_too_long() {
    assert_eq!(pop(&[good(0)], 0, 1, 7), Err(RingFault::FrameTooLong));
    let long = Descriptor { bytes: SLOT_BYTES + 1, ..good(0) };
    assert_eq!(pop(&[long], 0, 1, SLOT_BYTES as usize), Err(RingFault::FrameTooLong));
    let chain = [Descriptor { flags: NEXT, next: 1, ..good(0) }, good(1)];
    assert_eq!(pop(&chain, 0, 1, 16), Ok(16));
    assert_eq!(pop(&chain, 0, 1, 15), Err(RingFault::FrameTooLong));
}

/// What a producer with `sent` frames on the way says when these slots come back and the used
/// index is set to `index`.
fn reclaim(sent: u16, slots: &[u32], index: u16) -> Result<u16, RingFault> {
    let region = Region::zeroed(REGION_BYTES);
    let mut producer = Producer::new(Watched::new(&region), LAYOUT);
    for _ in 0..sent {
        producer.push(&[b"frame"]).expect("room");
    }
    let memory = region.shared();
    for (at, slot) in (LAYOUT.used() + 4..).step_by(8).zip(slots) {
        memory.store_u32(at, *slot);
    }
    memory.store_u16_release(LAYOUT.used() + 2, index);
    producer.room()
}

#[test]
fn what_comes_back_must_have_been_sent() {
    assert_eq!(reclaim(2, &[1, 0], 2), Ok(SLOTS));
    assert_eq!(reclaim(2, &[0], 1), Ok(SLOTS - 1));
    assert_eq!(reclaim(2, &[2], 1), Err(RingFault::NotOutstanding));
    assert_eq!(reclaim(2, &[0, 0], 2), Err(RingFault::NotOutstanding));
    assert_eq!(reclaim(2, &[u32::from(SLOTS)], 1), Err(RingFault::NotOutstanding));
    assert_eq!(reclaim(2, &[127], 1), Err(RingFault::NotOutstanding));
    assert_eq!(reclaim(2, &[128], 1), Err(RingFault::NotOutstanding));
    assert_eq!(reclaim(2, &[1 << 16], 1), Err(RingFault::NotOutstanding));
    assert_eq!(reclaim(2, &[u32::MAX], 1), Err(RingFault::NotOutstanding));
    assert_eq!(reclaim(2, &[0, 1, 2], 3), Err(RingFault::IndexJump));
    assert_eq!(reclaim(0, &[0], 1), Err(RingFault::IndexJump));
    assert_eq!(reclaim(4, &[0], u16::MAX), Err(RingFault::IndexJump));
}

#[test]
fn a_push_into_a_full_ring_reports_the_fault() {
    let region = Region::zeroed(REGION_BYTES);
    let mut producer = Producer::new(Watched::new(&region), LAYOUT);
    for _ in 0..SLOTS {
        producer.push(&[b"frame"]).expect("room");
    }
    assert_eq!(producer.push(&[b"frame"]), Err(PushError::Full));
    region.shared().store_u16_release(LAYOUT.used() + 2, SLOTS + 1);
    let fault = PushError::Fault(RingFault::IndexJump);
    assert_eq!(producer.push(&[b"frame"]), Err(fault));
}

/// A frame is copied once: what the peer writes after `pop` does not reach us. What it wrote
/// before does, even if nobody published it: garbage, never a fault of ours.
#[test]
fn a_frame_is_ours_after_pop() {
    let region = Region::zeroed(REGION_BYTES);
    let memory = region.shared();
    let mut consumer = Consumer::new(Watched::new(&region), LAYOUT);
    memory.write(LAYOUT.data(), b"original");
    offer(&memory, &[good(0)], 0, 1);
    let mut frame = [0; 8];
    assert_eq!(consumer.pop(&mut frame), Ok(Some(8)));
    memory.write(LAYOUT.data(), b"replaced");
    assert_eq!(&frame, b"original");
}

fn garbage() -> impl Strategy<Value = Vec<(u32, u64)>> {
    // Half of it lands in the index and descriptor words, where it hurts; half of the values
    // are nearly right.
    let offset = prop_oneof![
        LAYOUT.descriptors() / 8..LAYOUT.data() / 8,
        LAYOUT.descriptors() / 8..LAYOUT.end() / 8
    ];
    let near = (0..u64::from(LAYOUT.end()) + 16).prop_map(|offset| REGION_GPA + offset);
    let small = (0_u64..6, 0_u64..6, 0_u64..6, 0_u64..6)
        .prop_map(|(a, b, c, d)| a | b << 16 | c << 32 | d << 48);
    let value = prop_oneof![any::<u64>(), near, small];
    prop::collection::vec((offset.prop_map(|word| word * 8), value), 1..80)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 8 } else { 2000 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn garbage_never_panics_a_consumer(writes in garbage(), pops in 1_usize..12, room in 0_usize..200) {
        let region = Region::zeroed(REGION_BYTES);
        let mut consumer = Consumer::new(Watched::new(&region), LAYOUT);
        let memory = region.shared();
        for chunk in writes.chunks(writes.len().div_ceil(pops)) {
            chunk.iter().for_each(|(offset, value)| memory.store_u64(*offset, *value));
            let popped = consumer.pop(&mut vec![0; room]);
            prop_assert!(popped.is_err() || popped.is_ok_and(|length| length.is_none_or(|length| length <= room)));
            let _ = (consumer.is_empty(), consumer.needs_doorbell());
        }
    }

    #[test]
    fn garbage_never_panics_a_producer(writes in garbage(), pushes in 1_usize..12) {
        let region = Region::zeroed(REGION_BYTES);
        let mut producer = Producer::new(Watched::new(&region), LAYOUT);
        let memory = region.shared();
        for chunk in writes.chunks(writes.len().div_ceil(pushes)) {
            let _ = producer.push(&[&[1; 32], &[2; 32]]);
            chunk.iter().for_each(|(offset, value)| memory.store_u64(*offset, *value));
            let _ = (producer.room(), producer.is_drained(), producer.needs_doorbell());
        }
        prop_assert!(producer.room().is_err() || producer.room().is_ok_and(|room| room <= SLOTS));
    }
}
