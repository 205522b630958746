//! Two shards serve one node: an invoke goes to the shard whose VM knows its user. Needs KVM.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::path::Path;
use std::thread;

use pilotlight::client::{Client, Completed, Package};
use pilotlight::invoke::Status;
use pilotlight::socket::answer::{Answer, Room};
use pilotlight::socket::request::{Invoke, OPTION_WANT_LOG};
use pilotlight::{Config, Node};

/// A node with a shard on each of the first two cores.
fn node(state: &Path) -> Node {
    let mut config = Config::default();
    config.paths.state = state.to_owned();
    config.cores.shards = vec![0, 1];
    config.cores.guests = vec![1];
    config.pools.vms_per_user_max = 1;
    Node::start(config).unwrap()
}

/// Connections are dealt to the shards in turn.
fn clients(node: &mut Node, state: &Path) -> [Client; 2] {
    let socket = state.join("node.sock");
    node.listen(&socket).unwrap();
    [(); 2].map(|()| Client::connect(&socket).unwrap())
}

fn deploy(client: &mut Client, arguments: &[&str]) {
    let mut package = Package::read(Path::new("/bin/busybox")).unwrap();
    package.settings.arguments = arguments.iter().map(|&word| word.to_owned()).collect();
    client.deploy(("ada", arguments[0]), &package).unwrap();
}

fn invoke(client: &mut Client, function: &str, body: &[u8]) -> Completed {
    let invoke =
        Invoke { user: "ada", timeout_nanos: 60_000_000_000, ..Invoke::new(function, body) };
    client.invoke(&invoke).unwrap()
}

#[test]
fn an_invoke_finds_its_users_vm_on_the_other_shard() {
    let state = tempfile::tempdir().unwrap();
    let mut node = node(state.path());
    let [mut here, mut there] = clients(&mut node, state.path());
    deploy(&mut here, &["cat"]);
    let first = invoke(&mut here, "cat", b"one");
    assert_eq!(first.room, Room::Warming);
    let second = invoke(&mut there, "cat", b"two");
    assert_eq!(second.response, b"two");
    assert_eq!(second.room, Room::Active, "the VM of the other shard serves it");
    assert_eq!(second.outcome.vm, first.outcome.vm);
    for client in [&mut here, &mut there] {
        let status = client.status().unwrap();
        let counters = &status["counters"];
        assert_eq!(counters["forwarded"], 1, "both are asked for their part: {status}");
        assert_eq!(counters["boots"], 1, "{status}");
        let vms = status["vms"].as_array().unwrap();
        let its = vms.iter().find(|vm| vm["vm"] == first.outcome.vm.to_string()).unwrap();
        assert_eq!(its["state"], "assigned", "{status}");
    }
    node.stop();
}

#[test]
fn large_bodies_cross_shards_both_ways_while_others_do() {
    let state = tempfile::tempdir().unwrap();
    let mut node = node(state.path());
    let [mut here, mut there] = clients(&mut node, state.path());
    deploy(&mut here, &["cat"]);
    let body: Vec<u8> = (0..5_000_000_u32).map(|n| (n % 251) as u8).collect();
    let first = invoke(&mut here, "cat", b"");
    thread::scope(|scope| {
        for client in [&mut here, &mut there] {
            let (body, vm) = (&body, first.outcome.vm);
            scope.spawn(move || {
                for _ in 0..3 {
                    let done = invoke(client, "cat", body);
                    assert_eq!(done.outcome.vm, vm);
                    assert!(done.response == *body, "{} bytes came back", done.response.len());
                }
            });
        }
    });
    node.stop();
}

#[test]
fn what_another_shard_runs_can_be_withdrawn_and_a_stop_waits_for_it() {
    let state = tempfile::tempdir().unwrap();
    let mut node = node(state.path());
    let [mut here, mut there] = clients(&mut node, state.path());
    deploy(&mut here, &["tee", "/dev/stderr"]);
    invoke(&mut here, "tee", b"");
    let open = Invoke {
        user: "ada",
        options: OPTION_WANT_LOG,
        timeout_nanos: 60_000_000_000,
        ..Invoke::new("tee", b"a\n")
    };
    let withdrawn = there.submit_open(&open).unwrap();
    there.cancel(withdrawn).unwrap();
    let done = there.complete(withdrawn).unwrap();
    assert_eq!(done.outcome.status, Status::Cancelled);
    // One that is open when the node stops ends with it, and nothing hangs.
    let open = there.submit_open(&open).unwrap();
    let first = there.receive().unwrap();
    assert!(matches!(first.answer, Answer::Log(_)), "it runs: {first:?}");
    let stopping = thread::spawn(|| node.stop());
    there.send_body(open, b"b\n", false).unwrap();
    let done = there.complete(open).unwrap();
    assert_eq!(done.response, b"a\nb\n");
    stopping.join().unwrap();
}
