//! Promise: whatever programs, clients and guest kernels do, there is a clear answer, others are served
//! meanwhile, and afterwards the node holds no more than before. Needs KVM and Debian's rsyslog.
//!
//! `ROUNDS` is how often everything is done again (1), `MIB` how much one program logs (16). From
//! [`LONG`] rounds on the time is told apart from noise: the pools are back within [`REFILL`].

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
use pilotlight::socket::settings::PackageForm;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use self::support::bad_service::BadServices;
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
/// Nobody tries long to reach a logging service that is none.
const CONFIG: &str = "[pools]\nidle_expiry_seconds = 1\nwarm_target = 2\nwarm_min = 2\n\
    [snapshots]\ncount_max = 0\n\
    [log]\nconnect_timeout_millis = 200\nlinger_seconds = 1\n";

const REFILL: Duration = Duration::from_secs(2);
const LONG: u32 = 100;

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

/// A file that is no program, and what whoever deploys or invokes it is told.
struct Broken {
    package: Package,
    code: &'static str,
    /// Part of the text. Where the node takes it for a program, the guest says this of the invoke.
    reason: &'static str,
}

/// Where a program header has these fields, all of 8 bytes.
const HEADER_ADDRESS: usize = 16;
const HEADER_MEMORY_BYTES: usize = 40;

fn broken_programs() -> Vec<Broken> {
    let whole = package("noop", &[]);
    let broken = |code, reason, change: &dyn Fn(&mut Vec<u8>)| {
        let mut package = whole.clone();
        change(&mut package.bytes);
        Broken { package, code, reason }
    };
    // Its segments follow one another; the second begins where the first does.
    let headers: Vec<usize> = (0..usize::from(whole.bytes[56])).map(|at| 64 + 56 * at).collect();
    let is_load = |at: &&usize| whole.bytes[**at..**at + 4] == 1_u32.to_le_bytes();
    let loads: Vec<usize> = headers.iter().filter(is_load).copied().collect();
    let put = |bytes: &mut Vec<u8>, at: usize, value: u64| {
        bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    };
    let first = loads[0] + HEADER_ADDRESS;
    let first = u64::from_le_bytes(whole.bytes[first..first + 8].try_into().unwrap());
    let dynamic = std::fs::read("/bin/true").unwrap();
    let mut tar = broken("bad-package", "archive", &|bytes| bytes.truncate(1000));
    tar.package.settings.package = PackageForm::Tar;
    vec![
        broken("bad-package", "cut short", &|bytes| bytes.truncate(100)),
        broken("not-executable", "cut short", &|bytes| bytes.truncate(bytes.len() / 4)),
        broken("bad-package", "64-bit", &|bytes| bytes[4] = 1),
        broken("bad-package", "ELF", &|bytes| bytes.fill(b'?')),
        broken("script", "interpreter", &|bytes| *bytes = b"#!/bin/sh\n".to_vec()),
        broken("dynamic-program", "-static", &|bytes| bytes.clone_from(&dynamic)),
        broken("not-executable", "overlap", &|bytes| put(bytes, loads[1] + HEADER_ADDRESS, first)),
        broken("not-executable", "outside", &|bytes| {
            put(bytes, loads[1] + HEADER_MEMORY_BYTES, u64::MAX);
        }),
        tar,
    ]
}

fn refuse_what_is_broken(client: &mut Client, programs: &[Broken]) {
    for Broken { package, code, reason } in programs {
        match client.deploy(("mallory", "broken"), package) {
            Err(error) => {
                assert_eq!(error.code(), *code, "{error}");
                assert!(error.to_string().contains(reason), "{error}");
            }
            Ok(_) => {
                let done = client.invoke(&invoke("mallory", "broken", b"")).unwrap();
                assert_eq!(done.outcome.status, Status::NotExecutable, "{code}, {reason}");
                assert!(done.outcome.reason.contains(reason), "{}", done.outcome.reason);
                assert_eq!(*code, "not-executable", "{reason}");
                client.remove("mallory", "broken").unwrap();
            }
        }
    }
    for (user, function) in [("mallory", "broken"), ("nobody-knows", "echo")] {
        let (code, message) = refusal(client.invoke(&invoke(user, function, b"")));
        assert_eq!(code, "unknown-function", "{message}");
    }
}

/// A program that logs, for each service that takes none of it. Returns how many records that were.
fn log_in_vain(client: &mut Client, bad: &BadServices) -> u64 {
    let mut records = 0;
    for (name, service) in &bad.services {
        let mut storage = Vec::new();
        let logging = Some(service.logging(&mut storage));
        // Nobody waits for what becomes of the log.
        let asked = Invoke { logging, options: 0, ..invoke("mallory", "lines", b"") };
        let done = client.invoke(&asked).unwrap();
        assert_success(&done);
        let account = done.outcome.log;
        assert_eq!((account.produced, account.handed_over), (3, 0), "{name}: {account:?}");
        records += account.produced;
    }
    records
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

/// As many VMs are warm as are to be, soon: after many rounds within [`REFILL`].
fn assert_refilled(client: &mut Client, rounds: u32) {
    let mut took = Duration::ZERO;
    wait_until("the pool to be full", || {
        let is_full = client.status().unwrap()["pools"]["warm"].as_u64().unwrap() >= 2;
        if !is_full {
            took += REFILL / 100;
            std::thread::sleep(REFILL / 100);
        }
        is_full
    });
    eprintln!("the pool was full after {} ms", took.as_millis());
    assert!(rounds < LONG || took <= REFILL, "{took:?}");
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
    client.deploy(("mallory", "lines"), &package("log-lines", &["3"])).unwrap();
    let (broken, bad_services) = (broken_programs(), BadServices::start());
    let mut in_vain = 0;
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
        in_vain += log_in_vain(&mut client, &bad_services);
        refuse_what_is_broken(&mut client, &broken);
        nonsense(&node, round);
        kill_a_vm(&node, &mut client, &bystander);
        assert!(outside.accept().is_err(), "nobody came out");
        if round == 0 {
            // The first round makes what is made once.
            before = Some(Held::at_rest(&node, 1));
        }
    }
    assert_refilled(&mut client, rounds);
    let after = Held::at_rest(&node, 1);
    wait_for_status(&mut client, "what went nowhere to be counted as dropped", |status| {
        status["counters"]["log_dropped"].as_u64().unwrap() >= in_vain
    });
    eprintln!("{rounds} rounds; {} served; {in_vain} records in vain", bystander.end());
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
    assert_refilled(&mut client, rounds);
    let after = Held::at_rest(&node, 1);
    eprintln!("{rounds} rounds; {} served", bystander.end());
    after.is_no_more_than(before);
}
