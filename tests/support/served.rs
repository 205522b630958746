//! `pilotlight serve` as a process of its own, in a folder of its own, ended with the test, and the
//! other commands against it. Needs KVM.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(dead_code, reason = "each test file uses its part of this")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use pilotlight::client::Client;
use rustix::process::{Pid, Signal};
use serde_json::Value;
use tempfile::TempDir;

const BUSYBOX: &str = "/bin/busybox";
/// Its configuration, in its folder, if it has one.
const CONFIG: &str = "node.toml";

/// A node that has said that it is ready.
pub(crate) struct Served {
    pub(crate) folder: TempDir,
    pub(crate) child: Child,
    output: BufReader<ChildStdout>,
}

impl Served {
    /// Starts it and waits until it says that it is ready.
    pub(crate) fn start() -> Self {
        Self::start_in(tempfile::tempdir().unwrap())
    }

    /// The same with a configuration.
    pub(crate) fn configured(config: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(CONFIG), config).unwrap();
        Self::start_in(folder)
    }

    /// The same with arguments and a place for its own lines.
    pub(crate) fn start_with(arguments: &[&str], lines: impl Into<Stdio>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (child, output) = spawn(folder.path(), arguments, lines.into());
        Self { folder, child, output }
    }

    fn start_in(folder: TempDir) -> Self {
        let (child, output) = spawn(folder.path(), &[], Stdio::inherit());
        Self { folder, child, output }
    }

    /// Kills it, if it is not dead yet, and starts another in the same folder.
    pub(crate) fn start_again(&mut self) {
        self.kill();
        (self.child, self.output) = spawn(self.folder.path(), &[], Stdio::inherit());
    }

    /// `kill -9`, and waits for its end.
    pub(crate) fn kill(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }

    /// The next line of what it says on stdout.
    pub(crate) fn line(&mut self) -> String {
        line(&mut self.output)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        socket_in(self.folder.path())
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(&self.socket()).unwrap()
    }

    /// A command that speaks to it.
    pub(crate) fn command(&self, name: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pilotlight"));
        command.arg(name).arg("--socket").arg(self.socket()).args(arguments);
        command.stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, name: &str, arguments: &[&str]) -> Output {
        self.command(name, arguments).output().unwrap()
    }

    pub(crate) fn json(&self, name: &str, arguments: &[&str]) -> Value {
        let output = self.command(name, arguments).arg("--json").output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Deploys busybox under this name.
    pub(crate) fn deploy(&self, name: &str, arguments: &[&str]) {
        let all = [&[name, "--program", BUSYBOX], arguments].concat();
        let output = self.run("deploy", &all);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    }

    /// Asks it to stop and waits until it has.
    pub(crate) fn stop(&mut self) {
        rustix::process::kill_process(Pid::from_child(&self.child), Signal::TERM).unwrap();
        assert_eq!(self.child.wait().unwrap().code(), Some(0));
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(folder: &Path, arguments: &[&str], lines: Stdio) -> (Child, BufReader<ChildStdout>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pilotlight"));
    command.arg("serve").arg("--state").arg(folder.join("state"));
    let socket = socket_in(folder);
    command.arg("--socket").arg(&socket);
    let config = folder.join(CONFIG);
    if config.exists() {
        command.arg("--config").arg(config);
    }
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(lines);
    let mut child = command.spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let said = line(&mut output);
    let socket = socket.display().to_string();
    assert!(said.contains(&socket) && said.contains("isolation vm"), "{said}");
    (child, output)
}

fn socket_in(folder: &Path) -> PathBuf {
    folder.join("node.sock")
}

fn line(output: &mut BufReader<ChildStdout>) -> String {
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    line
}
