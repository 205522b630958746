//! `pilotlight list`: what a user has deployed.

use std::process::ExitCode;

use pilotlight::client::Listing;
use pilotlight::invoke::Function;
use serde_json::json;

use super::fault::Fault;
use super::report::{self, Report};
use super::target::Target;

/// List a user's functions
#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// Whose [default: your login]
    #[arg(long, default_value = "", hide_default_value = true)]
    user: String,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    report: Report,
}

impl List {
    pub(crate) fn run(self) -> Result<ExitCode, Fault> {
        self.list().map_err(|fault| fault.told(self.report))
    }

    fn list(&self) -> Result<ExitCode, Fault> {
        let mut client = self.target.connect()?;
        let listing = client.listing(&self.user)?;
        let user = if self.user.is_empty() { client.login() } else { &self.user };
        self.report.print(&json!(listing), || text(user, &listing))
    }
}

fn text(user: &str, listing: &Listing) -> String {
    let functions = &listing.functions;
    if functions.is_empty() && listing.finishing.is_empty() {
        return format!(
            "{user} has no functions; `pilotlight deploy NAME --program PATH` adds one\n"
        );
    }
    let rows: Vec<_> = functions
        .iter()
        .enumerate()
        .map(|(place, function)| {
            let snapshot = listing.snapshots.get(place);
            let state = snapshot.map_or("-", |snapshot| snapshot.state.as_str());
            row(function, state.to_owned())
        })
        .chain(listing.finishing.iter().map(|finishing| {
            row(&finishing.function, format!("{} open, then gone", finishing.invokes))
        }))
        .collect();
    let heads =
        ["NAME", "VERSION", "CONTRACT", "MEMORY", "TIMEOUT", "SIZE", "SNAPSHOT", "ARGUMENTS"];
    report::table(heads, &rows)
}

fn row(function: &Function, state: String) -> [String; 8] {
    [
        function.name.to_string(),
        function.version.to_string(),
        function.contract.to_string(),
        format!("{} MiB", function.memory_mib),
        humantime::format_duration(function.timeout()).to_string(),
        report::bytes(function.package_bytes),
        state,
        function.arguments.join(" "),
    ]
}
