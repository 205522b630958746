//! `pilotlight serve` as a process of its own, in a folder of its own, ended with the test. Needs
//! KVM.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(dead_code, reason = "each test file uses its part of this")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use pilotlight::client::Client;
use tempfile::TempDir;

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

    /// The same with a folder that may hold what one before left.
    pub(crate) fn start_in(folder: TempDir) -> Self {
        let (child, output) = spawn(folder.path());
        Self { folder, child, output }
    }

    /// Kills it, if it is not dead yet, and starts another in the same folder.
    pub(crate) fn start_again(&mut self) {
        self.kill();
        (self.child, self.output) = spawn(self.folder.path());
    }

    /// `kill -9`, and waits for its end.
    pub(crate) fn kill(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }

    /// Whether it has ended by itself, or by another's hand.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
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
}

impl Drop for Served {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(folder: &Path) -> (Child, BufReader<ChildStdout>) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pilotlight"));
    command.arg("serve").arg("--state").arg(folder.join("state"));
    let socket = socket_in(folder);
    command.arg("--socket").arg(&socket);
    let config = folder.join(CONFIG);
    if config.exists() {
        command.arg("--config").arg(config);
    }
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
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
