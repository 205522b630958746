//! `pilotlight status`: what a node says of itself.

use std::process::ExitCode;

use pilotlight::metrics::prometheus;
use serde_json::Value;

use super::fault::Fault;
use super::report::{self, Report};
use super::target::Target;

/// Show a node's pools, VMs, counters and latency
///
/// docs/status.md describes the keys of --json.
#[derive(Debug, clap::Args)]
pub(crate) struct Status {
    /// Print counters and times in the text format of Prometheus instead
    #[arg(long, conflicts_with = "json")]
    metrics: bool,
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    report: Report,
}

/// States a VM goes through, in that order.
const STATES: [&str; 7] =
    ["starting", "warm", "prepared", "assigned", "invoking", "resetting", "leaving"];

/// Stages of an invoke and what surrounds them, as people read them.
const STAGES: [(&str, &str); 10] = [
    ("total", "invoke, all of it"),
    ("accept", "  accept"),
    ("route", "  route"),
    ("acquire", "  acquire"),
    ("load", "  load"),
    ("run", "  run"),
    ("reply", "  reply"),
    ("restore", "restore of a VM"),
    ("reset", "reset of a VM"),
    ("verify", "its verification"),
];

impl Status {
    pub(crate) fn run(self) -> Result<ExitCode, Fault> {
        self.status().map_err(|fault| fault.told(self.report))
    }

    fn status(&self) -> Result<ExitCode, Fault> {
        let status = self.target.connect()?.status()?;
        if self.metrics {
            report::write(prometheus::page(&status).as_bytes())?;
            return Ok(ExitCode::SUCCESS);
        }
        self.report.print(&status, || text(&status))
    }
}

fn text(status: &Value) -> String {
    let (pools, counters) = (&status["pools"], &status["counters"]);
    let number = |value: &Value| value.as_u64().unwrap_or(0);
    let mut text = format!(
        "node       {} KVM, isolation {}; shards on cores {}, VMs on {}; {} functions\n",
        word(&status["flavour"]),
        word(&status["isolation"]),
        list(status["shards"].as_array(), |shard| shard["core"].to_string()),
        list(status["guest_cores"].as_array(), Value::to_string),
        status["functions"],
    );
    let by_state = STATES.map(|state| format!("{} {state}", number(&pools[state])));
    text += &format!("VMs        {}\n", by_state.join(", "));
    text += &format!(
        "invokes    {} running, {} waiting, {} so far; {}\n",
        pools["running"],
        pools["waiting"],
        counters["invokes"],
        counts(&[&status["outcomes"], &status["refusals"]]),
    );
    text += &format!(
        "machines   boots {}, restores {}, restores failed {}, vm exits {}\n",
        counters["boots"], counters["restores"], counters["restores_failed"], counters["vm_exits"],
    );
    text += &format!(
        "work       {} assigned, {} containers, {} packages loaded, {} log records, {} dropped\n",
        counters["assigns"],
        counters["acquires"],
        counters["loads"],
        counters["log_records"],
        counters["log_dropped"],
    );
    let snapshots = &status["snapshots"];
    text += &format!(
        "snapshots  {} of functions ({}), {} failed, {} to be made; {} resets, {} verified, {} failed\n",
        snapshots["made"],
        report::bytes(number(&snapshots["bytes"])),
        snapshots["failed"],
        snapshots["pending"],
        counters["resets"],
        counters["resets_verified"],
        counters["resets_failed"],
    );
    text += &format!("cgroups    {}\n", word(&status["cgroups"]));
    text += &format!("restore    {}\n", word(&status["restore"]));
    let missing = list(status["missing_syscalls"].as_array(), |call| {
        format!("{} ({}) {} times", word(&call["name"]), call["number"], call["count"])
    });
    text += &format!("missing    system calls: {missing}\n");
    for (heading, table) in [("vms", vms(status)), ("latency", latency(&status["latency_nanos"]))] {
        if let Some(table) = table {
            text += &format!("\n{heading}\n{table}");
        }
    }
    text
}

fn vms(status: &Value) -> Option<String> {
    let vms = status["vms"].as_array().filter(|vms| !vms.is_empty())?;
    let rows: Vec<_> = vms
        .iter()
        .map(|vm| {
            ["vm", "state", "pid", "key", "containers", "running", "vm_exits"]
                .map(|key| word(&vm[key]))
        })
        .collect();
    let heading = ["VM", "STATE", "PID", "KEY", "CONTAINERS", "RUNNING", "EXITS"];
    Some(report::table(heading, &rows))
}

fn latency(stages: &Value) -> Option<String> {
    let rows: Vec<_> = STAGES
        .iter()
        .filter(|(stage, _)| stages[stage]["count"].as_u64().is_some_and(|count| count > 0))
        .map(|(stage, name)| {
            let stage = &stages[stage];
            let time = |key: &str| report::nanos(stage[key].as_u64().unwrap_or(0));
            [(*name).to_owned(), word(&stage["count"]), time("p50"), time("p99"), time("max")]
        })
        .collect();
    (!rows.is_empty()).then(|| report::table(["STAGE", "N", "P50", "P99", "MAX"], &rows))
}

/// A value without quotes; a dash for none.
fn word(value: &Value) -> String {
    match value.as_str() {
        Some(text) => text.to_owned(),
        None if value.is_null() => "-".to_owned(),
        None => value.to_string(),
    }
}

fn list(values: Option<&Vec<Value>>, show: impl Fn(&Value) -> String) -> String {
    match values {
        Some(values) if !values.is_empty() => {
            values.iter().map(show).collect::<Vec<_>>().join(", ")
        }
        _ => "none".to_owned(),
    }
}

/// What several objects of counts hold.
fn counts(objects: &[&Value]) -> String {
    let entries = objects.iter().filter_map(|object| object.as_object()).flatten();
    let shown: Vec<_> = entries.map(|(name, count)| format!("{count} {name}")).collect();
    if shown.is_empty() { "none ended".to_owned() } else { shown.join(", ") }
}
