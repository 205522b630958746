//! The VMM process from outside, on real KVM: a node's view of it, with a guest kernel that does
//! what the test says. Without `/dev/kvm` every test here fails.

mod cell;
mod guest;
mod restore;
#[cfg(not(feature = "planted-reset-bug"))]
mod reset;
#[cfg(feature = "planted-reset-bug")]
mod planted;
mod capture;
mod wake;
mod fault;
mod control;
mod jail;

use abi::layout::region as layout;
use abi::ring::Memory;
use cell::{Answer, Cell, Shape};
use region::clock::monotonic_nanos;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::LazyLock;

/// How long a test waits for what takes well under a second.
const PATIENCE_NANOS: u64 = 30_000_000_000;

/// The executable under test; `VMM` names another, for a machine without this source tree.
fn vmm() -> PathBuf {
    std::env::var_os("VMM").map_or_else(|| env!("CARGO_BIN_EXE_vmm").into(), PathBuf::from)
}

/// One snapshot of the test guest without a root image, shared by the tests.
static SNAPSHOT: LazyLock<OwnedFd> = LazyLock::new(|| capture(None));

fn capture(image: Option<&[u8]>) -> OwnedFd {
    let snapshot = region::sealed::unsealed("snapshot").expect("a memfd");
    let cell = Cell::spawn(&vmm());
    cell.boot(&guest::kernel(), &snapshot, image, Shape::default());
    let answer = cell.answer();
    assert!(matches!(answer, Answer::Captured(_)), "{answer:?}");
    snapshot
}

/// A restored VM that runs.
fn restored() -> Cell {
    let cell = Cell::spawn(&vmm());
    cell.restore(&SNAPSHOT, None, Shape::default(), 1);
    let answer = cell.answer();
    assert!(matches!(answer, Answer::Running(_)), "{answer:?}");
    cell
}

/// Waits until a word of the region is not zero, and takes it.
fn take(cell: &Cell, offset: u32) -> u64 {
    let limit = monotonic_nanos() + PATIENCE_NANOS;
    loop {
        let value = cell.region.load_u64(offset);
        if value != 0 {
            cell.region.store_u64(offset, 0);
            return value;
        }
        assert!(monotonic_nanos() < limit, "no answer at {offset:#x}: {}", cell.last_words());
        std::thread::yield_now();
    }
}

/// Gives the guest a command.
fn command(cell: &Cell, command: u64, argument: u64) {
    cell.region.store_u64(guest::ARGUMENT, argument);
    cell.region.store_u64(guest::COMMAND, command);
    cell.region.fence();
    cell.doorbell.ring().expect("an eventfd");
}

/// Gives the guest a command and waits for its answer.
fn ask(cell: &Cell, number: u64, argument: u64) -> u64 {
    command(cell, number, argument);
    take(cell, guest::ANSWER)
}

/// The reason for the end, which has to be the guest's fault.
fn guest_fault(cell: &Cell) -> String {
    let answer = cell.answer();
    let Answer::Gone(1, reason) = answer else { panic!("not the guest's fault: {answer:?}") };
    assert_eq!(cell.answer(), Answer::Closed);
    reason
}

/// The guest's clock, now.
fn guest_now(cell: &Cell) -> u64 {
    let (multiplier, offset) = cell.clock;
    region::clock::scale(region::clock::tsc(), multiplier).wrapping_add(offset)
}

const _: () =
    assert!(guest::FOUND < layout::SEED && guest::COMMAND >= 0x100 + layout::PANIC_BYTES_MAX);
