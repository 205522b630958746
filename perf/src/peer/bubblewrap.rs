//! A process in namespaces of its own, as desktop sandboxes make them: Debian's `bubblewrap`.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::absent::{Absent, Remedy};
use super::process::{exchange, find};
use crate::latency::timed;

/// Starts a static program in a sandbox for each request.
///
/// Every namespace is new, the root is an empty read-only tmpfs with nothing in it but the program,
/// and no capability, environment or terminal is left. There is no `/proc` and no `/dev`: as little
/// as works, so nothing is counted against it that a caller could have left out.
#[derive(Debug)]
pub struct Bubblewrap {
    executable: PathBuf,
    program: PathBuf,
}

impl Bubblewrap {
    /// Its name, for reports and `--without`.
    pub const NAME: &'static str = "bubblewrap";

    /// Finds `bwrap` on this machine. `program` is a static executable that answers its standard
    /// input with the same bytes on its standard output.
    ///
    /// # Errors
    /// It is not installed.
    pub fn find(program: &Path) -> Result<Self, Absent> {
        let executable =
            find("bwrap").ok_or(Absent::new(Self::NAME, Remedy::Package("bubblewrap")))?;
        Ok(Self { executable, program: program.to_owned() })
    }

    /// Serves one request (at most 4 KiB; when it is empty the program is only run) and returns
    /// the time from the start of `bwrap` to its end.
    ///
    /// # Errors
    /// The system's own, or the sandbox or the program failed, or the answer is not the request;
    /// `bwrap` then says why on standard error.
    pub fn once(&mut self, request: &[u8]) -> io::Result<Duration> {
        let mut command = Command::new(&self.executable);
        command.args(["--unshare-all", "--die-with-parent", "--new-session", "--clearenv"]);
        command.args(["--cap-drop", "ALL", "--ro-bind"]).arg(&self.program).arg("/program");
        command.args(["--remount-ro", "/", "--", "/program"]);
        Ok(timed(|| exchange(&mut command, request))?.1)
    }
}
