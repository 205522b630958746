//! `pilotlight bench`: how long invokes take, beside what the same machine takes without a node.
//!
//! ```text
//!   bench ── invoke socket ──► node ──► VM       a process of its own, as the echo servers are
//!     │ └─── Unix socket ────► echo servers      in turn with the invokes, same payload,
//!     └───── posix_spawn ────► the program       same build, same cores
//! ```
//! The node and the echo servers are this same executable, started again with a `--role`.

mod compare;
mod report;
mod role;
mod scenario;
mod subject;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use super::fault::Fault;
use compare::Compare;
use report::Report;
use role::Role;
use scenario::{Peers, Scenario};
use subject::Subject;

/// Measures invokes: latency percentiles, beside a plain echo and a plain process start.
///
/// Starts a node of its own in a temporary directory, deploys ordinary programs and invokes them
/// over the invoke socket, one request after the other (closed loop). Baselines are measured in
/// turn with the invokes: an echo between two processes (`uds_echo_blocking`, and
/// `uds_echo_runtime` with the server on the node's runtime), and starting and waiting for the
/// same program on this machine (`posix_spawn`).
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
pub(crate) struct Bench {
    #[command(subcommand)]
    other: Option<Other>,
    /// What to measure; all scenarios, one after the other, when left out
    #[arg(value_enum)]
    scenario: Option<Scenario>,
    /// Invokes to measure in each scenario; when left out, what takes a few seconds
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Time after which a scenario ends with fewer invokes: 20s, 500ms, 2m
    #[arg(long, value_parser = parse_duration, default_value = "20s")]
    duration: Duration,
    /// Measure the node that listens here instead of one of its own
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Core of the client: a number, or `any` for the system to choose; when left out, one the
    /// node does not use, else its shard's
    #[arg(long, value_name = "CORE", value_parser = parse_core)]
    client_core: Option<ClientCore>,
    /// Write where the time of the slowest invokes went, stage by stage, to this file
    #[arg(long, value_name = "FILE")]
    slowest: Option<PathBuf>,
    /// Print JSON: one object for each scenario, each on a line of its own
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    role: Role,
}

/// What to do with measurements instead of making one.
#[derive(Debug, clap::Subcommand)]
enum Other {
    Compare(Compare),
}

/// Where the client runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ClientCore {
    Any,
    Fixed(u32),
}

impl Bench {
    pub(crate) fn run(self) -> Result<ExitCode, Fault> {
        if let Some(Other::Compare(compare)) = self.other {
            return compare.run();
        }
        if self.role.is_given() {
            return self.role.play();
        }
        let folder = tempfile::Builder::new().prefix("pilotlight-bench-").tempdir()?;
        let mut subject = match &self.socket {
            Some(socket) => Subject::running(socket)?,
            None => Subject::start(folder.path())?,
        };
        // What was started so far stays free to run where it likes.
        let client = self.client_core.unwrap_or_else(|| subject.client_core());
        if let ClientCore::Fixed(core) = client {
            perf::pin(core).map_err(|error| {
                Fault::new(format!("the client cannot run on core {core}: {error}"))
            })?;
        }
        let mut peers = Peers::start(folder.path(), subject.shard_core())?;
        let scenarios = match self.scenario {
            Some(scenario) => vec![scenario],
            None => Scenario::ALL.to_vec(),
        };
        let mut slowest = String::new();
        for scenario in scenarios {
            self.announce(scenario);
            let count = self.count.unwrap_or_else(|| scenario.count());
            let measured = scenario.measure(&mut subject, &mut peers, count, self.duration)?;
            let core = match client {
                ClientCore::Any => None,
                ClientCore::Fixed(core) => Some(core),
            };
            Report::new(scenario, &measured, &subject, core).print(self.json)?;
            let title = format!("{}: the slowest invokes, microseconds", scenario.name());
            slowest.push_str(&format!("{title}\n{}\n", measured.slowest));
        }
        if let Some(path) = &self.slowest {
            std::fs::write(path, slowest)?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn announce(&self, scenario: Scenario) {
        if !self.json && std::io::stderr().is_terminal() {
            eprintln!("measuring {} ...", scenario.name());
        }
    }
}

fn parse_core(text: &str) -> Result<ClientCore, String> {
    match text {
        "any" => Ok(ClientCore::Any),
        number => number
            .parse()
            .map(ClientCore::Fixed)
            .map_err(|_| "a core's number, or `any`".to_owned()),
    }
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        _ => return Err("a number with a unit: 500ms, 20s or 2m".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "it starts with a number".to_owned())?;
    Ok(Duration::from_millis(number.saturating_mul(millis)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        assert!(parse_duration("20").is_err() && parse_duration("s").is_err());
    }

    #[test]
    fn a_core_is_a_number_or_any() {
        assert_eq!(parse_core("3"), Ok(ClientCore::Fixed(3)));
        assert_eq!(parse_core("any"), Ok(ClientCore::Any));
        assert!(parse_core("-1").is_err());
    }
}
