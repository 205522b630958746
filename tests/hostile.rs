//! Promise: whatever programs, clients and guest kernels do, there is a clear answer, others are served
//! meanwhile, and afterwards the node holds no more than before. Needs KVM and Debian's rsyslog.
//!
//! `ROUNDS` is how often everything is done again (1), `MIB` how much one program logs (16).

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use pilotlight::client::{Client, Completed, Package};
use pilotlight::invoke::Status;
use pilotlight::socket::request::{Invoke, OPTION_SETTLE_LOGS};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use self::support::held::Held;
use self::support::node::{
    assert_success, invoke, package, refusal, run, stream_package, text, wait_for_status,
    wait_until,
};
use self::support::programs::program;
use self::support::rsyslog::Rsyslog;
use self::support::served::Served;
use self::support::service::Service;

/// VMs that are idle go soon, so that what is left can be counted.
const CONFIG: &str = "[pools]\nidle_expiry_seconds = 1\nwarm_target = 2\nwarm_min = 2\n\
    [snapshots]\ncount_max = 0\n";

fn number(name: &str, default: u32) -> u32 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// Another user's client that asks without pause and is to be answered each time.
struct Bystander {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicU64>,
    /// The VM it was served in last.
    vm: Arc<Mutex<String>>,
    thread: Option<JoinHandle<()>>,
}

impl Bystander {
    fn start(node: &Served) -> Self {
        let mut client = node.client();
        client.deploy(("bob", "echo"), &stream_package("echo-stream", &[])).unwrap();
        let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let vm = Arc::new(Mutex::new(String::new()));
        let (ends, counts, place) = (Arc::clone(&stop), Arc::clone(&served), Arc::clone(&vm));
        let thread = std::thread::spawn(move || {
            // Relaxed: nothing else hangs on either.
            while !ends.load(Ordering::Relaxed) {
                let body = counts.load(Ordering::Relaxed).to_le_bytes();
                let done = client.invoke(&invoke("bob", "echo", &body)).unwrap();
                assert_success(&done);
                assert_eq!(done.response, body);
                *place.lock().unwrap() = done.outcome.vm.to_string();
                counts.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        Self { stop, served, vm, thread: Some(thread) }
    }

    fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }

    /// Ends it; what it met in vain is a failure here.
    fn end(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
        self.served()
    }
}

/// A program of mallory's, what it is sent, and what is to become of it.
struct Trick {
    name: &'static str,
    package: Package,
    body: Vec<u8>,
    is_expected: fn(&Completed) -> bool,
}

fn shell(script: &str) -> Package {
    package("busybox", &["sh", "-c", script])
}

fn limited(mut package: Package, millis: u64) -> Package {
    package.settings.timeout_millis = millis;
    package
}

fn tricks(port: u16) -> Vec<Trick> {
    let trick = |name, package, body: &[u8], is_expected| Trick {
        name,
        package,
        body: body.to_owned(),
        is_expected,
    };
    let ended: fn(&Completed) -> bool = |done| done.outcome.status == Status::Exited;
    let overdue: fn(&Completed) -> bool = |done| done.outcome.status == Status::DeadlineExceeded;
    let elsewhere = format!("127.0.0.1:{port}\n169.254.169.254:80\n10.0.0.1:22\n");
    vec![
        trick("threads", package("hoard", &["threads"]), b"", ended),
        trick(
            "fork",
            limited(shell("b() { b | b & }; b; while :; do :; done"), 300),
            b"",
            |done| {
                // Whether the shell gives up when it cannot fork, or goes on until its time is up.
                matches!(done.outcome.status, Status::Exited | Status::DeadlineExceeded)
            },
        ),
        trick("memory", package("faults", &["memory"]), b"", |done| {
            done.outcome.status == Status::MemoryExhausted || done.outcome.detail != 0
        }),
        trick("elsewhere", package("net-probe", &[]), elsewhere.as_bytes(), |done| {
            done.outcome.status == Status::Exited && !text(done).contains("connected")
        }),
        trick("deaf", package("busybox", &["sleep", "0.1"]), &vec![7; 5 << 20], ended),
        trick("mute", shell("exec >&- 2>&-; echo nobody hears this; exit 0"), b"", |done| {
            done.outcome.status == Status::Exited && done.response.is_empty()
        }),
        trick(
            "stubborn",
            limited(shell("trap '' TERM INT; while :; do :; done"), 200),
            b"",
            overdue,
        ),
        trick("crash", package("faults", &["segv"]), b"", |done| {
            done.outcome.status == Status::Signalled
        }),
        trick("deep", package("faults", &["stack"]), b"", |done| {
            matches!(done.outcome.status, Status::StackOverflow | Status::Signalled)
        }),
        trick("privileged", package("faults", &["privileged"]), b"", |done| {
            done.outcome.status == Status::Signalled
        }),
    ]
}

/// Bytes that are no request: what the node says before it closes, if anything.
fn send_nonsense(node: &Served, bytes: &[u8], hangs_up: bool) {
    let mut stream = UnixStream::connect(node.socket()).unwrap();
    // The node may close while it is still being written to.
    let _ = stream.write_all(bytes);
    if hangs_up {
        return;
    }
    let _ = stream.shutdown(Shutdown::Write);
    let mut said = Vec::new();
    // It ends: the node does not wait for more of what will not come.
    let _ = stream.read_to_end(&mut said);
}

fn nonsense(node: &Served, round: u32) {
    let mut bytes: Vec<u8> = (0..4096_u32)
        .map(|at| (at.wrapping_mul(2_654_435_761).wrapping_add(round) >> 11).to_le_bytes()[0])
        .collect();
    send_nonsense(node, &bytes, false);
    send_nonsense(node, &bytes[..7], false);
    send_nonsense(node, &bytes[..7], true);
    // A frame that says it is as long as can be.
    bytes[..4].copy_from_slice(&u32::MAX.to_le_bytes());
    send_nonsense(node, &bytes, false);
}

/// An invoke whose VM is killed under it.
fn kill_a_vm(node: &Served, client: &mut Client, bystander: &Bystander) {
    let id = client.submit_open(&invoke("mallory", "cat", b"begun\n")).unwrap();
    let is_victim =
        |vm: &&Value| vm["state"] == "invoking" && vm["vm"] != *bystander.vm.lock().unwrap();
    let victim = |status: &Value| status["vms"].as_array().unwrap().iter().find(is_victim).cloned();
    // Its own connection hears of the invoke only.
    let mut watcher = node.client();
    let status = wait_for_status(&mut watcher, "it to run", |status| victim(status).is_some());
    let pid = i32::try_from(victim(&status).unwrap()["pid"].as_u64().unwrap()).unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    let (code, message) = refusal(client.complete(id));
    assert!(code == "vm-lost" || code == "vm-gone", "{code}: {message}");
}

#[test]
fn whatever_they_do_others_are_served_and_nothing_is_left_behind() {
    let rounds = number("ROUNDS", 1);
    let node = Served::configured(CONFIG);
    let outside = TcpListener::bind("127.0.0.1:0").unwrap();
    outside.set_nonblocking(true).unwrap();
    let mut client = node.client();
    let tricks = tricks(outside.local_addr().unwrap().port());
    for trick in &tricks {
        client.deploy(("mallory", trick.name), &trick.package).unwrap();
    }
    let mib = number("MIB", 16).to_string();
    client.deploy(("mallory", "gush"), &package("gush", &[&mib])).unwrap();
    client.deploy(("mallory", "cat"), &package("busybox", &["cat"])).unwrap();
    let rsyslog = Rsyslog::tcp();
    let service = Service::of_tcp(&rsyslog);
    let bystander = Bystander::start(&node);
    let mut before = None;
    for round in 0..=rounds {
        for Trick { name, body, is_expected, .. } in &tricks {
            let served = bystander.served();
            match client.invoke(&invoke("mallory", name, body)) {
                Ok(done) => {
                    assert!(is_expected(&done), "{name}: {:?} {}", done.outcome, text(&done))
                }
                // On PVM kernel and program share a privilege level: the VM is the wall, and it ends.
                Err(error) if *name == "privileged" => assert_eq!(error.code(), "vm-gone"),
                Err(error) => panic!("{name}: {error}"),
            }
            wait_for_status(&mut client, "the bystander to be served", |_| {
                bystander.served() > served
            });
        }
        let mut storage = Vec::new();
        let logging = Some(service.logging(&mut storage));
        let options = OPTION_SETTLE_LOGS;
        let asked = Invoke { logging, options, ..invoke("mallory", "gush", b"") };
        let account = client.invoke(&asked).unwrap().outcome.log;
        assert_eq!(account.produced, account.handed_over + account.dropped, "{account:?}");
        nonsense(&node, round);
        kill_a_vm(&node, &mut client, &bystander);
        assert!(outside.accept().is_err(), "nobody came out");
        if round == 0 {
            // The first round makes what is made once.
            before = Some(Held::at_rest(&node, 1));
        }
    }
    let after = Held::at_rest(&node, 1);
    eprintln!("{rounds} rounds; {} served", bystander.end());
    after.is_no_more_than(before.unwrap());
}

/// What `tests/programs/hostile-guest` knows to do, in the order of its numbers.
const ATTACKS: [&str; 10] = [
    "noise",
    "indices",
    "descriptors",
    "frames",
    "lies",
    "bells",
    "last words",
    "deadlines",
    "ports",
    "silence",
];

#[test]
fn a_guest_kernel_that_turns_on_its_node_loses_its_vm_and_nobody_else_notices() {
    let rounds = number("ROUNDS", 1);
    let kernel = program("hostile-guest");
    let node = Served::configured(&format!("{CONFIG}[paths]\nkernel = {kernel:?}\n"));
    let mut client = node.client();
    let cat = limited(package("busybox", &["cat"]), 400);
    client.deploy(("mallory", "cat"), &cat).unwrap();
    let bystander = Bystander::start(&node);
    // What is made once, for a first time.
    run(&mut client, "mallory", "cat", b"to begin with");
    let before = Held::at_rest(&node, 1);
    for round in 0..rounds {
        for (kind, name) in (0_u8..).zip(ATTACKS) {
            let served = bystander.served();
            let body = [&b"hostile!"[..], &[kind], &u64::from(round + 1).to_le_bytes()].concat();
            let id = client.submit_open(&invoke("mallory", "cat", &body)).unwrap();
            // What it says of its own invoke is its own affair, true or not, if it says anything.
            let answer = match client.complete(id) {
                Ok(done) => {
                    assert!(
                        done.response != body,
                        "{name}: it serves as if nothing had been asked"
                    );
                    format!("{:?}", done.outcome.status)
                }
                Err(error) => {
                    let expected = ["vm-gone", "vm-unresponsive"];
                    assert!(expected.contains(&error.code()), "{name}: {error}");
                    error.to_string()
                }
            };
            eprintln!("round {round}, {name}: {answer}");
            wait_for_status(&mut client, "the bystander to be served", |_| {
                bystander.served() > served
            });
            // Its VM goes, at the latest when it does not answer again: the next one is as it should be.
            let asked = invoke("mallory", "cat", b"well then");
            wait_until("mallory to be served again", || {
                client.invoke(&asked).is_ok_and(|done| done.response == b"well then")
            });
        }
    }
    let after = Held::at_rest(&node, 1);
    eprintln!("{rounds} rounds; {} served", bystander.end());
    after.is_no_more_than(before);
}
