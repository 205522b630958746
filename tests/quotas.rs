//! Promise: no user has more than their share, and each refusal names the limit, its value and its
//! key; others are served meanwhile. Needs KVM and Debian's rsyslog.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use pilotlight::client::{Client, ClientError};
use pilotlight::socket::request::{Invoke, OPTION_SETTLE_LOGS};

use self::support::node::{
    TestNode, assert_success, invoke, package, refusal, run, wait_for_status,
};
use self::support::rsyslog::Rsyslog;
use self::support::service::Service;

/// Longer than one of the invokes that wait here may.
const SHORT_NANOS: u64 = 300_000_000;

/// A node with a function `cat` of ada's and bob's that ends when its body does.
fn node(change: impl FnOnce(&mut pilotlight::Config)) -> (TestNode, Client) {
    let node = TestNode::with(change);
    let mut client = node.client();
    for user in ["ada", "bob"] {
        client.deploy((user, "cat"), &package("busybox", &["cat"])).unwrap();
    }
    (node, client)
}

/// Starts invokes of ada's that run until their bodies end.
fn begin(client: &mut Client, node: &TestNode, count: u64) -> Vec<u64> {
    let begin = |_| client.submit_open(&invoke("ada", "cat", b"x")).unwrap();
    let ids = (0..count).map(begin).collect();
    wait_for_status(&mut node.client(), "them to run", |status| {
        status["pools"]["running"] == count
    });
    ids
}

fn end(client: &mut Client, ids: Vec<u64>) {
    for id in ids {
        client.send_body(id, b"", false).unwrap();
        assert_success(&client.complete(id).unwrap());
    }
}

/// Whether the refusal names this limit.
fn names(answer: Result<impl Sized, ClientError>, code: &str, limit: &str) {
    let Err(ClientError::Refused { code: found, message }) = answer.map(drop) else {
        panic!("not refused because of {limit}");
    };
    assert_eq!(found, code, "{message}");
    assert!(message.contains(limit), "{message}");
}

#[test]
fn a_user_runs_as_many_at_once_as_one_may() {
    let (node, mut client) = node(|config| config.pools.inflight_per_user_max = 2);
    let ids = begin(&mut client, &node, 2);
    let mut other = node.client();
    let late = Invoke { timeout_nanos: SHORT_NANOS, ..invoke("ada", "cat", b"") };
    // It waits as long as it may.
    let (code, message) = refusal(other.invoke(&late));
    assert!(code == "deadline" || code == "busy", "{code}: {message}");
    run(&mut other, "bob", "cat", b"others are served");
    let waiting = other.submit(&invoke("ada", "cat", b"next")).unwrap();
    end(&mut client, ids);
    assert_success(&other.complete(waiting).unwrap());
}

#[test]
fn who_waits_for_themselves_is_told_so() {
    let (node, mut client) = node(|config| {
        config.pools.inflight_per_user_max = 2;
        config.pools.queue_wait_millis = 200;
    });
    let ids = begin(&mut client, &node, 2);
    let mut other = node.client();
    let refused = other.invoke(&invoke("ada", "cat", b""));
    names(refused, "busy", "pools.inflight_per_user_max = 2");
    end(&mut client, ids);
}

#[test]
fn a_user_has_as_many_vms_as_one_may() {
    let (node, mut client) = node(|config| {
        (config.pools.vms_per_user_max, config.pools.containers_per_vm) = (1, 2);
        config.pools.queue_wait_millis = 200;
        config.pools.patience_millis = 0;
    });
    let ids = begin(&mut client, &node, 2);
    let mut other = node.client();
    let refused = other.invoke(&invoke("ada", "cat", b""));
    names(refused, "busy", "pools.vms_per_user_max = 1");
    run(&mut other, "bob", "cat", b"others are served");
    end(&mut client, ids);
}

#[test]
fn a_user_has_as_many_waiting_as_one_may() {
    let (node, mut client) = node(|config| {
        config.pools.inflight_per_user_max = 1;
        config.pools.queue_per_user_max = 1;
    });
    let ids = begin(&mut client, &node, 1);
    let mut other = node.client();
    let waiting = other.submit(&invoke("ada", "cat", b"")).unwrap();
    wait_for_status(&mut node.client(), "it to wait", |status| status["pools"]["waiting"] == 1);
    let refused = node.client().invoke(&invoke("ada", "cat", b""));
    names(refused, "busy", "pools.queue_per_user_max = 1");
    end(&mut client, ids);
    assert_success(&other.complete(waiting).unwrap());
}

#[test]
fn a_user_stores_as_much_as_one_may() {
    let (_node, mut client) = node(|config| {
        config.requests.functions_per_user_max = 2;
        config.requests.package_bytes_per_user_max = 4 << 20;
    });
    client.deploy(("ada", "two"), &package("noop", &[])).unwrap();
    let refused = client.deploy(("ada", "three"), &package("noop", &[]));
    names(refused, "over-limit", "requests.functions_per_user_max = 2");
    client.deploy(("bob", "three"), &package("noop", &[])).unwrap();
    let mut large = package("noop", &[]);
    large.bytes.resize(3 << 20, 0);
    let refused = client.deploy(("ada", "two"), &large);
    names(refused, "over-limit", "requests.package_bytes_per_user_max = 4194304");
    let mut larger = package("noop", &[]);
    larger.bytes.resize(300 << 20, 0);
    let refused = client.deploy(("ada", "two"), &larger);
    names(refused, "too-large", "requests.package_bytes_max = 268435456");
    assert_eq!(client.list("ada").unwrap().len(), 2, "what was there is there");
}

#[test]
fn a_user_logs_as_much_as_one_may() {
    let rsyslog = Rsyslog::tcp();
    let service = Service::of_tcp(&rsyslog);
    let (_node, mut client) = node(|config| config.log.bytes_per_second_per_user_max = 1 << 14);
    for user in ["ada", "bob"] {
        client.deploy((user, "much"), &package("log-lines", &["5000"])).unwrap();
        client.deploy((user, "little"), &package("log-lines", &["3"])).unwrap();
    }
    let mut log = |user: &str, function: &str| {
        let mut storage = Vec::new();
        let logging = Some(service.logging(&mut storage));
        let asked = Invoke { logging, options: OPTION_SETTLE_LOGS, ..invoke(user, function, b"") };
        let done = client.invoke(&asked).unwrap();
        (done.outcome.log, done.log_reason.to_string())
    };
    let (account, reason) = log("ada", "much");
    assert_eq!(account.produced, 5000);
    assert!(account.dropped > 0 && account.handed_over > 0, "{account:?}");
    assert_eq!(account.produced, account.handed_over + account.dropped);
    assert!(reason.contains("log.bytes_per_second_per_user_max = 16384"), "{reason}");
    let (account, reason) = log("bob", "little");
    assert_eq!((account.produced, account.dropped), (3, 0), "another user's: {reason}");
}
