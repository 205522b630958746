//! `pilotlight man`: the manual, a page for each command, made from what `--help` says.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::builder::Resettable;
use clap::{Command, CommandFactory};

use super::Arguments;
use super::fault::Fault;
use super::report;

/// Print the manual page, or write one for each command
///
/// Without DIR the page of `pilotlight` goes to standard output: pilotlight man | man -l -
#[derive(Debug, clap::Args)]
pub(crate) struct Man {
    /// Folder the pages of all commands are written to: pilotlight.1, pilotlight-serve.1 and so on
    #[arg(value_name = "DIR")]
    folder: Option<PathBuf>,
}

impl Man {
    pub(crate) fn run(self) -> Result<ExitCode, Fault> {
        // A page belongs to a version; which build it came from would only make it differ.
        let command = Arguments::command().long_version(Resettable::Reset);
        let mut command = command.disable_help_subcommand(true);
        command.build();
        let Some(folder) = self.folder else {
            report::write(&page(&command)?)?;
            return Ok(ExitCode::SUCCESS);
        };
        fs::create_dir_all(&folder)?;
        let mut open = vec![&command];
        while let Some(command) = open.pop() {
            let name = command.get_display_name().unwrap_or(command.get_name());
            fs::write(folder.join(format!("{name}.1")), page(command)?)?;
            open.extend(command.get_subcommands().filter(|other| !other.is_hide_set()));
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn page(command: &Command) -> std::io::Result<Vec<u8>> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone())
        .source(concat!("pilotlight ", env!("CARGO_PKG_VERSION")))
        .manual("Pilotlight")
        // Left out, the format takes what follows for it.
        .date(" ")
        .render(&mut page)?;
    Ok(page)
}
