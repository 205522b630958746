//! Both ends of a ring under a model checker: every interleaving of two threads, and every stale
//! value the memory model lets a load return. No bound on preemptions is set: all are tried.
//!
//! The model's memory keeps frame bytes in cells that report a race: reading a frame before it
//! was published, or overwriting it before it was read, fails. Each guarantee is also taken away
//! once (see [`Weakness`]), and the checker must then find the harm.

#![expect(clippy::cast_possible_truncation, reason = "fields hold what was stored, as u64")]

use std::collections::BTreeMap;
use std::rc::Rc;

use abi::ring::{Consumer, Memory, Producer, PushError, QueueLayout};
use loom::cell::Cell;
use loom::sync::atomic::{AtomicBool, AtomicU64, Ordering, fence};
use loom::thread;

const SLOTS: u16 = 2;
const SLOT_BYTES: u32 = 8;
const LAYOUT: QueueLayout = QueueLayout::first(0, SLOTS, SLOT_BYTES);

/// The defect planted in the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weakness {
    /// As shipped.
    None,
    /// Indexes are published by a relaxed store.
    RelaxedPublish,
    /// Indexes are read by a relaxed load.
    RelaxedAcquire,
    /// The fences between "I sleep" and "is there anything?" are missing.
    NoFence,
}

/// Shared memory as the checker sees it: an atomic per field, a cell per slot.
struct ModelMemory {
    fields: BTreeMap<u32, AtomicU64>,
    slots: Vec<Cell<u64>>,
    weakness: Weakness,
}

impl ModelMemory {
    fn new(weakness: Weakness) -> Rc<Self> {
        let table = (0..u32::from(SLOTS)).flat_map(|slot| {
            let descriptor = LAYOUT.descriptors() + 16 * slot;
            let used = LAYOUT.used() + 4 + 8 * slot;
            let available = LAYOUT.available() + 4 + 2 * slot;
            [descriptor, descriptor + 8, descriptor + 12, available, used, used + 4]
        });
        let heads = [LAYOUT.available(), LAYOUT.used()].map(|ring| [ring, ring + 2]);
        let fields = table.chain(heads.concat()).map(|at| (at, AtomicU64::new(0))).collect();
        let slots = (0..SLOTS).map(|_| Cell::new(0)).collect();
        Rc::new(Self { fields, slots, weakness })
    }

    fn load(&self, offset: u32, order: Ordering) -> u64 {
        self.fields[&offset].load(order)
    }

    fn store(&self, offset: u32, value: u64, order: Ordering) {
        self.fields[&offset].store(value, order);
    }

    fn slot(&self, offset: u32) -> &Cell<u64> {
        &self.slots[((offset - LAYOUT.data()) / SLOT_BYTES) as usize]
    }
}

impl Memory for ModelMemory {
    fn base(&self) -> u64 {
        0
    }
    fn load_u16(&self, offset: u32) -> u16 {
        self.load(offset, Ordering::Relaxed) as u16
    }
    fn load_u16_acquire(&self, offset: u32) -> u16 {
        let is_weak = self.weakness == Weakness::RelaxedAcquire;
        self.load(offset, if is_weak { Ordering::Relaxed } else { Ordering::Acquire }) as u16
    }
    fn store_u16(&self, offset: u32, value: u16) {
        self.store(offset, u64::from(value), Ordering::Relaxed);
    }
    fn store_u16_release(&self, offset: u32, value: u16) {
        let is_weak = self.weakness == Weakness::RelaxedPublish;
        let order = if is_weak { Ordering::Relaxed } else { Ordering::Release };
        self.store(offset, u64::from(value), order);
    }
    fn load_u32(&self, offset: u32) -> u32 {
        self.load(offset, Ordering::Relaxed) as u32
    }
    fn store_u32(&self, offset: u32, value: u32) {
        self.store(offset, u64::from(value), Ordering::Relaxed);
    }
    fn load_u64(&self, offset: u32) -> u64 {
        self.load(offset, Ordering::Relaxed)
    }
    fn store_u64(&self, offset: u32, value: u64) {
        self.store(offset, value, Ordering::Relaxed);
    }
    fn read(&self, offset: u32, bytes: &mut [u8]) {
        bytes.copy_from_slice(&self.slot(offset).get().to_le_bytes()[..bytes.len()]);
    }
    fn write(&self, offset: u32, bytes: &[u8]) {
        let mut value = [0; SLOT_BYTES as usize];
        value[..bytes.len()].copy_from_slice(bytes);
        self.slot(offset).set(u64::from_le_bytes(value));
    }
    fn fence(&self) {
        if self.weakness != Weakness::NoFence {
            fence(Ordering::SeqCst);
        }
    }
}

/// More frames than slots: slots are reused while both sides are at work.
fn transfer(weakness: Weakness) {
    loom::model(move || {
        let memory = ModelMemory::new(weakness);
        let mut producer = Producer::new(memory.clone(), LAYOUT);
        let mut consumer = Consumer::new(memory, LAYOUT);
        let sender = thread::spawn(move || {
            for number in 1..=3_u64 {
                while let Err(error) = producer.push(&[&number.to_le_bytes()]) {
                    assert_eq!(error, PushError::Full);
                    thread::yield_now();
                }
            }
        });
        for number in 1..=3_u64 {
            let mut frame = [0; SLOT_BYTES as usize];
            while consumer.pop(&mut frame).expect("our producer breaks no rule").is_none() {
                thread::yield_now();
            }
            assert_eq!(u64::from_le_bytes(frame), number);
        }
        sender.join().expect("the producer panics elsewhere");
    });
}

/// Request and answer over two rings, as node and guest talk.
#[test]
fn ping_pong() {
    loom::model(|| {
        let (requests, answers) =
            (ModelMemory::new(Weakness::None), ModelMemory::new(Weakness::None));
        let mut ask = Producer::new(requests.clone(), LAYOUT);
        let mut answered = Consumer::new(answers.clone(), LAYOUT);
        let mut asked = Consumer::new(requests, LAYOUT);
        let mut answer = Producer::new(answers, LAYOUT);
        let guest = thread::spawn(move || {
            for _ in 0..2 {
                let mut frame = [0; 1];
                while asked.pop(&mut frame).expect("no fault").is_none() {
                    thread::yield_now();
                }
                answer.push(&[&[frame[0] + 100]]).expect("room");
            }
        });
        for number in 1..=2_u8 {
            ask.push(&[&[number]]).expect("room");
            let mut frame = [0; 1];
            while answered.pop(&mut frame).expect("no fault").is_none() {
                thread::yield_now();
            }
            assert_eq!(frame[0], number + 100);
        }
        guest.join().expect("the guest panics elsewhere");
    });
}

/// A consumer that goes to sleep while a frame is pushed: it sees the frame or hears the bell.
fn sleep_against_push(weakness: Weakness) {
    loom::model(move || {
        let memory = ModelMemory::new(weakness);
        let mut producer = Producer::new(memory.clone(), LAYOUT);
        let mut consumer = Consumer::new(memory, LAYOUT);
        let bell = Rc::new(AtomicBool::new(false));
        let ring = bell.clone();
        let sender = thread::spawn(move || {
            producer.push(&[b"frame"]).expect("room");
            if producer.needs_doorbell() {
                ring.store(true, Ordering::SeqCst);
            }
        });
        consumer.set_sleeping(true);
        let sleeps = consumer.is_empty();
        sender.join().expect("the producer panics elsewhere");
        assert!(!sleeps || bell.load(Ordering::SeqCst), "asleep for ever");
    });
}

/// The same for a producer that waits for room while a frame is popped.
fn wait_against_pop(weakness: Weakness) {
    loom::model(move || {
        let memory = ModelMemory::new(weakness);
        let mut producer = Producer::new(memory.clone(), LAYOUT);
        let mut consumer = Consumer::new(memory, LAYOUT);
        for _ in 0..SLOTS {
            producer.push(&[b"frame"]).expect("room");
        }
        let bell = Rc::new(AtomicBool::new(false));
        let ring = bell.clone();
        let receiver = thread::spawn(move || {
            consumer.pop(&mut [0; SLOT_BYTES as usize]).expect("our producer breaks no rule");
            if consumer.needs_doorbell() {
                ring.store(true, Ordering::SeqCst);
            }
        });
        producer.wait_for_room(true);
        let waits = producer.room() == Ok(0);
        receiver.join().expect("the consumer panics elsewhere");
        assert!(!waits || bell.load(Ordering::SeqCst), "waits for ever");
    });
}

#[test]
fn frames_arrive_whole_and_in_order() {
    transfer(Weakness::None);
}

#[test]
fn no_wake_up_is_lost() {
    sleep_against_push(Weakness::None);
    wait_against_pop(Weakness::None);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn planted_relaxed_publish_is_found() {
    transfer(Weakness::RelaxedPublish);
}

#[test]
#[should_panic(expected = "Causality violation")]
fn planted_relaxed_acquire_is_found() {
    transfer(Weakness::RelaxedAcquire);
}

#[test]
#[should_panic(expected = "asleep for ever")]
fn planted_missing_fence_before_sleep_is_found() {
    sleep_against_push(Weakness::NoFence);
}

#[test]
#[should_panic(expected = "waits for ever")]
fn planted_missing_fence_before_wait_is_found() {
    wait_against_pop(Weakness::NoFence);
}
