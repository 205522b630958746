//! Bodies from nothing to the largest a node takes, the same bytes both ways.

use std::time::Duration;

use perf::Latencies;
use pilotlight::config::BODY_BYTES_MAX;
use pilotlight::socket::request::Invoke;
use serde_json::json;

use super::super::super::fault::Fault;
use super::super::lab::{Lab, ask};
use super::super::measured::Measured;
use super::super::program::{Program, payload};

/// Bytes of a request, and of its answer.
const SIZES: [usize; 8] =
    [0, 1 << 10, 4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, LARGEST_BYTES];
const LARGEST_BYTES: usize = 6 << 20;
const _: () = assert!(LARGEST_BYTES as u64 == BODY_BYTES_MAX, "the largest a node takes");

/// One invoke of each size in turn.
pub(super) fn measure(lab: &mut Lab<'_>, program: &Program) -> Result<Measured, Fault> {
    let mut measured = lab.measured();
    lab.subject.await_warm()?;
    lab.subject.deploy("", program)?;
    lab.subject.settle()?;
    let bodies = SIZES.map(payload);
    let mut latencies = SIZES.map(|_| Latencies::new());
    // Room for the largest is made once.
    bodies.iter().try_for_each(|body| {
        lab.subject.client.invoke(&Invoke::new(program.name, body)).map(drop)
    })?;
    let mut turn = 0;
    lab.rounds(&mut measured, &mut |subject, count, measured| {
        for _ in 0..count {
            let invoke = Invoke::new(program.name, &bodies[turn]);
            if let Some((_, took)) = ask(subject, None, &invoke, measured)? {
                latencies[turn].record(took);
            }
            turn = (turn + 1) % SIZES.len();
        }
        Ok(())
    })?;
    let sizes = SIZES.iter().zip(&latencies).filter(|(_, latencies)| latencies.count() > 0);
    let sizes = sizes.map(|(bytes, latencies)| {
        let latency = latencies.summary();
        let seconds = Duration::from_nanos(latency.p50.max(1)).as_secs_f64();
        let mib_per_second = 2.0 * *bytes as f64 / f64::from(1 << 20) / seconds;
        json!({
            "bytes": bytes,
            "count": latencies.count(),
            "latency_nanos": latency,
            "mib_per_second_p50": mib_per_second.round(),
        })
    });
    measured.extra.insert("sizes".to_owned(), sizes.collect());
    lab.subject.forget("", program);
    Ok(measured)
}
