//! Claim d: a VM of the active pool that is assigned to this user and configured for this logging
//! service serves the request. Needs KVM.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use pilotlight::client::{Client, Completed};
use pilotlight::socket::answer::Room;
use pilotlight::socket::request::Invoke;

use self::support::node::{TestNode, assert_success, invoke, package, run, wait_for_status};
use self::support::rsyslog::{Authority, CLIENT_NAME, Validity};
use self::support::service::Service;

fn run_with(client: &mut Client, function: &str, service: &Service) -> Completed {
    let mut storage = Vec::new();
    let logging = Some(service.logging(&mut storage));
    let done = client.invoke(&Invoke { logging, ..invoke("ada", function, b"") }).unwrap();
    assert_success(&done);
    done
}

fn service() -> Service {
    let authority = Authority::new("right");
    let identity = authority.sign(CLIENT_NAME, Validity::Current);
    let service = Service::tcp("127.0.0.1", 6514).file("token", b"a token");
    service
        .file("ca.pem", authority.pem.as_bytes())
        .file("cert.pem", identity.certificate.as_bytes())
        .file("key.pem", identity.key.as_bytes())
}

#[test]
fn claim_d_the_same_user_and_logging_service_get_the_same_vm() {
    let node = TestNode::new();
    let mut client = node.warm_client();
    client.deploy(("ada", "noop"), &package("noop", &[])).unwrap();
    client.deploy(("ada", "uname"), &package("uname", &[])).unwrap();
    let service = service();
    let first = run_with(&mut client, "noop", &service);
    assert_eq!(first.room, Room::Warming, "there was none yet");
    for round in 0..20 {
        // Another function is another container, not another VM.
        let function = if round % 2 == 0 { "noop" } else { "uname" };
        let next = run_with(&mut client, function, &service);
        assert_eq!((next.room, next.outcome.vm), (Room::Active, first.outcome.vm));
    }
    // Nor is it a matter of who connects, or whether the service is named each time.
    let mut other = node.client();
    let next = run_with(&mut other, "noop", &service);
    assert_eq!((next.room, next.outcome.vm), (Room::Active, first.outcome.vm));
    let mut storage = Vec::new();
    other.set_logging(&service.logging(&mut storage)).unwrap();
    let next = run(&mut other, "ada", "noop", b"");
    assert_eq!((next.room, next.outcome.vm), (Room::Active, first.outcome.vm));
    let status = client.status().unwrap();
    assert_eq!(status["pools"]["assigned"], 1, "{status:#}");
}

#[test]
fn claim_d_invokes_at_once_share_the_vm_until_it_is_full() {
    const CONTAINERS: usize = 3;
    let node = TestNode::with(|config| {
        config.pools.containers_per_vm = CONTAINERS.try_into().unwrap();
    });
    let mut client = node.warm_client();
    client.deploy(("ada", "cat"), &package("busybox", &["cat"])).unwrap();
    let open: Vec<_> =
        (0..=CONTAINERS).map(|_| client.submit_open(&invoke("ada", "cat", b"")).unwrap()).collect();
    // Each waits for its body, so none is free for the next.
    wait_for_status(&mut node.client(), "all to run", |status| {
        status["pools"]["running"] == open.len()
    });
    // Answers come in order here: each body ends only after the answer before it has come.
    let mut done = Vec::new();
    for id in open {
        client.send_body(id, b"x", false).unwrap();
        done.push(client.complete(id).unwrap());
    }
    let first = done[0].outcome.vm;
    assert!(done[..CONTAINERS].iter().all(|it| it.outcome.vm == first));
    let rooms: Vec<_> = done[..CONTAINERS].iter().map(|it| it.room).collect();
    assert_eq!(rooms, [Room::Warming, Room::Active, Room::Active]);
    let past = &done[CONTAINERS];
    assert_ne!(past.outcome.vm, first, "no room was left there");
    assert_eq!(past.room, Room::Warming);
    let containers: std::collections::HashSet<_> =
        done[..CONTAINERS].iter().map(|it| it.outcome.container).collect();
    assert_eq!(containers.len(), CONTAINERS, "a container for each");
}
