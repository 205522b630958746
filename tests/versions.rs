//! Promise: an invoke finishes on the version of its function that it was accepted for, wherever it
//! was when another one was deployed, and what no version needs any more is removed. Needs KVM.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::fs;
use std::path::Path;

use pilotlight::client::Client;
use pilotlight::socket::answer::Answer;

use self::support::node::{
    TestNode, assert_success, invoke, package, refusal, run, text, wait_for_status, wait_until,
};

fn packages(state: &Path) -> usize {
    let folders = fs::read_dir(state.join("sha256")).unwrap();
    folders.map(|folder| fs::read_dir(folder.unwrap().path()).unwrap().count()).sum()
}

/// A node with room for one VM, which another user's program has.
fn full_node() -> (TestNode, Client, u64) {
    let node = TestNode::with(|config| {
        let pools = &mut config.pools;
        (pools.vms_max, pools.warm_max, pools.warm_target, pools.warm_min) = (1, 1, 1, 1);
        config.snapshots.count_max = 0;
    });
    let mut blocker = node.client();
    blocker.deploy(("bob", "peek"), &package("peek", &[])).unwrap();
    let id = blocker.submit_open(&invoke("bob", "peek", b"here\n")).unwrap();
    let received = blocker.receive().unwrap();
    assert!(matches!(received.answer, Answer::Log(_)), "it runs: {received:?}");
    (node, blocker, id)
}

/// An invoke of a program that turns its line around, which waits for a VM.
fn begin_to_wait(node: &TestNode) -> (Client, u64) {
    let mut client = node.client();
    client.deploy(("ada", "tool"), &package("busybox", &["rev"])).unwrap();
    let waiting = client.submit(&invoke("ada", "tool", b"abc\n")).unwrap();
    wait_for_status(&mut node.client(), "it to wait", |status| status["pools"]["waiting"] == 1);
    (client, waiting)
}

fn end(client: &mut Client, id: u64) {
    client.send_body(id, b"", false).unwrap();
    assert_success(&client.complete(id).unwrap());
}

#[test]
fn one_that_waits_for_a_vm_finishes_on_the_version_it_came_for() {
    let (node, mut blocker, blocking) = full_node();
    let (mut client, waiting) = begin_to_wait(&node);
    let mut other = node.client();
    other.deploy(("ada", "tool"), &package("uname", &[])).unwrap();
    assert_eq!(packages(node.state()), 3, "the one of the version that is waited for is kept");
    end(&mut blocker, blocking);
    let done = client.complete(waiting).unwrap();
    assert_success(&done);
    assert_eq!(text(&done), "cba\n", "the old version");
    let next = run(&mut other, "ada", "tool", b"abc\n");
    assert_ne!(text(&next), "cba\n", "the new version");
    wait_until("the old package to go", || packages(node.state()) == 2);
}

#[test]
fn one_that_waits_for_a_vm_finishes_though_its_function_is_removed() {
    let (node, mut blocker, blocking) = full_node();
    let (mut client, waiting) = begin_to_wait(&node);
    node.client().remove("ada", "tool").unwrap();
    let (code, _) = refusal(node.client().invoke(&invoke("ada", "tool", b"")));
    assert_eq!(code, "unknown-function");
    end(&mut blocker, blocking);
    let done = client.complete(waiting).unwrap();
    assert_success(&done);
    assert_eq!(text(&done), "cba\n");
    wait_until("its package to go", || packages(node.state()) == 1);
}

#[test]
fn one_that_runs_finishes_on_its_version_and_the_next_is_of_the_new_one() {
    let node = TestNode::new();
    let (mut old, mut client) = (node.client(), node.client());
    client.deploy(("ada", "tool"), &package("peek", &[])).unwrap();
    let id = old.submit_open(&invoke("ada", "tool", b"here\n")).unwrap();
    let received = old.receive().unwrap();
    assert!(matches!(received.answer, Answer::Log(_)), "it runs: {received:?}");
    client.deploy(("ada", "tool"), &package("uname", &[])).unwrap();
    let listing = client.listing("ada").unwrap();
    let version_of = |it: &pilotlight::client::Finishing| (it.function.version, it.invokes);
    assert_eq!(listing.finishing.iter().map(version_of).collect::<Vec<_>>(), [(1, 1)]);
    assert_eq!(listing.functions[0].version, 2);
    for round in 0..20 {
        let program = if round % 2 == 0 { "uname" } else { "noop" };
        client.deploy(("ada", "tool"), &package(program, &[])).unwrap();
        run(&mut client, "ada", "tool", b"");
    }
    end(&mut old, id);
    wait_until("all packages but one to go", || packages(node.state()) == 1);
    let listing = client.listing("ada").unwrap();
    assert!(listing.finishing.is_empty(), "{listing:?}");
    assert_eq!(listing.functions[0].version, 22);
}
