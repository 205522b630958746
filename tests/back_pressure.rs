//! Many large bodies and responses at once, read slowly: the node's memory stays within its limits,
//! every answer is right, and others are served meanwhile. Needs KVM.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use pilotlight::config::BODY_BYTES_MAX;
use pilotlight::invoke::Status;
use pilotlight::socket::answer::Answer;
use pilotlight::socket::frame::{CHUNK_BYTES, Header};
use pilotlight::socket::request::{Deploy, Hello, Invoke, Request};

use self::support::node::{PATIENCE, TestNode, package, refusal, run, stream_package, wait_until};

const CLIENTS: usize = 32;
const MIB: u64 = 1 << 20;
/// What the node is told to hold at most.
const OUTPUT_BYTES: u64 = 48 * MIB;
const WAITING_BYTES: u64 = 16 * MIB;
/// What it may grow by: those, buffers of as many clients, what its VMs and this test need.
/// All bodies and responses are 384 MiB.
const GROWTH_BYTES: u64 = OUTPUT_BYTES + WAITING_BYTES + 40 * MIB;
/// Bytes each reader may read per invoke of the client that is served meanwhile.
const PACE_BYTES: usize = 4 * 1024;

fn byte(client: usize, at: usize) -> u8 {
    (client ^ at ^ at >> 8 ^ at >> 16).to_le_bytes()[0]
}

/// Most memory this process has held, bytes.
fn peak_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    let kib: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kib * 1024
}

/// Forgets the peak so far.
fn forget_peak() {
    fs::write("/proc/self/clear_refs", "5").unwrap();
}

/// Sends one invoke with its whole body, as fast as the node takes it, a piece at a time.
fn write_body(mut stream: UnixStream, client: usize) {
    let length = usize::try_from(BODY_BYTES_MAX).unwrap();
    let mut frame = Vec::new();
    let invoke = Invoke { user: "ada", ..Invoke::new("cat", b"") };
    Request::Invoke(invoke).append(&mut frame, 1, true).unwrap();
    for start in (0..length).step_by(CHUNK_BYTES) {
        let chunk: Vec<u8> = (start..start + CHUNK_BYTES).map(|at| byte(client, at)).collect();
        let has_more = start + CHUNK_BYTES < length;
        Request::Body(&chunk).append(&mut frame, 1, has_more).unwrap();
        stream.write_all(&frame).unwrap();
        frame.clear();
    }
}

/// Reads an invoke's answer no faster than `pace` allows, and checks every byte.
fn read_answer(mut stream: UnixStream, client: usize, pace: &AtomicUsize) {
    let (mut frame, mut got, mut read) = (Vec::new(), 0, 0);
    loop {
        while read > pace.load(Ordering::Relaxed) {
            std::thread::yield_now();
        }
        frame.resize(Header::BYTES, 0);
        stream.read_exact(&mut frame).unwrap();
        let header = Header::decode(&frame).unwrap().unwrap();
        frame.resize(header.length, 0);
        stream.read_exact(&mut frame).unwrap();
        read += Header::BYTES + header.length;
        let (bytes, is_last) = match Answer::decode(header, &frame).unwrap() {
            Answer::Response(bytes) => (bytes, false),
            Answer::Outcome(outcome) => {
                assert_eq!((outcome.status, outcome.detail), (Status::Exited, 0));
                (outcome.response, true)
            }
            Answer::Hello(_) => continue,
            other @ (Answer::Log(_)
            | Answer::Error { .. }
            | Answer::Reply(_)
            | Answer::Attached(_)) => panic!("{client}: {other:?}"),
        };
        for (at, found) in (got..).zip(bytes) {
            assert_eq!(*found, byte(client, at), "client {client}, byte {at}");
        }
        got += bytes.len();
        if is_last {
            assert_eq!(got as u64, BODY_BYTES_MAX);
            return;
        }
    }
}

fn connect(socket: &Path) -> UnixStream {
    let mut stream = UnixStream::connect(socket).unwrap();
    let mut hello = Vec::new();
    Hello { version_min: 1, version_max: 1 }.append(&mut hello).unwrap();
    stream.write_all(&hello).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

#[test]
fn slow_readers_cost_bounded_memory_and_hold_up_nobody_else() {
    let mut node = TestNode::with(|config| {
        config.requests.output_bytes_max = OUTPUT_BYTES;
        config.requests.waiting_bytes_max = WAITING_BYTES;
        // Some have no VM until others are done.
        (config.pools.vms_max, config.pools.warm_max) = (4, 4);
        config.pools.vms_per_user_max = 2;
        config.pools.queue_wait_millis = 60_000;
    });
    let socket = node.listen();
    let mut small = node.client();
    let mut cat = package("busybox", &["cat"]);
    cat.settings.memory_mib = 32;
    small.deploy(("ada", "cat"), &cat).unwrap();
    small.deploy(("bob", "echo"), &stream_package("echo-stream", &[])).unwrap();
    run(&mut small, "bob", "echo", b"warm");
    forget_peak();
    let before = peak_bytes();

    let pace = Arc::new(AtomicUsize::new(0));
    let is_over = Arc::new(AtomicBool::new(false));
    let mut threads = Vec::new();
    for client in 0..CLIENTS {
        let stream = connect(&socket);
        let writer = stream.try_clone().unwrap();
        threads.push(std::thread::spawn(move || write_body(writer, client)));
        let pace = Arc::clone(&pace);
        threads.push(std::thread::spawn(move || read_answer(stream, client, &pace)));
    }
    let served = {
        let (is_over, pace) = (Arc::clone(&is_over), Arc::clone(&pace));
        std::thread::spawn(move || {
            let mut served = 0;
            while !is_over.load(Ordering::Relaxed) {
                let done = run(&mut small, "bob", "echo", b"meanwhile");
                assert_eq!(done.response, b"meanwhile");
                served += 1;
                pace.fetch_add(PACE_BYTES, Ordering::Relaxed);
            }
            served
        })
    };
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    is_over.store(true, Ordering::Relaxed);
    let served: u64 = served.join().unwrap();
    // Readers were given so much each time.
    assert!(served * PACE_BYTES as u64 >= BODY_BYTES_MAX, "{served}");
    let growth = peak_bytes() - before;
    eprintln!("grew by {} MiB at most, {served} small invokes meanwhile", growth / MIB);
    assert!(growth < GROWTH_BYTES, "grew by {} MiB", growth / MIB);
}

#[test]
fn bodies_that_cannot_wait_are_answered_busy() {
    let node = TestNode::with(|config| {
        config.requests.waiting_bytes_max = 8 * MIB;
        config.pools.vms_max = 1;
        config.pools.warm_max = 1;
        config.pools.warm_target = 1;
        config.pools.containers_per_vm = 1;
        config.pools.vms_per_user_max = 1;
    });
    let mut client = node.client();
    client.deploy(("ada", "wait"), &package("faults", &["sleep"])).unwrap();
    let busy = client.submit(&support::node::invoke("ada", "wait", b"")).unwrap();
    // Its whole body waits, and another's does not fit beside it.
    let body = vec![1; 5 << 20];
    let waiting = client.submit(&support::node::invoke("ada", "wait", &body)).unwrap();
    let mut other = node.client();
    let first = vec![2; 200 * 1024];
    let mut refused = None;
    for _ in 0..40 {
        let invoke = support::node::invoke("ada", "wait", &first);
        let id = other.submit_open(&invoke).unwrap();
        if let Some(received) = other.receive_within(std::time::Duration::from_millis(20)).unwrap()
        {
            assert!(matches!(received.answer, Answer::Error { code: "busy", .. }), "{received:?}");
            refused = Some(id);
            break;
        }
    }
    assert!(refused.is_some(), "not all of them can wait");
    drop(other);
    for id in [waiting, busy] {
        client.cancel(id).unwrap();
    }
    assert_eq!(refusal(client.complete(waiting)).0, "cancelled");
}

#[test]
fn packages_that_cannot_wait_are_answered_busy() {
    let mut node = TestNode::with(|config| {
        config.requests.package_bytes_max = 4 * MIB;
        config.requests.deploy_bytes_max = 4 * MIB;
    });
    let socket = node.listen();
    let mut client = node.client();
    let mut package = package("busybox", &["true"]);
    client.deploy(("ada", "first"), &package).unwrap();
    client.deploy(("ada", "second"), &package).expect("the first one's bytes are free again");
    // One that is not complete.
    let mut hoarder = connect(&socket);
    let mut frame = Vec::new();
    let deploy =
        Deploy { user: "ada", function: "large", settings: r#"{"entry":"large"}"#, package: b"" };
    Request::Deploy(deploy).append(&mut frame, 1, true).unwrap();
    for _ in 0..(3 << 20) / CHUNK_BYTES {
        Request::Body(&[0; CHUNK_BYTES]).append(&mut frame, 1, true).unwrap();
    }
    hoarder.write_all(&frame).unwrap();
    package.bytes = vec![0; 3 << 20];
    wait_until("no room beside it", || {
        client.deploy(("ada", "large"), &package).unwrap_err().code() == "busy"
    });
    drop(hoarder);
    package.bytes.truncate(1 << 20);
    wait_until("room again", || {
        client.deploy(("ada", "large"), &package).unwrap_err().code() != "busy"
    });
}
