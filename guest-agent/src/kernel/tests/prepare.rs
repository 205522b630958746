//! PREPARE, and life in another VM after a capture.

use core::cell::Cell;
use std::format;
use std::rc::Rc;
use std::string::String;
use std::vec;
use std::vec::Vec;

use abi::frame::invoke::{self, Acquire, Assign, Contract, Freshness};
use abi::frame::outcome::{self, Status};
use abi::frame::{Header, code};
use abi::layout::region;
use abi::ring::{Consumer, Memory, Producer, SharedMemory};
use abi::wire::{Reader, Writer};
use machine::host;
use machine::paging::AddressSpace;
use machine::user::Trap;

use super::rewind::program;
use crate::kernel::Kernel;

const CONTAINER: u32 = 3;
const PACKAGE: u64 = 9;

/// The node's ends of the rings of one VM.
struct Node {
    invoke: Producer<&'static SharedMemory>,
    code: Producer<&'static SharedMemory>,
    outcome: Consumer<&'static SharedMemory>,
}

impl Node {
    /// A region as the node makes it for restore `generation`.
    fn new(generation: u64) -> Self {
        let memory = machine::region::memory();
        memory.write(0, &vec![0; region::BYTES as usize]);
        memory.write(region::SEED, &[generation.to_le_bytes()[0]; 32]);
        memory.store_u64(region::GENERATION, generation);
        memory.store_u64(region::VM, 40 + generation);
        Self {
            invoke: Producer::new(memory, region::INVOKE),
            code: Producer::new(memory, region::CODE),
            outcome: Consumer::new(memory, region::OUTCOME),
        }
    }

    fn send(&mut self, kind: u8, id: u64, payload: &[u8]) {
        let header = Header { kind, flags: 0, channel: CONTAINER, id }.encode();
        let ring =
            if kind == code::INLINE && id == PACKAGE { &mut self.code } else { &mut self.invoke };
        assert!(ring.push(&[&header, payload]).is_ok());
    }

    fn receive(&mut self) -> Option<(Header, Vec<u8>)> {
        let mut frame = vec![0; region::OUTCOME.slot_bytes()];
        let length = self.outcome.pop(&mut frame).ok()??;
        let (header, payload) = Header::decode(&frame[..length]).ok()?;
        Some((header, payload.to_vec()))
    }
}

fn message(encode: impl FnOnce(&mut Writer<'_>)) -> Vec<u8> {
    let mut buffer = vec![0; 1024];
    let mut writer = Writer::new(&mut buffer);
    encode(&mut writer);
    let length = writer.length();
    buffer.truncate(length);
    buffer
}

/// A tar archive with one executable (POSIX ustar).
fn archive(name: &str, content: &[u8]) -> Vec<u8> {
    let mut header = [0; 512];
    let mut put =
        |at: usize, text: &str| header[at..at + text.len()].copy_from_slice(text.as_bytes());
    put(0, name);
    put(100, "0000755\0");
    put(124, &format!("{:011o}\0", content.len()));
    put(136, "00000000000\0");
    put(148, "        ");
    put(156, "0");
    put(257, "ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    let mut archive = header.to_vec();
    archive.extend_from_slice(content);
    archive.resize(archive.len().next_multiple_of(512) + 1024, 0);
    archive
}

fn prepared(contract: Contract, freshness: Freshness) -> (Kernel, Node) {
    host::init(48 << 20);
    host::set_clock(1_000_000_000, 1_700_000_000_000_000_000, 1);
    let mut kernel = Kernel::new();
    let mut node = Node::new(1);
    kernel.attach();
    let package = [vec![0; code::DIGEST_BYTES], archive("bootstrap", &program())].concat();
    let acquire = message(|writer| {
        let fixed = (contract, freshness, 16 << 20, "bootstrap");
        assert!(Acquire::encode(writer, fixed, &[b"bootstrap"], &[b"OWN=yes"]).is_ok());
    });
    node.send(invoke::ACQUIRE, PACKAGE, &acquire);
    node.send(invoke::PREPARE, 77, &[]);
    node.send(code::INLINE, PACKAGE, &package);
    kernel.step();
    kernel.step();
    let (ready, _) = node.receive().unwrap();
    assert_eq!((ready.kind, ready.id), (outcome::READY, 1));
    let (header, payload) = node.receive().unwrap();
    assert_eq!((header.kind, header.id, header.channel), (outcome::PREPARED, 77, CONTAINER));
    assert_eq!(payload[0], Status::Exited as u8, "{}", String::from_utf8_lossy(&payload));
    (kernel, node)
}

fn strings(space: &AddressSpace, stack: u64) -> Vec<String> {
    let word = |n: u64| {
        let mut bytes = [0; 8];
        space.read(stack + n * 8, &mut bytes).unwrap();
        u64::from_le_bytes(bytes)
    };
    let text = |address: u64| {
        let mut text = Vec::new();
        let mut byte = [0];
        // What is withheld ends a text here.
        while space.read(address + text.len() as u64, &mut byte).is_ok() && byte[0] != 0 {
            text.push(byte[0]);
        }
        String::from_utf8(text).unwrap()
    };
    let first = word(0) + 2;
    (first..).map(word).take_while(|address| *address != 0).map(text).collect()
}

fn first_request(contract: Contract, freshness: Freshness) -> Vec<String> {
    let (mut kernel, mut old) = prepared(contract, freshness);
    host::set_program(|_, _| panic!("no instruction runs before the first request"));
    kernel.step();
    assert!(old.receive().is_none());
    // Captured asleep; what wakes has another region, clock and number.
    let made = Rc::new(Cell::new(None));
    let into = Rc::clone(&made);
    host::during_halt(move || {
        into.set(Some(Node::new(2)));
        host::set_clock(2_000_000_000, 1_700_000_001_000_000_000, 2);
    });
    kernel.step();
    let mut node = made.take().expect("it was asleep");
    let (ready, _) = node.receive().unwrap();
    assert_eq!((ready.kind, ready.id), (outcome::READY, 2));
    let assign = message(|writer| {
        let texts = ["syslog-tcp", "192.0.2.7:601", ""];
        assert!(Assign::encode(writer, texts, &[b"token", b"secret"]).is_ok());
    });
    node.send(invoke::ASSIGN, 0, &assign);
    node.send(invoke::INVOKE, 0xabc, &u64::MAX.to_le_bytes());
    let seen = Rc::new(Cell::new(Vec::new()));
    let into = Rc::clone(&seen);
    let mut step = 0;
    host::set_program(move |context, space| {
        step += 1;
        match step {
            1 => {
                into.set(strings(space, context.rsp()));
                // open(".../token"), whose name lies in a page of the program's.
                let path = b"/run/credentials/logging/token\0";
                let at = 0x40_1200;
                if let Err(error) = space.write(at, path) {
                    panic!("{error:?}");
                }
                context.set_syscall(2, [at, 0, 0, 0, 0, 0]);
            }
            _ => {
                let status = u64::from(context.result() < 0);
                context.set_syscall(231, [status, 0, 0, 0, 0, 0]);
            }
        }
        Trap::Syscall
    });
    let mut done = None;
    for _ in 0..20 {
        kernel.step();
        done = done.or_else(|| node.receive());
    }
    let (header, payload) = done.unwrap();
    assert_eq!((header.kind, header.id), (outcome::OUTCOME, 0xabc));
    let mut reader = Reader::new(&payload);
    let ended = (reader.u8().ok(), reader.u32().ok());
    let expected =
        if contract == Contract::Stream { Status::ContractBroken } else { Status::Exited };
    assert_eq!(ended, (Some(expected as u8), Some(0)), "{}", String::from_utf8_lossy(&payload));
    seen.take()
}

#[test]
fn a_prepared_program_starts_with_what_its_first_request_brings() {
    for (contract, freshness) in [
        (Contract::Program, Freshness::Vm),
        (Contract::Program, Freshness::Reuse),
        (Contract::Stream, Freshness::Reuse),
        (Contract::Stream, Freshness::Vm),
        (Contract::Program, Freshness::Fork),
    ] {
        let environment = first_request(contract, freshness);
        let has = |entry: &str| environment.iter().any(|it| it == entry);
        assert!(has("OWN=yes") && has("PILOTLIGHT_VM_ID=vm-42"), "{environment:?}");
        assert!(has("PILOTLIGHT_LOG_ADDRESS=192.0.2.7:601"), "{environment:?}");
        let id = match (contract, freshness) {
            (Contract::Stream, _) => None,
            (_, Freshness::Vm | Freshness::Reuse) => Some("PILOTLIGHT_INVOKE_ID=0000000000000abc"),
            // Withheld, until it looks.
            (_, Freshness::Fork) => Some("PILOTLIGHT_INVOKE_ID="),
        };
        let found = environment.iter().find(|entry| entry.starts_with("PILOTLIGHT_INVOKE_ID"));
        assert_eq!(found.map(String::as_str), id);
    }
}

#[test]
fn what_cannot_be_executed_cannot_be_prepared() {
    host::init(48 << 20);
    host::set_clock(1_000_000_000, 0, 1);
    let mut kernel = Kernel::new();
    let mut node = Node::new(1);
    kernel.attach();
    let package = [vec![0; code::DIGEST_BYTES], archive("bootstrap", b"#!/bin/sh\n")].concat();
    let acquire = message(|writer| {
        let fixed = (Contract::Program, Freshness::Vm, 16 << 20, "bootstrap");
        assert!(Acquire::encode(writer, fixed, &[b"bootstrap"], &[]).is_ok());
    });
    node.send(invoke::ACQUIRE, PACKAGE, &acquire);
    node.send(invoke::PREPARE, 77, &[]);
    node.send(code::INLINE, PACKAGE, &package);
    kernel.step();
    kernel.step();
    let (header, payload) = [node.receive(), node.receive()].into_iter().flatten().last().unwrap();
    assert_eq!(header.kind, outcome::PREPARED);
    assert_eq!(payload[0], Status::NotExecutable as u8);
}
