//! Runs a log relay in an executor as a shard would.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(dead_code, reason = "each test file uses its part of this")]

use std::rc::Rc;
use std::time::Duration;

use abi::frame::log::Line;
use glommio::LocalExecutorBuilder;
use glommio::timer::sleep;
use pilotlight::invoke::{FunctionName, User};
use pilotlight::log::{Account, Destination, InvokeLog, Limits, Origin, Pem, Relay};
use pilotlight::signal::Signal;

use super::rsyslog::{Authority, Identity, Rsyslog, SERVER_NAME};

/// Runs `test` with a relay and the signal it raises.
pub(crate) fn run(limits: Limits, test: impl AsyncFnOnce(Relay, Rc<Signal>)) {
    let executor = LocalExecutorBuilder::default().make().unwrap();
    executor.run(async {
        let news = Rc::new(Signal::default());
        test(Relay::new(limits, clock, 1, Rc::clone(&news)), news).await;
    });
}

/// Monotonic nanoseconds.
pub(crate) fn clock() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(time.tv_sec).unwrap() * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap()
}

/// Waits, woken by the relay alone, until nothing of the log is pending.
pub(crate) async fn settle(log: &InvokeLog, news: &Signal) {
    let settled = async {
        while !log.is_settled() {
            news.wait().await;
        }
        true
    };
    let too_late = async {
        sleep(Duration::from_secs(30)).await;
        false
    };
    let is_settled = futures_lite::future::or(settled, too_late).await;
    assert!(is_settled, "not settled: {:?}", log.account());
}

/// Looks again and again until `is_true`.
pub(crate) async fn until(mut is_true: impl FnMut() -> bool) {
    for _ in 0..6_000 {
        if is_true() {
            return;
        }
        sleep(Duration::from_millis(5)).await;
    }
    panic!("waited in vain");
}

/// TLS to this rsyslogd with this identity.
pub(crate) fn destination_tls(
    rsyslog: &Rsyslog,
    authority: &Authority,
    identity: Option<&Identity>,
) -> Destination {
    let pem = Pem {
        ca: authority.pem.as_bytes(),
        cert: identity.map(|identity| identity.certificate.as_bytes()),
        key: identity.map(|identity| identity.key.as_bytes()),
    };
    Destination::syslog_tls(rsyslog.address(), SERVER_NAME, pem).unwrap()
}

/// Whose records the tests send.
pub(crate) fn origin() -> Origin {
    let (user, function) = (User::new("ada").unwrap(), FunctionName::new("thumbnail").unwrap());
    Origin { user, function, vm: 7, invoke: 0x4d2 }
}

/// One line of a program.
pub(crate) fn line(sequence: u64, text: &str) -> Line<'_> {
    Line { realtime_nanos: 1_795_479_121_000_345_678, sequence, text: text.as_bytes() }
}

/// The account of an invoke whose records all went.
pub(crate) fn delivered(count: u64) -> Account {
    Account { produced: count, handed_over: count, ..Account::default() }
}
