//! What a VM from nothing takes, on this host: `starts KERNEL_ELF [COUNT] [VMM...]`. A VMM process
//! is started, jails itself, restores the kernel's snapshot, and its guest wakes and says so; then
//! all of it ends. Several VMMs take turns, so that they can be compared; without one it is the
//! VMM built beside this (best a release build). 100 of each unless given.

#![expect(clippy::print_stdout, reason = "printing is what it is for")]
#![expect(dead_code, reason = "the tests use more of what is shared with them")]

#[path = "../tests/machine/cell.rs"]
mod cell;

use abi::control::Restoring;
use abi::layout::region as layout;
use abi::ring::{Consumer, Memory};
use cell::{Answer, Cell, Shape};
use region::clock::monotonic_nanos;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

const SEED: [u8; 32] = [0x5a; 32];
/// A user who is not root, as nodes have it.
const USER: u32 = 61_234;
/// How long a guest may take to wake: far more than one that works needs.
const PATIENCE_NANOS: u64 = 10_000_000_000;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let kernel = arguments.next().expect("usage: starts KERNEL_ELF [COUNT] [VMM...]");
    let kernel = std::fs::read(kernel).expect("a kernel");
    let kernel = region::sealed::frozen("kernel", &kernel).expect("a memfd");
    let count = arguments.next().map_or(100, |text| text.parse().expect("a number"));
    let mut vmms: Vec<_> = arguments.map(PathBuf::from).collect();
    if vmms.is_empty() {
        vmms.push(beside());
    }
    let shape = Shape { ram_bytes: 128 << 20, user: USER, ..Shape::default() };
    let mut runs: Vec<_> = vmms
        .iter()
        .flat_map(|vmm| [Restoring::Map, Restoring::Copy].map(|way| (vmm, way)))
        .map(|(vmm, restoring)| Run::new(vmm, &kernel, Shape { restoring, ..shape }))
        .collect();
    for number in 0..count {
        runs.iter_mut().for_each(|run| run.once(number + 1));
    }
    runs.iter_mut().for_each(Run::print);
}

fn beside() -> PathBuf {
    let this = std::env::current_exe().expect("a path");
    this.parent().and_then(Path::parent).expect("a directory").join("vmm")
}

/// The starts of one VMM, each way of restoring apart.
struct Run<'a> {
    vmm: &'a Path,
    snapshot: OwnedFd,
    shape: Shape,
    stages: [(&'static str, Vec<u64>); 5],
}

impl<'a> Run<'a> {
    fn new(vmm: &'a Path, kernel: &OwnedFd, shape: Shape) -> Self {
        let snapshot = region::sealed::unsealed("snapshot").expect("a memfd");
        let cell = Cell::spawn(vmm);
        cell.region.write(layout::SEED, &SEED);
        cell.boot(kernel, &snapshot, None, shape);
        let answer = cell.answer();
        assert!(matches!(answer, Answer::Captured(_)), "{answer:?}");
        let stages = [
            "process started and told",
            "told to ready to run, for the VMM",
            "started to ready to run, for the node",
            "started to guest awake",
            "killed to gone",
        ];
        Self { vmm, snapshot, shape, stages: stages.map(|stage| (stage, Vec::new())) }
    }

    fn once(&mut self, generation: u64) {
        let began = monotonic_nanos();
        let mut cell = Cell::spawn(self.vmm);
        cell.region.write(layout::SEED, &SEED);
        cell.region.store_u64(layout::GENERATION, generation);
        cell.restore(&self.snapshot, None, self.shape, generation);
        let told = monotonic_nanos();
        let answer = cell.answer();
        let running = monotonic_nanos();
        let Answer::Running(inside) = answer else { panic!("no VM: {answer:?}") };
        let outcome = Consumer::new(cell.region.clone(), layout::OUTCOME);
        while outcome.is_empty() {
            assert!(monotonic_nanos() < running + PATIENCE_NANOS, "the guest wakes");
            // Not by polling: the host's own threads work for this start, too.
            std::thread::sleep(Duration::from_micros(20));
        }
        let awake = monotonic_nanos();
        cell.child.kill().expect("it runs");
        cell.child.wait().expect("a child");
        let gone = monotonic_nanos() - awake;
        let times = [told - began, inside, running - began, awake - began, gone];
        self.stages.iter_mut().zip(times).for_each(|((_, all), nanos)| all.push(nanos));
    }

    fn print(&mut self) {
        println!("{} ({:?})", self.vmm.display(), self.shape.restoring);
        for (name, nanos) in &mut self.stages {
            nanos.sort_unstable();
            let at = |share: usize| nanos.get(nanos.len() * share / 100).map_or(0, |it| it / 1000);
            let [least, p10, p50, p90] = [0, 10, 50, 90].map(at);
            println!("  {name}: least {least} us, p10 {p10} us, p50 {p50} us, p90 {p90} us");
        }
    }
}
