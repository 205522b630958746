//! One snapshot, many VMs that know nothing of one another.

use crate::cell::{Answer, Cell, Shape};
use crate::guest::{self, MARK};
use crate::{SNAPSHOT, ask, capture, restored, take, vmm};
use abi::layout::ClockPage;
use std::mem::offset_of;

#[test]
fn snapshot_is_sealed_and_serves_many() {
    region::sealed::check_frozen(&*SNAPSHOT).unwrap();
    let cells = [restored(), restored()];
    for cell in &cells {
        assert_eq!(take(cell, guest::FOUND), MARK, "RAM is as it was captured");
    }
    let _ = ask(&cells[0], guest::RING, 0);
    let fresh = restored();
    assert_eq!(take(&fresh, guest::FOUND), MARK, "another VM's writes are its own");
}

#[test]
fn guest_reads_its_clock_page() {
    let cell = restored();
    let at = |field: usize| ask(&cell, guest::READ_CLOCK, field as u64);
    assert_eq!(at(offset_of!(ClockPage, generation)), 1);
    assert_eq!(at(offset_of!(ClockPage, multiplier)), cell.clock.0);
    assert_eq!(at(offset_of!(ClockPage, monotonic_offset)), cell.clock.1);
    let realtime = at(offset_of!(ClockPage, realtime_offset));
    assert!(realtime.abs_diff(region::clock::realtime_offset()) < 1_000_000);
}

#[test]
fn root_image_is_in_the_window_of_boot_and_restore() {
    let mut image = vec![0; 5000];
    image[..8].copy_from_slice(&7_u64.to_le_bytes());
    image[4096..4104].copy_from_slice(&8_u64.to_le_bytes());
    let snapshot = capture(Some(&image));
    let cell = Cell::spawn(&vmm());
    cell.restore(&snapshot, Some(&image), Shape::default(), 1);
    assert!(matches!(cell.answer(), Answer::Running(_)));
    assert_eq!(ask(&cell, guest::READ_WINDOW, 0), 7);
    assert_eq!(ask(&cell, guest::READ_WINDOW, 4096), 8);

    let other = Cell::spawn(&vmm());
    other.restore(&snapshot, None, Shape::default(), 1);
    let answer = other.answer();
    assert!(matches!(&answer, Answer::Gone(2, why) if why.contains("machine")), "{answer:?}");
}

#[test]
fn damaged_snapshots_are_refused() {
    let file = region::Contents::map(&*SNAPSHOT).unwrap();
    let mut damaged = file.to_vec();
    damaged[100] ^= 1;
    for bytes in [&damaged[..], &file[..file.len() - 4096], b"no snapshot"] {
        let memfd = region::sealed::frozen("damaged", bytes).unwrap();
        let cell = Cell::spawn(&vmm());
        cell.restore(&memfd, None, Shape::default(), 1);
        let answer = cell.answer();
        assert!(matches!(&answer, Answer::Gone(2, why) if why.contains("snapshot")), "{answer:?}");
    }
    let cell = Cell::spawn(&vmm());
    let unsealed = region::sealed::unsealed("snapshot").unwrap();
    cell.restore(&unsealed, None, Shape::default(), 1);
    assert!(matches!(cell.answer(), Answer::Gone(2, _)), "only sealed memory is trusted");
}
