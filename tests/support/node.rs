//! A node of a test's own, in this process, with a state directory of its own; stopped and gone
//! with the test. Needs KVM.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(dead_code, reason = "each test file uses its part of this")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::Duration;

use pilotlight::client::{Client, ClientError, Completed, Package};
use pilotlight::invoke::{Contract, VmId};
use pilotlight::socket::request::{Invoke, OPTION_WANT_LOG};
use pilotlight::{Config, Node};
use serde_json::Value;
use tempfile::TempDir;

use super::programs::program;

/// How long anything may take on a busy machine before a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two looks at something that has no way to tell.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// Timeout of functions whose end is not what the test is about.
const TIMEOUT_MILLIS: u64 = 60_000;

/// How long a client in shared memory polls: long enough to be found polling, and asleep.
const CLIENT_POLL: Duration = Duration::from_micros(20);

/// A running node.
pub(crate) struct TestNode {
    node: Option<Node>,
    config: Config,
    state: TempDir,
}

impl TestNode {
    /// One with the default configuration, but fewer warm VMs: they cost a small machine much.
    pub(crate) fn new() -> Self {
        Self::with(|_| ())
    }

    /// The same, with changes.
    pub(crate) fn with(change: impl FnOnce(&mut Config)) -> Self {
        let state = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.paths.state = state.path().to_owned();
        config.pools.warm_target = 2;
        change(&mut config);
        let node = Some(start(&config));
        Self { node, config, state }
    }

    /// Ends it and starts another on the same state.
    pub(crate) fn restart(&mut self) {
        self.node.take().unwrap().stop();
        self.node = Some(start(&self.config));
    }

    /// The state directory.
    pub(crate) fn state(&self) -> &Path {
        self.state.path()
    }

    /// A client that may act for every user; in shared memory in tests/over_shared_memory.rs.
    pub(crate) fn client(&self) -> Client {
        let mut client = self.socket_client();
        if env!("CARGO_CRATE_NAME") == "over_shared_memory" {
            client.attach(CLIENT_POLL).unwrap();
        }
        client
    }

    /// One that stays with its socket.
    pub(crate) fn socket_client(&self) -> Client {
        self.node.as_ref().unwrap().client().unwrap()
    }

    /// Lets other processes connect, and tests as such.
    pub(crate) fn listen(&mut self) -> PathBuf {
        let socket = self.state().join("node.sock");
        self.node.as_mut().unwrap().listen(&socket).unwrap();
        socket
    }

    /// Where its metrics are to be had.
    pub(crate) fn metrics_address(&self) -> SocketAddr {
        self.node.as_ref().unwrap().metrics_address().unwrap()
    }

    /// Ends it, whatever runs.
    pub(crate) fn stop(&mut self) {
        drop(self.node.take());
    }

    /// A client, once the warming pool is as full as it is to be.
    pub(crate) fn warm_client(&self) -> Client {
        let mut client = self.client();
        let target = self.config.pools.warm_target;
        wait_for_status(&mut client, "a full warming pool", |status| {
            status["pools"]["warm"] == target && status["pools"]["starting"] == 0
        });
        client
    }
}

fn start(config: &Config) -> Node {
    // What the node says belongs to the story of a test that fails. Only the first node of a process
    // can ask for it.
    let lines = tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false);
    drop(lines.try_init());
    Node::start(config.clone()).expect("a node starts; it needs KVM")
}

/// Looks again and again until `is_true`.
pub(crate) fn wait_until(what: &str, mut is_true: impl FnMut() -> bool) {
    let mut left = PATIENCE;
    while !is_true() {
        assert!(!left.is_zero(), "waited {PATIENCE:?} in vain: {what}");
        left = left.saturating_sub(LOOK_AGAIN);
        sleep(LOOK_AGAIN);
    }
}

/// The node's status, once it is as wanted.
pub(crate) fn wait_for_status(
    client: &mut Client,
    what: &str,
    is_it: impl Fn(&Value) -> bool,
) -> Value {
    let mut status = Value::Null;
    wait_until(what, || {
        status = client.status().unwrap();
        is_it(&status)
    });
    status
}

/// The VMM process of a VM.
pub(crate) fn process_of(status: &Value, vm: VmId) -> u32 {
    let vms = status["vms"].as_array().unwrap();
    let entry = vms.iter().find(|entry| entry["vm"] == vm.to_string());
    let pid = entry.unwrap_or_else(|| panic!("no {vm} in {status:#}"))["pid"].as_u64().unwrap();
    u32::try_from(pid).unwrap()
}

/// The VMM process of a VM that is nobody's, once so many of them are warm and none starts.
pub(crate) fn warm_process(client: &mut Client, warm: u64) -> i32 {
    let status = wait_for_status(client, "warm VMs", |status| {
        status["pools"]["warm"] == warm && status["pools"]["starting"] == 0
    });
    let vm = status["vms"].as_array().unwrap().iter().find(|vm| vm["state"] == "warm");
    i32::try_from(vm.unwrap()["pid"].as_u64().unwrap()).unwrap()
}

/// A test program as a package of contract `program`.
pub(crate) fn package(name: &str, arguments: &[&str]) -> Package {
    let mut package = Package::read(&program(name)).unwrap();
    package.settings.arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
    package.settings.timeout_millis = TIMEOUT_MILLIS;
    package
}

/// The same, of contract `stream`.
pub(crate) fn stream_package(name: &str, arguments: &[&str]) -> Package {
    let mut package = package(name, arguments);
    package.settings.contract = Contract::Stream;
    package
}

/// An invoke that asks for its log and says nothing of a logging service.
pub(crate) fn invoke<'a>(user: &'a str, function: &'a str, body: &'a [u8]) -> Invoke<'a> {
    Invoke { user, options: OPTION_WANT_LOG, ..Invoke::new(function, body) }
}

/// Runs a function that is to end well and returns its answer.
pub(crate) fn run(client: &mut Client, user: &str, function: &str, body: &[u8]) -> Completed {
    let done = client.invoke(&invoke(user, function, body)).unwrap();
    assert_success(&done);
    done
}

/// Fails with all there is to know unless the program exited with status 0.
pub(crate) fn assert_success(done: &Completed) {
    let outcome = &done.outcome;
    let is_success = outcome.status == pilotlight::invoke::Status::Exited && outcome.detail == 0;
    assert!(is_success, "{outcome:?}\nlog: {}\nresponse: {}", log_text(done), text(done));
}

/// The response as text.
pub(crate) fn text(done: &Completed) -> String {
    String::from_utf8_lossy(&done.response).into_owned()
}

/// The log as text, one line per record.
pub(crate) fn log_text(done: &Completed) -> String {
    let lines = done.log.iter().map(|record| String::from_utf8_lossy(&record.text).into_owned());
    lines.collect::<Vec<_>>().join("\n")
}

/// Code and text of the error an invoke is answered with.
pub(crate) fn refusal(answer: Result<Completed, ClientError>) -> (String, String) {
    match answer {
        Err(ClientError::Refused { code, message }) => (code, message),
        Err(error) => panic!("refused is not {error}"),
        Ok(done) => panic!("refused is not {:?}", done.outcome),
    }
}
