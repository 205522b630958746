//! Contract `program`, freshness `reuse`: one process serves request after request, put back
//! between them to where it first looked outside itself. Nothing of a request is left for the next
//! one, however it ended. Needs KVM.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::collections::HashSet;

use pilotlight::client::{Client, Completed};
use pilotlight::invoke::Status;

use self::support::node::{TestNode, assert_success, invoke, package, run, text};

/// Signals as `detail` has them.
const SIGNAL_ABORT: u32 = 6;
const SIGNAL_FAULT: u32 = 11;

/// What `residue` says in its first line: its number, the request's id, and what it found.
fn parts(done: &Completed) -> (u32, String, String) {
    let said = text(done);
    let line = said.lines().next().unwrap_or_default();
    let mut words = line.splitn(3, ' ');
    let pid = words.next().and_then(|word| word.parse().ok());
    let id = words.next().unwrap_or_default().to_owned();
    (pid.unwrap_or_else(|| panic!("{line:?}: {:?}", done.outcome)), id, words.collect())
}

/// Runs `residue` and ends it like this; it has to find nothing.
fn plant(client: &mut Client, function: &str, mode: &str) -> (u32, String, Completed) {
    let done = client.invoke(&invoke("ada", function, mode.as_bytes())).unwrap();
    let (pid, id, found) = parts(&done);
    assert_eq!(found, "", "found of requests before one that was to {mode:?}");
    (pid, id, done)
}

#[test]
fn nothing_a_request_leaves_is_found_by_the_next() {
    for program in ["residue", "residue-glibc", "residue-pie"] {
        let node = TestNode::new();
        let mut client = node.client();
        client.deploy(("ada", "residue"), &package(program, &[])).unwrap();
        let mut pids = HashSet::new();
        let mut ids = HashSet::new();
        for _ in 0..50 {
            let (pid, id, done) = plant(&mut client, "residue", "exit");
            assert_success(&done);
            pids.insert(pid);
            assert!(id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
            assert!(ids.insert(id), "each request has its own id");
        }
        // The first request runs in a process of its own.
        assert_eq!(pids.len(), 2, "{program} was rewound, not started again");
    }
}

#[test]
fn however_a_request_ends_the_next_one_is_clean() {
    let node = TestNode::new();
    let mut client = node.client();
    let mut slow = package("residue", &[]);
    slow.settings.timeout_millis = 300;
    client.deploy(("ada", "residue"), &slow).unwrap();
    let mut pids = HashSet::new();
    let endings = [
        ("crash", Status::Signalled, SIGNAL_FAULT),
        ("abort", Status::Signalled, SIGNAL_ABORT),
        ("hang", Status::DeadlineExceeded, 0),
        ("threads", Status::Exited, 0),
        ("large", Status::Exited, 0),
        ("closed", Status::Exited, 0),
        ("status", Status::Exited, 3),
        ("much", Status::Exited, 0),
    ];
    for round in 0..3 {
        for (mode, status, detail) in endings {
            let (pid, _, done) = plant(&mut client, "residue", mode);
            let outcome = &done.outcome;
            assert_eq!((outcome.status, outcome.detail), (status, detail), "{mode}: {outcome:?}");
            let bytes = if mode == "large" { 300 * 8192 } else { 0 };
            let line = text(&done).find('\n').map(|end| end + 1);
            let rest = done.response.len() - line.unwrap();
            assert_eq!(rest, bytes, "{mode}, round {round}");
            pids.insert(pid);
        }
    }
    // The first request runs in a process of its own; that of all others is rewound.
    assert_eq!(pids.len(), 2, "no ending needed another process");
}

#[test]
fn random_bytes_differ_and_clocks_go_on_in_a_process_that_is_rewound() {
    let node = TestNode::new();
    let mut client = node.client();
    client.deploy(("ada", "fresh"), &package("fresh", &[])).unwrap();
    let mut seen = HashSet::new();
    let mut before = 0_u64;
    for _ in 0..20 {
        let said = text(&run(&mut client, "ada", "fresh", b""));
        let value = |name: &str| {
            let mut lines = said.lines().filter_map(|line| line.split_once('='));
            lines.find(|(found, _)| *found == name).unwrap().1.to_owned()
        };
        for name in ["getrandom", "urandom", "realtime", "monotonic"] {
            assert!(seen.insert(value(name)), "{name} twice: {said}");
        }
        let now: u64 = value("monotonic").parse().unwrap();
        assert!(now > before, "monotonic time went back");
        before = now;
    }
}
