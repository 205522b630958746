//! `pilotlight doctor`: whether a node can run here, what it would get, and how to fix what it
//! lacks.
//!
//! What can be looked at is looked at (`host`); the honest check is a node that runs (`trial`);
//! what this machine takes for the steps an invoke is made of is measured (`primitive`).

mod check;
mod host;
mod trial;
mod primitive;

use std::process::ExitCode;

use serde_json::json;

use self::check::{Check, Verdict};
use self::primitive::Primitive;
use super::fault::Fault;
use super::report::{self, Report};
use super::trace::Trace;

/// Check whether a node can run on this host, and say how to fix what it lacks
///
/// Starts a node in a temporary folder, restores VMs and runs a program, which takes about a
/// second. Ends with exit status 0 when a node can run, 1 otherwise.
///
/// The object of --json: can_run; checks: [{name, verdict ("ok", "note", "lack"), finding, fix}];
/// flavour and isolation (null when no node runs); primitives_nanos: eventfd_wake_up,
/// socket_round_trip, io_uring_operation, vm_restore, warm_invoke, node_start, each {p50, p99, count}.
#[derive(Debug, clap::Args)]
pub(crate) struct Doctor {
    #[command(flatten)]
    report: Report,
}

impl Doctor {
    pub(crate) fn run(self) -> Result<ExitCode, Fault> {
        let _trace = Trace::of_own_node();
        self.examine().map_err(|fault| fault.told(self.report))
    }

    fn examine(&self) -> Result<ExitCode, Fault> {
        let mut checks = host::examine();
        let mut primitives = primitive::measure()?;
        let trial = trial::run();
        let is_seen = checks.iter().any(|check| check.verdict == Verdict::Lack);
        checks.extend(trial.checks(is_seen));
        primitives.extend(trial.primitives());
        let can_run = !checks.iter().any(|check| check.verdict == Verdict::Lack);
        let measured = primitives.iter().map(|primitive| (primitive.key, primitive.object()));
        let object = json!({
            "can_run": can_run,
            "checks": checks.iter().map(Check::object).collect::<Vec<_>>(),
            "flavour": trial.flavour(),
            "isolation": trial.isolation(),
            "primitives_nanos": measured.collect::<std::collections::BTreeMap<_, _>>(),
        });
        self.report.print(&object, || text(&checks, &primitives, can_run))?;
        Ok(if can_run { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn text(checks: &[Check], primitives: &[Primitive], can_run: bool) -> String {
    let mut text: String = checks.iter().map(Check::text).collect();
    let rows: Vec<_> = primitives.iter().map(Primitive::row).collect();
    let measured = report::table(["MEASURED HERE", "P50", "P99", "N"], &rows);
    text += &format!("\n{measured}\n");
    text += match can_run {
        true => "A node can run here: `pilotlight serve` starts one.\n",
        false => "A node cannot run here yet; what is marked LACK says how to change that.\n",
    };
    text
}
