//! A VM as the pools hold it: its state is its type, and each move takes the handle.
//!
//! ```text
//! Starting ─► Warm ─► Assigned ◄─► Invoking (1..containers)
//!     └─────────┴────────┴────────────┴─► Leaving ─► gone (dropped)
//! ```
//! There is no way back to `Warm`: a VM never serves two users, or one user under two logging
//! services. What the drawing does not show has no function.
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

use super::interior::Interior;

/// One VM in state `S`.
#[derive(Debug)]
pub struct Vm<S> {
    id: VmId,
    /// Boxed, so that a move between rooms copies few bytes.
    interior: Box<Interior>,
    state: S,
}

/// Its process starts and restores.
#[derive(Debug)]
pub struct Starting {
    give_up_nanos: Nanos,
}

/// Restored and waiting, nobody's.
#[derive(Debug)]
pub struct Warm(());

/// Somebody's, idle.
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
        Vm { id: self.id, interior: self.interior, state: next(self.state) }
    }
}

impl Vm<Starting> {
    /// A VM whose process is about to start; all memory the pools need for it is allocated here.
    #[must_use]
    pub fn start(id: VmId, limits: &PoolLimits, now: Nanos) -> Self {
        let state = Starting { give_up_nanos: now.saturating_add(limits.spawn_timeout_nanos) };
        Self { id, interior: Box::new(Interior::new(limits)), state }
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
    pub fn assign(self, key: ActiveKey, now: Nanos) -> Vm<Assigned> {
        self.into_state(|_| Assigned { key, idle_since_nanos: now })
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
