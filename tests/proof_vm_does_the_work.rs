//! Proof that the VM does the work: the host starts no process for an invoke, a VMM executes
//! nothing, and an invoke lives and dies with its VM. Needs KVM.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use pilotlight::client::Client;

use self::support::node::{
    TestNode, invoke, package, process_of, refusal, run, stream_package, text, wait_for_status,
};

/// What the kernel has counted of a process's children.
#[derive(Debug, PartialEq, Eq)]
struct Children {
    /// Those that live, or ended and were not waited for.
    processes: BTreeSet<u32>,
    /// Page faults of all that were waited for: none ends without some.
    faults_of_ended: u64,
}

impl Children {
    fn of(parent: u32) -> Self {
        let numbers = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap().file_name());
        let numbers = numbers.filter_map(|name| name.to_str()?.parse().ok());
        let processes = numbers.filter(|process| field(*process, 4) == Some(u64::from(parent)));
        Self {
            processes: processes.collect(),
            faults_of_ended: field(parent, 11).unwrap() + field(parent, 13).unwrap(),
        }
    }
}

/// A number of `/proc/PID/stat` (proc_pid_stat(5)), if there is such a process.
fn field(process: u32, number: usize) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The second may have spaces in it and ends with the last parenthesis.
    let rest = &stat[stat.rfind(')')? + 2..];
    rest.split(' ').nth(number - 3)?.parse().ok()
}

fn vmms(client: &mut Client) -> BTreeSet<u32> {
    let status = client.status().unwrap();
    let vms = status["vms"].as_array().unwrap().iter();
    vms.map(|vm| u32::try_from(vm["pid"].as_u64().unwrap()).unwrap()).collect()
}

/// A line of `/proc/PID/task/TID/status` of every thread.
fn of_threads(process: u32, key: &str) -> Vec<String> {
    let threads = fs::read_dir(format!("/proc/{process}/task")).unwrap();
    let statuses =
        threads.map(|thread| fs::read_to_string(thread.unwrap().path().join("status")).unwrap());
    let values = statuses.map(|status| {
        let line = status.lines().find_map(|line| line.strip_prefix(key)).map(str::trim);
        line.unwrap().to_owned()
    });
    values.collect()
}

#[test]
fn no_process_starts_for_an_invoke_and_no_vmm_executes_anything() {
    let node = TestNode::new();
    let mut client = node.warm_client();
    for (function, package) in [
        ("sum", package("busybox", &["sha256sum"])),
        ("uname", package("uname", &[])),
        ("crash", package("faults", &["segv"])),
        ("count", stream_package("count-stream", &[])),
    ] {
        client.deploy(("ada", function), &package).unwrap();
    }
    run(&mut client, "ada", "sum", b"");
    // The warming pool makes up for the VM it gave, and the functions' snapshots are made; then
    // nothing is to start any more.
    let status = wait_for_status(&mut client, "a full warming pool and snapshots", |status| {
        let is_full = status["pools"]["warm"] == 2 && status["pools"]["starting"] == 0;
        is_full && status["pools"]["leaving"] == 0 && status["snapshots"]["pending"] == 0
    });
    let me = std::process::id();
    // Ended children are counted when they are waited for, unless nobody is to be told of them.
    let ignored = u64::from_str_radix(&of_threads(me, "SigIgn:")[0], 16).unwrap();
    assert_eq!(ignored & 1 << 16, 0, "SIGCHLD is not ignored");
    let before = Children::of(me);
    let vmms = vmms(&mut client);
    assert_eq!(before.processes, vmms, "a node's processes are its VMMs");
    let executables = |vmms: &BTreeSet<u32>| -> Vec<_> {
        vmms.iter().map(|vmm| fs::read_link(format!("/proc/{vmm}/exe")).unwrap()).collect()
    };
    let executable = executables(&vmms);

    for _ in 0..25 {
        for function in ["sum", "uname", "count"] {
            run(&mut client, "ada", function, b"some bytes");
        }
        client.invoke(&invoke("ada", "crash", b"")).unwrap();
    }

    assert_eq!(Children::of(me), before, "no process came or went");
    assert_eq!(client.status().unwrap()["counters"]["restores"], status["counters"]["restores"]);
    assert_eq!(executables(&vmms), executable, "each VMM is the program it was");
    for vmm in vmms {
        let none = Children { processes: BTreeSet::new(), faults_of_ended: 0 };
        assert_eq!(Children::of(vmm), none, "a VMM has no children and never had any");
        // Its filter has no execve, fork or open (vmm/src/jail/filter.rs checks which), and there
        // is nothing it could execute.
        assert!(of_threads(vmm, "Seccomp:").iter().all(|mode| mode == "2"));
        assert!(of_threads(vmm, "NoNewPrivs:").iter().all(|is_set| is_set == "1"));
        assert_eq!(fs::read_dir(format!("/proc/{vmm}/root/")).unwrap().count(), 0);
    }
}

#[test]
fn a_process_that_starts_is_seen() {
    let me = std::process::id();
    let before = Children::of(me);
    let mut child = Command::new("/bin/busybox").arg("true").spawn().unwrap();
    let during = Children::of(me);
    assert_eq!(during.processes.difference(&before.processes).count(), 1);
    child.wait().unwrap();
    let after = Children::of(me);
    assert_eq!(after.processes, before.processes);
    assert!(after.faults_of_ended > before.faults_of_ended, "even when it is over");
}

#[test]
fn killing_a_vmm_ends_exactly_its_invokes() {
    let node = TestNode::new();
    let mut client = node.warm_client();
    for user in ["ada", "grace"] {
        client.deploy((user, "cat"), &package("busybox", &["cat"])).unwrap();
    }
    let vm = run(&mut client, "ada", "cat", b"").outcome.vm;
    let others_vm = run(&mut client, "grace", "cat", b"").outcome.vm;
    assert_ne!(vm, others_vm);
    let (mut ada, mut grace) = (node.client(), node.client());
    let lost = [(); 2].map(|()| ada.submit_open(&invoke("ada", "cat", b"lost")).unwrap());
    let goes_on = grace.submit_open(&invoke("grace", "cat", b"goes ")).unwrap();
    wait_for_status(&mut client, "three run", |status| status["pools"]["running"] == 3);

    let process = process_of(&client.status().unwrap(), vm);
    let process = rustix::process::Pid::from_raw(process.try_into().unwrap()).unwrap();
    rustix::process::kill_process(process, rustix::process::Signal::KILL).unwrap();
    // Both answers, in whichever order they come.
    let mut refused = Vec::new();
    while refused.len() < lost.len() {
        let received = ada.receive().unwrap();
        let pilotlight::socket::answer::Answer::Error { code, message } = received.answer else {
            panic!("lost is not {received:?}");
        };
        assert_eq!(code, "vm-lost", "{message}");
        assert!(message.contains(&vm.to_string()), "{message}");
        refused.push(received.id);
    }
    refused.sort_unstable();
    assert_eq!(refused, lost);

    grace.send_body(goes_on, b"on", false).unwrap();
    let done = grace.complete(goes_on).unwrap();
    assert_eq!((text(&done).as_str(), done.outcome.vm), ("goes on", others_vm));
    let next = run(&mut client, "ada", "cat", b"again");
    assert_eq!(text(&next), "again");
    assert_ne!(next.outcome.vm, vm, "a VM that is gone is gone");
    let gone = client.invoke(&invoke("ada", "nothing", b""));
    assert_eq!(refusal(gone).0, "unknown-function");
}

#[test]
fn the_kernel_inside_is_ours() {
    let node = TestNode::new();
    let mut client = node.client();
    client.deploy(("ada", "uname"), &package("uname", &[])).unwrap();
    client.deploy(("ada", "busybox"), &package("busybox", &["uname", "-a"])).unwrap();
    let done = run(&mut client, "ada", "uname", b"");
    let inside = text(&done);
    let fields: Vec<_> = inside.trim().split('|').collect();
    let [system, node_name, release, version, machine] = fields[..] else { panic!("{inside}") };
    assert_eq!((system, machine), ("Linux", "x86_64"));
    assert_eq!(node_name, done.outcome.vm.to_string());
    assert!(version.contains("Pilotlight") || release.contains("pilotlight"), "{inside}");
    let host = Command::new(support::programs::program("uname")).output().unwrap();
    let host = String::from_utf8(host.stdout).unwrap();
    let fields: Vec<_> = host.trim().split('|').collect();
    for (inside, host) in [(node_name, fields[1]), (release, fields[2]), (version, fields[3])] {
        assert_ne!(inside, host);
    }
    // Debian's program asks in its own way and hears the same.
    let said = text(&run(&mut client, "ada", "busybox", b""));
    assert!(said.contains(release) && said.contains(version), "{said}");
}
