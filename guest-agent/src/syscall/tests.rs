//! System calls of a process on the host, against naive models.

use alloc::rc::Rc;
use std::vec;
use std::vec::Vec;

use abi::layout::PAGE_BYTES;
use machine::host;
use proptest::prelude::*;

use super::execute;
use crate::errno::Errno;
use crate::file::eventfd;
use crate::identity::{ProcessId, TaskId};
use crate::memory::fault::Touch;
use crate::process::fixture::{Surroundings, executable};
use crate::process::task::State;
use crate::process::{Notice, Processes, Start};

const MIB: u64 = 1 << 20;
const LIMIT: u64 = 16 * MIB;
/// Scratch memory every test program has.
const SCRATCH: u64 = 0x1000_0000;
const SCRATCH_BYTES: u64 = 4 * PAGE_BYTES;
const RW: u64 = 3;
const PRIVATE_ANONYMOUS: u64 = 0x22;
const FIXED: u64 = 0x10;

/// A program of one page that does nothing: tests make its system calls for it.
fn program() -> Vec<u8> {
    executable(0x1000, 0x40_0800, &[(5, 0, 0x40_0000, 0x1000, 0x1000)])
}

pub(super) struct Fixture {
    pub(super) processes: Processes,
    process: ProcessId,
    /// Where the next bytes of [`Fixture::scratch`] go.
    next: u64,
}

impl Fixture {
    pub(super) fn new() -> Self {
        let Surroundings { world, account, view, network } = Surroundings::of(program(), LIMIT);
        let stdio = [0, 0, 0].map(|value| eventfd(&world, value, 0));
        let mut processes = Processes::new(world);
        let process = processes
            .start(Start {
                container: 1,
                view,
                account,
                network,
                path: b"/var/task/bootstrap".to_vec(),
                arguments: vec![b"bootstrap".to_vec()],
                environment: vec![b"A=B".to_vec()],
                stdio,
                rewinds: None,
                image: None,
            })
            .unwrap();
        let mut fixture = Self { processes, process, next: SCRATCH + 3 * PAGE_BYTES };
        let flags = PRIVATE_ANONYMOUS | FIXED;
        let mapped = fixture.call(9, [SCRATCH, SCRATCH_BYTES, RW, flags, u64::MAX, 0]);
        assert_eq!(mapped, Some(SCRATCH.cast_signed()));
        fixture
    }

    /// Puts bytes into the program's memory and says where.
    pub(super) fn scratch(&mut self, bytes: &[u8]) -> u64 {
        let at = self.next;
        self.next += bytes.len().next_multiple_of(8) as u64;
        self.write(at, bytes);
        at
    }

    pub(super) fn main(&self) -> TaskId {
        TaskId::from_number(self.process.number())
    }

    pub(super) fn call(&mut self, number: u64, arguments: [u64; 6]) -> Option<i64> {
        let main = self.main();
        self.call_as(main, number, arguments)
    }

    /// Makes a call; `None` when it waits.
    pub(super) fn call_as(
        &mut self,
        task: TaskId,
        number: u64,
        arguments: [u64; 6],
    ) -> Option<i64> {
        let call = self.processes.call(task).unwrap();
        assert_ne!(call.task.state, State::Blocked);
        call.task.context.set_syscall(number, arguments);
        self.resume(task)
    }

    /// Executes the call a task is in.
    pub(super) fn resume(&mut self, task: TaskId) -> Option<i64> {
        // Tests decide who runs.
        while self.processes.take_next().is_some() {}
        let mut call = self.processes.call(task).unwrap();
        let result = execute(&mut call);
        assert_eq!(result, Ok(()));
        self.processes.apply_effects();
        self.processes.settle();
        self.result(task)
    }

    pub(super) fn result(&mut self, task: TaskId) -> Option<i64> {
        let call = self.processes.call(task)?;
        (call.task.state == State::Runnable).then(|| call.task.context.result())
    }

    fn write(&mut self, address: u64, bytes: &[u8]) {
        let main = self.main();
        self.processes.call(main).unwrap().write_bytes(address, bytes).unwrap();
    }

    fn read<const N: usize>(&mut self, address: u64) -> [u8; N] {
        let main = self.main();
        self.processes.call(main).unwrap().read_bytes(address).unwrap()
    }

    fn advance(&mut self, nanos: u64) {
        host::advance(nanos);
        self.processes.expire(machine::clock::monotonic_nanos());
    }

    fn thread(&mut self) -> TaskId {
        let flags = 0x100 | 0x200 | 0x400 | 0x800 | 0x1_0000 | 0x20_0000;
        let child = self.call(56, [flags, SCRATCH + 0x2000, 0, SCRATCH + 8, 0, 0]).unwrap();
        TaskId::from_number(u32::try_from(child).unwrap())
    }
}

fn error(errno: Errno) -> Option<i64> {
    Some(-i64::from(errno.number()))
}

#[test]
fn a_started_program_finds_its_stack_and_vdso() {
    let mut fixture = Fixture::new();
    let main = fixture.main();
    let call = fixture.processes.call(main).unwrap();
    assert_eq!(call.task.context.rip(), 0x40_0800);
    let stack_pointer = call.task.context.rsp();
    assert_eq!(fixture.read(stack_pointer), 1_u64.to_le_bytes());
    let argument = u64::from_le_bytes(fixture.read(stack_pointer + 8));
    assert_eq!(&fixture.read::<10>(argument), b"bootstrap\0");
    let key = u64::from_le_bytes(fixture.read(stack_pointer + 40));
    assert_eq!(key, 33, "AT_SYSINFO_EHDR comes first");
    let vdso = u64::from_le_bytes(fixture.read(stack_pointer + 48));
    assert_eq!(&fixture.read::<4>(vdso), b"\x7fELF");
    let multiplier = u64::from_le_bytes(fixture.read(vdso - PAGE_BYTES + 8));
    assert_eq!(multiplier, 1 << 32, "the clock page lies below");
}

#[test]
fn the_heap_grows_shrinks_and_reads_as_zeros_again() {
    let mut fixture = Fixture::new();
    let start = u64::try_from(fixture.call(12, [0; 6]).unwrap()).unwrap();
    let end = start + 3 * PAGE_BYTES + 100;
    assert_eq!(fixture.call(12, [end, 0, 0, 0, 0, 0]), Some(end.cast_signed()));
    fixture.write(end - 1, &[7]);
    assert_eq!(fixture.call(12, [start + 1, 0, 0, 0, 0, 0]), Some((start + 1).cast_signed()));
    assert_eq!(fixture.call(12, [end, 0, 0, 0, 0, 0]), Some(end.cast_signed()));
    assert_eq!(fixture.read(end - 1), [0]);
    let far = start + 2 * LIMIT;
    assert_eq!(fixture.call(12, [far, 0, 0, 0, 0, 0]), Some(end.cast_signed()), "refused");
}

#[test]
fn mremap_keeps_bytes_in_place_and_when_it_moves() {
    let mut fixture = Fixture::new();
    let first = fixture.call(9, [0, 2 * PAGE_BYTES, RW, PRIVATE_ANONYMOUS, u64::MAX, 0]).unwrap();
    let first = u64::try_from(first).unwrap();
    fixture.write(first + PAGE_BYTES, b"kept");
    let arguments = [first, 2 * PAGE_BYTES, 64 * PAGE_BYTES, 0, 0, 0];
    assert_eq!(fixture.call(25, arguments), error(Errno::NOMEM), "something lies above");
    let arguments = [first, 2 * PAGE_BYTES, 64 * PAGE_BYTES, 1, 0, 0];
    let moved = u64::try_from(fixture.call(25, arguments).unwrap()).unwrap();
    assert_eq!(&fixture.read::<4>(moved + PAGE_BYTES), b"kept");
    assert_eq!(fixture.read(moved + 63 * PAGE_BYTES), [0; 8]);
    let main = fixture.main();
    let call = fixture.processes.call(main).unwrap();
    assert!(call.process.memory.area_at(first).is_none(), "the old place is free");
}

#[test]
fn a_huge_reservation_costs_nothing_and_its_use_is_charged() {
    let mut fixture = Fixture::new();
    let main = fixture.main();
    let used = |fixture: &mut Fixture| {
        fixture.processes.call(main).unwrap().process.memory.account().used_bytes()
    };
    let before = used(&mut fixture);
    let huge = 10 << 30;
    let start = fixture.call(9, [0, huge, 0, PRIVATE_ANONYMOUS | 0x4000, u64::MAX, 0]).unwrap();
    let start = u64::try_from(start).unwrap();
    assert_eq!(used(&mut fixture), before);
    assert_eq!(fixture.call(10, [start + (5 << 30), MIB, RW, 0, 0, 0]), Some(0));
    fixture.write(start + (5 << 30) + 5000, &[1]);
    let touched = used(&mut fixture);
    assert!(touched > before && touched - before < 16 * PAGE_BYTES);
    assert_eq!(fixture.call(11, [start, huge, 0, 0, 0, 0]), Some(0));
    assert!(used(&mut fixture) < touched);
    let bytes = LIMIT + MIB;
    let start = fixture.call(9, [0, bytes, RW, PRIVATE_ANONYMOUS, u64::MAX, 0]).unwrap();
    let (mut page, mut call) = (start.cast_unsigned(), fixture.processes.call(main).unwrap());
    while call.process.memory.touch(page, Touch::Write).is_ok() {
        page += PAGE_BYTES;
    }
    assert!(call.process.memory.account().used_bytes() <= LIMIT);
    assert!(call.write_bytes(page, &[1]).is_err());
}

#[test]
fn a_futex_wakes_in_order_and_times_out() {
    let mut fixture = Fixture::new();
    let (first, second) = (fixture.thread(), fixture.thread());
    let word = SCRATCH + 64;
    fixture.write(word, &5_u32.to_le_bytes());
    assert_eq!(fixture.call_as(first, 202, [word, 128, 6, 0, 0, 0]), error(Errno::AGAIN));
    assert_eq!(fixture.call_as(first, 202, [word, 128, 5, 0, 0, 0]), None);
    fixture.write(SCRATCH + 128, &[0, 0, 0, 0, 0, 0, 0, 0, 100, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(fixture.call_as(second, 202, [word, 128, 5, SCRATCH + 128, 0, 0]), None);
    assert_eq!(fixture.call(202, [word, 129, 1, 0, 0, 0]), Some(1));
    assert_eq!((fixture.result(first), fixture.result(second)), (Some(0), None));
    fixture.advance(99);
    assert_eq!(fixture.result(second), None);
    fixture.advance(1);
    assert_eq!(fixture.resume(second), error(Errno::TIMEDOUT));
    assert_eq!(fixture.call(202, [word, 129, 1, 0, 0, 0]), Some(0), "nobody is left");
}

#[test]
fn a_thread_that_ends_is_joined_and_the_last_one_ends_the_process() {
    let mut fixture = Fixture::new();
    let child = fixture.thread();
    fixture.write(SCRATCH + 8, &child.number().to_le_bytes());
    let tid = u64::from(child.number());
    assert_eq!(fixture.call(202, [SCRATCH + 8, 0, tid, 0, 0, 0]), None);
    assert_eq!(fixture.call_as(child, 60, [3, 0, 0, 0, 0, 0]), None);
    let main = fixture.main();
    assert_eq!(fixture.result(main), Some(0), "joined");
    assert_eq!(fixture.read(SCRATCH + 8), [0; 4]);
    assert_eq!(fixture.call(60, [9, 0, 0, 0, 0, 0]), None);
    let notice = fixture.processes.take_notice().unwrap();
    assert!(matches!(notice, Notice::Ended { detail: 9, .. }), "{notice:?}");
    assert!(fixture.processes.take_next().is_none(), "no task is left");
}

#[test]
fn a_reader_waits_until_the_pipe_has_bytes_and_a_writer_until_it_has_room() {
    let mut fixture = Fixture::new();
    let child = fixture.thread();
    assert_eq!(fixture.call(22, [SCRATCH, 0, 0, 0, 0, 0]), Some(0));
    let ends: [u8; 8] = fixture.read(SCRATCH);
    let (reader, writer) = (u64::from(ends[0]), u64::from(ends[4]));
    assert_eq!(fixture.call_as(child, 0, [reader, SCRATCH + 512, 10, 0, 0, 0]), None);
    fixture.write(SCRATCH + 256, b"hello");
    assert_eq!(fixture.call(1, [writer, SCRATCH + 256, 5, 0, 0, 0]), Some(5));
    assert_eq!(fixture.resume(child), Some(5));
    assert_eq!(&fixture.read::<5>(SCRATCH + 512), b"hello");
    let huge = fixture.call(9, [0, MIB, RW, PRIVATE_ANONYMOUS, u64::MAX, 0]).unwrap();
    assert_eq!(fixture.call(1, [writer, huge.cast_unsigned(), MIB, 0, 0, 0]), None);
    let main = fixture.main();
    let mut taken = 0;
    while fixture.result(main).is_none() {
        let room = 100_000;
        let read = fixture.call_as(child, 0, [reader, huge.cast_unsigned(), room, 0, 0, 0]);
        taken += read.unwrap();
        fixture.resume(main);
    }
    let rest = fixture.call_as(child, 0, [reader, huge.cast_unsigned(), MIB, 0, 0, 0]).unwrap();
    assert_eq!((fixture.result(main), taken + rest), (Some(MIB.cast_signed()), MIB.cast_signed()));
    assert_eq!(fixture.call(3, [reader, 0, 0, 0, 0, 0]), Some(0));
    assert_eq!(fixture.call(13, [13, SCRATCH + 1024, 0, 8, 0, 0]), Some(0));
    fixture.write(SCRATCH + 1024, &1_u64.to_le_bytes());
    assert_eq!(fixture.call(13, [13, SCRATCH + 1024, 0, 8, 0, 0]), Some(0), "SIGPIPE ignored");
    assert_eq!(fixture.call(1, [writer, SCRATCH, 1, 0, 0, 0]), error(Errno::PIPE));
}

#[test]
fn a_poll_ends_by_readiness_and_by_time() {
    let mut fixture = Fixture::new();
    fixture.write(SCRATCH, &[0, 0, 0, 0, 1, 0, 9, 9]);
    assert_eq!(fixture.call(7, [SCRATCH, 1, 0, 0, 0, 0]), Some(0));
    assert_eq!(fixture.call(7, [SCRATCH, 1, 5, 0, 0, 0]), None);
    let main = fixture.main();
    fixture.advance(4_999_999);
    assert_eq!(fixture.result(main), None);
    fixture.advance(1);
    assert_eq!(fixture.resume(main), Some(0));
    assert_eq!(fixture.call(7, [SCRATCH, 1, u64::MAX, 0, 0, 0]), None);
    let child = fixture.thread_while_blocked();
    fixture.write(SCRATCH + 256, &1_u64.to_le_bytes());
    assert_eq!(fixture.call_as(child, 1, [0, SCRATCH + 256, 8, 0, 0, 0]), Some(8));
    assert_eq!(fixture.resume(main), Some(1));
    assert_eq!(fixture.read(SCRATCH + 6), [1, 0], "POLLIN");
    assert_eq!(fixture.call(7, [SCRATCH, 1, u64::MAX, 0, 0, 0]), Some(1));
}

impl Fixture {
    /// A second task though the first one waits: it is made before and found here.
    fn thread_while_blocked(&mut self) -> TaskId {
        let main = self.main();
        let call = self.processes.call(main).unwrap();
        let state = core::mem::replace(&mut call.task.state, State::Runnable);
        let (context, kept) = (call.task.context.clone(), call.task.call);
        let child = self.thread();
        let call = self.processes.call(main).unwrap();
        call.task.state = state;
        call.task.context = context;
        call.task.call = kept;
        child
    }
}

#[test]
fn a_handler_runs_on_its_stack_and_returns_to_where_it_was() {
    let mut fixture = Fixture::new();
    let main = fixture.main();
    let handler = 0x40_0900_u64;
    let action = [handler, 0x0c00_0000, 0x40_0a00, 0].map(u64::to_le_bytes).concat();
    fixture.write(SCRATCH, &action);
    assert_eq!(fixture.call(13, [10, SCRATCH, 0, 8, 0, 0]), Some(0));
    let stack = [SCRATCH + 0x1000, 0, 0x3000].map(u64::to_le_bytes).concat();
    fixture.write(SCRATCH, &stack);
    assert_eq!(fixture.call(131, [SCRATCH, 0, 0, 0, 0, 0]), Some(0));
    let pid = u64::from(fixture.process.number());
    assert_eq!(fixture.call(234, [pid, pid, 10, 0, 0, 0]), Some(0));
    let mut call = fixture.processes.call(main).unwrap();
    call.task.context.set(machine::user::Register::R12, 0xabcd);
    let before = call.task.context.clone();
    call.deliver(false).unwrap();
    let context = &mut call.task.context;
    assert_eq!((context.rip(), context.argument(0)), (handler, 10));
    let frame = context.rsp();
    assert!((SCRATCH + 0x1000..SCRATCH + 0x4000).contains(&frame));
    assert!(call.task.blocked.contains(crate::signal::Signal::from_number(10).unwrap()));
    // The handler changes registers and returns: its return address is popped.
    call.task.context.set(machine::user::Register::R12, 1);
    call.task.context.set_rsp(frame + 8);
    assert_eq!(fixture.read(frame), 0x40_0a00_u64.to_le_bytes());
    fixture.call(15, [0; 6]);
    let call = fixture.processes.call(main).unwrap();
    assert_eq!(call.task.context.rip(), before.rip());
    assert_eq!(call.task.context.rsp(), before.rsp());
    assert_eq!(call.task.context.get(machine::user::Register::R12), 0xabcd);
    assert_eq!(call.task.blocked.bits(), 0);
}

#[test]
fn a_signal_interrupts_a_sleep_and_restarts_a_read() {
    let mut fixture = Fixture::new();
    let main = fixture.main();
    let child = fixture.thread();
    for (flags, number, arguments, expected) in [
        (0x1400_0000, 35, [SCRATCH + 512, 0, 0, 0, 0, 0], error(Errno::INTR)),
        (0x0400_0000, 0, [0, SCRATCH, 8, 0, 0, 0], error(Errno::INTR)),
        (0x1400_0000, 0, [0, SCRATCH, 8, 0, 0, 0], Some(0)),
    ] {
        let action = [0x40_0900_u64, flags, 0x40_0a00, 0].map(u64::to_le_bytes).concat();
        fixture.write(SCRATCH, &action);
        assert_eq!(fixture.call_as(child, 13, [10, SCRATCH, 0, 8, 0, 0]), Some(0));
        fixture.write(SCRATCH + 512, &[9; 4]);
        fixture.write(SCRATCH + 516, &[0; 12]);
        let rip = fixture.processes.call(main).unwrap().task.context.rip();
        assert_eq!(fixture.call(number, arguments), None);
        let pid = u64::from(fixture.process.number());
        assert_eq!(fixture.call_as(child, 234, [pid, pid, 10, 0, 0, 0]), Some(0));
        let mut call = fixture.processes.call(main).unwrap();
        assert_eq!(call.task.state, State::InCall);
        execute(&mut call).unwrap();
        if call.task.context.rip() != 0x40_0900 {
            call.deliver(false).unwrap();
        }
        assert_eq!(call.task.context.rip(), 0x40_0900, "the handler runs");
        let frame = call.task.context.rsp();
        call.task.context.set_rsp(frame + 8);
        fixture.call(15, [0; 6]);
        let call = fixture.processes.call(main).unwrap();
        let result = Some(call.task.context.result());
        assert_eq!(result, expected, "of call {number}");
        let is_restarted = expected == Some(0);
        assert_eq!(call.task.context.rip(), if is_restarted { rip - 2 } else { rip });
        call.task.context.set_rip(rip);
    }
}

#[test]
fn a_fault_that_nobody_handles_ends_the_process_and_names_it() {
    use machine::user::Trap;
    let mut fixture = Fixture::new();
    let main = fixture.main();
    let mut call = fixture.processes.call(main).unwrap();
    let fault =
        |address| Trap::PageFault { address, is_write: true, is_fetch: false, is_present: false };
    let ending = call.page_fault(fault(8)).unwrap_err();
    assert_eq!(ending.reason(0), "ended by SIGSEGV (bad memory access) at address 0x8");
    let (stack, _) = call.process.memory.area_at(call.task.context.rsp()).unwrap();
    call.page_fault(fault(stack.start + 8)).unwrap();
    call.task.context.set_rsp(stack.start - 64);
    let ending = call.page_fault(fault(stack.start - 72)).unwrap_err();
    assert_eq!(ending.status().0, abi::frame::outcome::Status::StackOverflow);
    let ending = call.cpu_fault(0, 0).unwrap_err();
    assert_eq!(ending.status(), (abi::frame::outcome::Status::Signalled, 8));
}

#[test]
fn a_missing_call_is_reported_once() {
    let mut fixture = Fixture::new();
    for _ in 0..3 {
        assert_eq!(fixture.call(425, [0; 6]), error(Errno::NOSYS));
    }
    let notice = fixture.processes.take_notice().unwrap();
    assert!(matches!(notice, Notice::Missing { number: 425, container: 1, .. }));
    assert_eq!(fixture.processes.take_notice(), None);
}

#[derive(Clone, Debug)]
enum Step {
    Map(usize, usize, u64),
    Unmap(usize, usize),
    Protect(usize, usize, u64),
    Discard(usize, usize),
    Store(usize, u8),
}

const MODEL_PAGES: usize = 12;
const MODEL_AT: u64 = 0x2000_0000;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let place = (0..MODEL_PAGES, 1..5_usize, 0..4_u64, any::<u8>());
    let step = (0..5, place).prop_map(|(verb, (at, count, prot, byte))| match verb {
        0 => Step::Map(at, count, prot),
        1 => Step::Unmap(at, count),
        2 => Step::Protect(at, count, prot),
        3 => Step::Discard(at, count),
        _ => Step::Store(at, byte),
    });
    proptest::collection::vec(step, 1..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A page is nothing, or a protection and a byte.
    #[test]
    fn memory_behaves_like_an_array_of_pages(steps in steps()) {
        let mut fixture = Fixture::new();
        let mut model: [Option<(u64, u8)>; MODEL_PAGES] = [None; MODEL_PAGES];
        for step in steps {
            let range = |at: usize, count: usize| at..(at + count).min(MODEL_PAGES);
            let start = |at: usize| MODEL_AT + at as u64 * PAGE_BYTES;
            let bytes = |at: usize, count: usize| range(at, count).len() as u64 * PAGE_BYTES;
            match step {
                Step::Map(at, count, prot) => {
                    let flags = PRIVATE_ANONYMOUS | FIXED;
                    let arguments = [start(at), bytes(at, count), prot, flags, u64::MAX, 0];
                    prop_assert_eq!(fixture.call(9, arguments), Some(start(at).cast_signed()));
                    model[range(at, count)].fill(Some((prot, 0)));
                }
                Step::Unmap(at, count) => {
                    let arguments = [start(at), bytes(at, count), 0, 0, 0, 0];
                    prop_assert_eq!(fixture.call(11, arguments), Some(0));
                    model[range(at, count)].fill(None);
                }
                Step::Protect(at, count, prot) => {
                    let arguments = [start(at), bytes(at, count), prot, 0, 0, 0];
                    let is_covered = model[range(at, count)].iter().all(Option::is_some);
                    let expected = if is_covered { Some(0) } else { error(Errno::NOMEM) };
                    prop_assert_eq!(fixture.call(10, arguments), expected);
                    if is_covered {
                        for page in model[range(at, count)].iter_mut().flatten() {
                            page.0 = prot;
                        }
                    }
                }
                Step::Discard(at, count) => {
                    let arguments = [start(at), bytes(at, count), 4, 0, 0, 0];
                    prop_assert_eq!(fixture.call(28, arguments), Some(0));
                    for page in model[range(at, count)].iter_mut().flatten() {
                        page.1 = 0;
                    }
                }
                Step::Store(at, byte) => {
                    let main = fixture.main();
                    let mut call = fixture.processes.call(main).unwrap();
                    let stored = call.write_bytes(start(at) + 99, &[byte]).is_ok();
                    prop_assert_eq!(stored, model[at].is_some_and(|(prot, _)| prot & 2 != 0));
                    if let Some((_, value)) = &mut model[at]
                        && stored
                    {
                        *value = byte;
                    }
                }
            }
            let main = fixture.main();
            for (at, page) in model.iter().enumerate() {
                let mut call = fixture.processes.call(main).unwrap();
                let read = call.read_bytes::<1>(start(at) + 99).ok();
                let expected = page.filter(|(prot, _)| *prot != 0).map(|(_, byte)| [byte]);
                prop_assert_eq!(read, expected, "page {}", at);
            }
        }
        let main = fixture.main();
        let account = Rc::clone(fixture.processes.call(main).unwrap().process.memory.account());
        fixture.processes.kill(fixture.process);
        prop_assert_eq!(account.used_bytes(), 0, "everything is given back");
    }
}

mod waiting;
