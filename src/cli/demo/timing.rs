//! A small latency table: not a benchmark, but honest.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use pilotlight::client::{Client, Package};
use pilotlight::invoke::Contract;
use pilotlight::socket::request::Invoke;
use serde_json::{Map, Value, json};

use super::super::fault::Fault;
use super::super::{programs, report};

/// Bytes of a request and of its response.
const BODY: [u8; 1024] = [b'x'; 1024];
/// Users that come for the first time.
const FIRST_COUNT: u32 = 20;
/// Invokes of a user who was there before.
const WARM_COUNT: u32 = 1_000;
/// Longest time told apart, nanoseconds.
const NANOS_MAX: u64 = 60_000_000_000;
const PATIENCE: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// How long one kind of invoke took.
pub(super) struct Latency {
    name: &'static str,
    what: &'static str,
    nanos: Histogram<u64>,
}

/// Measures each kind in turn.
pub(super) fn measure(client: &mut Client) -> Result<Vec<Latency>, Fault> {
    let mut echo = Package::of_elf("echo", programs::ECHO);
    let mut first = Latency::new("first", "a user never seen before: VM from the warming pool")?;
    for number in 0..FIRST_COUNT {
        let user = format!("guest-{number}");
        client.deploy((&user, "echo"), &echo)?;
        wait_for_warm(client)?;
        first.time(client, &user)?;
    }
    let mut program = Latency::new("program", "again: a fresh process in that user's VM")?;
    program.repeat(client, "guest-0")?;
    echo.bytes = programs::ECHO_STREAM.to_vec();
    echo.settings.contract = Contract::Stream;
    client.deploy(("resident", "echo"), &echo)?;
    let mut stream = Latency::new("stream", "again: a resident process (--contract stream)")?;
    stream.repeat(client, "resident")?;
    Ok(vec![first, program, stream])
}

fn wait_for_warm(client: &mut Client) -> Result<(), Fault> {
    let began = now();
    while client.status()?["pools"]["warm"].as_u64().unwrap_or(0) == 0 {
        if began.elapsed() > PATIENCE {
            return Err(Fault::new("no VM became warm; `pilotlight doctor` says what is missing"));
        }
        std::thread::sleep(LOOK_AGAIN);
    }
    Ok(())
}

impl Latency {
    fn new(name: &'static str, what: &'static str) -> Result<Self, Fault> {
        Ok(Self { name, what, nanos: Histogram::new_with_max(NANOS_MAX, 3)? })
    }

    fn repeat(&mut self, client: &mut Client, user: &str) -> Result<(), Fault> {
        client.invoke(&request(user))?;
        (0..WARM_COUNT).try_for_each(|_| self.time(client, user))
    }

    fn time(&mut self, client: &mut Client, user: &str) -> Result<(), Fault> {
        let began = now();
        let completed = client.invoke(&request(user))?;
        let nanos = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        if completed.response != BODY {
            return Err(Fault::new(format!("an echo came back changed: {completed:?}")));
        }
        self.nanos.saturating_record(nanos);
        Ok(())
    }
}

fn request(user: &str) -> Invoke<'_> {
    Invoke { user, ..Invoke::new("echo", &BODY) }
}

#[expect(clippy::disallowed_methods, reason = "this is the client, and timing it is the point")]
fn now() -> Instant {
    Instant::now()
}

/// For people.
pub(super) fn table(latencies: &[Latency]) -> String {
    let rows: Vec<_> = latencies
        .iter()
        .map(|latency| {
            let at = |quantile| report::nanos(latency.nanos.value_at_quantile(quantile));
            [
                latency.name.to_owned(),
                latency.nanos.len().to_string(),
                at(0.5),
                at(0.99),
                report::nanos(latency.nanos.max()),
                latency.what.to_owned(),
            ]
        })
        .collect();
    report::table(["", "N", "P50", "P99", "MAX", ""], &rows)
}

/// For programs.
pub(super) fn object(latencies: &[Latency]) -> Value {
    let entries = latencies.iter().map(|latency| {
        let nanos = &latency.nanos;
        let object = json!({
            "count": nanos.len(),
            "p50": nanos.value_at_quantile(0.5),
            "p99": nanos.value_at_quantile(0.99),
            "max": nanos.max(),
        });
        (latency.name.to_owned(), object)
    });
    Value::Object(entries.collect::<Map<_, _>>())
}
