//! What putting a VM back takes, on this host: `resets [DIRTY_PAGES] [COUNT]`, 64 and 1000 unless
//! given. A guest that does nothing else writes that many pages, halts, and is reset; every other
//! time the whole VM is compared afterwards. The VMM is `VMM` (best a release build), else the one
//! built beside this. `RAM_MIB` is the VM's memory (512).

#![expect(clippy::print_stdout, reason = "printing is what it is for")]
#![expect(dead_code, reason = "the tests use more of what is shared with them")]

#[path = "../tests/machine/cell.rs"]
mod cell;
#[path = "../tests/machine/guest.rs"]
mod guest;

use abi::control::{Restoring, status};
use abi::ring::Memory;
use cell::{Answer, Cell, Shape};
use region::clock::monotonic_nanos;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut number = |otherwise| {
        arguments.next().map_or(otherwise, |text| text.parse().expect("a number of this kind"))
    };
    let (pages, count) = (number(64), number(1000).max(1));
    let vmm = std::env::var_os("VMM").map_or_else(beside, PathBuf::from);
    let snapshot = region::sealed::unsealed("snapshot").expect("a memfd");
    let mib: u64 = std::env::var("RAM_MIB").map_or(512, |mib| mib.parse().expect("a number"));
    let shape = Shape { ram_bytes: mib << 20, ..Shape::default() };
    let cell = Cell::spawn(&vmm);
    cell.boot(&guest::kernel(), &snapshot, None, shape);
    let answer = cell.answer();
    assert!(matches!(answer, Answer::Captured(_)), "{answer:?}");
    for restoring in [Restoring::Map, Restoring::Copy] {
        measure(&vmm, &snapshot, Shape { restoring, ..shape }, (pages, count));
    }
}

fn beside() -> PathBuf {
    let this = std::env::current_exe().expect("a path");
    this.parent().and_then(Path::parent).expect("a directory").join("vmm")
}

fn measure(vmm: &Path, snapshot: &OwnedFd, shape: Shape, (pages, count): (u64, u64)) {
    let cell = Cell::spawn(vmm);
    cell.restore(snapshot, None, shape, 1);
    let answer = cell.answer();
    assert!(matches!(answer, Answer::Running(_)), "{answer:?}");
    let _ = take(&cell, guest::FOUND);
    let (mut inside, mut outside, mut waking) = (Vec::new(), Vec::new(), Vec::new());
    let mut verifying = Vec::new();
    for generation in 2..count + 2 {
        cell.region.store_u64(guest::ARGUMENT, pages);
        cell.region.store_u64(guest::COMMAND, guest::DIRTY);
        cell.region.fence();
        cell.doorbell.ring().expect("an eventfd");
        let _ = take(&cell, guest::ANSWER);
        let began = monotonic_nanos();
        // Every other one is verified, and timed by itself.
        let is_verified = generation % 2 == 1;
        cell.reset(generation, if is_verified { u64::MAX } else { 0 });
        let answer = cell.answer();
        let Answer::Reset(_, nanos, _, verify_nanos) = answer else { panic!("{answer:?}") };
        if is_verified {
            verifying.push(verify_nanos);
            let _ = take(&cell, guest::FOUND);
            continue;
        }
        inside.push(nanos);
        outside.push(monotonic_nanos() - began);
        let _ = take(&cell, guest::FOUND);
        waking.push(monotonic_nanos() - began);
    }
    let count_of = |counter| cell.status.load_u64(counter);
    println!(
        "{:?}, {} pages put back in {count} resets",
        shape.restoring,
        count_of(status::PAGES_PUT_BACK)
    );
    print("request read to guest ready to run", &mut inside);
    print("request to reply, for the node", &mut outside);
    print("request to guest running", &mut waking);
    print("comparing all of it with the snapshot, where asked for", &mut verifying);
    let mean = |counter| count_of(counter) / count / 1000;
    println!(
        "  means: until the vCPU stood still {} us, pages {} us, registers {} us",
        mean(status::RESET_STOP_NANOS),
        mean(status::RESET_PAGES_NANOS),
        mean(status::RESET_REGISTERS_NANOS),
    );
}

fn print(name: &str, nanos: &mut [u64]) {
    nanos.sort_unstable();
    let at = |share: usize| nanos.get(nanos.len() * share / 1000).map_or(0, |it| it / 1000);
    println!("  {name}: p50 {} us, p99 {} us, p99.9 {} us", at(500), at(990), at(999));
}

/// Waits until a word of the region is not zero, and takes it.
fn take(cell: &Cell, offset: u32) -> u64 {
    let limit = monotonic_nanos() + 10_000_000_000;
    loop {
        let value = cell.region.load_u64(offset);
        if value != 0 {
            cell.region.store_u64(offset, 0);
            return value;
        }
        assert!(monotonic_nanos() < limit, "the guest answers");
        std::thread::yield_now();
    }
}
