//! A VM that runs becomes a snapshot that others are restored from.

use crate::cell::{Answer, Cell, Shape};
use crate::guest::{self, DIRTY_RAM, MARK};
use crate::{SNAPSHOT, ask, command, take, vmm};
use abi::control::{Request, Restoring};
use abi::ring::Memory;
use std::os::fd::{AsFd, OwnedFd};

const SHAPE: Shape = Shape {
    ram_bytes: 32 << 20,
    core: u32::MAX,
    user: 0,
    is_capturable: true,
    restoring: Restoring::Map,
};

fn restored(snapshot: &OwnedFd, shape: Shape) -> Cell {
    let cell = Cell::spawn(&vmm());
    cell.restore(snapshot, None, shape, 1);
    let answer = cell.answer();
    assert!(matches!(answer, Answer::Running(_)), "{answer:?}");
    cell
}

fn capture(cell: &Cell) -> (OwnedFd, u64) {
    let snapshot = region::sealed::unsealed("snapshot").expect("a memfd");
    cell.send(&Request::Capture, &[snapshot.as_fd()]);
    let answer = cell.answer();
    let Answer::Captured(bytes) = answer else { panic!("not captured: {answer:?}") };
    assert_eq!(region::sealed::check_frozen(&snapshot).ok(), Some(bytes));
    (snapshot, bytes)
}

#[test]
fn captured_vm_goes_on_behind_its_halt() {
    let cell = restored(&SNAPSHOT, SHAPE);
    assert_eq!(take(&cell, guest::FOUND), MARK);
    assert_eq!(ask(&cell, guest::DIRTY, 100), 1);
    assert_eq!(ask(&cell, guest::REGISTERS, 0), 1);
    let (snapshot, bytes) = capture(&cell);
    let pages = bytes - region::sealed::check_frozen(&*SNAPSHOT).unwrap();
    assert!((100 * 4096..120 * 4096).contains(&pages), "zeros are left out: {pages} bytes more");

    for restoring in [Restoring::Map, Restoring::Copy] {
        let second = restored(&snapshot, Shape { restoring, is_capturable: false, ..SHAPE });
        assert_eq!(ask(&second, guest::CHECK, 0), 2, "registers are as captured");
        for page in [0, 1, 99] {
            let value = ask(&second, guest::PEEK, DIRTY_RAM + 4096 * page);
            assert_eq!(value, 100 - page + 1, "page {page}");
        }
        assert_eq!(second.region.load_u64(guest::FOUND), 0, "the region is not part of it");
        assert_eq!(ask(&second, guest::DIRTY, 3), 1);
        second.reset(2, u64::MAX);
        let answer = second.answer();
        assert!(matches!(answer, Answer::Reset(..)), "{answer:?}");
        assert_eq!(ask(&second, guest::PEEK, DIRTY_RAM), 101, "put back to where it was captured");
    }
    assert_eq!(cell.region.load_u64(guest::ANSWER), 0, "the captured VM stays stopped");
    command(&cell, guest::RING, 0);
    cell.send(&Request::Stop, &[]);
    assert_eq!(cell.answer(), Answer::Gone(0, "stopped".into()));
    assert_eq!(cell.region.load_u64(guest::ANSWER), 0);
}

#[test]
fn package_of_a_snapshot_is_there_before_the_guest_runs() {
    let mut package = vec![0; 9000];
    package[8192..8200].copy_from_slice(&21_u64.to_le_bytes());
    let cell = Cell::spawn(&vmm());
    cell.restore_with(&SNAPSHOT, (None, Some((1 << 20, &package))), Shape::default(), 1);
    assert!(matches!(cell.answer(), Answer::Running(_)));
    assert_eq!(ask(&cell, guest::READ_WINDOW, (1 << 20) + 8192), 21);
    cell.reset(2, u64::MAX);
    assert!(matches!(cell.answer(), Answer::Reset(..)));
    assert_eq!(ask(&cell, guest::READ_WINDOW, (1 << 20) + 8192), 21, "it stays placed");
}

#[test]
fn only_a_vm_meant_for_it_and_at_rest_is_captured() {
    let snapshot = region::sealed::unsealed("snapshot").unwrap();
    let cell = restored(&SNAPSHOT, Shape { is_capturable: false, ..SHAPE });
    cell.send(&Request::Capture, &[snapshot.as_fd()]);
    let answer = cell.answer();
    assert!(matches!(&answer, Answer::Gone(2, why) if why.contains("not one for")), "{answer:?}");

    let busy = restored(&SNAPSHOT, SHAPE);
    command(&busy, guest::SPIN, 0);
    let limit = region::clock::monotonic_nanos() + crate::PATIENCE_NANOS;
    while busy.region.load_u64(guest::COMMAND) != 0 {
        assert!(region::clock::monotonic_nanos() < limit, "it takes the command");
        std::thread::yield_now();
    }
    busy.send(&Request::Capture, &[snapshot.as_fd()]);
    let answer = busy.answer();
    assert!(matches!(&answer, Answer::Gone(2, why) if why.contains("rest")), "{answer:?}");
}
