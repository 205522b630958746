//! Our producer against another implementation of the other side: rust-vmm's `virtio-queue` as
//! the device, over rust-vmm's guest memory.

#![expect(
    clippy::cast_possible_truncation,
    reason = "the low bytes of a counter are what is meant"
)]
#![expect(unsafe_code, reason = "guest memory of another crate becomes ours by its address")]

use std::io::Read;

use abi::layout::{REGION_GPA, region};
use abi::ring::{Producer, PushError, QueueLayout, SharedMemory};
use virtio_queue::{Queue, QueueOwnedT, QueueT};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

/// Every ring of a VM, by name, so that each layout is tried.
const RINGS: [(&str, QueueLayout); 6] = [
    ("invoke", region::INVOKE),
    ("code", region::CODE),
    ("outcome", region::OUTCOME),
    ("log", region::LOG),
    ("stream in", region::STREAM_IN),
    ("stream out", region::STREAM_OUT),
];

fn guest_memory() -> GuestMemoryMmap {
    let range = (GuestAddress(REGION_GPA), region::BYTES as usize);
    GuestMemoryMmap::from_ranges(&[range]).expect("a few megabytes")
}

fn shared(memory: &GuestMemoryMmap) -> SharedMemory {
    let start = memory.get_host_address(GuestAddress(REGION_GPA)).expect("it starts there");
    // SAFETY: the mapping is page aligned, has that many bytes and outlives the producer, which
    // each test drops first; `vm-memory` makes no references into it.
    unsafe { SharedMemory::new(start, region::BYTES, REGION_GPA) }
}

/// The device of a ring, set up as a driver would tell it: three addresses and a size.
fn device(memory: &GuestMemoryMmap, ring: QueueLayout) -> Queue {
    let mut queue = Queue::new(ring.slots()).expect("a power of two");
    let address = |offset: u32| REGION_GPA + u64::from(offset);
    let halves = |at: u64| (Some((at & 0xffff_ffff) as u32), Some((at >> 32) as u32));
    queue.set_size(ring.slots());
    let (low, high) = halves(address(ring.descriptors()));
    queue.set_desc_table_address(low, high);
    let (low, high) = halves(address(ring.available()));
    queue.set_avail_ring_address(low, high);
    let (low, high) = halves(address(ring.used()));
    queue.set_used_ring_address(low, high);
    queue.set_ready(true);
    assert!(queue.is_valid(memory), "the peer accepts addresses and alignments");
    queue
}

/// The device takes one frame and gives its descriptor back.
fn take(memory: &GuestMemoryMmap, queue: &mut Queue) -> Option<Vec<u8>> {
    let chain = queue.iter(memory).expect("a valid ring").next()?;
    let head = chain.head_index();
    let mut frame = Vec::new();
    chain.reader(memory).expect("readable").read_to_end(&mut frame).expect("in memory");
    queue.add_used(memory, head, 0).expect("it was ours");
    Some(frame)
}

#[test]
fn every_ring_delivers_every_frame() {
    for (name, ring) in RINGS {
        let memory = guest_memory();
        let mut producer = Producer::new(shared(&memory), ring);
        let mut queue = device(&memory, ring);
        assert_eq!(take(&memory, &mut queue), None, "{name}");
        for round in 0..3 * usize::from(ring.slots()) {
            let body = vec![round as u8; round % (ring.slot_bytes() - 3)];
            producer.push(&[b"abc", &body]).expect("room");
            let frame = take(&memory, &mut queue).expect("it was published");
            assert_eq!(frame, [b"abc".as_slice(), &body].concat(), "{name}");
        }
        assert_eq!(producer.is_drained(), Ok(true), "{name}");
    }
}

#[test]
fn a_full_ring_and_frames_returned_in_any_order() {
    let (memory, ring) = (guest_memory(), region::CODE);
    let mut producer = Producer::new(shared(&memory), ring);
    let mut queue = device(&memory, ring);
    for round in 0_u8..40 {
        for slot in 0..ring.slots() {
            producer.push(&[&[round, slot as u8]]).expect("room");
        }
        assert_eq!(producer.push(&[b"more"]), Err(PushError::Full));
        let mut heads = Vec::new();
        for slot in 0..ring.slots() {
            let chain = queue.pop_descriptor_chain(&memory).expect("published");
            heads.push(chain.head_index());
            let mut frame = Vec::new();
            chain.reader(&memory).expect("readable").read_to_end(&mut frame).expect("in memory");
            assert_eq!(frame, [round, slot as u8]);
        }
        // A device may finish in any order.
        heads.rotate_left(usize::from(round % 16));
        heads.reverse();
        for (returned, head) in (1..).zip(heads) {
            queue.add_used(&memory, head, 0).expect("it was ours");
            assert_eq!(producer.room(), Ok(returned));
        }
    }
}

#[test]
fn indexes_wrap_around() {
    let (memory, ring) = (guest_memory(), region::STREAM_OUT);
    let mut producer = Producer::new(shared(&memory), ring);
    let mut queue = device(&memory, ring);
    for number in 0_u32..70_000 {
        producer.push(&[&number.to_le_bytes()]).expect("room");
        assert_eq!(take(&memory, &mut queue), Some(number.to_le_bytes().to_vec()));
    }
}

#[test]
fn the_doorbell_follows_the_device() {
    let (memory, ring) = (guest_memory(), region::LOG);
    let mut producer = Producer::new(shared(&memory), ring);
    let mut queue = device(&memory, ring);
    queue.disable_notification(&memory).expect("flags");
    producer.push(&[b"one"]).expect("room");
    assert!(!producer.needs_doorbell());
    assert!(queue.enable_notification(&memory).expect("flags"), "it sees the frame before sleep");
    producer.push(&[b"two"]).expect("room");
    assert!(producer.needs_doorbell());
}
