//! (in progress)

use std::process::ExitCode;

use super::fault::Fault;

/// (in progress)
#[derive(Debug, clap::Args)]
pub(crate) struct Invoke {}

impl Invoke {
    pub(crate) fn run(self) -> Result<ExitCode, Fault> {
        Err(Fault::new("not built yet").with_status(125))
    }
}
