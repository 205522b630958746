//! A VM as the pools hold it: its state is its type, and each move takes the handle.
//!
//! ```text
//!                  ┌─────────► Waking ◄─ Resetting ◄─┐
//!                  ▼  ready           done             │ finish
//! Starting ─► Warm ─► Clean ─────────────► Alone ──────┘   1 invoke of freshness `vm`
//!                       └► Invoking ◄─► Assigned           1..containers invokes of others
//!   any of them ─► Leaving ─► gone (dropped)
//! ```
//! There is no way back to `Warm`: a VM never serves two users, or one user under two logging
//! services. A VM that was reset is as blank as a warm one, but keeps its key for ever. What the
//! drawing does not show has no function.
//!
//! Assigning takes the warm VM, so it cannot happen twice:
//! ```compile_fail,E0382
//! # use pilotlight::{config::Config, credential::ActiveKey, invoke::*, pool::vm::*};
//! # let limits = Config::default().pool_limits(1, 0);
//! # let ann = ActiveKey::from_parts(User::new("ann").unwrap(), [1; 32]);
//! # let bob = ActiveKey::from_parts(User::new("bob").unwrap(), [2; 32]);
//! let warm = Vm::start(VmId(1), &limits, 0).ready();
//! let first = warm.assign(ann, 0);
//! let second = warm.assign(bob, 0); // gone already
//! ```
//! An assigned VM cannot be warm again, nor be assigned to another:
//! ```compile_fail,E0599
//! # use pilotlight::{config::Config, credential::ActiveKey, invoke::*, pool::vm::*};
//! # let limits = Config::default().pool_limits(1, 0);
//! # let ann = ActiveKey::from_parts(User::new("ann").unwrap(), [1; 32]);
//! let assigned = Vm::start(VmId(1), &limits, 0).ready().assign(ann, 0);
//! let warm = assigned.ready(); // no such move
//! ```
//! An invoke of freshness `vm` enters only a VM nothing ran in since its restore or reset:
//! ```compile_fail,E0599
//! # use pilotlight::{config::Config, credential::ActiveKey, invoke::*, pool::vm::*};
//! # let limits = Config::default().pool_limits(1, 0);
//! # let ann = ActiveKey::from_parts(User::new("ann").unwrap(), [1; 32]);
//! let used = match Vm::start(VmId(1), &limits, 0).ready().assign(ann, 0).begin().finish(0) {
//!     Finished::Idle(used) => used,
//!     Finished::Busy(_) => unreachable!(),
//! };
//! used.begin_alone(); // no such move
//! ```
//! It has the VM to itself:
//! ```compile_fail,E0599
//! # use pilotlight::{config::Config, credential::ActiveKey, invoke::*, pool::vm::*};
//! # let limits = Config::default().pool_limits(1, 0);
//! # let ann = ActiveKey::from_parts(User::new("ann").unwrap(), [1; 32]);
//! let alone = Vm::start(VmId(1), &limits, 0).ready().assign(ann, 0).begin_alone();
//! alone.begin(); // no such move
//! ```
//! And nothing runs behind it before the VM was reset and woke again:
//! ```compile_fail,E0599
//! # use pilotlight::{config::Config, credential::ActiveKey, invoke::*, pool::vm::*};
//! # let limits = Config::default().pool_limits(1, 0);
//! # let ann = ActiveKey::from_parts(User::new("ann").unwrap(), [1; 32]);
//! let resetting = Vm::start(VmId(1), &limits, 0).ready().assign(ann, 0).begin_alone().finish(9);
//! resetting.begin_alone(); // no such move
//! ```
//! ```compile_fail,E0599
//! # use pilotlight::{config::Config, credential::ActiveKey, invoke::*, pool::vm::*};
//! # let limits = Config::default().pool_limits(1, 0);
//! # let ann = ActiveKey::from_parts(User::new("ann").unwrap(), [1; 32]);
//! let resetting = Vm::start(VmId(1), &limits, 0).ready().assign(ann, 0).begin_alone().finish(9);
//! resetting.done().begin_alone(); // no such move: its guest has not woken
//! ```
//! A reset VM keeps its user:
//! ```compile_fail,E0599
//! # use pilotlight::{config::Config, credential::ActiveKey, invoke::*, pool::vm::*};
//! # let limits = Config::default().pool_limits(1, 0);
//! # let ann = ActiveKey::from_parts(User::new("ann").unwrap(), [1; 32]);
//! # let bob = ActiveKey::from_parts(User::new("bob").unwrap(), [2; 32]);
//! let resetting = Vm::start(VmId(1), &limits, 0).ready().assign(ann, 0).begin_alone().finish(9);
//! resetting.done().ready(0).assign(bob, 0); // no such move
//! ```
//! And one that leaves runs nothing more:
//! ```compile_fail,E0599
//! # use pilotlight::{config::Config, credential::ActiveKey, invoke::*, pool::vm::*};
//! # let limits = Config::default().pool_limits(1, 0);
//! let leaving = Vm::start(VmId(1), &limits, 0).leave(0);
//! leaving.begin(); // no such move
//! ```

use crate::config::PoolLimits;
use crate::credential::ActiveKey;
use crate::invoke::{Nanos, VmId};

use super::event::{FunctionFacts, ResetId, SnapshotRef};
use super::interior::Interior;

/// One VM in state `S`.
#[derive(Debug)]
pub struct Vm<S> {
    id: VmId,
    /// Boxed, so that a move between rooms copies few bytes.
    interior: Box<Interior>,
    /// The reset it had last, or is having.
    reset: ResetId,
    state: S,
}

/// What a VM starts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// From the snapshot of this function; `None`: from the base.
    pub function: Option<FunctionFacts>,
    /// Whether an invoke waits for it.
    pub is_awaited: bool,
}

/// Its process starts and restores.
#[derive(Debug)]
pub struct Starting {
    give_up_nanos: Nanos,
    is_awaited: bool,
    /// Of those that wait, one has been found it is for: see `warming`.
    is_spoken_for: bool,
}

/// Restored and waiting, nobody's.
#[derive(Debug)]
pub struct Warm(());

/// Somebody's, and nothing ran in it since it was restored or reset; its guest knows nothing yet.
#[derive(Debug)]
pub struct Clean {
    key: ActiveKey,
    idle_since_nanos: Nanos,
}

/// Somebody's, idle, and used.
#[derive(Debug)]
pub struct Assigned {
    key: ActiveKey,
    idle_since_nanos: Nanos,
}

/// Somebody's, with at least one invoke in it.
#[derive(Debug)]
pub struct Invoking {
    key: ActiveKey,
    running: u32,
}

/// Somebody's, with the one invoke in it that it was clean for.
#[derive(Debug)]
pub struct Alone {
    key: ActiveKey,
}

/// Somebody's, being put back to its snapshot.
#[derive(Debug)]
pub struct Resetting {
    key: ActiveKey,
    give_up_nanos: Nanos,
}

/// Somebody's, put back; its guest is about to wake.
#[derive(Debug)]
pub struct Waking {
    key: ActiveKey,
    give_up_nanos: Nanos,
}

/// Told to end.
#[derive(Debug)]
pub struct Leaving {
    remind_nanos: Nanos,
}

/// What a VM is after one of its invokes ended.
#[derive(Debug)]
pub enum Finished {
    /// It was the last.
    Idle(Vm<Assigned>),
    /// Others are still in it.
    Busy(Vm<Invoking>),
}

impl<S> Vm<S> {
    /// Its number.
    #[must_use]
    pub fn id(&self) -> VmId {
        self.id
    }

    /// The snapshot of a function it was restored from; `None`: the base.
    #[must_use]
    pub fn snapshot(&self) -> Option<SnapshotRef> {
        self.interior.prepared().map(|facts| facts.snapshot)
    }

    /// Tells it to end; to be told again at `remind_nanos` unless it is gone by then.
    #[must_use]
    pub fn leave(self, remind_nanos: Nanos) -> Vm<Leaving> {
        self.into_state(|_| Leaving { remind_nanos })
    }

    pub(super) fn interior(&self) -> &Interior {
        &self.interior
    }

    pub(super) fn interior_mut(&mut self) -> &mut Interior {
        &mut self.interior
    }

    fn into_state<T>(self, next: impl FnOnce(S) -> T) -> Vm<T> {
        let Self { id, interior, reset, state } = self;
        Vm { id, interior, reset, state: next(state) }
    }
}

impl Vm<Starting> {
    /// A VM whose process is about to start; all memory the pools need for it is allocated here.
    #[must_use]
    pub fn start(id: VmId, limits: &PoolLimits, now: Nanos) -> Self {
        Self::start_as(id, Start { function: None, is_awaited: false }, limits, now)
    }

    /// The same, as the pools want it.
    #[must_use]
    pub fn start_as(id: VmId, start: Start, limits: &PoolLimits, now: Nanos) -> Self {
        let give_up_nanos = now.saturating_add(limits.spawn_timeout_nanos);
        let is_awaited = start.is_awaited;
        let state = Starting { give_up_nanos, is_awaited, is_spoken_for: false };
        let interior = Box::new(Interior::new(limits, start.function));
        Self { id, interior, reset: ResetId(0), state }
    }

    /// Whether an invoke waited for it when it started, or has since.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        self.state.is_awaited
    }

    pub(super) fn is_spoken_for(&self) -> bool {
        self.state.is_spoken_for
    }

    pub(super) fn speak_for(&mut self, is_spoken_for: bool) {
        self.state.is_spoken_for = is_spoken_for;
    }

    /// An invoke waits for it. Gives whether none did before.
    pub(super) fn await_it(&mut self) -> bool {
        !std::mem::replace(&mut self.state.is_awaited, true)
    }

    /// When it should have been ready.
    #[must_use]
    pub fn give_up_nanos(&self) -> Nanos {
        self.state.give_up_nanos
    }

    /// The guest woke.
    #[must_use]
    pub fn ready(self) -> Vm<Warm> {
        self.into_state(|_| Warm(()))
    }
}

impl Vm<Warm> {
    /// Gives it to a user and logging service, for good.
    #[must_use]
    pub fn assign(self, key: ActiveKey, now: Nanos) -> Vm<Clean> {
        self.into_state(|_| Clean { key, idle_since_nanos: now })
    }
}

impl Vm<Clean> {
    /// Whose it is.
    #[must_use]
    pub fn key(&self) -> ActiveKey {
        self.state.key
    }

    /// Since when it waits.
    #[must_use]
    pub fn idle_since_nanos(&self) -> Nanos {
        self.state.idle_since_nanos
    }

    /// An invoke goes in that others may join and follow.
    #[must_use]
    pub fn begin(self) -> Vm<Invoking> {
        self.into_state(|state| Invoking { key: state.key, running: 1 })
    }

    /// An invoke goes in that wants nothing before, beside or behind it.
    #[must_use]
    pub fn begin_alone(self) -> Vm<Alone> {
        self.into_state(|state| Alone { key: state.key })
    }
}

impl Vm<Alone> {
    /// Whose it is.
    #[must_use]
    pub fn key(&self) -> ActiveKey {
        self.state.key
    }

    /// Its invoke is over: it has to be reset, by `give_up_nanos`.
    #[must_use]
    pub fn finish(mut self, give_up_nanos: Nanos) -> Vm<Resetting> {
        self.reset = ResetId(self.reset.0 + 1);
        self.interior.reset();
        self.into_state(|state| Resetting { key: state.key, give_up_nanos })
    }
}

impl Vm<Resetting> {
    /// Whose it is.
    #[must_use]
    pub fn key(&self) -> ActiveKey {
        self.state.key
    }

    /// Which of its resets this is.
    #[must_use]
    pub fn reset(&self) -> ResetId {
        self.reset
    }

    /// When it should have been reset and awake.
    #[must_use]
    pub fn give_up_nanos(&self) -> Nanos {
        self.state.give_up_nanos
    }

    /// Its memory is as its snapshot has it.
    #[must_use]
    pub fn done(self) -> Vm<Waking> {
        self.into_state(|Resetting { key, give_up_nanos }| Waking { key, give_up_nanos })
    }
}

impl Vm<Waking> {
    /// Whose it is.
    #[must_use]
    pub fn key(&self) -> ActiveKey {
        self.state.key
    }

    /// When it should have been awake.
    #[must_use]
    pub fn give_up_nanos(&self) -> Nanos {
        self.state.give_up_nanos
    }

    /// The guest woke.
    #[must_use]
    pub fn ready(self, now: Nanos) -> Vm<Clean> {
        self.into_state(|state| Clean { key: state.key, idle_since_nanos: now })
    }
}

impl Vm<Assigned> {
    /// Whose it is.
    #[must_use]
    pub fn key(&self) -> ActiveKey {
        self.state.key
    }

    /// Since when nothing runs in it.
    #[must_use]
    pub fn idle_since_nanos(&self) -> Nanos {
        self.state.idle_since_nanos
    }

    /// An invoke goes in.
    #[must_use]
    pub fn begin(self) -> Vm<Invoking> {
        self.into_state(|state| Invoking { key: state.key, running: 1 })
    }
}

impl Vm<Invoking> {
    /// Whose it is.
    #[must_use]
    pub fn key(&self) -> ActiveKey {
        self.state.key
    }

    /// Invokes in it.
    #[must_use]
    pub fn running(&self) -> u32 {
        self.state.running
    }

    /// Another invoke goes in.
    #[must_use]
    pub fn begin(self) -> Self {
        self.into_state(|state| Invoking { running: state.running + 1, ..state })
    }

    /// An invoke is over.
    #[must_use]
    pub fn finish(self, now: Nanos) -> Finished {
        match self.state.running {
            1 => Finished::Idle(
                self.into_state(|state| Assigned { key: state.key, idle_since_nanos: now }),
            ),
            _ => Finished::Busy(
                self.into_state(|state| Invoking { running: state.running - 1, ..state }),
            ),
        }
    }
}

impl Vm<Leaving> {
    /// When to tell it again.
    #[must_use]
    pub fn remind_nanos(&self) -> Nanos {
        self.state.remind_nanos
    }

    /// It was told again.
    #[must_use]
    pub fn reminded(self, remind_nanos: Nanos) -> Self {
        self.into_state(|_| Leaving { remind_nanos })
    }
}
