//! A VM's rings as a shard serves them, while the guest writes anything anywhere in them. Until it
//! breaks a rule, what one side sends is what the other gets, in order; what it says afterwards is
//! a fault or bounded, and what waits for it is what was sent.

use std::collections::VecDeque;

use abi::frame::{FLAG_MORE, Header, invoke, log, outcome};
use abi::layout::region as offset;
use abi::ring::{Consumer, Producer, QueueLayout, SLOTS_MAX};
use abi::wire::{Malformed, Reader};
use pilotlight::fuzzing::Vm;
use region::Region;

use crate::peer::strike;

/// Frames a shard takes of one VM at a time: a log ring's worth, and two bursts.
const FRAMES_MAX: usize = SLOTS_MAX as usize + 2 * 32;
/// Most bytes of a body that is sent at once: several frames.
const BODY_BYTES_MAX: usize = 12 * 1024;
/// Bytes that are sent in all: enough to fill the ring and leave some waiting.
const SENT_BYTES_MAX: usize = 512 * 1024;

/// `data` are steps of both sides. When they end, so does the check.
pub fn check(data: &[u8]) -> bool {
    let Ok(vm) = Vm::new() else { panic!("no descriptor for a region") };
    let mut sides = Sides::new(vm);
    let _ = sides.run(&mut Reader::new(data));
    sides.received > 0
}

/// The node's side, an honest guest's on the same rings, and what is on the way between them.
struct Sides {
    memory: Region,
    outcome: Producer<Region>,
    log: Producer<Region>,
    invoke: Consumer<Region>,
    said: [VecDeque<Vec<u8>>; 2],
    sent: VecDeque<u8>,
    sent_bytes: usize,
    is_honest: bool,
    received: usize,
    vm: Vm,
}

impl Sides {
    fn new(vm: Vm) -> Self {
        let memory = vm.memory().clone();
        Self {
            outcome: Producer::new(memory.clone(), offset::OUTCOME),
            log: Producer::new(memory.clone(), offset::LOG),
            invoke: Consumer::new(memory.clone(), offset::INVOKE),
            memory,
            said: Default::default(),
            sent: VecDeque::new(),
            sent_bytes: 0,
            is_honest: true,
            received: 0,
            vm,
        }
    }

    fn run(&mut self, reader: &mut Reader<'_>) -> Result<(), Malformed> {
        loop {
            let step = reader.u8()?;
            let goes_on = match step % 8 {
                0 | 1 => {
                    self.is_honest = false;
                    strike(&self.memory, ring(reader.u8()?), reader)?;
                    true
                }
                2 => self.respond(usize::from(reader.u16()?)),
                3 => self.line(usize::from(reader.u16()?)),
                4 => self.send(usize::from(reader.u16()?)),
                5 => self.take(usize::from(reader.u8()?)),
                6 => self.frame(reader)?,
                _ => self.receive(),
            };
            if !goes_on {
                // The VM is ended.
                return Ok(());
            }
        }
    }

    /// The guest says part of a response.
    fn respond(&mut self, length: usize) -> bool {
        let length = length % (offset::OUTCOME.slot_bytes() - Header::BYTES);
        let bytes = vec![b'r'; length];
        let header = Header { kind: outcome::RESPONSE, flags: 0, channel: 0, id: 7 };
        if self.outcome.push(&[&header.encode()[..], &bytes]).is_ok() {
            self.said[1].push_back(bytes);
        }
        true
    }

    /// The guest logs a line.
    fn line(&mut self, length: usize) -> bool {
        let length = length % (offset::LOG.slot_bytes() - Header::BYTES - log::Line::FIXED_BYTES);
        let text = vec![b'l'; length];
        let header = Header { kind: log::LINE, flags: 0, channel: 0, id: 7 };
        let front = log::Line::encode_fixed(1, 2);
        if self.log.push(&[&header.encode()[..], &front, &text]).is_ok() {
            self.said[0].push_back(text);
        }
        true
    }

    /// The guest says any frame at all, of the fuzzer's own bytes, without breaking the ring.
    fn frame(&mut self, reader: &mut Reader<'_>) -> Result<bool, Malformed> {
        self.is_honest = false;
        let ring = if reader.u8()? & 1 == 0 { &mut self.log } else { &mut self.outcome };
        let length = usize::from(reader.u8()?);
        let frame = reader.bytes(length.min(reader.rest().len()))?;
        let _ = ring.push(&[frame]);
        Ok(true)
    }

    /// The node sends more of a body.
    fn send(&mut self, length: usize) -> bool {
        let length = length % BODY_BYTES_MAX;
        if self.sent_bytes + length > SENT_BYTES_MAX {
            return true;
        }
        let number = |index: usize| u8::try_from((self.sent_bytes + index) % 251).unwrap_or(0);
        let bytes: Vec<_> = (0..length).map(number).collect();
        self.sent_bytes += length;
        if self.vm.send_body(7, &bytes).and_then(|()| self.vm.flush()).is_err() {
            return self.fault();
        }
        self.sent.extend(bytes);
        let frames = self.sent_bytes / 1024 + SENT_BYTES_MAX / 16;
        assert!(self.vm.backlog_bytes() <= self.sent_bytes + frames * Header::BYTES);
        true
    }

    /// The guest takes some frames of the node's.
    fn take(&mut self, frames: usize) -> bool {
        let mut frame = vec![0; offset::INVOKE.slot_bytes()];
        for _ in 0..frames {
            let popped = self.invoke.pop(&mut frame);
            let Ok(Some(length)) = popped else {
                assert!(!self.is_honest || popped.is_ok(), "the node breaks no rule");
                break;
            };
            if !self.is_honest {
                continue;
            }
            let read = Header::decode(&frame[..length]);
            let Ok((header, payload)) = read else { panic!("the node's frames are frames") };
            assert_eq!((header.kind, header.id, header.flags), (invoke::BODY, 7, FLAG_MORE));
            let taken: Vec<_> = self.sent.drain(..payload.len()).collect();
            assert_eq!(taken, payload, "in order, and nothing lost");
        }
        if self.vm.flush().is_err() {
            return self.fault();
        }
        if self.is_honest && self.sent.is_empty() {
            assert_eq!(self.vm.backlog_bytes(), 0);
        }
        true
    }

    /// The node looks what the guest has said.
    fn receive(&mut self) -> bool {
        let Ok(said) = self.vm.receive() else { return self.fault() };
        assert!(said.len() <= FRAMES_MAX, "a shard is not kept by one guest");
        self.received += said.len();
        if self.is_honest {
            for (is_log, bytes) in said {
                let expected = self.said[usize::from(!is_log)].pop_front();
                assert_eq!(Some(bytes), expected, "in order, and nothing lost");
            }
            assert!(self.said[0].is_empty(), "lines are never left behind");
        }
        match self.vm.is_resting() {
            Ok(_) => true,
            Err(_) => self.fault(),
        }
    }

    fn fault(&self) -> bool {
        assert!(!self.is_honest, "who keeps the rules is not blamed");
        false
    }
}

/// Any of a VM's rings.
fn ring(number: u8) -> QueueLayout {
    match number % 6 {
        0 => offset::OUTCOME,
        1 => offset::LOG,
        2 => offset::STREAM_OUT,
        3 => offset::INVOKE,
        4 => offset::CODE,
        _ => offset::STREAM_IN,
    }
}
