//! What wakes a guest: the doorbell, its deadline, the preemption interrupt.

use crate::guest::{self, USER_CODE};
use crate::{ask, command, guest_now, restored, take};
use abi::control::status;
use abi::layout::region as region_layout;
use abi::ring::Memory;
use region::clock::monotonic_nanos;

#[test]
fn every_ring_wakes_a_halted_guest() {
    let cell = restored();
    for round in 1..=100 {
        assert_eq!(ask(&cell, guest::RING, 0), 1, "round {round}");
    }
    assert!(cell.node_doorbell.drain().unwrap(), "the guest rang back");
    assert!(cell.region.load_u64(guest::WAKES) >= 100);
    let halts = cell.status.load_u64(status::EXITS_HALT);
    assert!((100..=103).contains(&halts), "one halt per request: {halts}");
    assert_eq!(cell.status.load_u64(status::EXITS), halts, "and no other exit");
}

#[test]
fn deadline_ends_a_halt() {
    let cell = restored();
    let (multiplier, offset) = cell.clock;
    for nanos in [0, 1_000_000, 30_000_000] {
        let deadline = guest_now(&cell) + nanos;
        let woke = ask(&cell, guest::SLEEP, deadline);
        let woke = region::clock::scale(woke, multiplier).wrapping_add(offset);
        assert!(woke >= deadline, "{} ns early", deadline - woke);
        assert!(woke - deadline < 1_000_000_000, "{} ns late", woke - deadline);
    }
}

#[test]
fn timer_preempts_user_mode() {
    let cell = restored();
    for round in 1..=50 {
        let began = monotonic_nanos();
        let rip = ask(&cell, guest::PREEMPT, guest_now(&cell) + 2_000_000);
        assert!((USER_CODE..USER_CODE + 4096).contains(&rip), "round {round}: {rip:#x}");
        assert!(monotonic_nanos() - began >= 2_000_000, "not before its time");
        assert_eq!(cell.status.load_u64(status::INTERRUPTS), round);
    }
}

#[test]
fn a_guest_that_goes_on_after_a_halt_is_preempted_without_asking() {
    let cell = restored();
    for round in 1..=50 {
        // Both before and behind the first look.
        let nanos = if round % 2 == 0 { 1_000_000 } else { 8_000_000 };
        let (began, deadline) = (monotonic_nanos(), guest_now(&cell) + nanos);
        let rip = ask(&cell, guest::PREEMPT_UNASKED, deadline);
        assert!((USER_CODE..USER_CODE + 4096).contains(&rip), "round {round}: {rip:#x}");
        assert!(monotonic_nanos() - began >= nanos, "not before its time");
        assert_eq!(cell.status.load_u64(status::INTERRUPTS), round);
        let look_at = cell.region.load_u64(region_layout::LOOK_AT);
        assert!(look_at > deadline - nanos, "it was told when");
    }
}

#[test]
fn guest_without_deadline_sleeps_and_an_idle_vmm_uses_no_cpu() {
    let cell = restored();
    assert_eq!(ask(&cell, guest::RING, 0), 1);
    let before = cell.status.load_u64(status::EXITS);
    // A busy loop would make thousands of exits in this time.
    let limit = monotonic_nanos() + 50_000_000;
    while monotonic_nanos() < limit {
        std::thread::yield_now();
    }
    assert!(cell.status.load_u64(status::EXITS) <= before + 1);
    command(&cell, guest::RING, 0);
    assert_eq!(take(&cell, guest::ANSWER), 1);
}
