//! Both ends of a ring against the plainest model of one: a bounded first-in first-out list.

mod shared;

use std::collections::VecDeque;

use abi::ring::{Consumer, Producer, PushError, QueueLayout};
use proptest::prelude::*;

use shared::Region;

const SLOT_BYTES: u32 = 48;

/// What one step does.
#[derive(Clone, Debug)]
enum Step {
    /// Push these bytes, cut into parts at these places.
    Push(Vec<u8>, Vec<usize>),
    Pop,
    Room,
    ProducerWaits(bool),
    ConsumerSleeps(bool),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let bytes = prop::collection::vec(any::<u8>(), 0..=SLOT_BYTES as usize + 2);
    let cuts = prop::collection::vec(0..SLOT_BYTES as usize, 0..4);
    let step = prop_oneof![
        5 => (bytes, cuts).prop_map(|(bytes, cuts)| Step::Push(bytes, cuts)),
        5 => Just(Step::Pop),
        1 => Just(Step::Room),
        1 => any::<bool>().prop_map(Step::ProducerWaits),
        1 => any::<bool>().prop_map(Step::ConsumerSleeps),
    ];
    prop::collection::vec(step, 1..if cfg!(miri) { 30 } else { 400 })
}

fn cut<'a>(mut bytes: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut parts = Vec::new();
    for cut in cuts {
        let (part, rest) = bytes.split_at((*cut).min(bytes.len()));
        parts.push(part);
        bytes = rest;
    }
    parts.push(bytes);
    parts
}

fn run(slots: u16, steps: Vec<Step>) {
    // Not at the start of the region, so that a forgotten offset shows.
    let layout = QueueLayout::first(4096, slots, SLOT_BYTES);
    let region = Region::zeroed(layout.end() + 4096);
    let mut producer = Producer::new(region.shared(), layout);
    let mut consumer = Consumer::new(region.shared(), layout);
    let mut model = VecDeque::new();
    let (mut sleeps, mut waits) = (false, false);
    for step in steps {
        match step {
            Step::Push(bytes, cuts) => {
                let expected = match bytes.len() {
                    length if length > SLOT_BYTES as usize => Err(PushError::TooLong),
                    _ if model.len() == usize::from(slots) => Err(PushError::Full),
                    _ => Ok(()),
                };
                assert_eq!(producer.push(&cut(&bytes, &cuts)), expected);
                if expected.is_ok() {
                    model.push_back(bytes);
                }
            }
            Step::Pop => {
                let mut frame = [0xaa; SLOT_BYTES as usize];
                let popped = consumer.pop(&mut frame).expect("our producer breaks no rule");
                let popped = popped.map(|length| frame[..length].to_vec());
                assert_eq!(popped, model.pop_front());
            }
            Step::Room => {
                let room = producer.room().expect("our consumer breaks no rule");
                assert_eq!(usize::from(room), usize::from(slots) - model.len());
                assert_eq!(producer.is_drained(), Ok(model.is_empty()));
            }
            Step::ProducerWaits(now) => {
                producer.wait_for_room(now);
                waits = now;
            }
            Step::ConsumerSleeps(now) => {
                consumer.set_sleeping(now);
                sleeps = now;
            }
        }
        assert_eq!(usize::from(consumer.ready()), model.len());
        assert_eq!(consumer.is_empty(), model.is_empty());
        assert_eq!(producer.needs_doorbell(), sleeps);
        assert_eq!(consumer.needs_doorbell(), waits);
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: if cfg!(miri) { 4 } else { 256 },
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn behaves_like_a_bounded_list(slots in 0_u32..4, steps in steps()) {
        run(1 << slots, steps);
    }
}

/// Indexes are 16 bits: both ends keep in step when they wrap, with the ring empty, part full and
/// full.
#[test]
fn indexes_wrap_around() {
    let slots = 4;
    let layout = QueueLayout::first(0, slots, SLOT_BYTES);
    let region = Region::zeroed(layout.end());
    let mut producer = Producer::new(region.shared(), layout);
    let mut consumer = Consumer::new(region.shared(), layout);
    let rounds = if cfg!(miri) { 50 } else { 70_000_u32 };
    let (mut sent, mut seen, mut frame) = (0_u32, 0_u32, [0; SLOT_BYTES as usize]);
    for round in 0..rounds {
        for _ in 0..1 + round % u32::from(slots) {
            if producer.push(&[&sent.to_le_bytes()]).is_ok() {
                sent += 1;
            }
        }
        while consumer.pop(&mut frame[..4]).expect("in step").is_some() {
            assert_eq!(frame[..4], seen.to_le_bytes());
            seen += 1;
        }
        assert_eq!(sent, seen);
    }
    assert!(cfg!(miri) || sent > 2 * u32::from(u16::MAX));
}

/// A quiet ring touches one slot only: the last one given back is the next one used.
#[test]
fn a_quiet_ring_reuses_one_slot() {
    let layout = QueueLayout::first(0, 8, SLOT_BYTES);
    let region = Region::zeroed(layout.end());
    let memory = region.shared();
    let mut producer = Producer::new(region.shared(), layout);
    let mut consumer = Consumer::new(region.shared(), layout);
    for round in 0_u8..100 {
        producer.push(&[&[round]]).expect("room");
        consumer.pop(&mut [0; 1]).expect("in step");
        producer.room().expect("in step");
    }
    let mut data = vec![0; 8 * SLOT_BYTES as usize];
    abi::ring::Memory::read(&memory, layout.data(), &mut data);
    assert_eq!(data.iter().filter(|byte| **byte != 0).count(), 1);
}

/// Frames survive a real second thread on real memory (the model checker covers the orderings;
/// this covers the shipping memory and its copies).
#[test]
fn crosses_threads() {
    let layout = QueueLayout::first(0, 8, SLOT_BYTES);
    let region = Region::zeroed(layout.end());
    let (sender, receiver) = (region.shared(), region.shared());
    let count = if cfg!(miri) { 50 } else { 200_000_u64 };
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut producer = Producer::new(sender, layout);
            for number in 0..count {
                let bytes = number.to_le_bytes();
                let repeated = bytes.repeat(1 + (number % 5) as usize);
                while let Err(error) = producer.push(&[&bytes, &repeated]) {
                    assert_eq!(error, PushError::Full);
                    std::thread::yield_now();
                }
            }
        });
        let mut consumer = Consumer::new(receiver, layout);
        let mut frame = [0; SLOT_BYTES as usize];
        for number in 0..count {
            let length = loop {
                match consumer.pop(&mut frame).expect("our producer breaks no rule") {
                    Some(length) => break length,
                    None => std::thread::yield_now(),
                }
            };
            assert_eq!(length, 8 * (2 + (number % 5) as usize));
            assert!(frame[..length].chunks(8).all(|chunk| chunk == number.to_le_bytes()));
        }
    });
}
