//! `pilotlight completions`: what a shell needs to complete command lines.

use std::process::ExitCode;

use clap::CommandFactory;
use clap_complete::{Shell, generate};

use super::Arguments;
use super::fault::Fault;
use super::report;

/// Print the completion script for a shell
///
/// For bash: pilotlight completions bash >/usr/share/bash-completion/completions/pilotlight.
#[derive(Debug, clap::Args)]
pub(crate) struct Completions {
    /// Which shell
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(self) -> Result<ExitCode, Fault> {
        let (mut command, mut script) = (Arguments::command(), Vec::new());
        let name = command.get_name().to_owned();
        generate(self.shell, &mut command, name, &mut script);
        report::write(&script)?;
        Ok(ExitCode::SUCCESS)
    }
}
