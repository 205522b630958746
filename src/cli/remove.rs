//! `pilotlight remove`: forgets a function.

use std::process::ExitCode;

use serde_json::json;

use super::fault::Fault;
use super::report::Report;
use super::target::Target;

/// Remove a function; invokes that run already go on
#[derive(Debug, clap::Args)]
pub(crate) struct Remove {
    /// Name of the function
    name: String,
    /// Whose function [default: your login]
    #[arg(long, default_value = "", hide_default_value = true)]
    user: String,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    report: Report,
}

impl Remove {
    pub(crate) fn run(self) -> Result<ExitCode, Fault> {
        self.remove().map_err(|fault| fault.told(self.report))
    }

    fn remove(&self) -> Result<ExitCode, Fault> {
        self.target.connect()?.remove(&self.user, &self.name)?;
        let removed = json!({ "removed": self.name });
        self.report.print(&removed, || format!("removed {}\n", self.name))
    }
}
