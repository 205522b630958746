//! A container as container engines make them: Debian's `runc`, called without an engine.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::absent::{Absent, Remedy};
use super::process::{exchange, find};
use crate::latency::timed;

/// The container: one static program on a read-only root, no network but its own empty one, no
/// terminal, no capabilities. `/proc` is there because runc 1.1 closes inherited descriptors by
/// it and fails without. No resources are limited and no `cgroupsPath` is named, so runc makes a
/// cgroup named after the container in each hierarchy it is in itself: that works on version 1,
/// 2 and both mounted beside each other, and as root needs no further option.
const CONFIG: &str = r#"{
  "ociVersion": "1.0.2",
  "process": {
    "terminal": false,
    "user": { "uid": 0, "gid": 0 },
    "args": ["/program"],
    "cwd": "/",
    "noNewPrivileges": true
  },
  "root": { "path": "rootfs", "readonly": true },
  "mounts": [{ "destination": "/proc", "type": "proc", "source": "proc" }],
  "linux": {
    "namespaces": [
      { "type": "pid" },
      { "type": "network" },
      { "type": "ipc" },
      { "type": "uts" },
      { "type": "mount" }
    ]
  }
}
"#;

/// Runs a container for each request: `runc run`, from its start to its end, which includes
/// removing the container.
#[derive(Debug)]
pub struct Runc {
    executable: PathBuf,
    program: PathBuf,
    bundle: PathBuf,
    made: u64,
}

impl Runc {
    /// Its name, for reports and `--without`.
    pub const NAME: &'static str = "runc";

    /// Finds `runc` on this machine. `program` is a static executable that answers its standard
    /// input with the same bytes on its standard output; the bundle is made in `folder`, which
    /// outlives this.
    ///
    /// # Errors
    /// It is not installed.
    pub fn find(program: &Path, folder: &Path) -> Result<Self, Absent> {
        let executable = find("runc").ok_or(Absent::new(Self::NAME, Remedy::Package("runc")))?;
        let name = program.file_name().unwrap_or_default().to_string_lossy();
        let bundle = folder.join(format!("runc-{name}"));
        Ok(Self { executable, program: program.to_owned(), bundle, made: 0 })
    }

    /// Serves one request (at most 4 KiB; when it is empty the program is only run) and returns
    /// the time from the start of `runc run` to its end. The first call makes the bundle, untimed.
    ///
    /// # Errors
    /// The system's own, or the container or the program failed, or the answer is not the request;
    /// `runc` then says why on standard error. It needs root.
    pub fn once(&mut self, request: &[u8]) -> io::Result<Duration> {
        if self.made == 0 {
            self.make_bundle()?;
        }
        self.made += 1;
        let mut command = Command::new(&self.executable);
        // What it remembers of its containers is not the system's business.
        command.arg("--root").arg(self.bundle.join("state"));
        command.args(["run", "--bundle"]).arg(&self.bundle);
        command.arg(format!("peer-{}-{}", std::process::id(), self.made));
        Ok(timed(|| exchange(&mut command, request))?.1)
    }

    fn make_bundle(&self) -> io::Result<()> {
        let root = self.bundle.join("rootfs");
        fs::create_dir_all(root.join("proc"))?;
        fs::copy(&self.program, root.join("program"))?;
        fs::write(self.bundle.join("config.json"), CONFIG)
    }
}
