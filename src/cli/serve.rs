//! (in progress)

use std::process::ExitCode;

use super::fault::Fault;

/// (in progress)
#[derive(Debug, clap::Args)]
pub(crate) struct Serve {}

impl Serve {
    pub(crate) fn run(self) -> Result<ExitCode, Fault> {
        Err(Fault::new("not built yet").with_status(125))
    }
}
