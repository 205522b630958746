//! What this machine takes for the steps an invoke is made of.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use glommio::io::BufferedFile;
use glommio::{LocalExecutorBuilder, Placement};
use hdrhistogram::Histogram;
use pilotlight::available_cores;
use rustix::event::EventfdFlags;
use rustix::thread::CpuSet;
use serde_json::{Value, json};

use super::super::fault::Fault;
use super::super::report;

/// Round trips that are measured of each; some tens of milliseconds each.
const ROUNDS: u32 = 1_000;

/// Longest time told apart, nanoseconds.
const NANOS_MAX: u64 = 60_000_000_000;

/// How long something takes here, nanoseconds.
#[derive(Clone, Debug)]
pub(super) struct Primitive {
    /// Stable, for programs.
    pub(super) key: &'static str,
    pub(super) name: &'static str,
    pub(super) p50: u64,
    pub(super) p99: u64,
    /// Times it was measured.
    pub(super) count: u64,
}

/// Measures one thing again and again.
pub(super) struct Stopwatch {
    nanos: Histogram<u64>,
}

impl Stopwatch {
    pub(super) fn new() -> Self {
        let nanos = Histogram::new_with_max(NANOS_MAX, 3);
        Self { nanos: nanos.unwrap_or_else(|error| unreachable!("constant bounds: {error:?}")) }
    }

    /// Takes down what `parts` equal steps took together.
    pub(super) fn record(&mut self, took: Duration, parts: u64) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.nanos.saturating_record(nanos / parts);
    }

    pub(super) fn read(&self, key: &'static str, name: &'static str) -> Primitive {
        Primitive {
            key,
            name,
            p50: self.nanos.value_at_quantile(0.5),
            p99: self.nanos.value_at_quantile(0.99),
            count: self.nanos.len(),
        }
    }
}

impl Primitive {
    /// For people.
    pub(super) fn row(&self) -> [String; 4] {
        let (p50, p99) = (report::nanos(self.p50), report::nanos(self.p99));
        [self.name.to_owned(), p50, p99, self.count.to_string()]
    }

    /// For programs.
    pub(super) fn object(&self) -> Value {
        json!({ "count": self.count, "p50": self.p50, "p99": self.p99 })
    }
}

#[expect(clippy::disallowed_methods, reason = "measuring is what this does")]
pub(super) fn now() -> Instant {
    Instant::now()
}

/// Measures what needs no node.
pub(super) fn measure() -> Result<Vec<Primitive>, Fault> {
    let cores = available_cores()?;
    let (first, last) = (cores.first().copied(), cores.last().copied());
    // On a thread of its own, because it stays on its core.
    let between_cores = move || -> io::Result<[Primitive; 2]> {
        pin(first);
        Ok([wake_up(last)?, socket_round_trip(last)?])
    };
    let thread = std::thread::Builder::new().spawn(between_cores)?;
    let pairs = thread.join().map_err(|_| Fault::new("a measurement panicked"))??;
    let mut measured = Vec::from(pairs);
    // Without io_uring there is nothing to measure; its check says so.
    measured.extend(ring_read());
    Ok(measured)
}

/// Keeps this thread on one core; where that is not allowed, it measures what it gets.
fn pin(core: Option<u32>) {
    let mut cores = CpuSet::new();
    if let Some(core) = core.and_then(|core| usize::try_from(core).ok()) {
        cores.set(core);
        let _ = rustix::thread::sched_setaffinity(None, &cores);
    }
}

/// One thread wakes another through an eventfd: half of a round trip between two that sleep.
fn wake_up(other: Option<u32>) -> io::Result<Primitive> {
    let mut stopwatch = Stopwatch::new();
    let bell = || rustix::event::eventfd(0, EventfdFlags::CLOEXEC);
    let (there, back) = (bell()?, bell()?);
    std::thread::scope(|scope| {
        let echo = scope.spawn(|| -> io::Result<()> {
            pin(other);
            for _ in 0..ROUNDS {
                rustix::io::read(&there, &mut [0; 8])?;
                rustix::io::write(&back, &1_u64.to_ne_bytes())?;
            }
            Ok(())
        });
        for _ in 0..ROUNDS {
            let began = now();
            rustix::io::write(&there, &1_u64.to_ne_bytes())?;
            rustix::io::read(&back, &mut [0; 8])?;
            stopwatch.record(began.elapsed(), 2);
        }
        echo.join().unwrap_or(Ok(()))
    })?;
    Ok(stopwatch.read("eventfd_wake_up", "wake-up on another core (eventfd)"))
}

/// 1 KiB there and back over a Unix socket, both sides blocking.
fn socket_round_trip(other: Option<u32>) -> io::Result<Primitive> {
    let mut stopwatch = Stopwatch::new();
    let (mut ours, mut theirs) = UnixStream::pair()?;
    std::thread::scope(|scope| {
        let echo = scope.spawn(move || -> io::Result<()> {
            pin(other);
            let mut message = [0; 1024];
            for _ in 0..ROUNDS {
                theirs.read_exact(&mut message)?;
                theirs.write_all(&message)?;
            }
            Ok(())
        });
        let mut message = [0; 1024];
        for _ in 0..ROUNDS {
            let began = now();
            ours.write_all(&message)?;
            ours.read_exact(&mut message)?;
            stopwatch.record(began.elapsed(), 1);
        }
        echo.join().unwrap_or(Ok(()))
    })?;
    Ok(stopwatch.read("socket_round_trip", "Unix socket, 1 KiB and back"))
}

/// One operation through io_uring and the node's runtime: a byte from `/dev/zero`.
fn ring_read() -> Option<Primitive> {
    let builder = LocalExecutorBuilder::new(Placement::Unbound).name("doctor");
    let measured = builder.spawn(|| async {
        let mut stopwatch = Stopwatch::new();
        let file = BufferedFile::open("/dev/zero").await.ok()?;
        for _ in 0..ROUNDS {
            let began = now();
            file.read_at(0, 1).await.ok()?;
            stopwatch.record(began.elapsed(), 1);
        }
        file.close().await.ok()?;
        Some(stopwatch.read("io_uring_operation", "io_uring operation"))
    });
    measured.ok()?.join().ok()?
}
