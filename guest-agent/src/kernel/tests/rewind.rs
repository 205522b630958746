//! Rewinding in place: what a request changes, the next one finds as it was at the point.

use alloc::rc::Rc;
use core::cell::{Cell, RefCell};
use std::vec;
use std::vec::Vec;

use machine::host;
use machine::paging::AddressSpace;
use machine::user::{Context, Register, Trap};

use super::super::turn::{self, Turn};
use crate::identity::ProcessId;
use crate::memory::Account;
use crate::process::fixture::{Surroundings, executable};
use crate::process::{Fresh, Notice, Processes, Rewinds, Start, Until};
use crate::program_io::{News, ProgramIo};
use crate::socket::Network;

const MIB: u64 = 1 << 20;
const DATA: u64 = 0x40_1000;
const CODE: u64 = 0x40_0800;

/// Two segments: a page of code, and two pages of data of which the second is zeros.
pub(super) fn program() -> Vec<u8> {
    let segments = [(5, 0, 0x40_0000, 0x1000, 0x1000), (6, 0x1000, DATA, 0x1000, 0x2000)];
    let mut bytes = executable(0x2000, CODE, &segments);
    let text = b"initial data";
    bytes[0x1000..0x1000 + text.len()].copy_from_slice(text);
    bytes
}

struct Fixture {
    processes: Processes,
    process: ProcessId,
    account: Rc<Account>,
    io: Rc<ProgramIo>,
    network: Rc<Network>,
}

impl Fixture {
    fn new() -> Self {
        let Surroundings { world, account, view, network } = Surroundings::of(program(), 16 * MIB);
        let io = ProgramIo::new(&world, &News::default());
        io.gate().set(true);
        let mut processes = Processes::new(world);
        processes.prepare().unwrap();
        let process = processes
            .start(Start {
                container: 1,
                view,
                account: Rc::clone(&account),
                network: Rc::clone(&network),
                path: b"/var/task/bootstrap".to_vec(),
                arguments: vec![b"bootstrap".to_vec()],
                environment: vec![b"A=B".to_vec()],
                stdio: io.files(),
                image: None,
                rewinds: Some(Rewinds {
                    until: Until::Look,
                    gate: Rc::clone(io.gate()),
                    invoke: Some(7),
                }),
            })
            .unwrap();
        Self { processes, process, account, io, network }
    }

    /// Runs the process to its end.
    fn run(&mut self) -> Notice {
        while let Some(task) = self.processes.take_next() {
            while turn::run(&mut self.processes, task) == Turn::Goes {}
        }
        self.processes.take_notice().expect("it ends")
    }

    fn rewind(&mut self) -> bool {
        self.io.clear();
        let fresh = Fresh { view: None, network: Rc::clone(&self.network) };
        self.processes.rewind(self.process, fresh)
    }
}

/// What the program of a test does at each of its traps, and where it is.
#[derive(Default)]
struct Script {
    step: Cell<usize>,
    id: RefCell<Vec<Vec<u8>>>,
    random: RefCell<Vec<Vec<u8>>>,
}

/// Address of the stack's word `n`.
fn word(space: &AddressSpace, context: &Context, n: u64) -> u64 {
    let mut bytes = [0; 8];
    space.read(context.rsp() + n * 8, &mut bytes).unwrap();
    u64::from_le_bytes(bytes)
}

/// Tries a store as an instruction would: the fault it meets, or nothing.
fn store(space: &AddressSpace, address: u64, bytes: &[u8]) -> Option<Trap> {
    let fault = Trap::PageFault { address, is_write: true, is_fetch: false, is_present: true };
    space.write(address, bytes).is_err().then_some(fault)
}

fn load(space: &AddressSpace, address: u64, bytes: &mut [u8]) -> Option<Trap> {
    let fault = Trap::PageFault { address, is_write: false, is_fetch: false, is_present: false };
    space.read(address, bytes).is_err().then_some(fault)
}

#[test]
fn memory_registers_and_signals_are_as_they_were_at_the_point() {
    let mut fixture = Fixture::new();
    let script = Rc::new(Script::default());
    let steps = Rc::clone(&script);
    host::set_program(move |context, space| {
        let mut seen = [0; 12];
        match steps.step.get() {
            // Before its point it writes data: that stays.
            0 => {
                host::set_vector_register(3);
                context.set(Register::Rbx, 5);
                if let Some(fault) = store(space, DATA, b"INITIAL") {
                    return fault;
                }
                context.set_syscall(39, [0; 6]);
            }
            1 => context.set_syscall(0, [0, DATA + 0x1800, 4, 0, 0, 0]),
            // Behind it everything is as it was, and is spoilt.
            2 => {
                assert_eq!((context.get(Register::Rbx), host::vector_register()), (5, 3));
                space.read(DATA, &mut seen).unwrap();
                assert_eq!(&seen, b"INITIAL data");
                space.read(DATA + 0x1800, &mut seen).unwrap();
                assert_eq!(&seen, b"body\0\0\0\0\0\0\0\0");
                if let Some(fault) = store(space, DATA, b"spoilt") {
                    return fault;
                }
                host::set_vector_register(4);
                context.set(Register::Rbx, 6);
                // brk, which has an area and pages of its own.
                context.set_syscall(12, [0; 6]);
            }
            3 => {
                let end = context.result().cast_unsigned();
                context.set_syscall(12, [end + 0x3000, 0, 0, 0, 0, 0]);
            }
            4 => context.set_syscall(11, [DATA + 0x1000, 0x1000, 0, 0, 0, 0]),
            _ => context.set_syscall(231, [0; 6]),
        }
        steps.step.set(steps.step.get() + 1);
        Trap::Syscall
    });
    let mut used = Vec::new();
    for _ in 0..5 {
        fixture.io.give(b"body").unwrap();
        fixture.io.end_input();
        let Notice::Ended { detail: 0, .. } = fixture.run() else { panic!("a clean end") };
        assert!(fixture.processes.is_resting(fixture.process));
        assert!(fixture.rewind());
        used.push(fixture.account.used_bytes());
        script.step.set(2);
        assert!(fixture.processes.resume(fixture.process, 9));
    }
    assert!(used[1..].iter().all(|bytes| *bytes == used[1]), "nothing is lost: {used:?}");
}

#[test]
fn the_id_is_the_requests_and_unseen_random_bytes_are_new() {
    let mut fixture = Fixture::new();
    let script = Rc::new(Script::default());
    let steps = Rc::clone(&script);
    host::set_program(move |context, space| {
        let (id_name, random) = (word(space, context, 4), word(space, context, 6 + 17 * 2 + 1));
        let mut id = [0; 16];
        // The first touch of the id is a look outside.
        if let Some(fault) = load(space, id_name + 21, &mut id) {
            return fault;
        }
        let mut name = [0; 21];
        space.read(id_name, &mut name).unwrap();
        assert_eq!(&name, b"PILOTLIGHT_INVOKE_ID=");
        let mut bytes = [0; 16];
        space.read(random, &mut bytes).unwrap();
        steps.id.borrow_mut().push(id.to_vec());
        steps.random.borrow_mut().push(bytes.to_vec());
        context.set_syscall(231, [0; 6]);
        Trap::Syscall
    });
    for invoke in [0x1f, 0x20] {
        fixture.run();
        assert!(fixture.rewind() && fixture.processes.resume(fixture.process, invoke));
    }
    fixture.run();
    let expected = ["0000000000000007", "000000000000001f", "0000000000000020"];
    assert_eq!(*script.id.borrow(), expected.map(|id| id.as_bytes().to_vec()));
    let random = script.random.borrow();
    assert!(random[0] != random[1] && random[1] != random[2] && random[2] != [0; 16]);
}

#[test]
fn random_bytes_that_were_seen_before_the_point_stay() {
    let mut fixture = Fixture::new();
    let script = Rc::new(Script::default());
    let steps = Rc::clone(&script);
    host::set_program(move |context, space| {
        let random = word(space, context, 6 + 17 * 2 + 1);
        let mut bytes = [0; 16];
        if let Some(fault) = load(space, random, &mut bytes) {
            return fault;
        }
        steps.random.borrow_mut().push(bytes.to_vec());
        context.set_syscall(231, [0; 6]);
        Trap::Syscall
    });
    fixture.run();
    assert!(fixture.rewind() && fixture.processes.resume(fixture.process, 8));
    // It goes on in the call it made, and has nothing more to say.
    fixture.run();
    assert_eq!(script.random.borrow().len(), 1);
}

#[test]
fn a_system_call_that_peeks_at_the_clock_page_leaves_no_point() {
    let mut fixture = Fixture::new();
    let step = Cell::new(0);
    host::set_program(move |context, space| {
        let vdso = word(space, context, 7);
        step.set(step.get() + 1);
        match step.get() {
            // prctl(PR_SET_NAME) of bytes in the clock page.
            1 => context.set_syscall(157, [15, vdso - 0x1000, 0, 0, 0, 0]),
            _ => context.set_syscall(231, [0; 6]),
        }
        Trap::Syscall
    });
    fixture.run();
    assert!(!fixture.processes.is_resting(fixture.process));
}

#[test]
fn a_process_that_changes_too_much_is_started_afresh() {
    let mut fixture = Fixture::new();
    let step = Cell::new(0);
    host::set_program(move |context, _| {
        step.set(step.get() + 1);
        match step.get() {
            1 => context.set_syscall(318, [DATA, 4, 0, 0, 0, 0]),
            // 12 MiB, made at once.
            2 => context.set_syscall(9, [0, 12 << 20, 3, 0x8022, u64::MAX, 0]),
            _ => context.set_syscall(231, [0; 6]),
        }
        Trap::Syscall
    });
    fixture.run();
    assert!(!fixture.processes.is_resting(fixture.process));
    assert!(fixture.account.used_bytes() == 0, "and nothing of it is left");
}
