//! Promise: after a deploy a node makes a snapshot of the function in the background, or says why
//! there is none. Needs KVM.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::fs;
use std::path::PathBuf;

use pilotlight::client::{Client, SnapshotListing};
use pilotlight::socket::request::Invoke;

use self::support::node::{
    TestNode, assert_success, invoke, package, run, stream_package, wait_for_status, wait_until,
};
use self::support::service::Service;

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
fn every_function_has_a_snapshot() {
    let mut node = TestNode::new();
    let mut client = node.client();
    client.deploy(("ada", "noop"), &package("noop", &[])).unwrap();
    client.deploy(("ada", "count"), &stream_package("count-stream", &[])).unwrap();
    for function in ["noop", "count"] {
        let snapshot = snapshot_of(&mut client, "ada", function);
        assert_eq!(snapshot.state, "made", "{snapshot:?}");
        assert!(snapshot.bytes > 0, "{snapshot:?}");
    }
    let status = wait_for_status(&mut client, "two snapshots counted", |status| {
        let count = |key: &str| status["snapshots"][key].as_u64().unwrap();
        count("made") == 2 && count("pending") == 0
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

/// The bytes of every snapshot this process, and so its node, holds.
fn snapshots() -> Vec<Vec<u8>> {
    let descriptors = fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().path());
    let names = ["/memfd:pilotlight-snapshot (deleted)", "/memfd:pilotlight-function (deleted)"];
    let is_snapshot = |path: &PathBuf| {
        fs::read_link(path).is_ok_and(|to| names.iter().any(|name| to.as_os_str() == *name))
    };
    descriptors.filter(is_snapshot).map(|path| fs::read(path).unwrap()).collect()
}

fn holds(snapshot: &[u8], text: &[u8]) -> bool {
    snapshot.windows(text.len()).any(|window| window == text)
}

/// Whoever uses the function while its snapshot is made, and before: nothing of them is in it.
#[test]
fn no_snapshot_holds_a_credential_or_a_request() {
    const TOKEN: &[u8] = b"planted-token-5f1c09d2";
    const BODY: &[u8] = b"planted-body-77aa13e0";
    const SETTING: &str = "planted-setting-0b6d44";
    let node = TestNode::new();
    let mut client = node.client();
    let mut package = stream_package("count-stream", &[]);
    // The function's own settings are what a snapshot is made of: the search finds those.
    package.settings.environment = vec![("SETTING".into(), SETTING.into())];
    let service = Service::tcp("127.0.0.1", 6514).file("token", TOKEN);
    client.deploy(("ada", "count"), &package).unwrap();
    let (mut made, mut is_setting_found, mut storage) = (0, false, Vec::new());
    for round in 0..2 {
        for _ in 0..20 {
            let logging = Some(service.logging(&mut storage));
            let sent = Invoke { logging, ..invoke("ada", "count", BODY) };
            assert_success(&client.invoke(&sent).unwrap());
        }
        snapshot_of(&mut client, "ada", "count");
        made = snapshots().len();
        for snapshot in snapshots() {
            is_setting_found |= holds(&snapshot, SETTING.as_bytes());
            assert!(!holds(&snapshot, TOKEN) && !holds(&snapshot, BODY), "round {round}");
        }
        // Made anew, by a node that has seen the credential.
        package.settings.environment.push(("ROUND".into(), round.to_string()));
        client.deploy(("ada", "count"), &package).unwrap();
    }
    assert!(made >= 2, "of the base and of the function: {made}");
    assert!(is_setting_found, "what is there is found");
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
