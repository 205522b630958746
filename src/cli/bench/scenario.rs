//! Ways to use a node whose latency is of interest; what each measures is in a file of its own.

mod warm;
mod asleep;
mod shm;
mod fresh;
mod first;
mod burst;
mod mix;
mod bodies;
mod log;
mod density;
mod overload;

use std::time::Duration;

use pilotlight::invoke::Freshness;

use super::super::fault::Fault;
use super::lab::Lab;
use super::measured::Measured;
use super::program::{PAYLOAD_BYTES, Program, payload};
use super::role::Shape;

/// A way to use a node whose latency is of interest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Scenario {
    /// A resident program (contract `stream`) echoes 1 KiB; the VM is the user's already
    Warm,
    /// A program started for each request (contract `program`) echoes 1 KiB; as above
    WarmProgram,
    /// As `warm`, with a pause before each invoke: shard and guest are asleep
    Asleep,
    /// As `warm`, over shared memory
    Shm,
    /// The first invoke for a user never seen before: a static program that does nothing
    First,
    /// The same with an empty warming pool: a VMM is spawned and a snapshot restored for it
    Cold,
    /// As `warm`, with 64 pages written by each request and the VM put back behind it
    FreshVm,
    /// As `warm`, with 64 pages written by each request, in a copy of the process of its own
    Fork,
    /// From idle to 200 new users at once
    Burst,
    /// 100 functions of 20 users, asked for by Zipf's law
    Mix,
    /// Bodies from 0 bytes to 6 MiB, both ways
    Payload,
    /// 1 to 10,000 lines of log per invoke, delivered to a receiver
    Log,
    /// Memory of each VM as VMs are added, up to what the machine holds
    Density,
    /// Steps of offered load to saturation and past it, and the time after
    Overload,
}

/// What a node of the bench's own is, unless a scenario needs another: one VM to give away and
/// others so that the pool is never empty.
const SMALL: Shape = Shape { warm: 3, prepared: 0, vms_max: 12, idle_seconds: 300 };
/// Pause before each invoke of `asleep`: some times longer than a shard polls
/// (`vm.shard_poll_micros`), and guests poll for less.
const PAUSE_ASLEEP: Duration = Duration::from_millis(5);

impl Scenario {
    pub(super) const ALL: &[Self] = &[
        Self::Warm,
        Self::WarmProgram,
        Self::Asleep,
        Self::Shm,
        Self::First,
        Self::Cold,
        Self::FreshVm,
        Self::Fork,
        Self::Burst,
        Self::Mix,
        Self::Payload,
        Self::Log,
        Self::Density,
        Self::Overload,
    ];

    /// Its name on the command line.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Warm => "warm",
            Self::WarmProgram => "warm-program",
            Self::Asleep => "asleep",
            Self::Shm => "shm",
            Self::First => "first",
            Self::Cold => "cold",
            Self::FreshVm => "fresh-vm",
            Self::Fork => "fork",
            Self::Burst => "burst",
            Self::Mix => "mix",
            Self::Payload => "payload",
            Self::Log => "log",
            Self::Density => "density",
            Self::Overload => "overload",
        }
    }

    /// Invokes that take a few seconds.
    pub(super) fn count(self) -> u64 {
        match self {
            Self::Warm | Self::Shm => 20_000,
            Self::WarmProgram | Self::FreshVm | Self::Fork | Self::Mix => 10_000,
            Self::Asleep | Self::First => 300,
            Self::Cold => 100,
            Self::Burst => 3 * burst::USERS,
            Self::Payload => 320,
            Self::Log => 100,
            Self::Density => u64::from(density::VMS_MAX),
            // Its load is by time.
            Self::Overload => u64::MAX,
        }
    }

    /// Largest batch.
    pub(super) fn batch_max(self) -> u64 {
        match self {
            Self::Warm | Self::WarmProgram | Self::Shm | Self::FreshVm | Self::Fork | Self::Mix => {
                500
            }
            Self::First => 10,
            Self::Cold | Self::Log => 5,
            Self::Asleep | Self::Payload => 16,
            Self::Density => 20,
            Self::Burst | Self::Overload => burst::USERS,
        }
    }

    /// Smallest batch, as far as there are as many.
    pub(super) fn batch_min(self) -> u64 {
        if self == Self::Burst { burst::USERS } else { 1 }
    }

    /// What is invoked, and started on this machine beside it.
    pub(super) fn program(self) -> Program {
        match self {
            Self::Warm
            | Self::Asleep
            | Self::Shm
            | Self::Mix
            | Self::Payload
            | Self::Density
            | Self::Overload => Program::ECHO_STREAM,
            Self::WarmProgram => Program::ECHO,
            Self::First | Self::Cold | Self::Burst => Program::NOOP,
            Self::FreshVm => Program::SCRIBBLE.fresh(Freshness::Vm),
            Self::Fork => Program::SCRIBBLE.fresh(Freshness::Fork),
            Self::Log => Program::CHATTER,
        }
    }

    /// What is started on this machine beside it: the same, unless that would log there.
    pub(super) fn program_beside(self) -> Program {
        if self == Self::Log { Program::ECHO_STREAM } else { self.program() }
    }

    /// A request, the same where sizes are not what is measured.
    pub(super) fn request(self) -> Vec<u8> {
        match self {
            Self::First | Self::Cold | Self::Burst => Vec::new(),
            Self::Log => b"1".to_vec(),
            Self::Warm
            | Self::WarmProgram
            | Self::Asleep
            | Self::Shm
            | Self::FreshVm
            | Self::Fork
            | Self::Mix
            | Self::Payload
            | Self::Density
            | Self::Overload => payload(PAYLOAD_BYTES),
        }
    }

    /// What of a node it needs.
    pub(super) fn shape(self) -> Shape {
        match self {
            Self::First => Shape { prepared: 2, vms_max: 64, idle_seconds: 1, ..SMALL },
            Self::Cold => Shape { warm: 0, vms_max: 512, ..SMALL },
            Self::FreshVm => Shape { prepared: 1, ..SMALL },
            Self::Burst => Shape { vms_max: 256, idle_seconds: 1, ..SMALL },
            Self::Density => Shape { vms_max: density::VMS_MAX + SMALL.vms_max, ..SMALL },
            Self::Mix | Self::Overload => Shape { vms_max: 64, ..SMALL },
            Self::Warm
            | Self::WarmProgram
            | Self::Asleep
            | Self::Shm
            | Self::Fork
            | Self::Payload
            | Self::Log => SMALL,
        }
    }

    /// Whether it needs a node of that shape and nothing else on it.
    pub(super) fn needs_own_node(self) -> bool {
        matches!(self, Self::Cold | Self::Burst | Self::Density | Self::Overload)
    }

    /// Whether requests come as the command line says.
    pub(super) fn takes_load(self) -> bool {
        matches!(
            self,
            Self::Warm | Self::WarmProgram | Self::Shm | Self::FreshVm | Self::Fork | Self::Mix
        )
    }

    /// Whether its requests come one after the other, unless the command line says otherwise.
    pub(super) fn is_sequential(self) -> bool {
        !matches!(self, Self::Burst | Self::Overload)
    }

    /// Whether it is over after so many invokes.
    pub(super) fn is_counted(self) -> bool {
        self != Self::Overload
    }

    /// In front of each invoke, and of each echo.
    pub(super) fn pause(self) -> Option<Duration> {
        (self == Self::Asleep).then_some(PAUSE_ASLEEP)
    }

    /// Measures it.
    pub(super) fn measure(self, lab: &mut Lab<'_>) -> Result<Measured, Fault> {
        let program = &self.program();
        let measured = match self {
            Self::Warm | Self::WarmProgram => warm::measure(lab, program),
            Self::Asleep => asleep::measure(lab, program),
            Self::Shm => shm::measure(lab, program),
            Self::First => first::measure(lab, program, first::Pool::Warm),
            Self::Cold => first::measure(lab, program, first::Pool::Empty),
            Self::FreshVm | Self::Fork => fresh::measure(lab, program),
            Self::Burst => burst::measure(lab, program),
            Self::Mix => mix::measure(lab),
            Self::Payload => bodies::measure(lab, program),
            Self::Log => log::measure(lab, program),
            Self::Density => density::measure(lab, program),
            Self::Overload => overload::measure(lab, program),
        }?;
        measured.check()?;
        Ok(measured)
    }
}
