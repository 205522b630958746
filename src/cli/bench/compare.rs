//! `pilotlight bench compare A B`: whether two runs differ, scenario by scenario.

mod record;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use perf::{Comparison, Difference, Summary, Verdict};
use serde::Serialize;
use serde_json::json;

use super::super::fault::Fault;
use super::super::report;
use record::Record;

/// The same files give the same answer.
const SEED: u64 = 1;

/// Tells whether two measurements differ, and by how much.
///
/// A and B are files that `pilotlight bench --json` wrote. Scenarios in both are compared by the
/// medians of their batches: the difference with the interval that holds it with 95 % probability,
/// and how probable it is that B is slower (0.5: nothing speaks for either). The same for the
/// ratio to the blocking echo of the same run, in which a machine that was busier once cancels
/// out. Several runs of a scenario in one file (`>>`) count together; measure A and B in turn.
#[derive(Debug, clap::Args)]
pub(super) struct Compare {
    /// What it was before
    #[arg(value_name = "A")]
    before: PathBuf,
    /// What it is now
    #[arg(value_name = "B")]
    after: PathBuf,
    #[command(flatten)]
    report: report::Report,
}

/// One scenario of both files.
#[derive(Debug, Serialize)]
struct Entry {
    #[serde(flatten)]
    comparison: Comparison,
    /// Of all invokes of A and of B. None if a run has no histogram.
    percentiles_nanos: Option<[Summary; 2]>,
    /// What else differs between A and B.
    settings_differ: Vec<String>,
}

/// What came out.
#[derive(Debug, Default)]
struct Findings {
    entries: Vec<Entry>,
    /// Scenarios that could not be compared, with the reason.
    left_out: BTreeMap<String, String>,
}

impl Compare {
    pub(super) fn run(&self) -> Result<ExitCode, Fault> {
        let findings = self.compare().map_err(|fault| fault.told(self.report))?;
        let object = json!({ "comparisons": findings.entries, "left_out": findings.left_out });
        self.report.print(&object, || findings.text(&self.before, &self.after))
    }

    fn compare(&self) -> Result<Findings, Fault> {
        let [before, after] = [record::read(&self.before)?, record::read(&self.after)?];
        let mut findings = Findings::default();
        for (scenario, records) in &before {
            match after.get(scenario) {
                Some(others) => findings.add(scenario, records, others),
                None => findings.leave_out(scenario, "B has no run of it"),
            }
        }
        for scenario in after.keys().filter(|scenario| !before.contains_key(*scenario)) {
            findings.leave_out(scenario, "A has no run of it");
        }
        match findings.entries.is_empty() {
            false => Ok(findings),
            true => Err(Fault::new(format!(
                "no scenario of {} and {} can be compared: {}",
                self.before.display(),
                self.after.display(),
                findings.reasons().join("; ")
            ))),
        }
    }
}

impl Findings {
    fn add(&mut self, scenario: &str, before: &[Record], after: &[Record]) {
        let sides = [before, after];
        let [a, b] = sides.map(|records| records.iter().map(Record::run).collect::<Vec<_>>());
        match Comparison::new(&a, &b, SEED) {
            Ok(comparison) => self.entries.push(Entry {
                comparison,
                percentiles_nanos: record::percentiles(sides),
                settings_differ: record::differing(sides),
            }),
            Err(reason) => self.leave_out(scenario, &reason.to_string()),
        }
    }

    fn leave_out(&mut self, scenario: &str, reason: &str) {
        self.left_out.insert(scenario.to_owned(), reason.to_owned());
    }

    fn reasons(&self) -> Vec<String> {
        self.left_out.iter().map(|(scenario, reason)| format!("{scenario}: {reason}")).collect()
    }

    fn text(&self, before: &Path, after: &Path) -> String {
        let heading = ["SCENARIO", "MEDIAN OF", "A", "B", "B TO A", "95 %", "B SLOWER", "VERDICT"];
        let rows: Vec<_> = self.entries.iter().flat_map(Entry::rows).collect();
        let mut text = format!("A: {}\nB: {}\n\n", before.display(), after.display());
        text.push_str(&report::table(heading, &rows));
        let mut notes: Vec<String> = self.entries.iter().flat_map(Entry::notes).collect();
        notes.extend(self.reasons().into_iter().map(|reason| format!("not compared: {reason}")));
        if !notes.is_empty() {
            let _ = write!(text, "\n{}\n", notes.join("\n"));
        }
        text
    }
}

impl Entry {
    fn rows(&self) -> Vec<[String; 8]> {
        let it = &self.comparison;
        let micros = |nanos: f64| format!("{:.1} us", nanos / 1000.0);
        let mut rows = vec![row(&it.scenario, "latency", micros, &it.latency_nanos)];
        let ratio = |ratio: f64| format!("{ratio:.2}");
        rows.extend(it.ratio_to_echo.iter().map(|it| row("", "latency to echo", ratio, it)));
        rows
    }

    /// Lines below the table.
    fn notes(&self) -> Vec<String> {
        let scenario = &self.comparison.scenario;
        let percentiles = self.percentiles_nanos.iter().map(|[a, b]| {
            let both = |a: u64, b: u64| format!("{} and {}", report::nanos(a), report::nanos(b));
            format!(
                "{scenario}: p99 of all invokes {}, p99.9 {}, max {}",
                both(a.p99, b.p99),
                both(a.p99_9, b.p99_9),
                both(a.max, b.max)
            )
        });
        let differ = self.settings_differ.iter();
        percentiles
            .chain(differ.map(|setting| format!("{scenario}: measured differently: {setting}")))
            .collect()
    }
}

fn row(
    scenario: &str,
    what: &str,
    show: impl Fn(f64) -> String,
    difference: &Difference,
) -> [String; 8] {
    let percent = |percent: f64| format!("{percent:+.1} %");
    let verdict = match difference.verdict {
        Verdict::BSlower => "slower",
        Verdict::BFaster => "faster",
        Verdict::Undecided => "undecided",
    };
    [
        scenario.to_owned(),
        what.to_owned(),
        show(difference.a),
        show(difference.b),
        percent(difference.percent),
        format!("{:+.1} to {:+.1} %", difference.percent_low, difference.percent_high),
        format!("{:.3}", difference.probability_b_slower),
        verdict.to_owned(),
    ]
}
