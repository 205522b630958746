//! A warm invoke allocates nothing on its shard's thread and costs it one `recv` that finds
//! something and one `send`. Needs KVM.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::alloc::System;
use std::fs;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use pilotlight::client::Client;
use serde_json::Value;
use tracking_allocator::{AllocationGroupId, AllocationRegistry, AllocationTracker, Allocator};

use self::support::node::{TestNode, run, stream_package, wait_for_status};

#[global_allocator]
static ALLOCATOR: Allocator<System> = Allocator::system();

/// The kernel's number of the thread that is watched, and what it has allocated.
static WATCHED: AtomicI32 = AtomicI32::new(0);
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

struct Watch;

impl AllocationTracker for Watch {
    fn allocated(&self, _: usize, _: usize, _: usize, _: AllocationGroupId) {
        let thread = rustix::thread::gettid().as_raw_nonzero().get();
        // Relaxed: counts, read when the shard has answered.
        if thread == WATCHED.load(Ordering::Relaxed) {
            ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn deallocated(
        &self,
        _: usize,
        _: usize,
        _: usize,
        _: AllocationGroupId,
        _: AllocationGroupId,
    ) {
    }
}

fn allocations() -> u64 {
    ALLOCATIONS.load(Ordering::Relaxed)
}

/// Watches the thread of this process whose name starts so; the runtime adds a number.
fn watch(name: &str) {
    let threads = fs::read_dir("/proc/self/task").unwrap().map(|entry| entry.unwrap());
    let thread = threads
        .filter(|entry| fs::read_to_string(entry.path().join("comm")).unwrap().starts_with(name))
        .map(|entry| entry.file_name().to_str().unwrap().parse().unwrap())
        .next();
    WATCHED.store(thread.expect("a node has that thread"), Ordering::Relaxed);
}

const INVOKES: u64 = 10_000;
/// What a busy host may spoil: a shard that is not run for so long sleeps.
const TRIES: u32 = 5;

/// How much a counter has grown, for a client that asked for both statuses itself.
fn grown(before: &Value, after: &Value, counter: &str) -> u64 {
    let count = |status: &Value| status["counters"][counter].as_u64().unwrap();
    count(after) - count(before)
}

fn invokes(client: &mut Client, count: u64) {
    let request = [7; 1024];
    for _ in 0..count {
        assert_eq!(run(client, "ada", "echo", &request).response, request);
    }
}

/// Invokes during which the shard only polled: status before and after, and what it allocated.
fn polled(client: &mut Client) -> (Value, Value, u64) {
    for _ in 0..TRIES {
        let before = client.status().unwrap();
        // The answer is sent after the status is made; what follows it is counted.
        invokes(client, 1);
        let start = allocations();
        invokes(client, INVOKES - 1);
        let allocated = allocations() - start;
        let after = client.status().unwrap();
        // A VM that takes the place of the one that was given away is no part of an invoke.
        let events = ["sleeps", "step_asides", "restores"];
        let events = events.map(|counter| grown(&before, &after, counter));
        if events == [0, 0, 0] {
            return (before, after, allocated);
        }
        eprintln!("not only polled: [sleeps, step asides, restores] {events:?}");
    }
    panic!("this host does not let a shard poll for {INVOKES} invokes");
}

#[test]
fn ten_thousand_warm_invokes_allocate_nothing_and_cost_two_calls_each() {
    AllocationRegistry::set_global_tracker(Watch).unwrap();
    // The shard is to poll however slow the machine's other work makes the client.
    let node = TestNode::with(|config| config.vm.shard_poll_micros = 1_000_000);
    let mut client = node.warm_client();
    watch("shard-0");
    AllocationRegistry::enable_tracking();
    client.deploy(("ada", "echo"), &stream_package("echo-stream", &[])).unwrap();
    assert!(allocations() > 0, "a deploy is taken in piece by piece: the count works");
    invokes(&mut client, 1_000);
    wait_for_status(&mut client, "no VM on its way", |status| status["pools"]["starting"] == 0);

    let (before, after, allocated) = polled(&mut client);
    assert_eq!(allocated, 0, "allocations of the shard's thread in {INVOKES} warm invokes");
    assert_eq!(grown(&before, &after, "invokes"), INVOKES);
    // One each, and one for the status.
    assert_eq!(grown(&before, &after, "receives"), INVOKES + 1);
    assert_eq!(grown(&before, &after, "sends"), INVOKES + 1);
    let empty = grown(&before, &after, "receives_empty");
    eprintln!("{:.1} receives that found nothing per invoke", empty as f64 / INVOKES as f64);

    let start = allocations();
    client.deploy(("ada", "other"), &stream_package("count-stream", &[])).unwrap();
    assert!(allocations() > start, "and it still does");
}
