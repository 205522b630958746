//! What a pool hears and what it wants done. The shard turns the world into [`Event`]s and
//! performs [`Effect`]s; neither holds a byte of a program, a request or a secret.

use crate::credential::ActiveKey;
use crate::invoke::{BusyReason, ContainerId, Contract, Freshness, InvokeId, Nanos, Status, VmId};

/// A function in the shard's table. Deploying a name again makes a new number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FunctionRef(pub u32);

/// A package in the shard's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PackageRef(pub u32);

/// What functions of the same code and settings share, whoever's they are: the snapshot VMs can be
/// restored from for any of them. A number in the shard's table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotRef(pub u32);

/// One loading of a package into one VM: the frames' package number. Never used twice in a VM, so
/// that a late `FORGET` cannot hit a package that was loaded again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LoadId(pub u64);

/// One reset of one VM: its first is 1. A late answer to an earlier one is told apart by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ResetId(pub u32);

/// What a pool has to know of a function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FunctionFacts {
    /// Which one.
    pub function: FunctionRef,
    /// Its code.
    pub package: PackageRef,
    /// What it can be restored from. Functions that share it have all that follows in common, and
    /// their package.
    pub snapshot: SnapshotRef,
    /// Bytes of its code.
    pub package_bytes: u64,
    /// How it meets requests.
    pub contract: Contract,
    /// What its invokes find of each other.
    pub freshness: Freshness,
    /// Memory its container is promised, MiB.
    pub memory_mib: u32,
}

/// An invoke that asks for a room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Arrival {
    /// Which.
    pub invoke: InvokeId,
    /// Which VMs it may use.
    pub key: ActiveKey,
    /// What it runs.
    pub facts: FunctionFacts,
    /// When it has to be over.
    pub deadline_nanos: Nanos,
}

/// Why a VM ended or has to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blame {
    /// Nobody's fault: it was told to.
    Nobody,
    /// The guest broke a rule or gave up.
    Guest,
    /// Host or VMM failed.
    Host,
}

/// Whether the host is short of memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pressure {
    /// It is not.
    Calm,
    /// It is: VMs nobody uses are to go.
    Tight,
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A new invoke. It gets exactly one [`Effect::Answer`].
    Invoke(Arrival),
    /// The client withdrew an invoke, or went away.
    Cancel {
        /// Which.
        invoke: InvokeId,
    },
    /// The VMM process runs.
    SpawnDone {
        /// Whose.
        vm: VmId,
    },
    /// The VMM process could not be started or could not restore; it is gone.
    SpawnFailed {
        /// Whose.
        vm: VmId,
    },
    /// The guest woke and reads its rings.
    Ready {
        /// Which.
        vm: VmId,
    },
    /// A VM is as its snapshot has it; [`Event::Ready`] follows when its guest wakes.
    ResetDone {
        /// Which.
        vm: VmId,
        /// Which of its resets.
        reset: ResetId,
        /// Pages that were put back.
        dirty_pages: u32,
    },
    /// A package is in the VM: its code frames are all in the ring.
    Loaded {
        /// Which VM.
        vm: VmId,
        /// Which load.
        load: LoadId,
    },
    /// A package could not be read, verified or placed.
    LoadFailed {
        /// Which VM.
        vm: VmId,
        /// Which load.
        load: LoadId,
    },
    /// The guest says an invoke is over.
    OutcomeArrived {
        /// Which VM says so.
        vm: VmId,
        /// Of which invoke.
        invoke: InvokeId,
        /// How it ended.
        status: Status,
    },
    /// A VM broke a rule and must not live on.
    VmFault {
        /// Which.
        vm: VmId,
        /// Whose fault.
        blame: Blame,
    },
    /// A VM's process has ended, told or not.
    VmGone {
        /// Which.
        vm: VmId,
        /// Whose fault.
        blame: Blame,
    },
    /// VMs can be restored from a function's snapshot: package 1 and container 1 are in it.
    SnapshotMade {
        /// One of the functions it is good for.
        facts: FunctionFacts,
    },
    /// They cannot any more.
    SnapshotGone {
        /// Which.
        snapshot: SnapshotRef,
    },
    /// The answer to an [`Effect::Look`].
    Looked {
        /// At which VM.
        vm: VmId,
        /// Whether its guest sleeps, has taken all it was sent and said nothing that was not taken:
        /// whatever runs in it waits for others.
        is_resting: bool,
    },
    /// Memory is short, still, or no longer. Each time it is said to be tight, something goes that
    /// can: first what is warm beyond the least, then of the idle VMs the oldest.
    Pressure {
        /// How it is.
        level: Pressure,
    },
    /// Time has passed: send it whenever [`super::Pool::next_wake`] is reached.
    Tick,
    /// No more invokes: answer those that wait, end VMs as they become idle.
    Stop,
}

/// Where a package goes in a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Through the code ring.
    Inline,
    /// Into the image window at this offset (page aligned), then a frame that says where.
    Window {
        /// Offset in the window, bytes.
        offset: u64,
    },
    /// It was placed there before the VM's last reset and still is: only the frame.
    Placed {
        /// Offset in the window, bytes.
        offset: u64,
    },
}

/// What a shard has for a key: a hint for other shards, never a promise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyState {
    /// No VM.
    Absent,
    /// VMs that can take no further invoke now.
    Full,
    /// A VM that can.
    Room,
}

/// The one answer of an invoke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The outcome that just arrived.
    Outcome,
    /// No room.
    Busy(BusyReason),
    /// Its deadline passed before a VM was free.
    DeadlineInQueue,
    /// Its VM did not answer in time; it is being ended.
    DeadlineInVm {
        /// Which.
        vm: VmId,
    },
    /// The client's wish was granted.
    Cancelled,
    /// Its VM is gone.
    VmGone {
        /// Which.
        vm: VmId,
        /// Whose fault.
        blame: Blame,
    },
    /// Its package could not be loaded.
    NotLoaded,
    /// Its function wants more memory than a VM has, or its package more room than the window.
    TooLarge,
    /// The node is shutting down.
    Stopping,
}

/// Why a VM is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetireReason {
    /// Nobody used it for long.
    Idle,
    /// Its slot is needed for others.
    SlotNeeded,
    /// It was to be reset, and one that has its program in it is warm.
    Superseded,
    /// It was warm, and more are than are wanted.
    Surplus,
    /// The host is short of memory.
    Pressure,
    /// It did not become ready in time.
    NotReady,
    /// It did not answer a deadline or a cancel in time.
    Unresponsive,
    /// A package did not reach it in time.
    LoadTimeout,
    /// It was not reset and awake in time.
    ResetTimeout,
    /// It broke a rule.
    Fault(Blame),
    /// The node is shutting down.
    Stopping,
}

impl RetireReason {
    /// For the operator.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::SlotNeeded => "slot needed",
            Self::Superseded => "a prepared one takes its place",
            Self::Surplus => "more were warm than wanted",
            Self::Pressure => "the host is short of memory",
            Self::NotReady => "not ready in time",
            Self::Unresponsive => "no answer in time",
            Self::LoadTimeout => "package not loaded in time",
            Self::ResetTimeout => "not reset in time",
            Self::Fault(Blame::Guest) => "its guest broke a rule",
            Self::Fault(Blame::Host | Blame::Nobody) => "the host failed it",
            Self::Stopping => "the node stops",
        }
    }
}

/// Something an operator should read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// VMs do not start; the next attempt is made after this pause.
    SpawnFailing {
        /// Failures in a row.
        failures: u32,
        /// Until the next attempt.
        retry_in_nanos: Nanos,
    },
    /// They do again.
    SpawnRecovered,
    /// A VM said it finished an invoke it does not have.
    StrangeOutcome {
        /// Which VM.
        vm: VmId,
    },
}

/// What is to be done. Effects about one VM keep their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Start a VM under this number.
    Spawn {
        /// Its number.
        vm: VmId,
        /// From this snapshot of a function; `None`: from the base.
        snapshot: Option<SnapshotRef>,
        /// Whether an invoke waits for it.
        is_awaited: bool,
    },
    /// An invoke waits for this VM, which started for nobody, or it is warm: it gets its share of the
    /// processor from now on. Until then it only had what other VMs left.
    Hasten {
        /// Which VM.
        vm: VmId,
    },
    /// Give a warm VM to the user of this invoke, with its logging service and credential.
    Assign {
        /// Which VM.
        vm: VmId,
        /// Whose credential is spent.
        invoke: InvokeId,
        /// What the VM is from now on.
        key: ActiveKey,
    },
    /// Tell a VM that was reset again whose it is: its guest has forgotten.
    Reassign {
        /// Which VM.
        vm: VmId,
        /// Whose credential is spent.
        invoke: InvokeId,
        /// What the VM has been all along.
        key: ActiveKey,
    },
    /// Put a VM back to the snapshot it was restored from, once the answer of its invoke is out;
    /// answered by [`Event::ResetDone`] and then [`Event::Ready`].
    Reset {
        /// Which.
        vm: VmId,
        /// Which of its resets.
        reset: ResetId,
    },
    /// Bring a package into a VM; answered by [`Event::Loaded`] or [`Event::LoadFailed`].
    Load {
        /// Which VM.
        vm: VmId,
        /// What.
        package: PackageRef,
        /// Its number in that VM.
        load: LoadId,
        /// Where.
        place: Place,
    },
    /// Drop a package no container of the VM uses.
    Forget {
        /// Which VM.
        vm: VmId,
        /// Which package.
        load: LoadId,
    },
    /// Make a container.
    Acquire {
        /// Which VM.
        vm: VmId,
        /// Its number.
        container: ContainerId,
        /// What it will run.
        function: FunctionRef,
        /// From which package.
        load: LoadId,
    },
    /// Send an invoke into its container.
    Dispatch {
        /// Which VM.
        vm: VmId,
        /// Which container.
        container: ContainerId,
        /// Which invoke.
        invoke: InvokeId,
    },
    /// See whether a guest rests; answered by [`Event::Looked`].
    Look {
        /// Which VM's.
        vm: VmId,
    },
    /// Ask the guest to end an invoke.
    Interrupt {
        /// Which VM.
        vm: VmId,
        /// Which invoke.
        invoke: InvokeId,
    },
    /// End a container.
    Release {
        /// Which VM.
        vm: VmId,
        /// Which container.
        container: ContainerId,
    },
    /// End a VM, by force if need be; answered by [`Event::VmGone`]. May come again.
    Retire {
        /// Which.
        vm: VmId,
        /// Why.
        reason: RetireReason,
    },
    /// Answer an invoke; nothing of it follows.
    Answer {
        /// Which.
        invoke: InvokeId,
        /// How.
        answer: Answer,
    },
    /// Tell the other shards what this one has for a key.
    PublishKey {
        /// The key's fingerprint.
        fingerprint: u64,
        /// What it has.
        state: KeyState,
    },
    /// Tell the other shards how many warm VMs for anybody this one has.
    PublishWarm {
        /// How many.
        count: u32,
    },
    /// Tell the operator.
    Report(Notice),
}
