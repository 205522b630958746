//! One resident program, called over a socket and over shared memory in turns: how long 1 KiB there
//! and back takes, nanoseconds. Needs KVM.
//!
//! `cargo run --release --example shared_memory -- ECHO [INVOKES]`, ECHO being a program of contract
//! `stream` (`tests/programs/build echo-stream FILE` makes one). With two cores the client has the
//! shard's; a client that polls is then in the shard's way.

use std::error::Error;
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use hdrhistogram::Histogram;
use pilotlight::client::{Client, Package};
use pilotlight::invoke::Contract;
use pilotlight::socket::request::Invoke;
use pilotlight::{Config, Node};
use region::clock::monotonic_nanos;

const ROUNDS: u32 = 20;
const WARM_UP: u32 = 16;
/// The node's shard sleeps after this; far longer than its own default poll.
const REST: Duration = Duration::from_millis(5);

/// A way to call.
struct Way {
    name: &'static str,
    client: Client,
    /// Before each call.
    rest: Duration,
    latencies: Histogram<u64>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let echo = arguments.next().ok_or("name a program of contract stream")?;
    let invokes: u32 = arguments.next().map_or(Ok(20_000), |count| count.parse())?;
    let state = tempfile::tempdir()?;
    let mut config = Config::default();
    config.paths.state = state.path().to_owned();
    let cores = config.core_split(&pilotlight::available_cores()?)?;
    let node = Node::start(config)?;
    let mut package = Package::read(Path::new(&echo))?;
    package.settings.contract = Contract::Stream;
    node.client()?.deploy(("", "echo"), &package)?;

    let polls = |micros| Some(Duration::from_micros(micros));
    let mut ways = Vec::new();
    for (name, poll, rest) in [
        ("socket, client sleeps", None, Duration::ZERO),
        ("shared memory, client sleeps", polls(0), Duration::ZERO),
        ("shared memory, client polls", polls(50), Duration::ZERO),
        ("socket, all asleep", None, REST),
        ("shared memory, all asleep", polls(0), REST),
    ] {
        let mut client = node.client()?;
        if let Some(poll) = poll {
            client.attach(poll)?;
        }
        let latencies = Histogram::new_with_bounds(1, 10_000_000_000, 3)?;
        ways.push(Way { name, client, rest, latencies });
    }
    let free = pilotlight::available_cores()?
        .into_iter()
        .find(|core| !cores.shards.contains(core) && !cores.guests.contains(core));
    perf::pin(free.unwrap_or(cores.shards[0]))?;
    for _ in 0..ROUNDS {
        ways.iter_mut().try_for_each(|way| way.round(invokes / ROUNDS))?;
    }
    let mut output = std::io::stdout().lock();
    for way in &ways {
        let at = |quantile| way.latencies.value_at_quantile(quantile);
        let (p50, p99, max) = (at(0.5), at(0.99), way.latencies.max());
        let count = way.latencies.len();
        writeln!(output, "{:30} n {count} p50 {p50} p99 {p99} max {max}", way.name)?;
    }
    node.stop();
    Ok(())
}

impl Way {
    fn round(&mut self, invokes: u32) -> Result<(), Box<dyn Error>> {
        let body = [7; 1024];
        let (warm_up, invokes) = match self.rest.is_zero() {
            true => (WARM_UP, invokes),
            false => (1, invokes / 50),
        };
        for call in 0..warm_up + invokes {
            std::thread::sleep(self.rest);
            let start = monotonic_nanos();
            let done = self.client.invoke(&Invoke::new("echo", &body))?;
            let nanos = monotonic_nanos() - start;
            if done.response != body {
                return Err("the echo is not what was sent".into());
            }
            if call >= warm_up {
                self.latencies.saturating_record(nanos);
            }
        }
        Ok(())
    }
}
