//! Promise: under load, with users that come and go, every invoke is answered once and rightly, and
//! every log record is delivered or counted; when VMMs and the node itself are killed meanwhile, every
//! invoke is answered or fails clearly, and what follows is a clean start. Needs KVM and Debian's rsyslog.
//!
//! `COUNT` is how many invokes there are (4,000), `SECONDS` for how long processes are killed (6), `SEED`
//! in which order.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::sleep;
use std::time::Duration;

use pilotlight::client::{Client, ClientError};
use pilotlight::invoke::LogAccount;
use pilotlight::socket::request::{Invoke, OPTION_SETTLE_LOGS};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;

use self::support::held::Held;
use self::support::node::{assert_success, invoke, stream_package, wait_for_status, wait_until};
use self::support::rsyslog::Rsyslog;
use self::support::served::Served;
use self::support::service::Service;

/// Few VMs and many users: most of them find another's place.
const CONFIG: &str = "[pools]\nvms_max = 8\nidle_expiry_seconds = 1\nwarm_target = 2\nwarm_min = 2\n\
    warm_max = 2\n[snapshots]\ncount_max = 0\n";
const CLIENTS: u64 = 8;
/// So many invokes after it came a user is gone.
const STAY: u64 = 1_000;
/// Users at a time.
const USERS: u64 = 4;
/// Every so many invokes one has a body that takes several turns.
const LARGE_EVERY: u64 = 50;
const LARGE_BYTES: usize = 100_000;

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// Numbers that say nothing of each other (SplitMix64).
fn scattered(number: u64) -> u64 {
    let mut word = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word ^ (word >> 27)
}

/// Who asks for invoke `number`: of those that are there now.
fn user(number: u64) -> String {
    let newest = number * USERS / STAY;
    format!("user-{}", newest + scattered(number) % USERS)
}

/// Whether no client still asks for a user, now that another is there.
fn is_long_gone(user: &str, newer: &str) -> bool {
    let number = |user: &str| user.trim_start_matches("user-").parse::<u64>().unwrap();
    number(user) + 4 * USERS < number(newer)
}

/// What it sends: its number, which is also what is logged, and more sometimes.
fn body(number: u64) -> Vec<u8> {
    let mut body = format!("{number}\n").into_bytes();
    if number.is_multiple_of(LARGE_EVERY) {
        body.resize(LARGE_BYTES, b'.');
    }
    body
}

/// What clients share.
struct Crowd<'a> {
    socket: PathBuf,
    service: &'a Service,
    next: AtomicU64,
    deployed: Mutex<HashSet<String>>,
    /// Invokes whose answer said that their record was handed over to the service.
    handed_over: Mutex<HashSet<u64>>,
}

impl<'a> Crowd<'a> {
    fn new(socket: PathBuf, service: &'a Service) -> Self {
        let next = AtomicU64::new(0);
        Self { socket, service, next, deployed: Mutex::default(), handed_over: Mutex::default() }
    }

    /// The user's function is there, and those of users long gone are not.
    fn deploy(&self, client: &mut Client, user: &str) -> Result<(), ClientError> {
        let mut deployed = self.deployed.lock().unwrap();
        if deployed.contains(user) {
            return Ok(());
        }
        client.deploy((user, "echo"), &stream_package("echo-log", &[]))?;
        deployed.insert(user.to_owned());
        let gone: Vec<_> =
            deployed.iter().filter(|other| is_long_gone(other, user)).cloned().collect();
        for other in gone {
            match client.remove(&other, "echo") {
                // A node that was killed may have done it, and not have said so.
                Ok(()) | Err(ClientError::Refused { .. }) => drop(deployed.remove(&other)),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Invokes, and what it logs is counted later.
    fn ask(&self, client: &mut Client, number: u64) -> Result<(), ClientError> {
        self.ask_with(0, client, number).map(drop)
    }

    /// The same, and the answer waits until it knows what became of the record.
    fn ask_and_settle(&self, client: &mut Client, number: u64) -> Result<(), ClientError> {
        let account = self.ask_with(OPTION_SETTLE_LOGS, client, number)?;
        assert_eq!(account.produced, 1, "{number}: {account:?}");
        assert!(account.handed_over + account.dropped <= 1, "{number}: {account:?}");
        if account.handed_over == 1 {
            self.handed_over.lock().unwrap().insert(number);
        }
        Ok(())
    }

    fn ask_with(
        &self,
        options: u8,
        client: &mut Client,
        number: u64,
    ) -> Result<LogAccount, ClientError> {
        let (user, body) = (user(number), body(number));
        self.deploy(client, &user)?;
        let mut storage = Vec::new();
        let logging = Some(self.service.logging(&mut storage));
        let done = client.invoke(&Invoke { logging, options, ..invoke(&user, "echo", &body) })?;
        assert_success(&done);
        assert!(done.response == body, "{number}: another's answer, or not all of it");
        Ok(done.outcome.log)
    }

    /// One client's part of so many invokes, each of which is to succeed.
    fn ask_until(&self, count: u64, busy: &AtomicU64) {
        let mut client = Client::connect(&self.socket).unwrap();
        // Relaxed: a number is all it gives.
        let next = || self.next.fetch_add(1, Ordering::Relaxed);
        while let Some(number) = Some(next()).filter(|number| *number < count) {
            while let Err(error) = self.ask(&mut client, number) {
                assert_eq!(error.code(), "busy", "{number}: {error}");
                busy.fetch_add(1, Ordering::Relaxed);
                sleep(Duration::from_millis(1));
            }
        }
    }

    /// One client's part until it is over, each invoke answered or failing clearly.
    fn ask_while(&self, ends: &AtomicBool, answers: &Mutex<BTreeMap<String, u64>>) {
        let mut client = connect(&self.socket);
        while !ends.load(Ordering::Relaxed) {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let asks =
                if number.is_multiple_of(SETTLE_EVERY) { Self::ask_and_settle } else { Self::ask };
            let answer = asks(self, &mut client, number);
            let code = answer.as_ref().map_or_else(|error| error.code(), |()| "answered");
            *answers.lock().unwrap().entry(code.to_owned()).or_default() += 1;
            match answer {
                Ok(()) => {}
                Err(error @ ClientError::Refused { .. }) => {
                    let known = ["vm-lost", "vm-gone", "busy"];
                    assert!(known.contains(&error.code()), "{number}: {error}");
                }
                // The node is gone, and says nothing any more.
                Err(_) => client = connect(&self.socket),
            }
        }
    }
}

/// A client once there is a node.
fn connect(socket: &Path) -> Client {
    let mut client = None;
    wait_until("a node to connect to", || {
        client = Client::connect(socket).ok();
        client.is_some()
    });
    client.unwrap()
}

/// How often each record arrived, by the number in it.
fn arrived(rsyslog: &Rsyslog) -> HashMap<u64, u32> {
    let mut arrived = HashMap::new();
    for record in rsyslog.records() {
        // A node that is killed may leave half a record.
        let number = record.message.trim().parse().unwrap_or(u64::MAX);
        *arrived.entry(number).or_default() += 1;
    }
    arrived
}

#[test]
fn users_come_and_go_and_nothing_is_lost_or_doubled() {
    let count = number("COUNT", 4_000);
    let node = Served::configured(CONFIG);
    let rsyslog = Rsyslog::tcp();
    let service = Service::of_tcp(&rsyslog);
    let crowd = Crowd::new(node.socket(), &service);
    // What is made once, for a first time.
    crowd.ask(&mut node.client(), 0).unwrap();
    let before = Held::at_rest(&node, 0);
    crowd.next.store(1, Ordering::Relaxed);
    let busy = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| crowd.ask_until(count, &busy));
        }
    });
    let mut client = node.client();
    let status = client.status().unwrap();
    let counter = |name: &str| status["counters"][name].as_u64().unwrap();
    assert_eq!(counter("log_records"), count, "each invoke logs once");
    assert_eq!(status["outcomes"]["exited"], count);
    let mut records = 0;
    wait_until("all records to be delivered or given up", || {
        let status = client.status().unwrap();
        let dropped = status["counters"]["log_dropped"].as_u64().unwrap();
        records = count - dropped;
        u64::try_from(rsyslog.line_count()).unwrap() >= records
    });
    let arrived = arrived(&rsyslog);
    assert!(arrived.values().all(|times| *times == 1), "a record arrived twice");
    assert!(arrived.keys().all(|number| *number < count));
    assert_eq!(u64::try_from(arrived.len()).unwrap(), records, "delivered, or counted as dropped");
    for user in crowd.deployed.lock().unwrap().drain() {
        client.remove(&user, "echo").unwrap();
    }
    let assigns = client.status().unwrap()["counters"]["assigns"].clone();
    let after = Held::at_rest(&node, 0);
    let (busy, lost) = (busy.into_inner(), count - records);
    eprintln!("{count} invokes, {assigns} VMs, {busy} times busy, {lost} records given up");
    after.is_no_more_than(before);
}

/// VMMs of a node.
fn vmms(status: &Value) -> Vec<Pid> {
    let vms = status["vms"].as_array().unwrap().iter();
    let pids = vms.filter_map(|vm| vm["pid"].as_u64());
    pids.map(|pid| Pid::from_raw(i32::try_from(pid).unwrap()).unwrap()).collect()
}

/// Every so many invokes one waits for the account of its log.
const SETTLE_EVERY: u64 = 8;
/// Every so many VMMs the node is killed.
const NODE_EVERY: u64 = 20;

#[test]
fn whoever_is_killed_every_invoke_is_answered_or_fails_clearly() {
    let (seconds, seed) = (number("SECONDS", 6), number("SEED", 1));
    let mut node = Served::configured(CONFIG);
    let rsyslog = Rsyslog::tcp();
    let service = Service::of_tcp(&rsyslog);
    let crowd = Crowd::new(node.socket(), &service);
    let ends = AtomicBool::new(false);
    let answers = Mutex::new(BTreeMap::<String, u64>::new());
    let (mut killed, mut nodes) = (0_u64, 0_u64);
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| crowd.ask_while(&ends, &answers));
        }
        // Milliseconds slept add up to what was asked for, and what else is done to a little more.
        let mut slept = 0;
        while slept < seconds * 1000 {
            killed += 1;
            let pause = 20 + scattered(seed ^ killed) % 200;
            sleep(Duration::from_millis(pause));
            slept += pause;
            let vmms = vmms(&node.client().status().unwrap());
            if killed.is_multiple_of(NODE_EVERY) {
                nodes += 1;
                node.start_again();
                wait_until("the VMMs of a node that was killed to be gone", || {
                    vmms.iter().all(|pid| test_kill_process(*pid).is_err())
                });
            } else if let Some(count) = u64::try_from(vmms.len()).ok().filter(|count| *count > 0) {
                let victim = usize::try_from(scattered(killed) % count).unwrap();
                // It may have gone by itself.
                let _ = kill_process(vmms[victim], Signal::KILL);
            }
        }
        ends.store(true, Ordering::Relaxed);
    });
    let answers = answers.into_inner().unwrap();
    eprintln!("{killed} kills, {nodes} of them of the node: {answers:?}");
    assert!(answers["answered"] > 0 && nodes > 0, "{answers:?}");
    let (asked, handed_over) = (crowd.next.into_inner(), crowd.handed_over.into_inner().unwrap());
    let arrived = arrived(&rsyslog);
    let lost: Vec<_> = handed_over.iter().filter(|number| !arrived.contains_key(number)).collect();
    assert!(lost.is_empty(), "said to be handed over, and not there: {lost:?}");
    assert!(arrived.iter().all(|(number, times)| *number >= asked || *times == 1), "doubled");
    eprintln!("{} records were said to be handed over, and arrived", handed_over.len());
    let (known, unknown): (Vec<u64>, Vec<u64>) =
        arrived.into_keys().partition(|number| *number < asked);
    eprintln!("{} records arrived; {} were cut off", known.len(), unknown.len());
    assert!(unknown.len() <= 1 && !known.is_empty(), "nobody logged that: {unknown:?}");
    // And then all is well.
    let mut client = node.client();
    wait_for_status(&mut client, "the pools to be full", |status| status["pools"]["warm"] == 2);
    let crowd = Crowd::new(node.socket(), &service);
    crowd.ask(&mut client, asked).unwrap();
}
