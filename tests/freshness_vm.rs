//! Promise: a request of freshness `vm` finds nothing of any request before it, in the same VM,
//! because that VM was put back to its snapshot in between. Needs KVM.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::io::ErrorKind::ConnectionReset;
use std::io::Read;
use std::net::TcpListener;
use std::time::Duration;

use pilotlight::client::{Client, Completed, Package};
use pilotlight::invoke::Freshness;
use pilotlight::socket::answer::Room;
use pilotlight::socket::request::Invoke;
use serde_json::Value;

use self::support::node::{
    TestNode, assert_success, invoke, package, process_of, run, stream_package, text,
    wait_for_status,
};
use self::support::service::Service;

fn remains(freshness: Freshness) -> Package {
    let mut package = stream_package("remains", &[]);
    package.settings.freshness = freshness;
    package
}

fn count(status: &Value, counter: &str) -> u64 {
    status["counters"][counter].as_u64().unwrap()
}

/// Runs a function and waits until its VM is put back, idle and its user's.
fn run_and_reset(client: &mut Client, function: &str, resets: u64) -> (Completed, Value) {
    let done = run(client, "ada", function, b"a value");
    let status = wait_for_status(client, "the VM to be reset", |status| {
        count(status, "resets") == resets && status["pools"]["assigned"] == 1
    });
    (done, status)
}

#[test]
fn a_request_finds_nothing_of_those_before_it() {
    // The VM comes from the base: nothing of a function's snapshot is in the way of this promise.
    let node = TestNode::with(|config| config.snapshots.count_max = 0);
    let mut client = node.warm_client();
    client.deploy(("ada", "remains"), &remains(Freshness::Vm)).unwrap();
    let (first, _) = run_and_reset(&mut client, "remains", 1);
    assert_eq!((text(&first).as_str(), first.room), ("nothing", Room::Warming));
    for resets in 2..=5 {
        let (next, status) = run_and_reset(&mut client, "remains", resets);
        assert_eq!(text(&next), "nothing", "in round {resets}");
        assert_eq!((next.outcome.vm, next.room), (first.outcome.vm, Room::Active));
        assert_eq!(count(&status, "resets_failed"), 0, "{status}");
        assert_eq!(count(&status, "resets_verified"), resets, "a build for tests verifies each");
        assert!(count(&status, "reset_pages") >= resets, "{status}");
        // One process all along, and one VM taken from the warming pool.
        assert_eq!(count(&status, "assigns"), 1, "{status}");
        assert!(process_of(&status, next.outcome.vm) > 0);
    }
}

/// What a request has left open to the world outside is closed behind it, on both sides.
#[test]
fn connections_out_of_the_vm_end_with_the_request() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let node = TestNode::with(|config| {
        config.snapshots.count_max = 0;
        config.egress.allow = vec![address];
    });
    let mut client = node.warm_client();
    for (function, freshness) in [("fresh", Freshness::Vm), ("kept", Freshness::Reuse)] {
        client.deploy(("ada", function), &remains(freshness)).unwrap();
    }
    let body = address.to_string();
    let mut ask = |function| text(&run(&mut client, "ada", function, body.as_bytes()));
    for _ in 0..3 {
        assert_eq!(ask("fresh"), "nothing");
        let (mut stream, _) = listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let end = stream.read(&mut [0; 1]);
        assert!(
            matches!(&end, Ok(0))
                || end.as_ref().is_err_and(|error| error.kind() == ConnectionReset),
            "closed while nobody asks for anything more: {end:?}"
        );
    }
    // Where a process may keep it, it does.
    assert_eq!([ask("kept"), ask("kept")], ["nothing", "file heap thread connection "]);
}

/// The program does find what it leaves, where it may.
#[test]
fn what_is_not_put_back_is_found() {
    let node = TestNode::with(|config| config.snapshots.count_max = 0);
    let mut client = node.warm_client();
    client.deploy(("ada", "remains"), &remains(Freshness::Reuse)).unwrap();
    assert_eq!(text(&run(&mut client, "ada", "remains", b"a value")), "nothing");
    assert_eq!(text(&run(&mut client, "ada", "remains", b"a value")), "file heap thread ");
}

/// After a reset the guest has forgotten whose it is, and is told again: the function of the same
/// user that keeps its containers runs there too, and its VM is not put back.
#[test]
fn a_reset_vm_serves_its_user_again() {
    let node = TestNode::with(|config| config.snapshots.count_max = 0);
    let mut client = node.warm_client();
    client.deploy(("ada", "remains"), &remains(Freshness::Vm)).unwrap();
    client.deploy(("ada", "noop"), &package("noop", &[])).unwrap();
    let (first, _) = run_and_reset(&mut client, "remains", 1);
    let other = run(&mut client, "ada", "noop", b"");
    assert_eq!((other.outcome.vm, other.room), (first.outcome.vm, Room::Active));
    // A used VM is none for a request that is to find nothing.
    let next = run(&mut client, "ada", "remains", b"a value");
    assert_eq!(text(&next), "nothing");
    assert_ne!(next.outcome.vm, first.outcome.vm);
}

/// With a snapshot of the function, VMs are restored from it and put back to it: no package is
/// loaded and no container made for a request.
#[test]
fn a_vm_of_a_functions_snapshot_is_put_back_to_it() {
    let node = TestNode::with(|config| {
        config.pools.warm_target = 1;
        config.pools.demand_window_millis = 60_000;
    });
    let mut client = node.warm_client();
    client.deploy(("ada", "remains"), &remains(Freshness::Vm)).unwrap();
    let is_made = |status: &Value| status["snapshots"]["made"] == 1;
    wait_for_status(&mut client, "the function's snapshot", is_made);
    // The first request takes a VM of the base, and so a VM of the function is wanted.
    run_and_reset(&mut client, "remains", 1);
    let is_prepared = |status: &Value| status["pools"]["prepared"] == 1;
    let before = wait_for_status(&mut client, "a VM of the function", is_prepared);
    // Another logging service is another key: it needs another VM.
    let service = Service::tcp("127.0.0.1", 6514);
    let mut vms = Vec::new();
    for resets in 2..=4 {
        let mut storage = Vec::new();
        let logging = Some(service.logging(&mut storage));
        let request = Invoke { logging, ..invoke("ada", "remains", b"a value") };
        let done = client.invoke(&request).unwrap();
        assert_success(&done);
        assert_eq!(text(&done), "nothing", "in round {resets}");
        vms.push(done.outcome.vm);
        let after = wait_for_status(&mut client, "the VM to be reset", |status| {
            count(status, "resets") == resets && status["pools"]["resetting"] == 0
        });
        for counter in ["loads", "acquires"] {
            assert_eq!(count(&after, counter), count(&before, counter), "{counter}: {after}");
        }
    }
    assert!(vms.iter().all(|vm| *vm == vms[0]), "{vms:?}");
}
