//! What is measured, and the order: a batch of invokes, then a batch of each baseline, and again,
//! so that whatever disturbs the machine disturbs all of them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use perf::{Deadline, Echo, Latencies, Slowest, Spawn, Stage, timed};
use pilotlight::client::Completed;
use pilotlight::invoke::{Contract, Timings};
use pilotlight::socket::answer::Room;
use pilotlight::socket::request::Invoke;

use super::super::fault::Fault;
use super::super::programs;
use super::role::Part;
use super::subject::Subject;

/// Bytes of each request and of its answer.
pub(super) const PAYLOAD_BYTES: usize = 1024;
/// Rounds a scenario is cut into, as far as batches stay below their limits.
const ROUNDS: u64 = 20;
/// Untimed requests in front of each batch: the others have put this one to sleep.
const WARM_UP: u64 = 16;
/// Slowest invokes whose stages are kept.
const SLOWEST: usize = 20;
/// After a batch the node polls on for a moment; the next one waits until that is over.
const PAUSE: Duration = Duration::from_millis(3);

/// A way to use a node whose latency is of interest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Scenario {
    /// A resident program (contract `stream`) echoes 1 KiB; the VM is the user's already
    Warm,
    /// A program started for each request (contract `program`) echoes 1 KiB; as above
    WarmProgram,
    /// The first invoke for a user never seen before: a static program that does nothing
    First,
}

/// What came out.
#[derive(Debug)]
pub(super) struct Measured {
    pub(super) latencies: Latencies,
    pub(super) slowest: Slowest,
    pub(super) uds_echo_blocking: Latencies,
    pub(super) uds_echo_runtime: Latencies,
    pub(super) posix_spawn: Latencies,
    exits: u64,
    invokes: u64,
}

impl Measured {
    /// Nothing so far; of the slowest invokes `slowest` are kept.
    fn new(slowest: usize) -> Self {
        Self {
            latencies: Latencies::new(),
            slowest: Slowest::new(slowest),
            uds_echo_blocking: Latencies::new(),
            uds_echo_runtime: Latencies::new(),
            posix_spawn: Latencies::new(),
            exits: 0,
            invokes: 0,
        }
    }

    fn record(&mut self, took: Duration, done: &Completed) {
        self.latencies.record(took);
        self.slowest.offer(took, || stages(&done.outcome.timings));
    }

    /// Returns of `KVM_RUN` of the VMs that served, per invoke they served.
    pub(super) fn vm_exits_per_invoke(&self) -> f64 {
        self.exits as f64 / self.invokes.max(1) as f64
    }
}

impl Scenario {
    pub(super) const ALL: [Self; 3] = [Self::Warm, Self::WarmProgram, Self::First];

    /// Its name on the command line.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Warm => "warm",
            Self::WarmProgram => "warm-program",
            Self::First => "first",
        }
    }

    /// Invokes that take a few seconds.
    pub(super) fn count(self) -> u64 {
        match self {
            Self::Warm => 20_000,
            Self::WarmProgram => 10_000,
            Self::First => 300,
        }
    }

    /// Largest batch.
    fn batch_max(self) -> u64 {
        match self {
            Self::Warm | Self::WarmProgram => 500,
            Self::First => 10,
        }
    }

    fn program(self) -> (&'static str, &'static [u8], Contract) {
        match self {
            Self::Warm => ("bench-echo-stream", programs::ECHO_STREAM, Contract::Stream),
            Self::WarmProgram => ("bench-echo", programs::ECHO, Contract::Program),
            Self::First => ("bench-noop", programs::NOOP, Contract::Program),
        }
    }

    /// What the program is given when it is started on this machine: the same.
    fn spawn(self, folder: &Path) -> Result<Spawn, Fault> {
        let (name, program, _) = self.program();
        let path = executable(folder, name, program)?;
        let request = match self {
            Self::Warm => {
                let length = u32::try_from(PAYLOAD_BYTES).unwrap_or(u32::MAX).to_le_bytes();
                [&length, payload().as_slice()].concat()
            }
            Self::WarmProgram => payload(),
            Self::First => Vec::new(),
        };
        Ok(Spawn::new(path, request)?)
    }

    /// Measures up to `count` invokes and the baselines beside them.
    pub(super) fn measure(
        self,
        subject: &mut Subject,
        peers: &mut Peers,
        count: u64,
        limit: Duration,
    ) -> Result<Measured, Fault> {
        let spawn = self.spawn(&peers.folder)?;
        let mut course = Course::new(self, subject)?;
        let mut measured = Measured::new(SLOWEST);
        let batch = (count / ROUNDS).clamp(1, self.batch_max());
        let (echoes, spawns) = (batch.max(50), batch.min(10));
        let deadline = Deadline::after(limit);
        let mut left = count;
        while left > 0 && (left == count || !deadline.has_passed()) {
            course.run(batch.min(left), &mut measured)?;
            left -= batch.min(left);
            std::thread::sleep(PAUSE);
            repeat(WARM_UP, echoes, &mut measured.uds_echo_blocking, || peers.blocking.echo())?;
            repeat(WARM_UP, echoes, &mut measured.uds_echo_runtime, || peers.runtime.echo())?;
            repeat(1, spawns, &mut measured.posix_spawn, || spawn.run())?;
        }
        course.clean_up();
        Ok(measured)
    }
}

/// Does something a few times, and then times it.
fn repeat(
    warm_up: u64,
    count: u64,
    latencies: &mut Latencies,
    mut act: impl FnMut() -> std::io::Result<()>,
) -> Result<(), Fault> {
    for _ in 0..warm_up {
        act()?;
    }
    for _ in 0..count {
        latencies.record(timed(&mut act)?.1);
    }
    Ok(())
}

/// What the invokes are held against.
pub(super) struct Peers {
    folder: PathBuf,
    blocking: Echo,
    runtime: Echo,
}

impl Peers {
    /// Starts the echo servers on `core`.
    pub(super) fn start(folder: &Path, core: u32) -> Result<Self, Fault> {
        let start = |part: Part| {
            let server = part.echo(folder, core, PAYLOAD_BYTES)?;
            Echo::start(server, &part.socket(folder), payload())
        };
        let (blocking, runtime) = (start(Part::EchoBlocking)?, start(Part::EchoRuntime)?);
        Ok(Self { folder: folder.to_owned(), blocking, runtime })
    }
}

/// The invokes of one scenario.
struct Course<'a> {
    scenario: Scenario,
    subject: &'a mut Subject,
    function: &'static str,
    payload: Vec<u8>,
    /// Makes names of users that no node has seen.
    nonce: String,
    users: u64,
}

impl<'a> Course<'a> {
    fn new(scenario: Scenario, subject: &'a mut Subject) -> Result<Self, Fault> {
        let (function, program, contract) = scenario.program();
        let mut nonce = [0; 8];
        rustix::rand::getrandom(&mut nonce, rustix::rand::GetRandomFlags::empty())?;
        let nonce = format!("{:016x}", u64::from_le_bytes(nonce));
        let payload = if scenario == Scenario::First { Vec::new() } else { payload() };
        let course = Self { scenario, subject, function, payload, nonce, users: 0 };
        course.subject.await_warm()?;
        if scenario != Scenario::First {
            course.subject.deploy(("", function), program, contract)?;
        }
        Ok(course)
    }

    fn run(&mut self, count: u64, measured: &mut Measured) -> Result<(), Fault> {
        match self.scenario {
            Scenario::Warm | Scenario::WarmProgram => self.run_warm(count, measured),
            Scenario::First => (0..count).try_for_each(|_| self.run_first(measured)),
        }
    }

    fn run_warm(&mut self, count: u64, measured: &mut Measured) -> Result<(), Fault> {
        let before = self.subject.vms()?;
        let mut vm = None;
        for number in 0..WARM_UP + count {
            let invoke = Invoke::new(self.function, &self.payload);
            let (done, took) = timed(|| self.subject.client.invoke(&invoke))?;
            check(&done, &self.payload)?;
            if number < WARM_UP {
                vm = Some(done.outcome.vm);
                continue;
            }
            if vm != Some(done.outcome.vm) || done.room != Room::Active {
                return Err(Fault::new("the node changed the VM in the middle of a batch"));
            }
            measured.record(took, &done);
        }
        let vm = vm.map(|vm| vm.to_string()).unwrap_or_default();
        measured.exits += self.subject.vms()?.exits_since(&before, &vm);
        measured.invokes += WARM_UP + count;
        Ok(())
    }

    fn run_first(&mut self, measured: &mut Measured) -> Result<(), Fault> {
        let (function, program, contract) = self.scenario.program();
        self.users += 1;
        let user = format!("bench-{}-{}", self.nonce, self.users);
        self.subject.deploy((&user, function), program, contract)?;
        let before = self.subject.await_warm()?;
        let invoke = Invoke { user: &user, ..Invoke::new(function, &self.payload) };
        let (done, took) = timed(|| self.subject.client.invoke(&invoke))?;
        check(&done, &self.payload)?;
        if done.room != Room::Warming {
            return Err(Fault::new("the node had a VM for a user it had never seen"));
        }
        measured.record(took, &done);
        let vm = done.outcome.vm.to_string();
        measured.exits += self.subject.vms()?.exits_since(&before, &vm);
        measured.invokes += 1;
        self.subject.client.remove(&user, function)?;
        Ok(())
    }

    fn clean_up(&mut self) {
        if self.scenario != Scenario::First && !self.subject.is_own() {
            // It was measured; that it stays is no reason to fail.
            let _ = self.subject.client.remove("", self.function);
        }
    }
}

/// In the order in which the node measures them.
fn stages(timings: &Timings) -> [Stage; 6] {
    [
        ("accept", timings.accept_nanos),
        ("route", timings.route_nanos),
        ("load", timings.load_nanos),
        ("acquire", timings.acquire_nanos),
        ("run", timings.run_nanos),
        ("reply", timings.reply_nanos),
    ]
}

/// Whether an invoke did what it was to do.
fn check(done: &Completed, payload: &[u8]) -> Result<(), Fault> {
    use pilotlight::invoke::Status;
    let is_done = done.outcome.status == Status::Exited && done.outcome.detail == 0;
    match is_done && done.response == payload {
        true => Ok(()),
        false => Err(Fault::new(format!(
            "an invoke did not answer as its program does: {:?}",
            done.outcome
        ))),
    }
}

fn payload() -> Vec<u8> {
    (0..251).cycle().take(PAYLOAD_BYTES).collect()
}

/// The program as a file of this machine.
fn executable(folder: &Path, name: &str, bytes: &[u8]) -> Result<PathBuf, Fault> {
    let path = folder.join(name);
    fs::write(&path, bytes)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path)
}
