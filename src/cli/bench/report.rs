//! What a bench prints: a table for people, an object for machines. Its keys are the same in every
//! scenario, and in docs/bench.md; what only one has to say is in `extra`.

use std::collections::BTreeMap;
use std::io::{self, Write};

use perf::page::{self, Curve, Section, StageShare, Table};
use perf::{Baseline, Latencies, Machine, Summary};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::measured::{Measured, STAGES};
use super::peers::PEERS;
use super::plan::Plan;
use super::scenario::Scenario;
use super::series::Series;
use super::subject::{NodeCores, Subject};
use crate::cli::version;

/// One scenario's figures; its JSON is what `--json` prints.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    scenario: &'static str,
    count: u64,
    latency_nanos: Summary,
    histogram: String,
    batches_p50_nanos: Vec<u64>,
    stages_nanos: BTreeMap<&'static str, Summary>,
    baselines: Peers<Measurement>,
    /// The scenario's p50 over each baseline's.
    ratios: Peers<f64>,
    vm_exits_per_invoke: f64,
    dirty_pages_per_invoke: Option<f64>,
    private_bytes_per_idle_vm: Option<u64>,
    node_cpu_seconds: f64,
    errors: BTreeMap<String, u64>,
    /// Of an open loop; else `concurrency` is there, unless the scenario has a load of its own.
    rate: Option<u64>,
    concurrency: Option<usize>,
    duration_seconds: f64,
    payload_bytes: usize,
    layout: Layout,
    machine: Host,
    version: String,
    commit: &'static str,
    profile: &'static str,
    extra: Map<String, Value>,
}

/// One of each; none where a peer was left out.
#[derive(Debug, Serialize)]
struct Peers<T> {
    uds_echo_blocking: Option<T>,
    uds_echo_runtime: Option<T>,
    posix_spawn: Option<T>,
    bubblewrap: Option<T>,
    runc: Option<T>,
    wasmtime: Option<T>,
}

/// What a baseline took.
#[derive(Debug, Serialize)]
struct Measurement {
    #[serde(flatten)]
    nanos: Baseline,
    count: u64,
    batches_p50_nanos: Vec<u64>,
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

/// What was asked for, and where the client ran.
pub(super) struct Setting {
    pub(super) scenario: Scenario,
    pub(super) plan: Plan,
    pub(super) core: Option<u32>,
}

impl<T> Peers<T> {
    fn map<U>(&self, map: impl Fn(&T) -> U) -> Peers<U> {
        let map = |one: &Option<T>| one.as_ref().map(&map);
        Peers {
            uds_echo_blocking: map(&self.uds_echo_blocking),
            uds_echo_runtime: map(&self.uds_echo_runtime),
            posix_spawn: map(&self.posix_spawn),
            bubblewrap: map(&self.bubblewrap),
            runc: map(&self.runc),
            wasmtime: map(&self.wasmtime),
        }
    }

    /// Each as people call it.
    fn rows(&self) -> impl Iterator<Item = (&'static str, Option<&T>)> {
        let all = [
            self.uds_echo_blocking.as_ref(),
            self.uds_echo_runtime.as_ref(),
            self.posix_spawn.as_ref(),
            self.bubblewrap.as_ref(),
            self.runc.as_ref(),
            self.wasmtime.as_ref(),
        ];
        PEERS.into_iter().zip(all)
    }
}

impl Measurement {
    fn of(series: &Series) -> Option<Self> {
        (series.all.count() > 0).then(|| Self {
            nanos: series.all.baseline(),
            count: series.all.count(),
            batches_p50_nanos: series.medians().to_vec(),
        })
    }
}

impl Report {
    pub(super) fn new(setting: &Setting, measured: &Measured, subject: &Subject) -> Self {
        let latency_nanos = measured.invokes.all.summary();
        let usage = &measured.usage;
        let peers = &measured.baselines;
        let baselines = Peers {
            uds_echo_blocking: Measurement::of(&peers.uds_echo_blocking),
            uds_echo_runtime: Measurement::of(&peers.uds_echo_runtime),
            posix_spawn: Measurement::of(&peers.posix_spawn),
            bubblewrap: Measurement::of(&peers.bubblewrap),
            runc: Measurement::of(&peers.runc),
            wasmtime: Measurement::of(&peers.wasmtime),
        };
        let per = |whole: u64, count: u64| round(whole as f64 / count.max(1) as f64);
        let stages = STAGES.into_iter().zip(measured.stages.iter().map(Latencies::summary));
        let load = setting.plan.load;
        Self {
            scenario: setting.scenario.name(),
            count: measured.invokes.all.count(),
            histogram: measured.invokes.all.encode(),
            batches_p50_nanos: measured.invokes.medians().to_vec(),
            stages_nanos: stages.collect(),
            ratios: baselines.map(|baseline| per(latency_nanos.p50, baseline.nanos.p50)),
            latency_nanos,
            baselines,
            vm_exits_per_invoke: per(usage.exits, usage.invokes),
            dirty_pages_per_invoke: (usage.resets > 0)
                .then(|| per(usage.reset_pages, usage.resets)),
            private_bytes_per_idle_vm: usage.idle_vm_bytes,
            node_cpu_seconds: round(usage.cpu.as_secs_f64()),
            errors: measured.errors.clone(),
            rate: load.rate(),
            concurrency: load.concurrency().filter(|_| setting.scenario.is_sequential()),
            duration_seconds: round(usage.span.as_secs_f64()),
            payload_bytes: setting.scenario.request().len(),
            layout: Layout {
                node: subject.cores().clone(),
                client: setting.core,
                echo_server: subject.shard_core(),
                is_own_node: subject.is_own(),
            },
            machine: Host { machine: Machine::here(), flavour: subject.flavour().to_owned() },
            version: subject.version().to_owned(),
            commit: version::COMMIT,
            profile: version::PROFILE,
            extra: extra(measured),
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
        writeln!(
            output,
            "{}: {} invokes, {} bytes each way, {}, microseconds",
            self.scenario,
            self.count,
            self.payload_bytes,
            self.load()
        )?;
        write!(output, "{:<20}", "")?;
        for title in ["p50", "p90", "p99", "p99.9", "p99.99", "max"] {
            write!(output, "{title:>10}")?;
        }
        writeln!(output, "{:>12}", "p50 ratio")?;
        row(output, "invoke", &self.latency_nanos)?;
        for name in STAGES {
            self.stages_nanos
                .get(name)
                .map_or(Ok(()), |stage| row(output, &format!("  {name}"), stage))?;
        }
        for ((title, baseline), (_, ratio)) in self.baselines.rows().zip(self.ratios.rows()) {
            let (Some(baseline), Some(ratio)) = (baseline, ratio) else { continue };
            let (p50, p99) = (micros(baseline.nanos.p50), micros(baseline.nanos.p99));
            writeln!(output, "{title:<20}{p50:>10}{:>10}{p99:>10}{:>30}{ratio:>12.2}", "", "")?;
        }
        self.facts(output)
    }

    /// How requests came.
    fn load(&self) -> String {
        match (self.rate, self.concurrency) {
            (Some(rate), _) => format!("{rate} per second"),
            (None, Some(concurrency)) => format!("{concurrency} at once"),
            (None, None) => "a load of its own".to_owned(),
        }
    }

    /// What is no latency.
    fn facts(&self, output: &mut impl Write) -> io::Result<()> {
        let client = self.layout.client.map_or("any".to_owned(), |core| core.to_string());
        write!(output, "VM exits per invoke {:.2}; ", self.vm_exits_per_invoke)?;
        if let Some(pages) = self.dirty_pages_per_invoke {
            write!(output, "pages put back per invoke {pages:.1}; ")?;
        }
        if let Some(bytes) = self.private_bytes_per_idle_vm {
            write!(output, "private memory of an idle VM {} KiB; ", bytes / 1024)?;
        }
        writeln!(
            output,
            "node {:.2} s of processor time in {:.2} s",
            self.node_cpu_seconds, self.duration_seconds
        )?;
        let errors = self.errors.iter().filter(|(_, count)| **count > 0);
        let errors: Vec<_> = errors.map(|(code, count)| format!("{count} {code}")).collect();
        if !errors.is_empty() {
            writeln!(output, "errors: {}", errors.join(", "))?;
        }
        for (name, value) in &self.extra {
            match table(name, value) {
                Some(table) => print_table(output, &table)?,
                None => writeln!(output, "{}: {value}", words(name))?,
            }
        }
        writeln!(
            output,
            "cores: shards {:?}, VMs {:?}, client {client}, echo server {}",
            self.layout.node.shards, self.layout.node.guests, self.layout.echo_server,
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

impl Report {
    /// The scenario's name.
    pub(super) fn scenario(&self) -> &'static str {
        self.scenario
    }

    /// What holds for the whole run.
    pub(super) fn page_facts(&self) -> Vec<(String, String)> {
        let machine = &self.machine.machine;
        [
            ("machine", format!("{}, {} cores", machine.cpu, machine.cores)),
            ("KVM", self.machine.flavour.clone()),
            ("kernel", machine.kernel.clone()),
            (
                "pilotlight",
                format!("{} ({} build), commit {}", self.version, self.profile, version::commit()),
            ),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
    }

    /// The scenario's part of a page.
    pub(super) fn section(&self, measured: &Measured) -> Section {
        let layout = &self.layout;
        let client = layout.client.map_or("any".to_owned(), |core| core.to_string());
        let cores = format!(
            "shards {:?}, VMs {:?}, client {client}, echo server {}",
            layout.node.shards, layout.node.guests, layout.echo_server
        );
        let facts = [
            ("invokes", self.count.to_string()),
            ("load", self.load()),
            ("bytes each way", self.payload_bytes.to_string()),
            ("measured", format!("{} s", self.duration_seconds)),
            ("cores", cores),
        ];
        let mut facts = facts.map(|(name, value)| (name.to_owned(), value)).to_vec();
        let curve = |(name, latencies): (&str, &Latencies)| {
            (latencies.count() > 0)
                .then(|| Curve { name: name.to_owned(), latencies: latencies.clone() })
        };
        let invokes = std::iter::once(("invoke", &measured.invokes.all));
        let curves = invokes.chain(measured.baselines.rows()).filter_map(curve).collect();
        let intervals = measured.intervals.iter().flatten();
        let over_time = intervals.map(|interval| {
            page::Interval::new(interval.start, interval.length, &interval.latencies)
        });
        let stages = STAGES.into_iter().zip(&measured.stages);
        let counts = [
            ("VM exits", Some(self.vm_exits_per_invoke)),
            ("pages put back", self.dirty_pages_per_invoke),
        ];
        let counts = counts.into_iter().filter_map(|(name, count)| Some((name.to_owned(), count?)));
        let errors = self.errors.iter().filter(|(_, count)| **count > 0);
        let mut tables = Vec::new();
        for (name, value) in &self.extra {
            match table(name, value) {
                Some(table) => tables.push(table),
                None => facts.push((words(name), value.to_string())),
            }
        }
        Section {
            title: self.scenario.to_owned(),
            facts,
            curves,
            over_time: over_time.collect(),
            stages: stages.map(|(name, stage)| StageShare::new(name, stage)).collect(),
            counts: counts.collect(),
            errors: errors.map(|(code, count)| (code.clone(), *count)).collect(),
            tables,
        }
    }
}

/// A list of objects as a table, a column for each key.
fn table(name: &str, value: &Value) -> Option<Table> {
    let objects = value.as_array().filter(|list| list.iter().all(Value::is_object))?;
    let columns: Vec<_> = objects.iter().map(columns).collect();
    let heading: Vec<_> = columns.first()?.iter().map(|(key, _)| words(key)).collect();
    let row = |cells: &Vec<(String, String)>| cells.iter().map(|(_, cell)| cell.clone()).collect();
    let rows = columns.iter().filter(|cells| cells.len() == heading.len()).map(row).collect();
    Some(Table { title: words(name), heading, rows })
}

/// Percentiles become three columns, microseconds.
fn columns(value: &Value) -> Vec<(String, String)> {
    const SHOWN: [&str; 3] = ["p50", "p99", "max"];
    let cell = |(key, inner): (&String, &Value)| {
        let Some(what) = key.strip_suffix("_nanos") else {
            return vec![(key.clone(), inner.to_string())];
        };
        let shown = |percentile: &str| {
            let nanos = inner[percentile].as_u64();
            (format!("{what}_{percentile}_micros"), nanos.map_or("-".to_owned(), micros))
        };
        SHOWN.map(shown).to_vec()
    };
    value.as_object().into_iter().flatten().flat_map(cell).collect()
}

/// The same for people at a terminal.
fn print_table(output: &mut impl Write, table: &Table) -> io::Result<()> {
    writeln!(output, "{}:", table.title)?;
    let rows = std::iter::once(&table.heading).chain(&table.rows);
    let width = |column: usize| {
        let cells = rows.clone().filter_map(|row| row.get(column));
        cells.map(String::len).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..table.heading.len()).map(width).collect();
    for row in rows.clone() {
        for (cell, width) in row.iter().zip(&widths) {
            write!(output, "  {cell:>width$}")?;
        }
        writeln!(output)?;
    }
    Ok(())
}

/// A key as people write it.
fn words(key: &str) -> String {
    key.replace('_', " ")
}

/// What only this scenario, or this load, has to say.
fn extra(measured: &Measured) -> Map<String, Value> {
    let mut extra = measured.extra.clone();
    for (name, latencies) in
        [("send_lateness_nanos", &measured.lateness), ("busy_nanos", &measured.busy)]
    {
        if latencies.count() > 0 {
            extra.insert(name.to_owned(), json!(latencies.summary()));
        }
    }
    extra
}

fn row(output: &mut impl Write, title: &str, latency: &Summary) -> io::Result<()> {
    write!(output, "{title:<20}")?;
    let percentiles =
        [latency.p50, latency.p90, latency.p99, latency.p99_9, latency.p99_99, latency.max];
    for nanos in percentiles {
        write!(output, "{:>10}", micros(nanos))?;
    }
    writeln!(output)
}

fn micros(nanos: u64) -> String {
    format!("{:.1}", nanos as f64 / 1000.0)
}

/// Three digits behind the point: more would be noise.
fn round(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}
