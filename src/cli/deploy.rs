//! `pilotlight deploy`: stores a program under a name.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use pilotlight::client::Package;
use pilotlight::invoke::{Contract, Freshness, Function};
use serde_json::json;

use super::fault::Fault;
use super::report::{self, Report};
use super::target::Target;

/// Store a program under a name; deploying again replaces it
///
/// The program is a static ELF file for x86-64 Linux, or a folder with an executable `bootstrap`,
/// which is found in `/var/task`. Its first argument is the base name of the file or folder.
#[derive(Debug, clap::Args)]
pub(crate) struct Deploy {
    /// Name of the function
    name: String,
    /// ELF file, or folder with an executable `bootstrap`
    #[arg(long, value_name = "PATH")]
    program: PathBuf,
    /// program: a process per request, body on stdin, response on stdout, log on stderr.
    /// stream: a resident process, requests and responses framed by a 32-bit length
    #[arg(long, default_value = "program", value_name = "program|stream")]
    contract: Contract,
    /// What a request finds of those before it. reuse: the container as it is; fork: a copy of the
    /// container as it was before its first request; vm: a VM put back to its snapshot
    #[arg(long, default_value = "reuse", value_name = "reuse|fork|vm")]
    freshness: Freshness,
    /// Whose function [default: your login]
    #[arg(long, default_value = "", hide_default_value = true)]
    user: String,
    /// Memory its container may use, MiB [default: the node's, 128]
    #[arg(long, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..))]
    memory: Option<u32>,
    /// How long an invoke may take, as in 500ms, 3s, 2m [default: the node's, 3s]
    #[arg(long, value_name = "TIME", value_parser = timeout)]
    timeout: Option<Duration>,
    /// A variable it gets; may be repeated
    #[arg(long, value_name = "K=V", value_parser = variable)]
    env: Vec<(String, String)>,
    /// Arguments behind the program's name
    #[arg(last = true, value_name = "ARG")]
    arguments: Vec<String>,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    report: Report,
}

impl Deploy {
    pub(crate) fn run(self) -> Result<ExitCode, Fault> {
        let report = self.report;
        self.deploy().map_err(|fault| fault.told(report))
    }

    fn deploy(self) -> Result<ExitCode, Fault> {
        let mut package = Package::read(&self.program)?;
        let settings = &mut package.settings;
        settings.contract = self.contract;
        settings.freshness = self.freshness;
        settings.arguments = self.arguments;
        settings.environment = self.env;
        settings.memory_mib = self.memory.unwrap_or(0);
        settings.timeout_millis = self.timeout.map_or(0, millis);
        let mut client = self.target.connect()?;
        let function = client.deploy((&self.user, &self.name), &package)?;
        self.report.print(&json!(function), || line(&function))
    }
}

fn line(function: &Function) -> String {
    format!(
        "deployed {} for {}: {}, {} MiB, {}, {} sha256:{:.12}\n",
        function.name,
        function.user,
        function.contract,
        function.memory_mib,
        humantime::format_duration(function.timeout()),
        report::bytes(function.package_bytes),
        function.package.to_string(),
    )
}

/// A time that is not nothing.
pub(crate) fn timeout(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if millis(duration) == 0 {
        return Err("it is at least 1ms".to_owned());
    }
    Ok(duration)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn variable(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("write NAME=VALUE".to_owned()),
    }
}
