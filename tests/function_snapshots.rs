//! Promise: after a deploy a node makes a snapshot of the function in the background, or says why
//! there is none. Needs KVM.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use pilotlight::client::{Client, SnapshotListing};

use self::support::node::{TestNode, package, run, stream_package, wait_for_status, wait_until};

/// What became of a function's snapshot, once something has.
fn snapshot_of(client: &mut Client, user: &str, function: &str) -> SnapshotListing {
    let mut found = None;
    wait_until("the maker to have looked at a function", || {
        let snapshots = client.listing(user).unwrap().snapshots;
        let mut of_it = snapshots.into_iter().filter(|snapshot| snapshot.name == function);
        found = of_it.next().filter(|snapshot| snapshot.state != "absent");
        found.is_some()
    });
    found.unwrap()
}

#[test]
fn every_function_has_a_snapshot_or_a_reason() {
    let mut node = TestNode::new();
    let mut client = node.client();
    client.deploy(("ada", "noop"), &package("noop", &[])).unwrap();
    client.deploy(("ada", "count"), &stream_package("count-stream", &[])).unwrap();
    for function in ["noop", "count"] {
        let snapshot = snapshot_of(&mut client, "ada", function);
        match snapshot.state.as_str() {
            "made" => assert!(snapshot.bytes > 0, "{snapshot:?}"),
            "failed" => assert!(!snapshot.reason.is_empty(), "{snapshot:?}"),
            _ => panic!("{snapshot:?}"),
        }
    }
    let status = wait_for_status(&mut client, "two snapshots counted", |status| {
        let count = |key: &str| status["snapshots"][key].as_u64().unwrap();
        count("made") + count("failed") == 2 && count("pending") == 0
    });
    println!("{}", status["snapshots"]);
    // Whatever became of them, the function runs.
    run(&mut client, "ada", "noop", b"");
    // They are made anew by a node that finds the functions stored; nobody has to deploy again.
    drop(client);
    node.restart();
    let mut client = node.client();
    snapshot_of(&mut client, "ada", "count");
}

#[test]
fn a_program_that_asks_for_no_request_has_none() {
    let node = TestNode::new();
    let mut client = node.client();
    client.deploy(("ada", "noop"), &stream_package("noop", &[])).unwrap();
    let snapshot = snapshot_of(&mut client, "ada", "noop");
    assert_eq!(snapshot.state, "failed", "{snapshot:?}");
}

#[test]
fn none_are_made_where_none_are_wanted() {
    let node = TestNode::with(|config| config.snapshots.count_max = 0);
    let mut client = node.client();
    client.deploy(("ada", "noop"), &package("noop", &[])).unwrap();
    run(&mut client, "ada", "noop", b"");
    let status = client.status().unwrap();
    assert_eq!(
        status["snapshots"],
        serde_json::json!({
            "made": 0, "failed": 0, "bytes": 0, "pending": 0
        })
    );
}
