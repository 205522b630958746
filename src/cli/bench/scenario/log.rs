//! Programs that log: from one line to ten thousand per invoke, delivered to a syslog receiver on
//! this machine.

use std::time::Duration;

use perf::{Latencies, Watch};
use pilotlight::invoke::LogProtocol;
use pilotlight::socket::logging::Logging;
use pilotlight::socket::request::Invoke;
use serde_json::json;

use super::super::super::fault::Fault;
use super::super::lab::{Lab, ask};
use super::super::measured::Measured;
use super::super::program::Program;
use super::super::receiver::Receiver;

/// Lines of one invoke.
const LINES: [u64; 5] = [1, 10, 100, 1_000, 10_000];
/// How long the last record of an invoke may take to arrive.
const PATIENCE: Duration = Duration::from_secs(10);

/// What invokes with so many lines took.
struct Level {
    lines: u64,
    body: String,
    latencies: Latencies,
    /// From the send of the invoke to the arrival of its last record.
    deliveries: Latencies,
}

/// One invoke of each number of lines in turn; the next one waits until all records have arrived.
pub(super) fn measure(lab: &mut Lab<'_>, program: &Program) -> Result<Measured, Fault> {
    let mut measured = lab.measured();
    let receiver = Receiver::start()?;
    lab.subject.await_warm()?;
    lab.subject.deploy("", program)?;
    lab.subject.settle()?;
    let (protocol, port) = (LogProtocol::SyslogTcp, receiver.port());
    let logging = Logging { protocol, host: "127.0.0.1", port, ..Logging::NONE };
    lab.subject.client.set_logging(&logging)?;
    let mut levels = LINES.map(|lines| Level {
        lines,
        body: lines.to_string(),
        latencies: Latencies::new(),
        deliveries: Latencies::new(),
    });
    // The first one takes a VM and connects to the receiver.
    let first = &levels[0];
    lab.subject.client.invoke(&Invoke::new(program.name, first.body.as_bytes()))?;
    receiver.take(first.lines, PATIENCE);
    let (mut turn, mut missing, mut given_up) = (0, 0, String::new());
    lab.rounds(&mut measured, &mut |subject, count, measured| {
        for _ in 0..count {
            let level = &mut levels[turn];
            turn = (turn + 1) % LINES.len();
            let watch = Watch::start();
            let invoke = Invoke::new(program.name, level.body.as_bytes());
            let Some((done, took)) = ask(subject, None, &invoke, measured)? else { continue };
            if !done.log_reason.is_empty() {
                given_up = done.log_reason;
            }
            level.latencies.record(took);
            let arrived = receiver.take(level.lines, PATIENCE);
            missing += level.lines - arrived;
            level.deliveries.record(watch.elapsed());
        }
        Ok(())
    })?;
    let shown = levels.iter().filter(|level| level.latencies.count() > 0).map(|level| {
        json!({
            "lines": level.lines,
            "count": level.latencies.count(),
            "latency_nanos": level.latencies.summary(),
            "delivered_nanos": level.deliveries.summary(),
        })
    });
    measured.extra.insert("lines".to_owned(), shown.collect());
    measured.extra.insert("records_missing".to_owned(), json!(missing));
    measured.extra.insert("given_up_because".to_owned(), json!(given_up));
    lab.subject.forget("", program);
    Ok(measured)
}
