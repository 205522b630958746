//! `pilotlight status`: what a node says of itself.

use std::process::ExitCode;

use super::fault::Fault;
use super::report::Report;
use super::target::Target;

/// Show a node's pools, VMs, counters and latency
///
/// docs/status.md describes the keys of --json.
#[derive(Debug, clap::Args)]
pub(crate) struct Status {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    report: Report,
}

impl Status {
    pub(crate) fn run(self) -> Result<ExitCode, Fault> {
        self.status().map_err(|fault| fault.told(self.report))
    }

    fn status(&self) -> Result<ExitCode, Fault> {
        let status = self.target.connect()?.status()?;
        self.report.print(&status, || format!("{status:#}\n"))
    }
}
