//! Requests and responses of every size, many at once, withdrawn, too late, too many, and from a
//! client that does not read. Needs KVM.

#![expect(clippy::cast_possible_truncation, reason = "sizes fit; bytes of a pattern are cut")]

mod support;

use std::collections::HashMap;

use pilotlight::client::{Client, ClientError, Completed};
use pilotlight::config::BODY_BYTES_MAX;
use pilotlight::invoke::Status;
use pilotlight::socket::answer::Answer;
use pilotlight::socket::request::Invoke;

use self::support::node::{
    PATIENCE, TestNode, assert_success, invoke, package, refusal, run, stream_package, text,
    wait_for_status,
};

const MAX: usize = BODY_BYTES_MAX as usize;
const SIZES: [usize; 9] = [0, 1, 4_000, 4_096, 65_536, 65_537, 1 << 20, MAX - 1, MAX];

fn body(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at % 251) as u8 ^ (at >> 12) as u8).collect()
}

#[test]
fn bodies_and_responses_of_every_size_pass_through_both_contracts() {
    let node = TestNode::new();
    let mut client = node.client();
    client.deploy(("ada", "program"), &package("busybox", &["cat"])).unwrap();
    client.deploy(("ada", "stream"), &stream_package("echo-stream", &[])).unwrap();
    let whole = body(MAX);
    for function in ["program", "stream"] {
        for bytes in SIZES {
            let done = run(&mut client, "ada", function, &whole[..bytes]);
            assert!(done.response == whole[..bytes], "{bytes} bytes through {function}");
        }
    }
}

#[test]
fn what_is_too_large_is_refused_and_the_next_is_served() {
    let node = TestNode::new();
    let mut client = node.client();
    client.deploy(("ada", "stream"), &stream_package("echo-stream", &[])).unwrap();
    for (name, bytes) in [("most", MAX), ("more", MAX + 1), ("much", 100 << 20)] {
        let package = package("busybox", &["head", "-c", &bytes.to_string(), "/dev/zero"]);
        client.deploy(("ada", name), &package).unwrap();
    }
    assert_eq!(run(&mut client, "ada", "most", b"").response.len(), MAX);
    for name in ["more", "much"] {
        let (code, message) = refusal(client.invoke(&invoke("ada", name, b"")));
        assert_eq!(code, "too-large", "{message}");
        assert!(message.contains("response"), "{message}");
        assert_eq!(run(&mut client, "ada", "most", b"").response.len(), MAX, "after {name}");
    }
    // A body: the client would not send it; one that does is told.
    let large = body(MAX + 1);
    let unsent = client.submit(&invoke("ada", "stream", &large)).unwrap_err();
    assert!(matches!(unsent, ClientError::BodyTooLarge { .. }), "{unsent}");
    let id = client.submit_open(&invoke("ada", "stream", b"")).unwrap();
    client.send_body(id, &large, false).unwrap();
    assert_eq!(refusal(client.complete(id)).0, "too-large");
    assert_eq!(text(&run(&mut client, "ada", "stream", b"next")), "next");
}

#[test]
fn a_hundred_pipelined_programs_each_get_their_own_answer() {
    let node = TestNode::with(|config| config.pools.queue_wait_millis = 60_000);
    let mut client = node.client();
    for user in ["ada", "grace"] {
        client.deploy((user, "wc"), &package("busybox", &["wc", "-c"])).unwrap();
    }
    let whole = body(40_000);
    let ids: HashMap<u64, usize> = (0..100)
        .map(|number| {
            let bytes = number * 397;
            let user = if number % 2 == 0 { "ada" } else { "grace" };
            (client.submit(&invoke(user, "wc", &whole[..bytes])).unwrap(), bytes)
        })
        .collect();
    let mut open = ids.len();
    while open > 0 {
        let received = client.receive().unwrap();
        let Answer::Outcome(outcome) = received.answer else {
            panic!("no outcome for {}", received.id)
        };
        let done = Completed::of(&outcome);
        assert_success(&done);
        assert_eq!(text(&done), format!("{}\n", ids[&received.id]));
        open -= 1;
    }
}

#[test]
fn a_withdrawn_invoke_ends_and_others_do_not() {
    let node = TestNode::new();
    let mut client = node.client();
    client.deploy(("ada", "cat"), &package("busybox", &["cat"])).unwrap();
    client.deploy(("ada", "loop"), &package("faults", &["loop"])).unwrap();
    client.deploy(("ada", "peek"), &package("peek", &[])).unwrap();
    let stays = client.submit_open(&invoke("ada", "cat", b"stays")).unwrap();
    let mut other = node.client();
    for (function, request) in [("peek", &b"waits for more\n"[..]), ("loop", b"")] {
        let goes = other.submit_open(&invoke("ada", function, request)).unwrap();
        // It says something as soon as it runs.
        let received = other.receive().unwrap();
        assert!(matches!(received.answer, Answer::Log(_)), "{function}: {received:?}");
        other.cancel(goes).unwrap();
        let done = other.complete(goes).unwrap();
        assert_eq!(done.outcome.status, Status::Cancelled, "{:?}", done.outcome);
        assert_eq!(done.outcome.log.produced, 1, "what it logged is accounted for");
    }
    client.send_body(stays, b" here", false).unwrap();
    assert_eq!(text(&client.complete(stays).unwrap()), "stays here");

    // A client that leaves withdraws what it asked for.
    let mut leaver = node.client();
    leaver.submit(&invoke("ada", "loop", b"")).unwrap();
    wait_for_status(&mut client, "it runs", |status| status["pools"]["running"] == 1);
    drop(leaver);
    wait_for_status(&mut client, "it ends", |status| status["pools"]["running"] == 0);
    run(&mut client, "ada", "cat", b"");
}

#[test]
fn a_full_queue_is_answered_busy() {
    let node = TestNode::with(|config| {
        config.pools.containers_per_vm = 1;
        config.pools.vms_per_user_max = 1;
        config.pools.queue_per_user_max = 2;
        config.pools.queue_max = 3;
        config.pools.queue_wait_millis = 60_000;
    });
    let mut client = node.client();
    for user in ["ada", "grace"] {
        client.deploy((user, "cat"), &package("busybox", &["cat"])).unwrap();
    }
    let open = [(); 3].map(|()| client.submit_open(&invoke("ada", "cat", b"x")).unwrap());
    wait_for_status(&mut node.client(), "one runs and two wait", |status| {
        status["pools"]["running"] == 1 && status["pools"]["waiting"] == 2
    });
    let mut other = node.client();
    let (code, message) = refusal(other.invoke(&invoke("ada", "cat", b"")));
    assert_eq!(code, "busy");
    assert!(message.contains("of this user"), "{message}");
    // Another user is not held up by that.
    run(&mut other, "grace", "cat", b"");
    // One that cannot wait says so.
    client.cancel(open[2]).unwrap();
    assert_eq!(refusal(client.complete(open[2])).0, "cancelled");
    let impatient = Invoke { timeout_nanos: 100_000_000, ..invoke("ada", "cat", b"") };
    assert_eq!(refusal(other.invoke(&impatient)).0, "deadline");
    for id in &open[..2] {
        client.send_body(*id, b"y", false).unwrap();
        assert_eq!(text(&client.complete(*id).unwrap()), "xy");
    }
}

#[test]
fn a_client_that_does_not_read_holds_up_nobody_else() {
    const INVOKES: usize = 8;
    let node = TestNode::new();
    let mut client = node.client();
    for user in ["ada", "mallory"] {
        let package = package("busybox", &["head", "-c", &MAX.to_string(), "/dev/zero"]);
        client.deploy((user, "zeros"), &package).unwrap();
    }
    let mut idler = node.client();
    for _ in 0..INVOKES {
        idler.submit(&invoke("mallory", "zeros", b"")).unwrap();
    }
    // Several times what the node keeps for one connection waits for it.
    wait_for_status(&mut client, "they run", |status| status["pools"]["running"] != 0);
    for _ in 0..5 {
        assert_eq!(run(&mut client, "ada", "zeros", b"").response.len(), MAX);
    }
    // When it reads at last, everything is there; or it was told that it is too slow.
    let (mut bytes, mut done) = (0, 0);
    while done < INVOKES {
        let received = match idler.receive_within(PATIENCE) {
            Ok(received) => received.expect("the node still talks to it"),
            Err(ClientError::Refused { code, .. }) if code == "too-slow" => break,
            Err(error) => panic!("{error}"),
        };
        match received.answer {
            Answer::Response(part) => bytes += part.len(),
            Answer::Outcome(outcome) => {
                bytes += outcome.response.len();
                assert_eq!(outcome.status, Status::Exited, "{outcome:?}");
                done += 1;
            }
            Answer::Error { code, message } => panic!("{code}: {message}"),
            Answer::Hello(_) | Answer::Log(_) | Answer::Reply(_) | Answer::Attached(_) => {
                panic!("nothing asked for it")
            }
        }
    }
    assert_eq!((done, bytes), (INVOKES, INVOKES * MAX));
}

#[test]
fn a_client_that_never_reads_loses_its_connection_and_no_vm_of_others() {
    let node = TestNode::new();
    let mut client: Client = node.client();
    let mut zeros = package("busybox", &["head", "-c", &MAX.to_string(), "/dev/zero"]);
    zeros.settings.timeout_millis = 500;
    client.deploy(("mallory", "zeros"), &zeros).unwrap();
    client.deploy(("ada", "cat"), &package("busybox", &["cat"])).unwrap();
    let vm = run(&mut client, "ada", "cat", b"").outcome.vm;
    let mut idler = node.client();
    for _ in 0..32 {
        idler.submit(&invoke("mallory", "zeros", b"")).unwrap();
    }
    // Every one of them is over at some time, by its answer, its deadline or that of its VM.
    wait_for_status(&mut client, "nothing of it runs any more", |status| {
        status["pools"]["running"] == 0 && status["pools"]["waiting"] == 0
    });
    assert_eq!(run(&mut client, "ada", "cat", b"").outcome.vm, vm);
}
