//! A VM that is put back is as one that was just restored, whatever it did before.

use crate::cell::{Answer, Cell, Shape};
use crate::guest::{self, DIRTY_RAM, MARK};
use crate::{SNAPSHOT, ask, command, guest_now, take, vmm};
use abi::control::{PageFinder, Restoring, Verified, status};
use abi::layout::{ClockPage, region as layout};
use abi::ring::Memory;
use std::mem::offset_of;

const BOTH: [Restoring; 2] = [Restoring::Map, Restoring::Copy];

fn restored(restoring: Restoring) -> Cell {
    let cell = Cell::spawn(&vmm());
    cell.region.store_u64(layout::VM, 44);
    cell.restore(&SNAPSHOT, None, Shape { restoring, ..Shape::default() }, 1);
    let answer = cell.answer();
    assert!(matches!(answer, Answer::Running(_)), "{answer:?}");
    assert_eq!(take(&cell, guest::FOUND), MARK);
    cell
}

/// Resets with verification; returns how many pages were put back.
fn reset(cell: &Cell, generation: u64) -> u32 {
    cell.reset(generation, u64::MAX);
    let answer = cell.answer();
    let Answer::Reset(pages, _, Verified::Whole, _) = answer else { panic!("{answer:?}") };
    assert_eq!(take(cell, guest::FOUND), MARK, "the guest woke in RAM as it was captured");
    pages
}

#[test]
fn memory_registers_and_region_are_as_restored() {
    for restoring in BOTH {
        let cell = restored(restoring);
        assert_eq!(ask(&cell, guest::CHECK, 0), 1, "a fresh vCPU holds nothing");
        cell.region.store_u64(layout::POLL_NANOS, 5);
        for generation in 2..5 {
            assert_eq!(ask(&cell, guest::DIRTY, 64), 1);
            assert_eq!(ask(&cell, guest::REGISTERS, 0), 1);
            assert_eq!(ask(&cell, guest::CHECK, 0), 2, "the guest can tell");
            let far = layout::BYTES - 8;
            cell.region.store_u64(far, 99);
            cell.region.store_u64(layout::VM, 45);
            let pages = reset(&cell, generation);
            assert!((64..80).contains(&pages), "{pages} pages");
            assert_eq!(ask(&cell, guest::CHECK, 0), 1, "{restoring:?}");
            assert_eq!(ask(&cell, guest::PEEK, DIRTY_RAM + 4096), 1);
            let words = [layout::GENERATION, layout::VM, layout::POLL_NANOS, far];
            let found = words.map(|word| cell.region.load_u64(word));
            assert_eq!(found, [generation, 44, 5, 0]);
            let mut seed = [0; 32];
            cell.region.read(layout::SEED, &mut seed);
            assert_eq!(seed, [0x77; 32]);
            let clock = offset_of!(ClockPage, generation) as u64;
            assert_eq!(ask(&cell, guest::READ_CLOCK, clock), generation);
        }
        assert_eq!(cell.status.load_u64(status::RESETS), 3);
        assert!(cell.status.load_u64(status::PAGES_PUT_BACK) >= 3 * 64);
        let finder = PageFinder::from_number(cell.status.load_u64(status::PAGE_FINDER));
        assert!(finder.is_some());
    }
}

#[test]
fn a_guest_is_stopped_wherever_it_is() {
    let cell = restored(Restoring::Map);
    for generation in (2..40).step_by(3) {
        command(&cell, guest::SPIN, 0);
        let _ = reset(&cell, generation);
        command(&cell, guest::PREEMPT, guest_now(&cell) + 3_600_000_000_000);
        let _ = reset(&cell, generation + 1);
        command(&cell, guest::SLEEP, guest_now(&cell) + 3_600_000_000_000);
        let _ = reset(&cell, generation + 2);
        assert_eq!(ask(&cell, guest::RING, 0), 1, "it lives on");
    }
}

#[test]
fn clock_and_timer_serve_the_next_life() {
    let cell = restored(Restoring::Map);
    command(&cell, guest::PREEMPT, guest_now(&cell) + 50_000_000);
    let _ = reset(&cell, 2);
    let deadline = guest_now(&cell) + 2_000_000;
    let woke = ask(&cell, guest::SLEEP, deadline);
    let (multiplier, offset) = cell.clock;
    assert!(region::clock::scale(woke, multiplier).wrapping_add(offset) >= deadline);
    let rip = ask(&cell, guest::PREEMPT, guest_now(&cell) + 2_000_000);
    assert!((guest::USER_CODE..guest::USER_CODE + 4096).contains(&rip));
}

#[test]
fn a_guest_that_wrote_very_much_is_laid_out_anew() {
    for restoring in BOTH {
        let cell = restored(restoring);
        let before = private_kib(&cell);
        assert_eq!(ask(&cell, guest::DIRTY, 5000), 1);
        assert!(private_kib(&cell) > before + 16_000);
        assert!(reset(&cell, 2) >= 5000);
        assert!(private_kib(&cell) < before + 200, "{} KiB", private_kib(&cell));
        assert_eq!(ask(&cell, guest::DIRTY, 64), 1);
        let _ = reset(&cell, 3);
        assert_eq!(ask(&cell, guest::PEEK, DIRTY_RAM), 1);
    }
}

#[test]
fn a_verification_takes_the_time_it_is_given() {
    let cell = restored(Restoring::Map);
    let extents = (2..6).map(|generation| {
        assert_eq!(ask(&cell, guest::DIRTY, 3000), 1);
        cell.reset(generation, if generation == 2 { 0 } else { 1 });
        let answer = cell.answer();
        let Answer::Reset(.., verified, _) = answer else { panic!("{answer:?}") };
        assert_eq!(take(&cell, guest::FOUND), MARK);
        verified
    });
    let parts = [Verified::Nothing, Verified::Part, Verified::Part, Verified::Part];
    assert_eq!(extents.collect::<Vec<_>>(), parts);
    // What comes into being by being read is forgotten: searches and memory stay as they were.
    let before = mapped_kib(&cell);
    for generation in 6..40 {
        let _ = reset(&cell, generation);
    }
    assert!(mapped_kib(&cell) <= before + 64, "{} KiB after {before}", mapped_kib(&cell));
}

/// Memory of any kind that is mapped.
fn mapped_kib(cell: &Cell) -> u64 {
    status_kib(cell, "VmRSS:")
}

fn private_kib(cell: &Cell) -> u64 {
    status_kib(cell, "RssAnon:")
}

fn status_kib(cell: &Cell, key: &str) -> u64 {
    let path = format!("/proc/{}/status", cell.child.id());
    let status = std::fs::read_to_string(path).expect("a process");
    let line = status.lines().find_map(|line| line.strip_prefix(key));
    line.expect("a known key").trim().trim_end_matches(" kB").parse().expect("a number")
}

/// `RESETS` of them, each after the guest did something else.
#[test]
fn a_thousand_resets_are_verified() {
    let count = std::env::var("RESETS").map_or(1000, |count| count.parse().expect("a number"));
    let began = region::clock::monotonic_nanos();
    let cell = restored(Restoring::Map);
    let (mut pages, mut random) = (0_u64, 0x9e37_79b9_7f4a_7c15_u64);
    for generation in 2..count + 2 {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        match random >> 61 {
            0 => command(&cell, guest::SPIN, 0),
            1 => command(&cell, guest::PREEMPT, guest_now(&cell) + (random >> 40)),
            2 => assert_eq!(ask(&cell, guest::REGISTERS, 0), 1),
            _ => assert_eq!(ask(&cell, guest::DIRTY, random >> 32 & 0xff), 1),
        }
        pages += u64::from(reset(&cell, generation));
    }
    let seconds = (region::clock::monotonic_nanos() - began) / 1_000_000_000;
    println!("{count} resets verified, {pages} pages put back, {seconds} s");
}
