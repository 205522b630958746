//! Boots a kernel, captures it, restores it each way and prints what its outcome ring says:
//! `drive KERNEL_ELF [ROOT_IMAGE] [RAM_MIB]`. The VMM is `VMM`, else the one built beside this.

#![expect(clippy::print_stdout, reason = "printing is what it is for")]
#![expect(dead_code, reason = "the tests use more of what is shared with them")]

#[path = "../tests/machine/cell.rs"]
mod cell;

use abi::control::{Restoring, status};
use abi::frame::Header;
use abi::layout::region as layout;
use abi::ring::{Consumer, Memory};
use cell::{Answer, Cell, Shape};
use region::clock::monotonic_nanos;
use std::path::{Path, PathBuf};
use std::time::Duration;

const SEED: [u8; 32] = [0x5a; 32];

fn main() {
    let mut arguments = std::env::args().skip(1);
    let kernel = arguments.next().expect("usage: drive KERNEL_ELF [ROOT_IMAGE] [RAM_MIB]");
    let kernel = std::fs::read(kernel).expect("a kernel");
    let kernel = region::sealed::frozen("kernel", &kernel).expect("a memfd");
    let image = arguments.next().filter(|path| path != "-");
    let image = image.map(|path| std::fs::read(path).expect("an image"));
    let mebibytes: u64 = arguments.next().map_or(128, |text| text.parse().expect("a number"));
    let shape = Shape { ram_bytes: mebibytes << 20, ..Shape::default() };
    let vmm = std::env::var_os("VMM").map_or_else(beside, PathBuf::from);

    let snapshot = region::sealed::unsealed("snapshot").expect("a memfd");
    let cell = Cell::spawn(&vmm);
    cell.region.write(layout::SEED, &SEED);
    let began = monotonic_nanos();
    cell.boot(&kernel, &snapshot, image.as_deref(), shape);
    let answer = cell.answer();
    println!("boot: {answer:?} after {} us", (monotonic_nanos() - began) / 1000);
    if !matches!(answer, Answer::Captured(_)) {
        return;
    }
    for restoring in [Restoring::Map, Restoring::Copy] {
        println!("{restoring:?}");
        for number in 1..=2 {
            restore(&vmm, &snapshot, image.as_deref(), Shape { restoring, ..shape }, number);
        }
    }
}

fn beside() -> PathBuf {
    let this = std::env::current_exe().expect("a path");
    this.parent().and_then(Path::parent).expect("a directory").join("vmm")
}

fn restore(
    vmm: &Path,
    snapshot: &std::os::fd::OwnedFd,
    image: Option<&[u8]>,
    shape: Shape,
    number: u64,
) {
    let spawned = monotonic_nanos();
    let cell = Cell::spawn(vmm);
    cell.region.write(layout::SEED, &SEED);
    cell.region.store_u64(layout::GENERATION, number);
    cell.region.store_u64(layout::VM, number);
    let mut outcome = Consumer::new(cell.region.clone(), layout::OUTCOME);
    let began = monotonic_nanos();
    cell.restore(snapshot, image, shape, number);
    println!("restore {number}: {:?}", cell.answer());
    let running = monotonic_nanos();
    let mut frame = [0; layout::OUTCOME.slot_bytes()];
    let limit = running + 2_000_000_000;
    let length = loop {
        match outcome.pop(&mut frame) {
            Ok(Some(length)) => break length,
            Ok(None) if monotonic_nanos() < limit => std::hint::spin_loop(),
            other => {
                println!("  no frame ({other:?})");
                break 0;
            }
        }
    };
    let ready = monotonic_nanos();
    println!(
        "  frame {:?}; from spawn {} us, from Start {} us, from Running {} us",
        Header::decode(&frame[..length]).map(|(header, _)| header),
        (ready - spawned) / 1000,
        (ready - began) / 1000,
        (ready - running) / 1000
    );
    std::thread::sleep(Duration::from_millis(100));
    print_memory(cell.child.id());
    for (name, counter) in [
        ("exits", status::EXITS),
        ("halts", status::EXITS_HALT),
        ("signals", status::EXITS_SIGNAL),
        ("interrupts", status::INTERRUPTS),
        ("flavour", status::FLAVOUR),
    ] {
        println!("  {name} {}", cell.status.load_u64(counter));
    }
}

/// Private memory of a process, and its largest mappings.
fn print_memory(process: u32) {
    let Ok(maps) = std::fs::read_to_string(format!("/proc/{process}/smaps")) else { return };
    let (mut total, mut name, mut size) = (0, String::new(), 0);
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let (Some(first), Some(second)) = (words.next(), words.next()) else { continue };
        if first == "Size:" {
            size = second.parse().unwrap_or(0);
        } else if first == "Anonymous:" {
            // Private pages of files are shared by every VMM and would count for the first one.
            let kib: u64 = second.parse().unwrap_or(0);
            total += kib;
            if kib > 8 {
                println!("  private {kib} KiB of {size} KiB {name}");
            }
        } else if !first.ends_with(':') {
            name = line.to_owned();
        }
    }
    println!("  private in all: {total} KiB");
}
