//! A program that goes wrong ends its own container, with an outcome that names what happened; its
//! VM serves the next request. Needs KVM.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use pilotlight::client::{Client, Completed};
use pilotlight::invoke::Status;

use self::support::node::{
    TestNode, invoke, log_text, package, refusal, run, stream_package, text,
};

/// Deploys `faults` to go wrong this way and runs it.
fn fail(client: &mut Client, program: &str, fault: &str, timeout_millis: u64) -> Completed {
    let mut package = package(program, &[fault]);
    package.settings.timeout_millis = timeout_millis;
    package.settings.memory_mib = 32;
    client.deploy(("ada", fault), &package).unwrap();
    client.invoke(&invoke("ada", fault, b"")).unwrap()
}

#[test]
fn every_fault_has_an_outcome_that_names_it_and_the_vm_lives_on() {
    const SIGILL: u32 = 4;
    const SIGABRT: u32 = 6;
    const SIGFPE: u32 = 8;
    const SIGSEGV: u32 = 11;
    let node = TestNode::new();
    let mut client = node.warm_client();
    client.deploy(("ada", "noop"), &package("noop", &[])).unwrap();
    let vm = run(&mut client, "ada", "noop", b"").outcome.vm;
    for program in ["faults", "faults-glibc"] {
        for (fault, status, detail, words) in [
            ("segv", Status::Signalled, SIGSEGV, "0x8"),
            ("kernel", Status::Signalled, SIGSEGV, "ffffffff80200000"),
            ("jump", Status::Signalled, SIGSEGV, "0x1000"),
            ("ill", Status::Signalled, SIGILL, "instruction"),
            ("div", Status::Signalled, SIGFPE, "division by zero"),
            ("abort", Status::Signalled, SIGABRT, ""),
            ("stack", Status::StackOverflow, SIGSEGV, "stack"),
        ] {
            let done = fail(&mut client, program, fault, 60_000);
            let outcome = &done.outcome;
            assert_eq!(outcome.status, status, "{program} {fault}: {outcome:?}");
            assert_eq!(outcome.detail, detail, "{program} {fault}: {outcome:?}");
            assert!(outcome.reason.contains(words), "{program} {fault}: {:?}", outcome.reason);
            assert_eq!(outcome.vm, vm, "{program} {fault}");
            assert_eq!(log_text(&done), format!("about to {fault}"));
            assert_eq!(run(&mut client, "ada", "noop", b"").outcome.vm, vm, "after {fault}");
        }
    }
}

#[test]
fn a_privileged_instruction_ends_the_program_or_its_vm() {
    let node = TestNode::new();
    let mut client = node.warm_client();
    client.deploy(("ada", "halt"), &package("faults", &["privileged"])).unwrap();
    client.deploy(("ada", "noop"), &package("noop", &[])).unwrap();
    let vm = run(&mut client, "ada", "noop", b"").outcome.vm;
    let halted = client.invoke(&invoke("ada", "halt", b""));
    let next = run(&mut client, "ada", "noop", b"");
    if client.status().unwrap()["isolation"] == "vm+container" {
        let outcome = halted.unwrap().outcome;
        assert_eq!((outcome.status, outcome.detail), (Status::Signalled, 11));
        assert_eq!(next.outcome.vm, vm);
    } else {
        // The VM is the only wall: a program that could halt it has lost it.
        assert_eq!(refusal(halted).0, "vm-gone");
        assert_ne!(next.outcome.vm, vm);
    }
}

#[test]
fn memory_that_is_used_up_ends_the_container_alone() {
    let node = TestNode::new();
    let mut client = node.warm_client();
    client.deploy(("ada", "noop"), &package("noop", &[])).unwrap();
    let vm = run(&mut client, "ada", "noop", b"").outcome.vm;
    for _ in 0..3 {
        let done = fail(&mut client, "faults", "memory", 60_000);
        let outcome = &done.outcome;
        // A program that is told so may end by itself; one that is not is ended.
        let is_told = (outcome.status, outcome.detail) == (Status::Exited, 9);
        assert!(is_told || outcome.status == Status::MemoryExhausted, "{outcome:?}");
        let limit = 32 << 20;
        assert!(outcome.memory_peak_bytes <= limit, "{outcome:?}");
        assert!(outcome.memory_peak_bytes > limit / 2, "{outcome:?}");
        assert_eq!(run(&mut client, "ada", "noop", b"").outcome.vm, vm);
    }
}

#[test]
fn endless_programs_end_at_their_deadline() {
    let node = TestNode::new();
    let mut client = node.warm_client();
    client.deploy(("ada", "noop"), &package("noop", &[])).unwrap();
    let vm = run(&mut client, "ada", "noop", b"").outcome.vm;
    for fault in ["loop", "sleep"] {
        let done = fail(&mut client, "faults", fault, 300);
        assert_eq!(done.outcome.status, Status::DeadlineExceeded, "{fault}: {:?}", done.outcome);
        assert!(done.outcome.reason.contains("deadline"), "{:?}", done.outcome);
        assert_eq!(done.outcome.vm, vm, "{fault}");
        assert_eq!(run(&mut client, "ada", "noop", b"").outcome.vm, vm, "{fault}");
    }
    // A request may want it sooner.
    let request = pilotlight::socket::request::Invoke {
        timeout_nanos: 200_000_000,
        ..invoke("ada", "loop", b"")
    };
    let done = client.invoke(&request).unwrap();
    assert_eq!(done.outcome.status, Status::DeadlineExceeded);
}

#[test]
fn an_exit_status_is_what_the_program_said() {
    let node = TestNode::new();
    let mut client = node.client();
    for status in [0_u32, 1, 42, 255] {
        let package = package("faults", &["exit", &status.to_string()]);
        client.deploy(("ada", "exit"), &package).unwrap();
        let done = client.invoke(&invoke("ada", "exit", b"")).unwrap();
        assert_eq!((done.outcome.status, done.outcome.detail), (Status::Exited, status));
    }
}

#[test]
fn a_stream_program_that_breaks_its_contract_is_started_anew() {
    let node = TestNode::new();
    let mut client = node.client();
    for (fault, status) in [
        ("close", Status::ContractBroken),
        ("long", Status::ContractBroken),
        ("crash", Status::Signalled),
    ] {
        client.deploy(("ada", fault), &stream_package("echo-stream", &[fault])).unwrap();
        // It goes wrong at every second request, because each other one has a new process.
        for _ in 0..3 {
            assert_eq!(text(&run(&mut client, "ada", fault, b"fine")), "fine", "{fault}");
            let done = client.invoke(&invoke("ada", fault, b"broken")).unwrap();
            assert_eq!(done.outcome.status, status, "{fault}: {:?}", done.outcome);
        }
    }
}
