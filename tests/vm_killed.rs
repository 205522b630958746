//! Promise: whenever a VMM is killed while its VM serves an invoke, the client has the whole answer or is
//! told that the VM is gone, what was logged is accounted for, and the next invoke is served. Needs KVM
//! and Debian's rsyslog.
//!
//! `POINTS` is at how many moments, spread over an invoke and the time before and behind it (40).

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::time::{Duration, Instant};

use pilotlight::client::{Client, ClientError, Completed, Package};
use pilotlight::socket::request::{Invoke, OPTION_SETTLE_LOGS};
use rustix::process::{Pid, Signal, kill_process};

use self::support::node::{TestNode, assert_success, invoke, package, wait_until, warm_process};
use self::support::rsyslog::Rsyslog;
use self::support::service::Service;

/// More than a ring holds, so that it travels in several turns.
static BODY: [u8; 600_000] = [b'b'; 600_000];
/// Undisturbed ones, to know how long one takes.
const UNDISTURBED: u32 = 5;

/// Answers while it reads, and logs how much that was.
fn program() -> Package {
    package("busybox", &["dd", "bs=16k"])
}

#[expect(clippy::disallowed_methods, reason = "a moment of an invoke is a time")]
fn now() -> Instant {
    Instant::now()
}

/// The VMM of the VM a new user will get.
fn next_vm(client: &mut Client) -> Pid {
    Pid::from_raw(warm_process(client, 1)).unwrap()
}

fn ask(client: &mut Client, user: &str, service: &Service) -> Result<Completed, ClientError> {
    let mut storage = Vec::new();
    let logging = Some(service.logging(&mut storage));
    let options = OPTION_SETTLE_LOGS;
    client.invoke(&Invoke { logging, options, ..invoke(user, "copy", &BODY) })
}

fn check(done: &Completed) {
    assert_success(done);
    assert!(done.response == BODY, "{} bytes came back", done.response.len());
    let account = done.outcome.log;
    assert!(account.produced >= 2, "{account:?}");
    assert_eq!(account.produced, account.handed_over + account.dropped, "{account:?}");
}

/// Whether there is an answer, which is then the whole of it; else it is clear that there is none.
fn is_answered(answer: Result<Completed, ClientError>) -> bool {
    match answer {
        Ok(done) => {
            check(&done);
            true
        }
        Err(error) => {
            assert!(["vm-gone", "vm-lost"].contains(&error.code()), "{error}");
            false
        }
    }
}

#[test]
fn at_every_moment_of_an_invoke() {
    let points = std::env::var("POINTS").map_or(40, |points| points.parse().unwrap());
    let node = TestNode::with(|config| {
        let pools = &mut config.pools;
        (pools.warm_target, pools.warm_min, pools.warm_max) = (1, 1, 1);
        // Each user's first request finds a VM of the base, and what is to be done there takes longest.
        config.snapshots.count_max = 0;
    });
    let rsyslog = Rsyslog::tcp();
    let service = Service::of_tcp(&rsyslog);
    let mut client = node.client();
    let mut longest = Duration::ZERO;
    for number in 0..UNDISTURBED {
        let user = format!("calm-{number}");
        client.deploy((&user, "copy"), &program()).unwrap();
        next_vm(&mut client);
        let began = now();
        check(&ask(&mut client, &user, &service).unwrap());
        longest = longest.max(began.elapsed());
    }
    let (mut answered, mut lost) = (0, 0);
    for point in 0..points {
        let user = format!("user-{point}");
        client.deploy((&user, "copy"), &program()).unwrap();
        let victim = next_vm(&mut client);
        let moment = longest * point / points;
        let killer = std::thread::spawn(move || {
            std::thread::sleep(moment);
            kill_process(victim, Signal::KILL)
        });
        let has_answer = is_answered(ask(&mut client, &user, &service));
        *(if has_answer { &mut answered } else { &mut lost }) += 1;
        killer.join().unwrap().unwrap();
        // One that comes before the node knows may still go to the dead.
        wait_until("the user to be served again", || {
            is_answered(ask(&mut client, &user, &service))
        });
    }
    eprintln!("killed at {points} moments of {longest:?}: {answered} answered, {lost} lost");
    assert!(lost > 0, "none was killed under way");
}
