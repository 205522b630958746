//! What the invokes are held against: the same machine, in the same run, for the same bytes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use perf::peer::{Bubblewrap, Runc, Wasmtime};
use perf::{Echo, Latencies, Spawn, timed};

use super::super::fault::Fault;
use super::program::{PAYLOAD_BYTES, Program, payload};
use super::role::Part;
use super::series::Series;

/// Untimed echoes in front of each batch: the others have put this one to sleep.
pub(super) const WARM_UP: u64 = 16;
/// Processes started in one batch, and those of peers that take many milliseconds each.
const SPAWNS_MAX: u64 = 10;
const SANDBOXES_MAX: u64 = 3;
const CONTAINERS_MAX: u64 = 1;

/// A peer that can be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Peer {
    /// A process in namespaces of its own, started for each request
    Bubblewrap,
    /// A container, made for each request
    Runc,
    /// A WebAssembly instance, made for each request in a process that is there
    Wasmtime,
}

/// What all of them took; empty: left out.
#[derive(Clone, Debug, Default)]
pub(super) struct Baselines {
    pub(super) uds_echo_blocking: Series,
    pub(super) uds_echo_runtime: Series,
    pub(super) posix_spawn: Series,
    pub(super) bubblewrap: Series,
    pub(super) runc: Series,
    pub(super) wasmtime: Series,
}

/// What people call them, in that order.
pub(super) const PEERS: [&str; 6] = [
    "uds echo, blocking",
    "uds echo, runtime",
    "posix_spawn + wait",
    "bubblewrap",
    "runc",
    "wasmtime",
];

impl Baselines {
    /// Each as people call it.
    pub(super) fn rows(&self) -> impl Iterator<Item = (&'static str, &Latencies)> {
        let all = [
            &self.uds_echo_blocking,
            &self.uds_echo_runtime,
            &self.posix_spawn,
            &self.bubblewrap,
            &self.runc,
            &self.wasmtime,
        ];
        PEERS.into_iter().zip(all.map(|series| &series.all))
    }
}

/// The echo servers, for all scenarios.
pub(super) struct Echoes {
    blocking: Echo,
    runtime: Echo,
}

impl Echoes {
    /// Starts them on `core`.
    pub(super) fn start(folder: &Path, core: u32) -> Result<Self, Fault> {
        let start = |part: Part| {
            let server = part.echo(folder, core, PAYLOAD_BYTES)?;
            Echo::start(server, &part.socket(folder), payload(PAYLOAD_BYTES))
        };
        let (blocking, runtime) = (start(Part::EchoBlocking)?, start(Part::EchoRuntime)?);
        Ok(Self { blocking, runtime })
    }
}

/// All peers of one scenario.
pub(super) struct Peers<'a> {
    echoes: &'a mut Echoes,
    spawn: Spawn,
    bubblewrap: Option<Bubblewrap>,
    runc: Option<Runc>,
    wasmtime: Option<Wasmtime>,
    /// What those that are started for each request are given.
    request: Vec<u8>,
    /// In front of each echo, as in front of each invoke.
    pause: Option<Duration>,
}

impl<'a> Peers<'a> {
    /// Finds all peers but those left out. They get `request`, and run `program` as far as it runs
    /// once for each request.
    pub(super) fn find(
        echoes: &'a mut Echoes,
        folder: &Path,
        (program, request, pause): (&Program, &[u8], Option<Duration>),
        without: &[Peer],
    ) -> Result<Self, Fault> {
        let path = executable(folder, program.name, program.bytes)?;
        let request = program.framed(request);
        let spawn = Spawn::new(path.clone(), request.clone())?;
        let wanted = |peer: Peer| !without.contains(&peer);
        let bubblewrap = wanted(Peer::Bubblewrap).then(|| Bubblewrap::find(&path)).transpose()?;
        let runc = wanted(Peer::Runc).then(|| Runc::find(&path, folder)).transpose()?;
        let wasmtime = wanted(Peer::Wasmtime).then(|| Wasmtime::find(None)).transpose()?;
        Ok(Self { echoes, spawn, bubblewrap, runc, wasmtime, request, pause })
    }

    /// Measures a batch of each, which goes with a batch of `invokes`.
    pub(super) fn measure(&mut self, invokes: u64, baselines: &mut Baselines) -> Result<(), Fault> {
        let (echoes, spawns) = match self.pause {
            Some(_) => (invokes, invokes.min(SPAWNS_MAX)),
            None => (invokes.max(50), invokes.min(SPAWNS_MAX)),
        };
        let pause = self.pause;
        let (blocking, runtime) = (&mut self.echoes.blocking, &mut self.echoes.runtime);
        repeat(pause, echoes, &mut baselines.uds_echo_blocking, || blocking.echo())?;
        repeat(pause, echoes, &mut baselines.uds_echo_runtime, || runtime.echo())?;
        self.spawn.run()?;
        for _ in 0..spawns {
            baselines.posix_spawn.record(timed(|| self.spawn.run())?.1);
        }
        baselines.posix_spawn.end_batch();
        if let Some(bubblewrap) = &mut self.bubblewrap {
            let once = || bubblewrap.once(&self.request);
            several(invokes.min(SANDBOXES_MAX), &mut baselines.bubblewrap, once)?;
        }
        if let Some(runc) = &mut self.runc {
            let once = || runc.once(&self.request);
            several(invokes.min(CONTAINERS_MAX), &mut baselines.runc, once)?;
        }
        if let Some(wasmtime) = &mut self.wasmtime {
            // The first one wakes it.
            wasmtime.once(&self.request)?;
            let once = || wasmtime.once(&self.request);
            several(echoes.min(50), &mut baselines.wasmtime, once)?;
        }
        Ok(())
    }
}

/// A batch of echoes, awake or each after the same pause.
fn repeat(
    pause: Option<Duration>,
    count: u64,
    series: &mut Series,
    mut act: impl FnMut() -> std::io::Result<()>,
) -> Result<(), Fault> {
    for _ in 0..pause.map_or(WARM_UP, |_| 1) {
        act()?;
    }
    for _ in 0..count {
        pause.into_iter().for_each(std::thread::sleep);
        series.record(timed(&mut act)?.1);
    }
    series.end_batch();
    Ok(())
}

/// A batch of what times itself.
fn several(
    count: u64,
    series: &mut Series,
    mut once: impl FnMut() -> std::io::Result<Duration>,
) -> Result<(), Fault> {
    for _ in 0..count {
        series.record(once()?);
    }
    series.end_batch();
    Ok(())
}

/// The program as a file of this machine.
fn executable(folder: &Path, name: &str, bytes: &[u8]) -> Result<PathBuf, Fault> {
    let path = folder.join(name);
    fs::write(&path, bytes)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}
