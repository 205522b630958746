//! `pilotlight demo`: the whole of it in under a minute, and checked as it goes.
//!
//! ```text
//!  ada ──► greet in a VM of hers ──log, her certificate──► ada's syslog receiver (TLS)
//!  bob ──► greet in a VM of his  ──log, his certificate──► bob's syslog receiver (TLS)
//! ```
//! Everything is real: the node, the VMs, TLS and its certificates. Only the receivers are ours;
//! they live in this process and keep what they are sent.

mod authority;
mod receiver;
mod tour;
mod timing;

use std::process::ExitCode;

use pilotlight::{Config, Node};
use serde_json::json;

use self::tour::Visit;
use super::fault::Fault;
use super::report::{self, Report};
use super::serve::flavour_words;
use super::trace::Trace;

/// Show the whole of it: a node, a program, two users and their logs
///
/// Starts a node of its own in a temporary folder, and two syslog receivers with TLS that demand
/// client certificates. Two users run the same program; the demo shows which VM each invoke ran
/// in, where that VM came from, and which log record arrived where and with whose certificate.
/// Ends with exit status 1 if anything went where it should not.
#[derive(Debug, clap::Args)]
pub(crate) struct Demo {
    #[command(flatten)]
    report: Report,
}

impl Demo {
    pub(crate) fn run(self) -> Result<ExitCode, Fault> {
        let _trace = Trace::of_own_node();
        self.demo().map_err(|fault| fault.told(self.report))
    }

    fn demo(&self) -> Result<ExitCode, Fault> {
        let state = tempfile::Builder::new().prefix("pilotlight-demo-").tempdir()?;
        self.say("Two users, one program, each in virtual machines of their own.\n")?;
        let mut config = Config::default();
        config.paths.state = state.path().to_owned();
        let node = Node::start(config)?;
        self.say(&format!(
            "1. A node is up: {}, isolation {}.\n   One VM was booted once and saved; every other \
             is restored from that, and waits\n   in the warming pool.\n",
            flavour_words(node.flavour()).1,
            node.isolation(),
        ))?;
        let mut client = node.client()?;
        let users = tour::users()?;
        tour::deploy(&mut client, &users)?;
        self.say(
            "2. Both users deployed `greet`: an ordinary static program that reads a name from\n   \
             standard input, greets on standard output and logs a line on standard error.\n",
        )?;
        let services = users.iter().map(|user| {
            format!("   {}'s service   {}, syslog over TLS\n", user.name, user.receiver.address())
        });
        self.say(&format!(
            "3. Each has a logging service, which takes only that user's client certificate:\n{}",
            services.collect::<String>()
        ))?;
        let visits = tour::visit(&mut client, &users)?;
        self.say(&format!("4. Three invokes, and where everything went:\n{}", tour_text(&visits)))?;
        let latencies = timing::measure(&mut client)?;
        self.say(&format!(
            "5. How long an invoke takes, from sending the request to the answer's last byte:\n{}",
            indent(&timing::table(&latencies))
        ))?;
        let status = client.status()?;
        drop(client);
        node.stop();
        let counters = &status["counters"];
        self.say(&format!(
            "6. The node is stopped. It booted {} VM and restored {}.\n\nYour turn:\n   \
             pilotlight serve &\n   pilotlight deploy hello --wait 10s --program PATH-OF-A-STATIC-PROGRAM\n   \
             pilotlight invoke hello --payload Ada\n",
            counters["boots"], counters["restores"],
        ))?;
        if self.report.json {
            let invokes: Vec<_> = visits.iter().map(Visit::object).collect();
            self.report.object(&json!({
                "invokes": invokes,
                "latency_nanos": timing::object(&latencies),
                "boots": counters["boots"],
                "restores": counters["restores"],
            }))?;
        }
        tour::check(&visits)?;
        Ok(ExitCode::SUCCESS)
    }

    fn say(&self, text: &str) -> Result<(), Fault> {
        if self.report.json { Ok(()) } else { Ok(report::write(format!("{text}\n").as_bytes())?) }
    }
}

fn tour_text(visits: &[Visit]) -> String {
    let rows: Vec<_> = visits.iter().map(Visit::row).collect();
    let heading = ["USER", "ANSWER", "RAN IN", "TAKEN FROM", "RECORD ARRIVED AT", "CERTIFICATE"];
    let mut text = indent(&report::table(heading, &rows));
    text += "   A VM taken from the warming pool becomes that user's and stays so, in the active\n   \
             pool: the second invoke finds it there. Nobody else's program ever runs in it.\n   \
             One record as it arrived:\n";
    for arrival in visits.iter().take(1).flat_map(|visit| &visit.arrivals) {
        text += &format!("   {}\n", arrival.record);
    }
    text
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("   {line}\n")).collect()
}
