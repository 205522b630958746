//! Promise: an invoke whose function is busy gets a container of its own at once when the busy ones
//! wait for others, and waits for one of them while they compute. Needs KVM.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use pilotlight::client::Client;
use pilotlight::socket::answer::Answer;

use self::support::node::{
    TestNode, assert_success, invoke, package, stream_package, wait_for_status,
};

/// Longer than any test: what does not happen before, does not happen for want of patience.
const FOREVER_MILLIS: u64 = 60_000;

/// Begins an invoke that waits for the rest of its body, and sees it wait.
fn begin(client: &mut Client, name: &str) -> u64 {
    let body = format!("{name}\n");
    let id = client.submit_open(&invoke("ada", "peek", body.as_bytes())).unwrap();
    let received = client.receive().unwrap();
    assert!(matches!(received.answer, Answer::Log(_)), "no log record: {received:?}");
    id
}

#[test]
fn programs_that_wait_for_others_run_side_by_side() {
    let node = TestNode::with(|config| {
        config.pools.patience_millis = FOREVER_MILLIS;
        config.pools.containers_per_vm = 3;
    });
    let mut clients: Vec<_> = (0..7).map(|_| node.client()).collect();
    clients[0].deploy(("ada", "peek"), &package("peek", &[])).unwrap();
    // Each is seen to run while all before it do, across three VMs.
    let begun: Vec<_> = clients
        .iter_mut()
        .zip(["a", "b", "c", "d", "e", "f", "g"])
        .map(|(client, name)| begin(client, name))
        .collect();
    let mut vms = Vec::new();
    for (client, id) in clients.iter_mut().zip(begun) {
        client.send_body(id, b"", false).unwrap();
        let done = client.complete(id).unwrap();
        assert_success(&done);
        vms.push(done.outcome.vm);
    }
    vms.sort_unstable();
    vms.dedup();
    assert_eq!(vms.len(), 3, "three containers in a VM");
}

#[test]
fn a_program_that_only_computes_gets_no_crowd() {
    let node = TestNode::with(|config| config.pools.patience_millis = FOREVER_MILLIS);
    let mut client = node.client();
    client.deploy(("ada", "echo"), &stream_package("echo-stream", &[])).unwrap();
    // All at once, while the first container is still being made.
    let bodies: Vec<_> = (0..200).map(|number| format!("request {number}")).collect();
    let ids: Vec<_> = bodies
        .iter()
        .map(|body| client.submit(&invoke("ada", "echo", body.as_bytes())).unwrap())
        .collect();
    for (id, body) in ids.into_iter().zip(&bodies) {
        let done = client.complete(id).unwrap();
        assert_success(&done);
        assert_eq!(done.response, body.as_bytes());
    }
    wait_for_status(&mut client, "one container", |status| {
        let pools = &status["pools"];
        (pools["containers"].as_u64(), pools["assigned"].as_u64()) == (Some(1), Some(1))
    });
}

#[test]
fn one_that_computes_without_end_is_waited_for_no_longer_than_patience() {
    let node = TestNode::with(|config| config.pools.patience_millis = 100);
    let (mut first, mut second) = (node.client(), node.client());
    first.deploy(("ada", "loop"), &package("faults", &["loop"])).unwrap();
    let mut vms = Vec::new();
    let mut ids = Vec::new();
    for client in [&mut first, &mut second] {
        ids.push(client.submit(&invoke("ada", "loop", b"")).unwrap());
        let received = client.receive().unwrap();
        assert!(matches!(received.answer, Answer::Log(_)), "it says that it begins: {received:?}");
    }
    for (client, id) in [&mut first, &mut second].into_iter().zip(ids) {
        client.cancel(id).unwrap();
        vms.push(client.complete(id).unwrap().outcome.vm);
    }
    assert_eq!(vms[0], vms[1], "one VM has room for both");
}
