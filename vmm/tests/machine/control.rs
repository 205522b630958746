//! The control socket: what it serves, what it refuses, and that the process ends with it.

use crate::cell::{Answer, Cell, Shape};
use crate::{SNAPSHOT, ask, command, guest, restored, vmm};
use abi::control::Request;
use std::os::fd::AsFd;

#[test]
fn placed_package_is_seen_by_the_running_guest() {
    let cell = restored();
    for (offset, value) in [(0_u64, 11_u64), (1 << 20, 12), (0, 13)] {
        let mut package = vec![0; 9000];
        package[8192..8200].copy_from_slice(&value.to_le_bytes());
        let memfd = region::sealed::frozen("package", &package).unwrap();
        cell.send(&Request::Place { offset, bytes: 9000 }, &[memfd.as_fd()]);
        assert_eq!(cell.answer(), Answer::Placed(offset));
        assert_eq!(ask(&cell, guest::READ_WINDOW, offset + 8192), value);
    }
}

#[test]
fn stop_ends_the_process_even_while_the_guest_spins() {
    let mut cell = restored();
    command(&cell, guest::SPIN, 0);
    cell.send(&Request::Stop, &[]);
    assert_eq!(cell.answer(), Answer::Gone(0, "stopped".into()));
    assert!(cell.child.wait().unwrap().success());
}

#[test]
fn closed_socket_ends_the_process() {
    let mut idle = restored();
    idle.socket = None;
    assert!(idle.child.wait().unwrap().success());
    let mut busy = restored();
    command(&busy, guest::SPIN, 0);
    busy.socket = None;
    assert!(busy.child.wait().unwrap().success());
    let mut unused = Cell::spawn(&vmm());
    unused.socket = None;
    assert!(unused.child.wait().unwrap().success());
}

#[test]
fn garbage_ends_the_vm_and_is_not_the_guests_fault() {
    let memfd = region::sealed::shared("package", 8192).unwrap();
    let garbage: [&dyn Fn(&Cell); 5] = [
        &|cell| cell.send_bytes(&[0xff; 100], &[]),
        &|cell| cell.send_bytes(&[2, 1], &[]),
        &|cell| cell.send(&Request::Place { offset: 0, bytes: 4096 }, &[]),
        &|cell| cell.send(&Request::Place { offset: 0, bytes: 4096 }, &[memfd.as_fd()]),
        &|cell| cell.send_bytes(&[1; abi::control::MESSAGE_BYTES_MAX + 1], &[]),
    ];
    for (number, send) in garbage.iter().enumerate() {
        let cell = restored();
        send(&cell);
        let answer = cell.answer();
        assert!(matches!(answer, Answer::Gone(2, _)), "{number}: {answer:?}");
        assert_eq!(cell.answer(), Answer::Closed);
    }
}

#[test]
fn start_with_impossible_numbers_is_refused() {
    for shape in [
        Shape { ram_bytes: 0, ..Shape::default() },
        Shape { ram_bytes: (32 << 20) + 4096, ..Shape::default() },
        Shape { ram_bytes: 64 << 20, ..Shape::default() },
        Shape { core: 100_000, ..Shape::default() },
    ] {
        let cell = Cell::spawn(&vmm());
        cell.restore(&SNAPSHOT, None, shape, 1);
        let answer = cell.answer();
        assert!(matches!(answer, Answer::Gone(2, _)), "{shape:?}: {answer:?}");
    }
    let cell = Cell::spawn(&vmm());
    cell.send(&Request::Stop, &[]);
    assert!(matches!(cell.answer(), Answer::Gone(2, _)), "Start comes first");
}
