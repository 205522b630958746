//! A VM of the active pool, in whichever state it is.

use crate::credential::ActiveKey;
use crate::invoke::{Freshness, Nanos, VmId};

use super::event::{FunctionFacts, ResetId};
use super::interior::{Fit, Interior};
use super::vm::{Alone, Assigned, Clean, Invoking, Resetting, Vm, Waking};

/// A VM in a slot.
#[derive(Debug)]
pub(super) enum Lodger {
    Clean(Vm<Clean>),
    Idle(Vm<Assigned>),
    Busy(Vm<Invoking>),
    Alone(Vm<Alone>),
    Resetting(Vm<Resetting>),
    Waking(Vm<Waking>),
}

/// What a VM is after an invoke left it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// Others are still in it.
    Busy,
    /// It waits for the next.
    Idle,
    /// It has to be reset.
    Spent(ResetId),
}

impl Lodger {
    pub(super) fn id(&self) -> VmId {
        match self {
            Self::Clean(vm) => vm.id(),
            Self::Idle(vm) => vm.id(),
            Self::Busy(vm) => vm.id(),
            Self::Alone(vm) => vm.id(),
            Self::Resetting(vm) => vm.id(),
            Self::Waking(vm) => vm.id(),
        }
    }

    pub(super) fn key(&self) -> ActiveKey {
        match self {
            Self::Clean(vm) => vm.key(),
            Self::Idle(vm) => vm.key(),
            Self::Busy(vm) => vm.key(),
            Self::Alone(vm) => vm.key(),
            Self::Resetting(vm) => vm.key(),
            Self::Waking(vm) => vm.key(),
        }
    }

    pub(super) fn running(&self) -> u32 {
        match self {
            Self::Busy(vm) => vm.running(),
            Self::Alone(_) => 1,
            Self::Clean(_) | Self::Idle(_) | Self::Resetting(_) | Self::Waking(_) => 0,
        }
    }

    /// As [`super::view::Sketch`] calls it.
    pub(super) fn state(&self) -> &'static str {
        match self {
            Self::Clean(_) | Self::Idle(_) => "assigned",
            Self::Busy(_) | Self::Alone(_) => "invoking",
            Self::Resetting(_) | Self::Waking(_) => "resetting",
        }
    }

    pub(super) fn interior(&self) -> &Interior {
        match self {
            Self::Clean(vm) => vm.interior(),
            Self::Idle(vm) => vm.interior(),
            Self::Busy(vm) => vm.interior(),
            Self::Alone(vm) => vm.interior(),
            Self::Resetting(vm) => vm.interior(),
            Self::Waking(vm) => vm.interior(),
        }
    }

    pub(super) fn interior_mut(&mut self) -> &mut Interior {
        match self {
            Self::Clean(vm) => vm.interior_mut(),
            Self::Idle(vm) => vm.interior_mut(),
            Self::Busy(vm) => vm.interior_mut(),
            Self::Alone(vm) => vm.interior_mut(),
            Self::Resetting(vm) => vm.interior_mut(),
            Self::Waking(vm) => vm.interior_mut(),
        }
    }

    /// Since when it is idle, if it is.
    pub(super) fn idle_since(&self) -> Option<Nanos> {
        match self {
            Self::Clean(vm) => Some(vm.idle_since_nanos()),
            Self::Idle(vm) => Some(vm.idle_since_nanos()),
            Self::Busy(_) | Self::Alone(_) | Self::Resetting(_) | Self::Waking(_) => None,
        }
    }

    /// When its reset has failed, if it is in one.
    pub(super) fn reset_give_up(&self) -> Option<Nanos> {
        match self {
            Self::Resetting(vm) => Some(vm.give_up_nanos()),
            Self::Waking(vm) => Some(vm.give_up_nanos()),
            Self::Clean(_) | Self::Idle(_) | Self::Busy(_) | Self::Alone(_) => None,
        }
    }

    /// Whether and how an invoke of this function can go in now.
    pub(super) fn fit(&self, facts: &FunctionFacts) -> Option<Fit> {
        match self {
            Self::Clean(vm) if facts.freshness == Freshness::Vm => vm.interior().fit_alone(facts),
            Self::Clean(vm) => vm.interior().fit(facts),
            Self::Idle(_) | Self::Busy(_) if facts.freshness == Freshness::Vm => None,
            Self::Idle(vm) => vm.interior().fit(facts),
            Self::Busy(vm) => vm.interior().fit(facts),
            Self::Alone(_) | Self::Resetting(_) | Self::Waking(_) => None,
        }
    }

    /// Whether some invoke could go in: a hint.
    pub(super) fn has_room(&self) -> bool {
        match self {
            Self::Clean(_) | Self::Idle(_) | Self::Busy(_) => self.interior().has_room(),
            Self::Alone(_) | Self::Resetting(_) | Self::Waking(_) => false,
        }
    }
}
