//! Freshness `fork`: each request gets the program as it was when it first waited for one, of
//! either contract, with threads or without. Needs KVM.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::collections::HashSet;

use pilotlight::client::{Client, Completed, Package};
use pilotlight::invoke::{Contract, Freshness, Status};

use self::support::node::{TestNode, assert_success, invoke, package, run, text};

const TIMEOUT_MILLIS: u64 = 500;

fn copied(program: &str, contract: Contract, arguments: &[&str]) -> Package {
    let mut package = package(program, arguments);
    package.settings.contract = contract;
    package.settings.freshness = Freshness::Fork;
    package
}

/// What `copied` answers: its number, what it found, and random bytes.
fn parts(done: &Completed) -> (u32, String, String) {
    let said = text(done);
    let mut words: Vec<_> = said.trim_end().split(' ').collect();
    let random = words.pop().unwrap_or_default().to_owned();
    let pid = words.first().and_then(|word| word.parse().ok());
    (pid.unwrap_or_else(|| panic!("{said:?}")), words[1..].join(" "), random)
}

#[test]
fn each_request_finds_the_program_as_it_initialised_itself() {
    for program in ["copied", "copied-glibc"] {
        let node = TestNode::new();
        let mut client = node.client();
        let forms = [
            ("stream", Contract::Stream, vec!["stream"]),
            ("stream-threads", Contract::Stream, vec!["stream", "threads"]),
            ("program", Contract::Program, vec!["program"]),
            ("program-threads", Contract::Program, vec!["program", "threads"]),
        ];
        for (name, contract, arguments) in forms {
            client.deploy(("ada", name), &copied(program, contract, &arguments)).unwrap();
            let (mut pids, mut drawn) = (HashSet::new(), HashSet::new());
            for number in 0..30 {
                let (pid, found, random) = parts(&run(&mut client, "ada", name, b"go"));
                assert_eq!(found, "-", "{program}, {name}, request {number}");
                assert!(drawn.insert(random), "two requests drew the same bytes");
                pids.insert(pid);
            }
            assert_eq!(pids.len(), 1, "{program}, {name}: copies of one process");
        }
    }
}

fn end(client: &mut Client, function: &str, mode: &str, status: Status) {
    let done = client.invoke(&invoke("ada", function, mode.as_bytes())).unwrap();
    assert_eq!(done.outcome.status, status, "{function} {mode}: {:?}", done.outcome);
}

#[test]
fn a_request_that_crashes_or_hangs_costs_the_next_one_nothing() {
    let node = TestNode::new();
    let mut client = node.client();
    for (name, contract) in [("stream", Contract::Stream), ("program", Contract::Program)] {
        let mut package = copied("copied", contract, &[name, "threads"]);
        package.settings.timeout_millis = TIMEOUT_MILLIS;
        client.deploy(("ada", name), &package).unwrap();
        for _ in 0..3 {
            end(&mut client, name, "crash", Status::Signalled);
            end(&mut client, name, "hang", Status::DeadlineExceeded);
            let done = client.invoke(&invoke("ada", name, b"go")).unwrap();
            assert_success(&done);
            assert_eq!(parts(&done).1, "-", "{name}");
        }
    }
}

#[test]
fn a_program_that_never_waits_for_input_is_started_for_each_request() {
    let node = TestNode::new();
    let mut client = node.client();
    let mut package = package("fresh", &[]);
    package.settings.freshness = Freshness::Fork;
    client.deploy(("ada", "fresh"), &package).unwrap();
    let mut seen = HashSet::new();
    for _ in 0..5 {
        assert!(seen.insert(text(&run(&mut client, "ada", "fresh", b"ignored"))));
    }
}

#[test]
fn the_id_of_a_request_is_right_in_a_program_that_is_copied() {
    let node = TestNode::new();
    let mut client = node.client();
    let mut package = package("residue", &[]);
    package.settings.freshness = Freshness::Fork;
    client.deploy(("ada", "residue"), &package).unwrap();
    let mut ids = HashSet::new();
    for _ in 0..10 {
        let said = text(&run(&mut client, "ada", "residue", b"exit"));
        let mut words = said.split_whitespace().skip(1);
        assert!(ids.insert(words.next().unwrap().to_owned()), "{said}");
        assert_eq!(words.next(), None, "found of the request before: {said}");
    }
}
