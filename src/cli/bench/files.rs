//! The files a bench writes beside what it prints: `docs/bench.md`, "The files it writes".

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use perf::{Hgrm, IntervalLog, Page, Watch};

use super::super::fault::Fault;
use super::measured::Measured;
use super::report::Report;

/// What an .hgrm file counts in.
const HGRM_UNIT_NANOS: f64 = 1_000.0;

/// Where they go.
#[derive(Debug, clap::Args)]
pub(super) struct Files {
    /// Write a page with plots for a browser to this file
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Write the percentile distribution, microseconds, as HDR plotters read it
    #[arg(long, value_name = "FILE", requires = "scenario")]
    hgrm: Option<PathBuf>,
    /// Write a histogram of each batch, as readers of HdrHistogram logs read it
    #[arg(long, value_name = "FILE")]
    interval_log: Option<PathBuf>,
    /// Write where the time of the slowest invokes went, stage by stage, to this file
    #[arg(long, value_name = "FILE")]
    slowest: Option<PathBuf>,
}

/// What is to be written, so far.
pub(super) struct Drafts<'f> {
    files: &'f Files,
    page: Page,
    log: IntervalLog,
    slowest: String,
    watch: Watch,
}

impl Files {
    /// Whether they show each batch.
    pub(super) fn have_intervals(&self) -> bool {
        self.report.is_some() || self.interval_log.is_some()
    }

    /// Begins them, and finds out whether they can be written before anything is measured.
    pub(super) fn begin(&self) -> Result<Drafts<'_>, Fault> {
        let all = [&self.report, &self.hgrm, &self.interval_log, &self.slowest];
        all.into_iter().flatten().try_for_each(|path| write(path, ""))?;
        Ok(Drafts {
            files: self,
            page: Page { title: "pilotlight bench".to_owned(), ..Page::default() },
            log: IntervalLog::new(SystemTime::now()),
            slowest: String::new(),
            watch: Watch::start(),
        })
    }
}

impl Drafts<'_> {
    /// From the start of the run.
    pub(super) fn elapsed(&self) -> Duration {
        self.watch.elapsed()
    }

    /// Adds a scenario that began then.
    pub(super) fn add(&mut self, start: Duration, report: &Report, measured: &Measured) {
        self.page.facts = report.page_facts();
        self.page.sections.push(report.section(measured));
        for interval in measured.intervals.iter().flatten() {
            let from = start + interval.start;
            self.log.add(report.scenario(), from, interval.length, &interval.latencies);
        }
        let title = format!("{}: the slowest invokes, microseconds", report.scenario());
        self.slowest.push_str(&format!("{title}\n{}\n", measured.slowest));
    }

    /// Writes what can be written now: a run that is broken off later leaves what there was.
    pub(super) fn save(&self, measured: &Measured) -> Result<(), Fault> {
        let files = self.files;
        let hgrm = || Hgrm::new(&measured.invokes.all, HGRM_UNIT_NANOS).to_string();
        let texts: [(&Option<PathBuf>, &dyn Fn() -> String); 4] = [
            (&files.report, &|| self.page.to_string()),
            (&files.hgrm, &hgrm),
            (&files.interval_log, &|| self.log.to_string()),
            (&files.slowest, &|| self.slowest.clone()),
        ];
        let wanted = texts.into_iter().filter_map(|(path, text)| Some((path.as_ref()?, text)));
        wanted.into_iter().try_for_each(|(path, text)| write(path, &text()))
    }
}

fn write(path: &Path, text: &str) -> Result<(), Fault> {
    std::fs::write(path, text)
        .map_err(|error| Fault::new(format!("{} cannot be written: {error}", path.display())))
}
