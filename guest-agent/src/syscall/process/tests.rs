use std::vec::Vec;

use crate::errno::Errno;
use crate::identity::TaskId;
use crate::process::Notice;
use crate::process::system::TASKS_MAX;
use crate::syscall::tests::Fixture;

const FORK: u64 = 57;
const VFORK: u64 = 58;
const EXECVE: u64 = 59;
const EXIT: u64 = 231;
const WAIT4: u64 = 61;
const WAITID: u64 = 247;
const KILL: u64 = 62;
const NO_HANG: u64 = 1;
const ANY: u64 = u64::MAX;

fn failed(error: Errno) -> Option<i64> {
    Some(-i64::from(error.number()))
}

fn task(number: i64) -> TaskId {
    TaskId::from_number(u32::try_from(number).unwrap())
}

impl Fixture {
    fn fork(&mut self) -> TaskId {
        task(self.call(FORK, [0; 6]).unwrap())
    }

    fn exit(&mut self, id: TaskId, status: u64) {
        assert_eq!(self.call_as(id, EXIT, [status, 0, 0, 0, 0, 0]), None);
    }

    fn bytes_at(&mut self, id: TaskId, address: u64) -> [u8; 4] {
        self.processes.call(id).unwrap().read_bytes(address).unwrap()
    }

    fn put(&mut self, id: TaskId, address: u64, bytes: [u8; 4]) {
        self.processes.call(id).unwrap().write_bytes(address, &bytes).unwrap();
    }

    fn used_bytes(&mut self) -> u64 {
        let main = self.main();
        self.processes.call(main).unwrap().process.memory.account().used_bytes()
    }
}

#[test]
fn a_child_is_a_copy_and_its_end_is_its_parents_to_know() {
    let mut fixture = Fixture::new();
    let at = fixture.scratch(b"both");
    let (main, before) = (fixture.main(), fixture.used_bytes());
    let child = fixture.fork();
    assert_eq!(fixture.result(child), Some(0));
    fixture.put(child, at, *b"his.");
    assert_eq!((fixture.bytes_at(main, at), fixture.bytes_at(child, at)), (*b"both", *b"his."));
    fixture.put(main, at, *b"hers");
    assert_eq!((fixture.bytes_at(main, at), fixture.bytes_at(child, at)), (*b"hers", *b"his."));
    let parent = fixture.call_as(child, 110, [0; 6]);
    assert_eq!(parent, Some(i64::from(main.number())));
    assert_eq!(fixture.call(WAIT4, [ANY, 0, NO_HANG, 0, 0, 0]), Some(0));
    let status = fixture.scratch(&[0xff; 4]);
    assert_eq!(fixture.call(WAIT4, [ANY, status, 0, 0, 0, 0]), None, "it waits");
    fixture.exit(child, 3);
    assert_eq!(fixture.resume(main), Some(i64::from(child.number())));
    assert_eq!(fixture.bytes_at(main, status), 0x300_u32.to_le_bytes());
    assert_eq!(fixture.call(WAIT4, [ANY, 0, 0, 0, 0, 0]), failed(Errno::CHILD));
    fixture.processes.bury();
    assert_eq!(fixture.used_bytes(), before, "nothing is left of it");
}

#[test]
fn a_child_that_has_its_parents_memory_gives_it_back() {
    let mut fixture = Fixture::new();
    let at = fixture.scratch(b"both");
    let main = fixture.main();
    let first = main.number() + 1;
    assert_eq!(fixture.call(VFORK, [0; 6]), None, "it waits for its child");
    let child = TaskId::from_number(first);
    fixture.put(child, at, *b"ours");
    // Whatever is sent to it, its parent does not run.
    assert_eq!(fixture.call_as(child, KILL, [u64::from(main.number()), 10, 0, 0, 0, 0]), Some(0));
    assert!(!fixture.processes.has_ready());
    fixture.exit(child, 0);
    assert_eq!(fixture.result(main), Some(i64::from(first)));
    assert_eq!(fixture.bytes_at(main, at), *b"ours");
}

#[test]
fn a_child_that_becomes_a_program_lets_its_parent_go_on() {
    let mut fixture = Fixture::new();
    let at = fixture.scratch(b"both");
    let path = fixture.scratch(b"/var/task/bootstrap\0");
    let list = fixture.scratch(&[path.to_le_bytes(), [0; 8]].concat());
    let (main, kept) = (fixture.main(), fixture.call(32, [0; 6]).unwrap());
    let marked = fixture.call(72, [0, 1030, 0, 0, 0, 0]).unwrap();
    let first = main.number() + 1;
    assert_eq!(fixture.call(VFORK, [0; 6]), None);
    let child = TaskId::from_number(first);
    let nothing = fixture.call_as(child, EXECVE, [at, list, 0, 0, 0, 0]);
    assert_eq!(nothing, failed(Errno::NOENT), "it goes on as it is");
    fixture.call_as(child, EXECVE, [path, list, list, 0, 0, 0]).unwrap();
    assert_eq!(fixture.result(main), Some(i64::from(first)));
    assert_eq!(fixture.bytes_at(main, at), *b"both");
    let call = fixture.processes.call(child).unwrap();
    assert!(call.process.memory.area_at(at).is_none(), "it has a memory of its own");
    assert_eq!(call.process.command_line, b"/var/task/bootstrap\0");
    assert_eq!(call.task.context.rip(), 0x40_0800);
    let is_open =
        |number: i64| i32::try_from(number).map(|it| call.process.descriptors.get(it).is_ok());
    assert_eq!((is_open(kept), is_open(marked)), (Ok(true), Ok(false)));
}

#[test]
fn a_child_that_is_killed_says_by_what() {
    let mut fixture = Fixture::new();
    let (child, other) = (fixture.fork(), fixture.fork());
    let pid = u64::from(child.number());
    let information = fixture.scratch(&[0; 128]);
    assert_eq!(fixture.call(WAITID, [1, pid, information, 4 | NO_HANG, 0, 0]), Some(0));
    assert_eq!(fixture.bytes_at(fixture.main(), information), [0; 4]);
    assert_eq!(fixture.call_as(other, KILL, [pid, 9, 0, 0, 0, 0]), Some(0));
    assert_eq!(fixture.call(WAITID, [1, pid, information, 4 | 0x100_0000, 0, 0]), Some(0));
    let main = fixture.main();
    let field = |fixture: &mut Fixture, at: u64| {
        u32::from_le_bytes(fixture.bytes_at(main, information + at))
    };
    let fields: Vec<_> = [0, 8, 16, 24].map(|at| field(&mut fixture, at)).into();
    assert_eq!(fields, [17, 2, child.number(), 9]);
    let status = fixture.scratch(&[0; 4]);
    assert_eq!(fixture.call(WAIT4, [pid, status, 0, 0, 0, 0]), Some(pid.cast_signed()));
    assert_eq!(fixture.bytes_at(main, status), 9_u32.to_le_bytes());
    assert_eq!(fixture.call(KILL, [pid, 0, 0, 0, 0, 0]), failed(Errno::SRCH));
}

#[test]
fn the_end_of_the_first_is_the_end_of_all() {
    let mut fixture = Fixture::new();
    let child = fixture.fork();
    let grandchild = task(fixture.call_as(child, FORK, [0; 6]).unwrap());
    // It has its parent's memory when it ends with it.
    assert_eq!(fixture.call_as(grandchild, VFORK, [0; 6]), None);
    let main = fixture.main();
    fixture.exit(main, 7);
    let notice = fixture.processes.take_notice();
    assert!(matches!(notice, Some(Notice::Ended { detail: 7, .. })), "{notice:?}");
    assert_eq!(fixture.processes.take_notice(), None);
    for id in [main, child, grandchild] {
        assert!(fixture.processes.call(id).is_none());
    }
    assert!(!fixture.processes.has_ready());
}

#[test]
fn processes_of_a_container_are_limited_and_dead_ones_count() {
    let mut fixture = Fixture::new();
    let mut made = 1;
    let refused = loop {
        match fixture.call(FORK, [0; 6]).unwrap() {
            child @ 1.. => fixture.exit(task(child), 0),
            refused => break refused,
        }
        fixture.processes.bury();
        made += 1;
    };
    assert_eq!((Some(refused), made), (failed(Errno::AGAIN), TASKS_MAX));
    assert!(fixture.call(WAIT4, [ANY, 0, 0, 0, 0, 0]).unwrap() > 0);
    assert!(fixture.call(FORK, [0; 6]).unwrap() > 0);
}
