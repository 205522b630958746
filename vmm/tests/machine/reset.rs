//! A VM that is put back is the one that was restored: memory, registers, region; and a running VM
//! becomes a snapshot of its own.

use crate::cell::{Answer, Cell, Shape};
use crate::guest::{self, DIRTY_FROM, MARK};
use crate::{SNAPSHOT, ask, command, restored, take, vmm};
use abi::control::{Request, Restoring, SEED_BYTES, status};
use abi::layout::{ClockPage, region as layout};
use abi::ring::Memory;
use std::mem::offset_of;
use std::os::fd::AsFd;

/// Resets in one test when `COUNT` says nothing else.
const COUNT: u64 = 1000;

fn reset(cell: &Cell, generation: u64) {
    send_reset(cell, generation, true);
}

fn send_reset(cell: &Cell, generation: u64, is_verified: bool) {
    let seed = [u8::try_from(generation % 255).expect("small") + 1; SEED_BYTES];
    cell.send(&Request::Reset { generation, seed, is_verified }, &[]);
}

fn await_reset(cell: &Cell) -> (u32, u64) {
    let answer = cell.answer();
    let Answer::Reset(pages, nanos) = answer else { panic!("no reset: {answer:?}") };
    (pages, nanos)
}

#[test]
#[cfg(not(feature = "planted-reset-bug"))]
fn every_reset_is_bit_for_bit_the_snapshot() {
    let count = std::env::var("COUNT").map_or(COUNT, |text| text.parse().expect("a number"));
    let cell = restored();
    assert_eq!(take(&cell, guest::FOUND), MARK);
    let mut nanos = Vec::new();
    for round in 1..=count {
        // From none to several hundred, and 64 most of the time.
        let pages = if round % 10 == 0 { 1 + round % 700 } else { 64 };
        assert_eq!(ask(&cell, guest::DIRTY, pages), 1);
        cell.region.store_u64(layout::BYTES - 8, 77);
        reset(&cell, round + 1);
        let (dirty, took) = await_reset(&cell);
        assert!(u64::from(dirty) >= pages, "{dirty} of {pages}");
        nanos.push(took);
        assert_eq!(take(&cell, guest::FOUND), MARK, "RAM is as it was captured");
        if round % 64 == 0 {
            assert_eq!(ask(&cell, guest::PEEK, DIRTY_FROM), 1, "a page of zeros again");
            assert_eq!(cell.region.load_u64(layout::GENERATION), round + 1);
            let at = offset_of!(ClockPage, generation) as u64;
            assert_eq!(ask(&cell, guest::READ_CLOCK, at), round + 1);
        }
    }
    println!("{count} verified resets equal, {}", percentiles(&mut nanos));
    assert_eq!(cell.status.load_u64(status::RESETS), count);
}

fn percentiles(nanos: &mut [u64]) -> String {
    nanos.sort_unstable();
    let at = |share: usize| nanos[nanos.len() * share / 100] / 1000;
    format!("p50 {} us, p90 {} us, p99 {} us", at(50), at(90), at(99))
}

/// Prints how long resets of 64 written pages take that nobody verifies, as in production.
#[test]
#[cfg(not(feature = "planted-reset-bug"))]
fn resets_without_a_look_back() {
    let cell = restored();
    let mut nanos = Vec::new();
    for generation in 2..COUNT + 2 {
        assert_eq!(ask(&cell, guest::DIRTY, 64), 1);
        send_reset(&cell, generation, false);
        let (dirty, took) = await_reset(&cell);
        assert!(dirty >= 64, "{dirty}");
        assert_eq!(take(&cell, guest::FOUND), MARK);
        nanos.push(took);
    }
    println!("{COUNT} resets of 64 pages, {}", percentiles(&mut nanos));
}

#[test]
#[cfg(feature = "planted-reset-bug")]
fn a_page_left_behind_is_found() {
    let cell = restored();
    assert_eq!(ask(&cell, guest::DIRTY, 64), 1);
    reset(&cell, 2);
    let answer = cell.answer();
    assert!(
        matches!(&answer, Answer::Gone(2, why) if why.contains("not as the snapshot")),
        "{answer:?}"
    );
}

#[test]
#[cfg(not(feature = "planted-reset-bug"))]
fn the_region_is_emptied_but_for_what_the_node_says_of_the_vm() {
    let cell = restored();
    cell.region.store_u64(layout::VM, 12);
    cell.region.store_u64(layout::POLL_NANOS, 34);
    // The guest looks at this page of the region, and so does whoever took it over.
    cell.region.store_u64(0x900, 56);
    assert_eq!(ask(&cell, guest::RING, 0), 1);
    reset(&cell, 9);
    let _ = await_reset(&cell);
    assert_eq!(cell.region.load_u64(layout::VM), 12);
    assert_eq!(cell.region.load_u64(layout::POLL_NANOS), 34);
    assert_eq!(cell.region.load_u64(layout::GENERATION), 9);
    assert_eq!(cell.region.load_u64(layout::SEED), u64::from_le_bytes([10; 8]));
    assert_eq!(cell.region.load_u64(0x900), 0);
}

#[test]
#[cfg(not(feature = "planted-reset-bug"))]
fn a_guest_that_never_stops_is_put_back_all_the_same() {
    let cell = restored();
    for generation in 2..30 {
        assert_eq!(take(&cell, guest::FOUND), MARK);
        command(&cell, guest::SPIN, 0);
        reset(&cell, generation);
        let _ = await_reset(&cell);
    }
    assert_eq!(take(&cell, guest::FOUND), MARK);
    assert_eq!(ask(&cell, guest::RING, 0), 1, "it serves again");
}

#[test]
#[cfg(not(feature = "planted-reset-bug"))]
fn a_vm_with_very_many_pages_of_its_own_gives_them_back() {
    let cell = restored();
    assert_eq!(ask(&cell, guest::DIRTY, 5000), 1);
    let before = private_kib(&cell);
    reset(&cell, 2);
    assert!(await_reset(&cell).0 >= 5000);
    let after = private_kib(&cell);
    assert!(before > 20_000 && after < 4_000, "{before} KiB, then {after} KiB");
    assert_eq!(ask(&cell, guest::PEEK, DIRTY_FROM), 1);
}

fn private_kib(cell: &Cell) -> u64 {
    let path = format!("/proc/{}/smaps_rollup", cell.child.id());
    let text = std::fs::read_to_string(path).expect("a process");
    let lines = text.lines().filter(|line| line.starts_with("Private_"));
    let numbers = lines.filter_map(|line| line.split_whitespace().nth(1));
    numbers.filter_map(|number| number.parse::<u64>().ok()).sum()
}

#[test]
#[cfg(not(feature = "planted-reset-bug"))]
fn a_halted_vm_becomes_a_snapshot_that_stands_alone() {
    for restoring in [Restoring::Map, Restoring::Copy] {
        let cell = Cell::spawn(&vmm());
        let shape = Shape { is_capturable: true, restoring, ..Shape::default() };
        cell.restore(&SNAPSHOT, None, shape, 1);
        assert!(matches!(cell.answer(), Answer::Running(_)));
        assert_eq!(ask(&cell, guest::DIRTY, 3), 1);
        let snapshot = region::sealed::unsealed("snapshot").unwrap();
        cell.send(&Request::Capture, &[snapshot.as_fd()]);
        let answer = cell.answer();
        assert!(matches!(answer, Answer::Captured(_)), "{answer:?}");
        cell.send(&Request::Stop, &[]);
        assert_eq!(cell.answer(), Answer::Gone(0, "stopped".into()));

        let next = Cell::spawn(&vmm());
        next.restore(&snapshot, None, Shape { restoring, ..Shape::default() }, 2);
        assert!(matches!(next.answer(), Answer::Running(_)));
        for page in 0..3 {
            assert_eq!(ask(&next, guest::PEEK, DIRTY_FROM + page * 4096), 1 + 3 - page);
        }
        assert_eq!(ask(&next, guest::DIRTY, 2), 1);
        reset(&next, 3);
        assert!(await_reset(&next).0 >= 2);
        for page in 0..3 {
            assert_eq!(ask(&next, guest::PEEK, DIRTY_FROM + page * 4096), 1 + 3 - page);
        }
    }
}

#[test]
#[cfg(not(feature = "planted-reset-bug"))]
fn only_a_vm_that_was_started_for_it_is_captured() {
    let cell = restored();
    let snapshot = region::sealed::unsealed("snapshot").unwrap();
    cell.send(&Request::Capture, &[snapshot.as_fd()]);
    assert!(matches!(cell.answer(), Answer::Gone(2, _)));
}
