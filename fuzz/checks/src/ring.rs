//! One end of a ring while the other side writes anything anywhere in it, held against a slow
//! reading of the same memory by the specification (VIRTIO 1.3, section 2.7).

use std::collections::BTreeSet;

use abi::ring::{Consumer, Memory, Producer, PushError, QueueLayout};
use abi::wire::{Malformed, Reader};

use crate::peer::{Watched, strike};

const SLOTS: u16 = 4;
const SLOT_BYTES: u32 = 64;
/// Not at the region's start, so that what lies in front of it is told from it.
const LAYOUT: QueueLayout = QueueLayout::first(4096, SLOTS, SLOT_BYTES);
/// Descriptors a frame may be spread over.
const CHAIN_MAX: usize = 8;

/// The first byte of `data` says which end is ours; the rest are steps of either side. When they
/// end, so does the check.
pub fn check(data: &[u8]) -> bool {
    let Some((end, steps)) = data.split_first() else { return false };
    let mut reader = Reader::new(steps);
    if end & 1 == 0 { consume(&mut reader) > 0 } else { produce(&mut reader) > 0 }
}

/// Frames that were taken.
fn consume(reader: &mut Reader<'_>) -> u16 {
    let memory = Watched::new(LAYOUT);
    let mut taken = 0;
    let _ = consume_steps(&memory, reader, &mut taken);
    taken
}

fn consume_steps(
    memory: &Watched,
    reader: &mut Reader<'_>,
    taken: &mut u16,
) -> Result<(), Malformed> {
    let mut consumer = Consumer::new(memory.clone(), LAYOUT);
    loop {
        let step = reader.u8()?;
        if step & 1 == 0 {
            strike(memory, LAYOUT, reader)?;
            continue;
        }
        let mut frame = vec![0; usize::from(reader.u8()?)];
        let expected = offered(memory, *taken, frame.len());
        let used = memory.load_u16(LAYOUT.used() + 2);
        let popped = consumer.pop(&mut frame);
        match (expected, popped) {
            (Ok(None), Ok(None)) => assert!(consumer.is_empty()),
            (Ok(Some((head, bytes))), Ok(Some(length))) => {
                assert_eq!(frame[..length], bytes, "what was offered");
                let place = u32::from(*taken % SLOTS);
                let given_back = memory.load_u32(LAYOUT.used() + 4 + 8 * place);
                assert_eq!(given_back, u32::from(head), "the slot goes back");
                *taken = taken.wrapping_add(1);
                assert_eq!(memory.load_u16(LAYOUT.used() + 2), *taken);
            }
            (Err(Malformed), Err(_)) => {
                assert_eq!(memory.load_u16(LAYOUT.used() + 2), used, "nothing goes back");
            }
            (expected, popped) => panic!("{popped:?} where {expected:?} was offered"),
        }
        consumer.set_sleeping(step & 2 != 0);
        let _ = consumer.needs_doorbell();
    }
}

/// Head and bytes of the frame that is offered behind `taken` others, if it keeps the rules.
fn offered(memory: &Watched, taken: u16, room: usize) -> Result<Option<(u16, Vec<u8>)>, Malformed> {
    let ready = memory.load_u16(LAYOUT.available() + 2).wrapping_sub(taken);
    if ready == 0 {
        return Ok(None);
    }
    if ready > SLOTS {
        return Err(Malformed);
    }
    let head = memory.load_u16(LAYOUT.available() + 4 + 2 * u32::from(taken % SLOTS));
    let (mut slot, mut frame) = (head, Vec::new());
    for _ in 0..CHAIN_MAX {
        if slot >= SLOTS {
            return Err(Malformed);
        }
        let at = LAYOUT.descriptors() + 16 * u32::from(slot);
        let address = u128::from(memory.load_u64(at));
        let bytes = u128::from(memory.load_u32(at + 8));
        let (flags, next) = (memory.load_u16(at + 12), memory.load_u16(at + 14));
        let slots = u128::from(memory.base()) + u128::from(LAYOUT.data())
            ..=u128::from(memory.base()) + u128::from(LAYOUT.end());
        let is_inside = slots.contains(&address) && slots.contains(&(address + bytes));
        if flags & 6 != 0 || !is_inside || frame.len() + bytes as usize > room {
            return Err(Malformed);
        }
        let offset = u32::try_from(address - u128::from(memory.base())).map_err(|_| Malformed)?;
        let start = frame.len();
        frame.resize(start + bytes as usize, 0);
        memory.read(offset, &mut frame[start..]);
        if flags & 1 == 0 {
            return Ok(Some((head, frame)));
        }
        slot = next;
    }
    Err(Malformed)
}

/// Frames that were sent.
fn produce(reader: &mut Reader<'_>) -> u16 {
    let memory = Watched::new(LAYOUT);
    let mut sent = 0;
    let _ = produce_steps(&memory, reader, &mut sent);
    sent
}

fn produce_steps(
    memory: &Watched,
    reader: &mut Reader<'_>,
    sent: &mut u16,
) -> Result<(), Malformed> {
    let mut producer = Producer::new(memory.clone(), LAYOUT);
    // Slots the other side has and did not give back, as far as we looked.
    let mut outstanding = BTreeSet::new();
    let mut returned = 0_u16;
    loop {
        let step = reader.u8()?;
        if step & 1 == 0 {
            strike(memory, LAYOUT, reader)?;
            continue;
        }
        let bytes = vec![step; usize::from(reader.u8()?)];
        let before = (producer.room(), back(memory, &mut outstanding, &mut returned));
        let room = match before {
            (Ok(room), Ok(())) => room,
            (Err(_), Err(Malformed)) => return Ok(()),
            (ours, slow) => panic!("{ours:?} where {slow:?} was given back"),
        };
        assert_eq!(usize::from(SLOTS - room), outstanding.len());
        assert_eq!(producer.is_drained(), Ok(outstanding.is_empty()));
        let (front, rest) = bytes.split_at(bytes.len() / 2);
        match producer.push(&[front, rest]) {
            Ok(()) => {
                let place = u32::from(*sent % SLOTS);
                let slot = memory.load_u16(LAYOUT.available() + 4 + 2 * place);
                assert!(slot < SLOTS && outstanding.insert(slot), "a free slot was filled");
                *sent = sent.wrapping_add(1);
                assert_eq!(memory.load_u16(LAYOUT.available() + 2), *sent, "and published");
                let mut slot_bytes = vec![0; bytes.len()];
                memory.read(LAYOUT.data() + u32::from(slot) * SLOT_BYTES, &mut slot_bytes);
                assert_eq!(slot_bytes, bytes);
            }
            Err(PushError::TooLong) => assert!(bytes.len() > SLOT_BYTES as usize),
            Err(PushError::Full) => assert_eq!(outstanding.len(), usize::from(SLOTS)),
            Err(PushError::Fault(fault)) => panic!("{fault:?} though nothing was written"),
        }
        producer.wait_for_room(step & 2 != 0);
        let _ = producer.needs_doorbell();
    }
}

/// Takes the slots that were given back off the outstanding ones.
fn back(
    memory: &Watched,
    outstanding: &mut BTreeSet<u16>,
    returned: &mut u16,
) -> Result<(), Malformed> {
    let count = memory.load_u16(LAYOUT.used() + 2).wrapping_sub(*returned);
    if usize::from(count) > outstanding.len() {
        return Err(Malformed);
    }
    for _ in 0..count {
        let place = u32::from(*returned % SLOTS);
        let slot = memory.load_u32(LAYOUT.used() + 4 + 8 * place);
        let slot = u16::try_from(slot).map_err(|_| Malformed)?;
        if !outstanding.remove(&slot) {
            return Err(Malformed);
        }
        *returned = returned.wrapping_add(1);
    }
    Ok(())
}
