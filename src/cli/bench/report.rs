//! What a bench prints: a table for people, an object for machines.

use std::io::{self, Write};

use perf::{Baseline, Machine, Summary};
use serde::Serialize;

use super::scenario::{Measured, PAYLOAD_BYTES, Scenario};
use super::subject::{NodeCores, Subject};

/// One scenario's figures; its JSON is what `--json` prints.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    scenario: &'static str,
    count: u64,
    latency_nanos: Summary,
    baselines: Baselines,
    /// The scenario's p50 over each baseline's.
    ratios: Ratios,
    vm_exits_per_invoke: f64,
    payload_bytes: usize,
    layout: Layout,
    machine: Host,
    version: String,
    profile: &'static str,
}

#[derive(Debug, Serialize)]
struct Baselines {
    uds_echo_blocking: Baseline,
    uds_echo_runtime: Baseline,
    posix_spawn: Baseline,
}

#[derive(Debug, Serialize)]
struct Ratios {
    uds_echo_blocking: f64,
    uds_echo_runtime: f64,
    posix_spawn: f64,
}

/// Which cores.
#[derive(Debug, Serialize)]
struct Layout {
    #[serde(flatten)]
    node: NodeCores,
    /// None: wherever the system puts it.
    client: Option<u32>,
    /// Of the baselines.
    echo_server: u32,
    is_own_node: bool,
}

#[derive(Debug, Serialize)]
struct Host {
    #[serde(flatten)]
    machine: Machine,
    flavour: String,
}

impl Report {
    pub(super) fn new(
        scenario: Scenario,
        measured: &Measured,
        subject: &Subject,
        client: Option<u32>,
    ) -> Self {
        let latency_nanos = measured.latencies.summary();
        let baselines = Baselines {
            uds_echo_blocking: measured.uds_echo_blocking.baseline(),
            uds_echo_runtime: measured.uds_echo_runtime.baseline(),
            posix_spawn: measured.posix_spawn.baseline(),
        };
        let over = |baseline: Baseline| ratio(latency_nanos.p50, baseline.p50);
        Self {
            scenario: scenario.name(),
            count: measured.latencies.count(),
            latency_nanos,
            ratios: Ratios {
                uds_echo_blocking: over(baselines.uds_echo_blocking),
                uds_echo_runtime: over(baselines.uds_echo_runtime),
                posix_spawn: over(baselines.posix_spawn),
            },
            baselines,
            vm_exits_per_invoke: round(measured.vm_exits_per_invoke()),
            payload_bytes: if scenario == Scenario::First { 0 } else { PAYLOAD_BYTES },
            layout: Layout {
                node: subject.cores().clone(),
                client,
                echo_server: subject.shard_core(),
                is_own_node: subject.is_own(),
            },
            machine: Host { machine: Machine::here(), flavour: subject.flavour().to_owned() },
            version: subject.version().to_owned(),
            profile: if cfg!(debug_assertions) { "debug" } else { "release" },
        }
    }

    pub(super) fn print(&self, as_json: bool) -> io::Result<()> {
        let mut output = io::stdout().lock();
        if as_json {
            let json = serde_json::to_string(self).map_err(io::Error::other)?;
            return writeln!(output, "{json}");
        }
        self.table(&mut output)
    }

    fn table(&self, output: &mut impl Write) -> io::Result<()> {
        let (latency, baselines) = (&self.latency_nanos, &self.baselines);
        writeln!(
            output,
            "{}: {} invokes, {} bytes each way, microseconds",
            self.scenario, self.count, self.payload_bytes
        )?;
        write!(output, "{:<20}", "")?;
        for title in ["p50", "p90", "p99", "p99.9", "p99.99", "max"] {
            write!(output, "{title:>10}")?;
        }
        writeln!(output, "{:>12}", "p50 ratio")?;
        write!(output, "{:<20}", "invoke")?;
        let percentiles =
            [latency.p50, latency.p90, latency.p99, latency.p99_9, latency.p99_99, latency.max];
        for nanos in percentiles {
            write!(output, "{:>10}", micros(nanos))?;
        }
        writeln!(output)?;
        let rows = [
            ("uds echo, blocking", baselines.uds_echo_blocking, self.ratios.uds_echo_blocking),
            ("uds echo, runtime", baselines.uds_echo_runtime, self.ratios.uds_echo_runtime),
            ("posix_spawn + wait", baselines.posix_spawn, self.ratios.posix_spawn),
        ];
        for (title, baseline, ratio) in rows {
            let (p50, p99) = (micros(baseline.p50), micros(baseline.p99));
            writeln!(output, "{title:<20}{p50:>10}{:>10}{p99:>10}{:>30}{ratio:>12.2}", "", "")?;
        }
        let client = self.layout.client.map_or("any".to_owned(), |core| core.to_string());
        writeln!(
            output,
            "VM exits per invoke {:.2}; cores: shards {:?}, VMs {:?}, client {client}, echo server {}",
            self.vm_exits_per_invoke,
            self.layout.node.shards,
            self.layout.node.guests,
            self.layout.echo_server,
        )?;
        writeln!(
            output,
            "{} ({} cores, {} KVM), Linux {}, pilotlight {} ({} build)\n",
            self.machine.machine.cpu,
            self.machine.machine.cores,
            self.machine.flavour,
            self.machine.machine.kernel,
            self.version,
            self.profile,
        )
    }
}

fn micros(nanos: u64) -> String {
    format!("{:.1}", nanos as f64 / 1000.0)
}

fn ratio(nanos: u64, baseline: u64) -> f64 {
    round(nanos as f64 / baseline.max(1) as f64)
}

/// Three digits behind the point: more would be noise.
fn round(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}
