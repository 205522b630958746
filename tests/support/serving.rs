//! `pilotlight serve` as a process of a test's own, and the other commands against it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(dead_code, reason = "each test file uses its part of this")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use rustix::process::{Pid, Signal};
use serde_json::Value;
use tempfile::TempDir;

const BUSYBOX: &str = "/bin/busybox";

/// A node in a folder of its own; killed with the test.
pub(crate) struct Serving {
    folder: TempDir,
    pub(crate) child: Child,
    output: BufReader<ChildStdout>,
}

impl Serving {
    /// Starts it with these arguments and a configuration, and waits until it says that it is ready.
    pub(crate) fn start(arguments: &[&str], config: &str, lines: impl Into<Stdio>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config_file = folder.path().join("node.toml");
        std::fs::write(&config_file, config).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_pilotlight"));
        command.arg("serve").arg("--state").arg(folder.path().join("state"));
        command.arg("--socket").arg(folder.path().join("node.sock"));
        command.arg("--config").arg(config_file).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(lines);
        let mut child = command.spawn().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut serving = Self { folder, child, output };
        let mut line = String::new();
        serving.output.read_line(&mut line).unwrap();
        assert!(line.starts_with("ready at "), "{line:?}");
        serving
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("node.sock")
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

impl Drop for Serving {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
