//! `pilotlight top`: pools, rates and percentiles per function, again and again.
//!
//! ```text
//!  node ─ STATUS, once per interval ─► frame (pure): what changed since the last ─► terminal
//! ```

mod frame;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use rustix::termios::tcgetwinsize;

use self::frame::{Size, frame};
use super::deploy::timeout;
use super::fault::Fault;
use super::report;
use super::target::Target;

/// Watch a node: its pools, rates, and how long invokes of each function take
///
/// On a terminal the picture is drawn anew until Ctrl-C, and rates and percentiles are of the time
/// since the last one. Elsewhere, or with --once, there is one picture, since the start of the node.
/// Functions are those used last; who may act only for one user sees that user's.
#[derive(Debug, clap::Args)]
pub(crate) struct Top {
    /// Time between two pictures, as in 500ms, 1s
    #[arg(long, value_name = "TIME", value_parser = timeout, default_value = "1s")]
    interval: Duration,
    /// Show one picture and end
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    target: Target,
}

/// Least time between two pictures: each takes a shard a fraction of a millisecond.
const INTERVAL_MIN: Duration = Duration::from_millis(100);
/// Clears the terminal and goes to its corner; goes there; clears the rest of a line; all below.
const CLEAR: &str = "\x1b[2J\x1b[H";
const HOME: &str = "\x1b[H";
const CLEAR_LINE: &str = "\x1b[K";
const CLEAR_BELOW: &str = "\x1b[J";

impl Top {
    pub(crate) fn run(self) -> Result<ExitCode, Fault> {
        let mut client = self.target.connect()?;
        let mut status = client.status()?;
        if self.once || !std::io::stdout().is_terminal() {
            report::write(frame(None, &status, None).as_bytes())?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut before = None;
        report::write(CLEAR.as_bytes())?;
        loop {
            let picture = frame(before.as_ref(), &status, size());
            let lines = picture.lines().map(|line| format!("{line}{CLEAR_LINE}"));
            let lines = lines.collect::<Vec<_>>().join("\n");
            report::write(format!("{HOME}{lines}{CLEAR_BELOW}").as_bytes())?;
            std::thread::sleep(self.interval.max(INTERVAL_MIN));
            before = Some(std::mem::replace(&mut status, client.status()?));
        }
    }
}

/// How much fits on the terminal, if it says so.
fn size() -> Option<Size> {
    let size = tcgetwinsize(std::io::stdout()).ok()?;
    (size.ws_col > 0 && size.ws_row > 0)
        .then(|| Size { columns: size.ws_col.into(), lines: size.ws_row.into() })
}
