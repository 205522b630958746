//! Shared memory between a client and a node: who may ask for it and when, what a hostile client
//! can do with it (nothing to anybody else), and how either side's end ends the other's. That
//! requests work there is tests/over_shared_memory.rs. Needs KVM.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use abi::ring::Memory;
use pilotlight::client::{Client, ClientError};
use pilotlight::socket::answer::{Answer, Attached};
use pilotlight::socket::frame::Header;
use pilotlight::socket::request::{Hello, Invoke, Request};
use region::Region;
use rustix::fs::{SealFlags, fcntl_add_seals, ftruncate};

use self::support::node::{
    PATIENCE, TestNode, assert_success, invoke, package, run, stream_package, wait_for_status,
};

const ASLEEP: Duration = Duration::ZERO;

/// A client that speaks the protocol by hand.
struct Raw {
    stream: UnixStream,
}

impl Raw {
    fn connect(socket: &Path, version_max: u16) -> Self {
        let mut raw = Self { stream: UnixStream::connect(socket).unwrap() };
        let mut hello = Vec::new();
        Hello { version_min: 1, version_max }.append(&mut hello).unwrap();
        raw.stream.write_all(&hello).unwrap();
        raw.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let (frame, _) = raw.frame().unwrap();
        let Answer::Hello(hello) = decode(&frame) else { panic!("{frame:?}") };
        assert_eq!(hello.version, version_max);
        raw
    }

    fn send(&mut self, requests: &[(u64, Request<'_>)]) {
        let mut bytes = Vec::new();
        for (id, request) in requests {
            request.append(&mut bytes, *id, false).unwrap();
        }
        self.stream.write_all(&bytes).unwrap();
    }

    /// The next frame and what descriptors came with it; nothing at the end.
    fn frame(&mut self) -> Option<(Vec<u8>, Vec<OwnedFd>)> {
        let mut frame = vec![0; Header::BYTES];
        let received = region::message::receive(&self.stream, &mut frame).unwrap();
        if received.length == 0 {
            return None;
        }
        self.stream.read_exact(&mut frame[received.length..]).unwrap();
        let header = Header::decode(&frame).unwrap().unwrap();
        frame.resize(Header::BYTES + header.length, 0);
        self.stream.read_exact(&mut frame[Header::BYTES..]).unwrap();
        Some((frame, received.descriptors))
    }

    /// Goes on in shared memory.
    fn attach(&mut self) -> (Attached, OwnedFd) {
        self.send(&[(1, Request::Attach)]);
        let (frame, mut descriptors) = self.frame().unwrap();
        let Answer::Attached(attached) = decode(&frame) else { panic!("{frame:?}") };
        assert_eq!(descriptors.len(), 1);
        (attached, descriptors.pop().unwrap())
    }

    /// Code of the error the node sends next, and whether it closes the connection then.
    fn refusal(&mut self) -> (u64, String, bool) {
        let (frame, _) = self.frame().unwrap();
        let Answer::Error { code, .. } = decode(&frame) else { panic!("{frame:?}") };
        let (id, code) = (Header::decode(&frame).unwrap().unwrap().id, code.to_owned());
        let is_over = id == 0 && self.frame().is_none();
        (id, code, is_over)
    }

    /// Rings, and waits until the node closes the connection.
    fn await_end(&mut self) {
        // It may have been found out before.
        let _ = self.stream.write_all(&[0]);
        let mut bytes = [0; 64];
        while self.stream.read(&mut bytes).is_ok_and(|count| count > 0) {}
    }
}

fn decode(frame: &[u8]) -> Answer<'_> {
    let header = Header::decode(frame).unwrap().unwrap();
    Answer::decode(header, &frame[Header::BYTES..]).unwrap()
}

#[test]
fn who_asks_at_the_wrong_time_is_told_so_and_old_clients_notice_nothing() {
    let mut node = TestNode::with(|config| config.requests.shared_connections_max = 1);
    let socket = node.listen();
    let mut old = Raw::connect(&socket, 1);
    old.send(&[(1, Request::Status)]);
    assert!(matches!(decode(&old.frame().unwrap().0), Answer::Reply(_)));
    old.send(&[(2, Request::Attach)]);
    assert_eq!(old.refusal(), (0, "malformed-frame".to_owned(), true));

    let mut client = node.socket_client();
    client.deploy(("ada", "wait"), &package("faults", &["sleep"])).unwrap();
    let mut early = Raw::connect(&socket, 2);
    let wait = Invoke { user: "ada", ..Invoke::new("wait", b"") };
    early.send(&[(1, Request::Invoke(wait)), (2, Request::Attach)]);
    assert_eq!(early.refusal(), (2, "bad-request".to_owned(), false));

    let mut hasty = Raw::connect(&socket, 2);
    hasty.send(&[(1, Request::Attach), (2, Request::Status)]);
    assert!(matches!(decode(&hasty.frame().unwrap().0), Answer::Attached(_)));
    hasty.await_end();

    let poll = Duration::from_micros(20);
    let first = Client::connect_shared(&socket, poll).unwrap();
    let mut second = Client::connect(&socket).unwrap();
    assert_eq!(second.attach(poll).unwrap_err().code(), "busy");
    second.status().expect("it goes on over its socket");
    drop(first);
    // Its memory is free again once the node has heard of its end.
    support::node::wait_until("room for another", || second.attach(poll).is_ok());
    assert!(second.status().is_ok() && second.attach(poll).is_err(), "once is enough");
}

#[test]
fn the_memory_keeps_its_size_whatever_the_client_tries() {
    let mut node = TestNode::new();
    let socket = node.listen();
    let (attached, memfd) = Raw::connect(&socket, 2).attach();
    for bytes in [0, 4096, u64::from(attached.bytes) - 1, u64::from(attached.bytes) + 4096] {
        assert!(ftruncate(&memfd, bytes).is_err(), "{bytes}");
    }
    assert!(fcntl_add_seals(&memfd, SealFlags::WRITE).is_err());
    assert!(fcntl_add_seals(&memfd, SealFlags::FUTURE_WRITE).is_err());
}

/// A number that looks random, the same in every run.
fn scramble(seed: u64) -> u64 {
    let mixed = (seed ^ seed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb)
}

/// What a client does to the rings' memory.
fn spoil(memory: &Region, attached: Attached, seed: u64) {
    let slots = u32::from(attached.slots);
    let (available, used) = (16 * slots, (18 * slots + 6).next_multiple_of(4));
    let to_client = attached.bytes / 2;
    match seed % 6 {
        // An index far ahead, in either ring.
        0 => memory.store_u16_release(available + 2, 0x7fff),
        1 => memory.store_u16_release(to_client + used + 2, 0x7fff),
        // A descriptor outside, and one that is too long.
        2 | 3 => {
            memory.store_u64(0, if seed % 6 == 2 { u64::MAX - 7 } else { 0 });
            memory.store_u32(8, 0xffff_fff8);
            memory.store_u16_release(available + 2, 1);
        }
        // Bytes that are no frame.
        4 => {
            memory.store_u64(0, u64::from(attached.bytes / 2 - slots * attached.slot_bytes));
            memory.store_u32(8, 64);
            memory.write(attached.bytes / 2 - slots * attached.slot_bytes, &[0xff; 64]);
            memory.store_u16_release(available + 2, 1);
        }
        // Anything anywhere, again and again.
        _ => {
            for step in 0..20_000 {
                let random = scramble(seed * 1_000_003 + step);
                let offset = u32::try_from(random >> 32).unwrap() % (attached.bytes / 8) * 8;
                let near = if random & 1 == 0 { offset % 4096 } else { offset };
                let start = if random & 2 == 0 || near >= 4096 { 0 } else { to_client };
                memory.store_u64(start + near, scramble(random));
            }
        }
    }
}

#[test]
fn a_hostile_client_is_closed_and_nobody_else_notices() {
    let mut node = TestNode::new();
    let socket = node.listen();
    let mut good = Client::connect_shared(&socket, ASLEEP).unwrap();
    good.deploy(("root", "echo"), &stream_package("echo-stream", &[])).unwrap();
    let first = run(&mut good, "root", "echo", b"first");
    for seed in 0..120 {
        let mut hostile = Raw::connect(&socket, 2);
        let (attached, memfd) = hostile.attach();
        let memory = Region::map(&memfd, attached.bytes, 0).unwrap();
        if seed % 6 == 1 {
            // Has the node put something into the ring it then spoils.
            spoil(&memory, attached, seed);
            spoil(&memory, attached, 4);
        } else {
            spoil(&memory, attached, seed);
        }
        hostile.await_end();
        let body = seed.to_le_bytes();
        let done = run(&mut good, "root", "echo", &body);
        assert_eq!((done.response.as_slice(), done.outcome.vm), (&body[..], first.outcome.vm));
    }
    let status = good.status().unwrap();
    assert_eq!(status["counters"]["guest_faults"], 0, "{status:#}");
    assert_eq!(status["counters"]["attaches"], 121);
}

#[test]
fn both_sides_sleep_and_wake_each_other() {
    let mut node = TestNode::new();
    let socket = node.listen();
    let mut observer = node.socket_client();
    observer.deploy(("root", "echo"), &stream_package("echo-stream", &[])).unwrap();
    let mut client = Client::connect_shared(&socket, ASLEEP).unwrap();
    let sleeps = |status: &serde_json::Value| status["counters"]["sleeps"].as_u64().unwrap();
    let body = vec![3; 100_000];
    for _ in 0..30 {
        let before = sleeps(&observer.status().unwrap());
        wait_for_status(&mut observer, "the shard sleeps", |status| sleeps(status) > before);
        assert_eq!(run(&mut client, "root", "echo", &body).response, body);
    }
}

#[test]
fn a_client_that_dies_has_its_invokes_withdrawn() {
    let mut node = TestNode::new();
    let socket = node.listen();
    let mut observer = node.socket_client();
    observer.deploy(("root", "wait"), &package("faults", &["sleep"])).unwrap();
    for poll in [ASLEEP, PATIENCE] {
        let mut client = Client::connect_shared(&socket, poll).unwrap();
        client.submit(&invoke("root", "wait", b"")).unwrap();
        wait_for_status(&mut observer, "it runs", |status| status["pools"]["running"] == 1);
        drop(client);
        wait_for_status(&mut observer, "it ends", |status| status["pools"]["running"] == 0);
    }
}

struct Served(Child);

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_client_of_a_node_that_dies_hears_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("node.sock");
    let mut command = Command::new(env!("CARGO_BIN_EXE_pilotlight"));
    command.arg("serve").arg("--state").arg(folder.path().join("state"));
    command.arg("--socket").arg(&socket).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut served = Served(command.spawn().unwrap());
    // It says that it is ready.
    let output = served.0.stdout.as_mut().unwrap();
    output.read_exact(&mut [0; 1]).unwrap();
    let mut client = Client::connect_shared(&socket, Duration::from_micros(50)).unwrap();
    client.deploy(("root", "wait"), &package("faults", &["sleep"])).unwrap();
    client.deploy(("root", "echo"), &stream_package("echo-stream", &[])).unwrap();
    assert_success(&client.invoke(&invoke("root", "echo", b"hello")).unwrap());
    client.submit(&invoke("root", "wait", b"")).unwrap();
    served.0.kill().unwrap();
    let ended = client.receive().map(|received| format!("{received:?}"));
    assert!(matches!(ended, Err(ClientError::Closed)), "{ended:?}");
    let sent = client.submit(&invoke("root", "echo", &vec![0; 6 << 20]));
    assert!(matches!(sent, Err(ClientError::Closed)), "{sent:?}");
}
