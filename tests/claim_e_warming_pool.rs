//! Claim e: when no VM of the active pool is assigned to this user and configured for this logging
//! service, one is taken from the warming pool and configured for it. Needs KVM.

mod support;

use std::collections::HashSet;
use std::path::Path;

use pilotlight::invoke::{LogProtocol, VmId};
use pilotlight::socket::answer::Room;
use pilotlight::socket::request::Invoke;

use self::support::node::{
    TestNode, assert_success, invoke, package, process_of, run, wait_for_status, wait_until,
};
use self::support::rsyslog::{Authority, CLIENT_NAME, Validity};
use self::support::service::Service;

fn service(authority: &Authority) -> Service {
    let identity = authority.sign(CLIENT_NAME, Validity::Current);
    let service = Service::tcp("127.0.0.1", 6514).file("token", b"a token");
    service
        .file("ca.pem", authority.pem.as_bytes())
        .file("cert.pem", identity.certificate.as_bytes())
        .file("key.pem", identity.key.as_bytes())
}

#[test]
fn claim_e_every_difference_gets_another_vm_from_the_warming_pool() {
    let node = TestNode::new();
    let mut client = node.client();
    for user in ["ada", "grace"] {
        client.deploy((user, "noop"), &package("noop", &[])).unwrap();
    }
    let authority = Authority::new("right");
    let same = service(&authority);
    let identity = authority.sign(CLIENT_NAME, Validity::Current);
    let new_certificate = same
        .clone()
        .file("cert.pem", identity.certificate.as_bytes())
        .file("key.pem", identity.key.as_bytes());
    let other_host = Service { host: "127.0.0.2".to_owned(), ..same.clone() };
    let other_port = Service { port: 6515, ..same.clone() };
    let other_name = Service { server_name: "logs2.example".to_owned(), ..same.clone() };
    let other_protocol = Service { protocol: LogProtocol::SyslogTls, ..same.clone() };
    let other_token = same.clone().file("token", b"A token");
    let configurations = [
        ("the first", "ada", Some(&same)),
        ("another user", "grace", Some(&same)),
        ("another host", "ada", Some(&other_host)),
        ("another port", "ada", Some(&other_port)),
        ("another protocol", "ada", Some(&other_protocol)),
        ("another server name", "ada", Some(&other_name)),
        ("another token", "ada", Some(&other_token)),
        ("another certificate", "ada", Some(&new_certificate)),
        ("none", "ada", None),
        ("another user, none", "grace", None),
    ];
    let mut vms: Vec<VmId> = Vec::new();
    for round in [Room::Warming, Room::Active] {
        for (index, (what, user, service)) in configurations.iter().enumerate() {
            let mut storage = Vec::new();
            let logging = service.map(|service| service.logging(&mut storage));
            let done = client.invoke(&Invoke { logging, ..invoke(user, "noop", b"") }).unwrap();
            assert_success(&done);
            assert_eq!(done.room, round, "{what}");
            match vms.get(index) {
                None => vms.push(done.outcome.vm),
                Some(vm) => assert_eq!(done.outcome.vm, *vm, "{what}: its own from now on"),
            }
        }
    }
    let different: HashSet<_> = vms.iter().collect();
    assert_eq!(different.len(), configurations.len(), "{vms:?}");
    let status = client.status().unwrap();
    assert_eq!(status["pools"]["assigned"], configurations.len());
    assert_eq!(status["counters"]["boots"], 1);
}

#[test]
fn claim_e_an_idle_vm_ends_and_never_comes_back() {
    let node = TestNode::with(|config| config.pools.idle_expiry_seconds = 1);
    let mut client = node.warm_client();
    client.deploy(("ada", "noop"), &package("noop", &[])).unwrap();
    let first = run(&mut client, "ada", "noop", b"");
    let process = process_of(&client.status().unwrap(), first.outcome.vm);
    wait_for_status(&mut client, "no VM of a user is left", |status| {
        status["pools"]["assigned"] == 0 && status["pools"]["leaving"] == 0
    });
    let path = format!("/proc/{process}");
    wait_until("its process is gone", || !Path::new(&path).exists());
    let next = run(&mut client, "ada", "noop", b"");
    assert_eq!(next.room, Room::Warming);
    assert!(next.outcome.vm > first.outcome.vm, "a VM never serves twice");
}

#[test]
fn claim_e_a_user_whose_vms_all_work_gets_no_more_than_allowed() {
    let node = TestNode::with(|config| {
        config.pools.containers_per_vm = 1;
        config.pools.vms_per_user_max = 2;
    });
    let mut client = node.warm_client();
    client.deploy(("ada", "cat"), &package("busybox", &["cat"])).unwrap();
    let open = [(); 3].map(|()| client.submit_open(&invoke("ada", "cat", b"")).unwrap());
    wait_for_status(&mut node.client(), "two run and one waits", |status| {
        status["pools"]["running"] == 2 && status["pools"]["waiting"] == 1
    });
    let vms = open.map(|id| {
        client.send_body(id, b"x", false).unwrap();
        client.complete(id).unwrap().outcome.vm
    });
    assert_ne!(vms[0], vms[1]);
    assert_eq!(vms[2], vms[0], "the one that waited got the first that was free");
}
