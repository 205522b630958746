//! Contract `stream`: a resident program serves request after request, framed by their length, in
//! one process. Needs KVM.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::collections::HashMap;

use pilotlight::client::{Client, Completed};
use pilotlight::invoke::VmId;
use pilotlight::socket::answer::{Answer, Room};
use serde_json::Value;

use self::support::node::{
    TestNode, assert_success, invoke, run, stream_package, text, wait_for_status,
};

/// What `count-stream` says of itself, and the request it echoes.
fn parts(done: &Completed) -> (u64, u64, String) {
    let said = text(done);
    let mut words = said.splitn(3, ' ');
    let mut number = || words.next().unwrap().parse().unwrap();
    let (pid, count) = (number(), number());
    (pid, count, words.next().unwrap().to_owned())
}

#[test]
fn a_thousand_requests_of_two_functions_meet_one_process_each() {
    let node = TestNode::new();
    let mut client = node.warm_client();
    let package = stream_package("count-stream", &[]);
    for function in ["left", "right"] {
        client.deploy(("ada", function), &package).unwrap();
    }
    let mut seen = HashMap::new();
    for number in 1..=500 {
        for function in ["left", "right"] {
            let request = format!("{function} {number}");
            let done = run(&mut client, "ada", function, request.as_bytes());
            let (pid, count, echo) = parts(&done);
            assert_eq!((count, &*echo), (number, &*request), "it counts on");
            let outcome = &done.outcome;
            let place = (outcome.vm, outcome.container, pid);
            assert_eq!(*seen.entry(function).or_insert(place), place, "{function} stays there");
        }
    }
    let ((vm, left, pid_left), (other_vm, right, pid_right)) = (seen["left"], seen["right"]);
    assert_eq!(vm, other_vm, "one user, one VM");
    assert_ne!((left, pid_left), (right, pid_right), "two containers");
    let status = client.status().unwrap();
    assert_eq!(status["outcomes"]["exited"], 1_000);
    assert_eq!(status["pools"]["containers"], 2, "{status:#}");
}

/// Sends all requests before it reads an answer; returns the answers by request.
fn pipeline(client: &mut Client, function: &str, requests: &[String]) -> Vec<Completed> {
    let ids: Vec<_> = requests
        .iter()
        .map(|request| client.submit(&invoke("ada", function, request.as_bytes())).unwrap())
        .collect();
    let mut done = HashMap::new();
    while done.len() < ids.len() {
        let received = client.receive().unwrap();
        let Answer::Outcome(outcome) = received.answer else { panic!("{received:?}") };
        done.insert(received.id, Completed::of(&outcome));
    }
    ids.iter().map(|id| done.remove(id).unwrap()).collect()
}

#[test]
fn a_hundred_pipelined_requests_each_get_their_own_answer() {
    let node = TestNode::with(|config| config.pools.queue_wait_millis = 60_000);
    let mut client = node.client();
    client.deploy(("ada", "count"), &stream_package("count-stream", &[])).unwrap();
    client.deploy(("ada", "noop"), &stream_package("count-stream", &[])).unwrap();
    let requests: Vec<_> = (0..100).map(|number| format!("request {number}")).collect();
    let answers = pipeline(&mut client, "count", &requests);
    let mut processes = HashMap::new();
    for (request, done) in requests.iter().zip(&answers) {
        assert_success(done);
        let (pid, count, echo) = parts(done);
        assert_eq!(echo, *request);
        processes.entry((done.outcome.vm, pid)).or_insert_with(Vec::new).push(count);
    }
    // Every process met its share one after the other, none twice.
    for (place, mut counts) in processes {
        counts.sort_unstable();
        let length = u64::try_from(counts.len()).unwrap();
        assert!(counts.iter().copied().eq(1..=length), "{place:?}: {counts:?}");
    }
}

#[test]
fn a_resident_program_sleeps_between_requests_and_wakes() {
    let node = TestNode::new();
    let mut client = node.client();
    client.deploy(("ada", "count"), &stream_package("count-stream", &[])).unwrap();
    let first = run(&mut client, "ada", "count", b"");
    let (pid, ..) = parts(&first);
    let mut exits = 0;
    for number in 2..=20 {
        // It sleeps when its VM has left the processor since the request before.
        let exits_of = |status: &Value| vm_exits(status, first.outcome.vm);
        let what = "the guest sleeps";
        exits = exits_of(&wait_for_status(&mut client, what, |it| exits_of(it) > exits));
        let done = run(&mut client, "ada", "count", b"");
        assert_eq!(done.room, Room::Active);
        let (same, count, _) = parts(&done);
        assert_eq!((same, count), (pid, number));
    }
}

/// How often a VM has left the processor.
fn vm_exits(status: &Value, vm: VmId) -> u64 {
    let vms = status["vms"].as_array().unwrap();
    let entry = vms.iter().find(|entry| entry["vm"] == vm.to_string()).unwrap();
    entry["vm_exits"].as_u64().unwrap()
}
