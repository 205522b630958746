//! Our consumer against another implementation of the other side: a driver made of rust-vmm's
//! `virtio-queue` test parts, over rust-vmm's guest memory. It also does what our own producer
//! never does and the specification allows: spread one frame over a chain of descriptors.

#![expect(
    clippy::cast_possible_truncation,
    reason = "the low bytes of a counter are what is meant"
)]
#![expect(unsafe_code, reason = "guest memory of another crate becomes ours by its address")]

use abi::layout::{REGION_GPA, region};
use abi::ring::{Consumer, QueueLayout, RingFault, SharedMemory};
use virtio_queue::desc::RawDescriptor;
use virtio_queue::desc::split::Descriptor;
use virtio_queue::mock::{AvailRing, DescriptorTable, UsedRing};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

const NEXT: u16 = 1;

fn guest_memory() -> GuestMemoryMmap {
    let range = (GuestAddress(REGION_GPA), region::BYTES as usize);
    GuestMemoryMmap::from_ranges(&[range]).expect("a few megabytes")
}

fn shared(memory: &GuestMemoryMmap) -> SharedMemory {
    let start = memory.get_host_address(GuestAddress(REGION_GPA)).expect("it starts there");
    // SAFETY: the mapping is page aligned, has that many bytes and outlives the consumer, which
    // each test drops first; `vm-memory` makes no references into it.
    unsafe { SharedMemory::new(start, region::BYTES, REGION_GPA) }
}

/// A driver of a ring.
struct Driver<'a> {
    memory: &'a GuestMemoryMmap,
    table: DescriptorTable<'a, GuestMemoryMmap>,
    available: AvailRing<'a, GuestMemoryMmap>,
    used: UsedRing<'a, GuestMemoryMmap>,
    ring: QueueLayout,
}

impl<'a> Driver<'a> {
    fn new(memory: &'a GuestMemoryMmap, ring: QueueLayout) -> Self {
        let address = |offset: u32| GuestAddress(REGION_GPA + u64::from(offset));
        let table = DescriptorTable::new(memory, address(ring.descriptors()), ring.slots());
        let available = AvailRing::new(memory, address(ring.available()), ring.slots());
        let used = UsedRing::new(memory, address(ring.used()), ring.slots());
        Self { memory, table, available, used, ring }
    }

    /// Writes `parts` into consecutive slots from `first` and offers them as one chain.
    fn offer(&self, first: u16, parts: &[&[u8]]) {
        for (slot, part) in (first..).zip(parts) {
            let offset = self.ring.data() as usize + usize::from(slot) * self.ring.slot_bytes();
            let address = REGION_GPA + offset as u64;
            self.memory.write_slice(part, GuestAddress(address)).expect("in the region");
            let is_last = usize::from(slot - first) + 1 == parts.len();
            let (flags, next) = if is_last { (0, 0) } else { (NEXT, slot + 1) };
            let descriptor = Descriptor::new(address, part.len() as u32, flags, next);
            self.table.store(slot, RawDescriptor::from(descriptor)).expect("in it");
        }
        let index = self.available.idx().load();
        let entry = self.available.ring().ref_at(usize::from(index % self.ring.slots()));
        entry.expect("in the ring").store(first);
        self.available.idx().store(index.wrapping_add(1));
    }

    /// Descriptors given back so far, and the last of them.
    fn returned(&self) -> (u16, u32) {
        let index = self.used.idx().load();
        let last = usize::from(index.wrapping_sub(1) % self.ring.slots());
        let element = self.used.ring().ref_at(last).expect("in the ring").load();
        (index, element.id())
    }
}

#[test]
fn takes_every_frame_and_gives_it_back() {
    let rings = [region::INVOKE, region::CODE, region::OUTCOME, region::LOG, region::STREAM_IN];
    for ring in rings {
        let memory = guest_memory();
        let driver = Driver::new(&memory, ring);
        let mut consumer = Consumer::new(shared(&memory), ring);
        let mut frame = vec![0; ring.slot_bytes()];
        assert_eq!(consumer.pop(&mut frame), Ok(None));
        for number in 0..3 * ring.slots() {
            let slot = number % ring.slots();
            let body = vec![number as u8; usize::from(number) % ring.slot_bytes()];
            driver.offer(slot, &[&body]);
            assert_eq!(consumer.pop(&mut frame), Ok(Some(body.len())));
            assert_eq!(frame[..body.len()], body);
            assert_eq!(driver.returned(), (number + 1, u32::from(slot)));
        }
    }
}

#[test]
fn joins_the_parts_of_a_chain() {
    let (memory, ring) = (guest_memory(), region::INVOKE);
    let driver = Driver::new(&memory, ring);
    let mut consumer = Consumer::new(shared(&memory), ring);
    let mut frame = vec![0; ring.slot_bytes()];
    let parts: Vec<Vec<u8>> = (1..=8_u8).map(|part| vec![part; usize::from(part) * 3]).collect();
    for count in 1..=8 {
        let parts: Vec<&[u8]> = parts[..count].iter().map(Vec::as_slice).collect();
        driver.offer(10, &parts);
        let whole = parts.concat();
        assert_eq!(consumer.pop(&mut frame), Ok(Some(whole.len())));
        assert_eq!(frame[..whole.len()], whole);
        assert_eq!(driver.returned(), (count as u16, 10));
    }
    driver.offer(10, &[b"x".as_slice(); 9]);
    assert_eq!(consumer.pop(&mut frame), Err(RingFault::ForbiddenDescriptor), "chains end at 8");
}

#[test]
fn a_full_ring_and_wrapping_indexes() {
    let (memory, ring) = (guest_memory(), region::STREAM_IN);
    let driver = Driver::new(&memory, ring);
    let mut consumer = Consumer::new(shared(&memory), ring);
    let mut frame = [0; 4];
    for round in 0_u32..2200 {
        for slot in 0..ring.slots() {
            driver.offer(slot, &[&(round + u32::from(slot)).to_le_bytes()]);
        }
        for slot in 0..ring.slots() {
            assert_eq!(consumer.pop(&mut frame), Ok(Some(4)));
            assert_eq!(u32::from_le_bytes(frame), round + u32::from(slot));
        }
        assert_eq!(consumer.pop(&mut frame), Ok(None));
    }
    assert!(2200 * u32::from(ring.slots()) > u32::from(u16::MAX));
}

#[test]
fn flags_are_where_the_driver_looks() {
    let (memory, ring) = (guest_memory(), region::OUTCOME);
    let used_flags = GuestAddress(REGION_GPA + u64::from(ring.used()));
    let avail_flags = GuestAddress(REGION_GPA + u64::from(ring.available()));
    let mut consumer = Consumer::new(shared(&memory), ring);
    assert_eq!(memory.read_obj::<u16>(used_flags).ok(), Some(1), "awake: NO_NOTIFY");
    consumer.set_sleeping(true);
    assert_eq!(memory.read_obj::<u16>(used_flags).ok(), Some(0));
    assert!(consumer.needs_doorbell(), "a driver wants interrupts until it says otherwise");
    memory.write_obj(1_u16, avail_flags).expect("NO_INTERRUPT");
    assert!(!consumer.needs_doorbell());
}
