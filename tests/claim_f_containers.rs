//! Claim f: the request gets a container in the VM. Two at once in one VM see neither each other's
//! files nor processes, and what one leaves behind the next does not find. Needs KVM.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::time::Duration;

use pilotlight::client::{Client, Completed};
use pilotlight::invoke::Status;
use pilotlight::socket::answer::Answer;

use self::support::node::{TestNode, assert_success, invoke, log_text, package, run, text};

/// Begins an invoke that leaves a file of this name, and waits until it is there.
fn begin(client: &mut Client, name: &str) -> u64 {
    let id = client.submit_open(&invoke("ada", "peek", format!("{name}\n").as_bytes())).unwrap();
    let received = client.receive().unwrap();
    let Answer::Log(log) = received.answer else { panic!("no log record: {received:?}") };
    assert_eq!(String::from_utf8_lossy(log.text), format!("left /tmp/{name}"));
    id
}

fn end(client: &mut Client, id: u64) -> Completed {
    client.send_body(id, b"", false).unwrap();
    let done = client.complete(id).unwrap();
    assert_success(&done);
    done
}

/// What a program sees that has the container for itself.
fn alone(pid: &str, names: &[&str]) -> String {
    let files: String = names.iter().map(|name| format!("/tmp/{name}\n")).collect();
    let folders = "/var/task/peek\n/run/credentials/logging\n";
    format!("pid {pid}\n{files}{folders}/proc/{pid}\nlooks into {pid}\nsignals {pid}\n")
}

fn pid_of(seen: &str) -> &str {
    seen.lines().next().and_then(|line| line.strip_prefix("pid ")).unwrap()
}

#[test]
fn claim_f_two_at_once_in_one_vm_do_not_see_each_other() {
    let node = TestNode::new();
    // A connection each: what one is told about the other is not what is looked at here.
    let (mut first, mut second) = (node.client(), node.client());
    first.deploy(("ada", "peek"), &package("peek", &[])).unwrap();
    let (red, blue) = (begin(&mut first, "red"), begin(&mut second, "blue"));
    // Both are there now, each with its file.
    let red = end(&mut first, red);
    let blue = end(&mut second, blue);
    assert_eq!(red.outcome.vm, blue.outcome.vm, "one VM");
    assert_ne!(red.outcome.container, blue.outcome.container, "two containers");
    let (saw_red, saw_blue) = (text(&red), text(&blue));
    assert_eq!(saw_red, alone(pid_of(&saw_red), &["red"]));
    assert_eq!(saw_blue, alone(pid_of(&saw_blue), &["blue"]));
    // Numbers are of the VM: each would have met the other's if it could.
    assert_ne!(pid_of(&saw_red), pid_of(&saw_blue));
}

#[test]
fn claim_f_the_next_request_starts_anew() {
    let node = TestNode::new();
    let mut client = node.client();
    client.deploy(("ada", "peek"), &package("peek", &[])).unwrap();
    let first = run(&mut client, "ada", "peek", b"same\n");
    let second = run(&mut client, "ada", "peek", b"same\n");
    assert_eq!(first.outcome.vm, second.outcome.vm);
    // It would have said that the file is there already.
    assert_eq!(log_text(&second), "left /tmp/same");
    // The process may be the same one, put back to where it was before it looked outside.
    let second = text(&second);
    assert_eq!(second, alone(pid_of(&second), &["same"]));
}

#[test]
fn claim_f_a_program_that_only_computes_does_not_hold_up_the_other() {
    let node = TestNode::new();
    let (mut busy, mut client) = (node.client(), node.client());
    client.deploy(("ada", "loop"), &package("faults", &["loop"])).unwrap();
    client.deploy(("ada", "noop"), &package("noop", &[])).unwrap();
    let id = busy.submit(&invoke("ada", "loop", b"")).unwrap();
    // It says so before it begins; from then on it asks the kernel for nothing.
    let received = busy.receive().unwrap();
    assert!(matches!(received.answer, Answer::Log(_)), "{received:?}");
    let mut vms = Vec::new();
    for _ in 0..5 {
        vms.push(run(&mut client, "ada", "noop", b"").outcome.vm);
    }
    assert!(busy.receive_within(Duration::from_millis(1)).unwrap().is_none(), "it still computes");
    busy.cancel(id).unwrap();
    let done = busy.complete(id).unwrap();
    assert_eq!(done.outcome.status, Status::Cancelled, "{:?}", done.outcome);
    vms.push(run(&mut client, "ada", "noop", b"").outcome.vm);
    assert!(vms.iter().all(|vm| *vm == done.outcome.vm), "one VM, and it lives on: {vms:?}");
}
