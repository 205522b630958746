//! `pilotlight bench`: how long invokes take, beside what the same machine takes without a node.
//!
//! ```text
//!   bench ── invoke socket ──► node ──► VM       a process of its own, as the echo servers are
//!     │ └─── Unix socket ────► echo servers      in turn with the invokes, same payload,
//!     └───── posix_spawn ────► the program       same build, same cores
//! ```
//! The node and the echo servers are this same executable, started again with a `--role`.

mod compare;
mod files;
mod lab;
mod lines;
mod measured;
mod peers;
mod plan;
mod program;
mod receiver;
mod report;
mod role;
mod scenario;
mod series;
mod subject;
mod vms;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use super::fault::Fault;
use super::trace::Trace;
use compare::Compare;
use files::{Drafts, Files};
use lab::Lab;
use lines::OPEN_PER_LINE;
use peers::{Echoes, Peer, Peers};
use plan::{Load, Plan};
use report::{Report, Setting};
use role::Role;
use scenario::Scenario;
use subject::Subject;

/// Connections of the client at most.
const LINES_MAX: i64 = 32;

/// Measures invokes: latency percentiles, beside a plain echo and a plain process start.
///
/// Starts a node of its own in a temporary directory for each scenario, deploys ordinary programs
/// and invokes them over the invoke socket: one request after the other (closed loop), or as many
/// at once as --concurrency says, or as many per second as --rate says (open loop, timed from when
/// a request was to be sent). Baselines are measured in turn with the invokes: an echo between two
/// processes (`uds_echo_blocking`, and `uds_echo_runtime` with the server on the node's runtime),
/// starting and waiting for the same program on this machine (`posix_spawn`), in a sandbox
/// (`bubblewrap`), in a container (`runc`), and an instance of a WebAssembly module (`wasmtime`).
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true, disable_help_subcommand = true)]
pub(crate) struct Bench {
    #[command(subcommand)]
    other: Option<Other>,
    /// What to measure; all scenarios, one after the other, when left out
    #[arg(value_enum)]
    scenario: Option<Scenario>,
    /// Requests per second, on a schedule fixed beforehand, whatever is answered
    #[arg(long, value_name = "N", conflicts_with = "concurrency", requires = "scenario",
        value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    rate: Option<u64>,
    /// Requests open at once, pipelined on a connection for each 128 of them; 1 when left out
    #[arg(long, value_name = "N", requires = "scenario",
        value_parser = clap::value_parser!(i64).range(1..=LINES_MAX * OPEN_PER_LINE as i64))]
    concurrency: Option<i64>,
    /// Invokes to measure in each scenario; when left out, what takes a few seconds, or as many as
    /// --duration allows
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Time after which a scenario ends, with fewer invokes: 20, 20s, 500ms, 2m; when left out, 20s
    #[arg(long, value_parser = parse_duration)]
    duration: Option<Duration>,
    /// Measure the node that listens here instead of one of its own
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Core of the client: a number, or `any` for the system to choose; when left out, one the
    /// node does not use, else its shard's
    #[arg(long, value_name = "CORE", value_parser = parse_core)]
    client_core: Option<ClientCore>,
    /// Leave out a peer; one that is missing is an error otherwise
    #[arg(long, value_name = "PEER", value_enum)]
    without: Vec<Peer>,
    #[command(flatten)]
    files: Files,
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

/// Time a scenario takes at most, unless it was said.
const LIMIT: Duration = Duration::from_secs(20);
/// The longest that can be said: a week.
const DURATION_MILLIS_MAX: u64 = 7 * 24 * 3_600_000;

impl Bench {
    pub(crate) fn run(self) -> Result<ExitCode, Fault> {
        if let Some(Other::Compare(compare)) = self.other {
            return compare.run();
        }
        let _trace = Trace::of_own_node();
        if self.role.is_given() {
            return self.role.play();
        }
        let scenarios = match self.scenario {
            Some(scenario) => vec![scenario],
            None => Scenario::ALL.to_vec(),
        };
        scenarios.iter().try_for_each(|scenario| self.check(*scenario))?;
        let folder = tempfile::Builder::new().prefix("pilotlight-bench-").tempdir()?;
        let cores = perf::cores()?;
        let mut echoes = None;
        let mut drafts = self.files.begin()?;
        for scenario in scenarios {
            self.announce(scenario);
            let folder = folder.path().join(scenario.name());
            std::fs::create_dir(&folder)?;
            // What is started now is free to run where it likes, and as usual; the client is not.
            perf::spread(&cores)?;
            perf::wake_as_usual()?;
            self.measure(scenario, &folder, &mut echoes, &mut drafts)?;
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Whether the scenario can be measured the way it is asked for.
    fn check(&self, scenario: Scenario) -> Result<(), Fault> {
        let name = scenario.name();
        if self.socket.is_some() && scenario.needs_own_node() {
            return Err(Fault::new(format!(
                "{name} needs a node of its own, with pools made for it: leave out --socket"
            )));
        }
        if self.scenario.is_some() && self.count.is_some() && !scenario.is_counted() {
            return Err(Fault::new(format!("{name} is over by time: use --duration, not --count")));
        }
        Plan::check(self.load(), name, scenario.takes_load())
    }

    fn load(&self) -> Load {
        let concurrency = self.concurrency.and_then(|count| usize::try_from(count).ok());
        Load::of(self.rate, concurrency)
    }

    fn plan(&self, scenario: Scenario) -> Plan {
        let load = self.load();
        let as_many = if self.duration.is_some() || load.rate().is_some() {
            u64::MAX
        } else {
            scenario.count()
        };
        Plan {
            load,
            count: self.count.unwrap_or(as_many),
            limit: self.duration.unwrap_or(LIMIT),
            batch_min: scenario.batch_min(),
            batch_max: scenario.batch_max(),
        }
    }

    /// Measures a scenario, prints it, and adds it to the files.
    fn measure(
        &self,
        scenario: Scenario,
        folder: &Path,
        echoes: &mut Option<Echoes>,
        drafts: &mut Drafts<'_>,
    ) -> Result<(), Fault> {
        let mut subject = match &self.socket {
            Some(socket) => Subject::running(socket)?,
            None => Subject::start(folder, scenario.shape())?,
        };
        let core = match self.client_core.unwrap_or_else(|| subject.client_core()) {
            ClientCore::Any => None,
            ClientCore::Fixed(core) => Some(core),
        };
        if let Some(core) = core {
            perf::pin(core).map_err(|error| {
                Fault::new(format!("the client cannot run on core {core}: {error}"))
            })?;
        }
        let echoes = match echoes {
            Some(echoes) => echoes,
            None => echoes.insert(Echoes::start(folder, subject.shard_core())?),
        };
        let (program, request) = (scenario.program_beside(), scenario.request());
        let work = (&program, request.as_slice(), scenario.pause());
        let peers = Peers::find(echoes, folder, work, &self.without)?;
        perf::wake_on_time()?;
        let plan = self.plan(scenario);
        let (start, has_intervals) = (drafts.elapsed(), self.files.have_intervals());
        let mut lab = Lab { subject: &mut subject, peers, plan, has_intervals };
        let measured = scenario.measure(&mut lab)?;
        let setting = Setting { scenario, plan, core };
        let report = Report::new(&setting, &measured, &subject);
        report.print(self.json)?;
        drafts.add(start, &report, &measured);
        drafts.save(&measured)
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
        "s" | "" => 1_000,
        "m" => 60_000,
        _ => return Err("seconds, or a number with a unit: 500ms, 20s or 2m".to_owned()),
    };
    let number: u64 = number.parse().map_err(|_| "it starts with a number".to_owned())?;
    match number {
        0 => Err("more than no time".to_owned()),
        _ => Ok(Duration::from_millis(number.saturating_mul(millis).min(DURATION_MILLIS_MAX))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_seconds_or_have_a_unit() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(parse_duration("20"), parse_duration("20s"));
        assert!(parse_duration("s").is_err() && parse_duration("0").is_err());
    }

    #[test]
    fn a_core_is_a_number_or_any() {
        assert_eq!(parse_core("3"), Ok(ClientCore::Fixed(3)));
        assert_eq!(parse_core("any"), Ok(ClientCore::Any));
        assert!(parse_core("-1").is_err());
    }
}
