//! A VM as the model keeps it.

use std::collections::{BTreeMap, BTreeSet};

use abi::frame::code::INLINE_BYTES_MAX;
use pilotlight::credential::ActiveKey;
use pilotlight::invoke::{ContainerId, InvokeId, Nanos};
use pilotlight::pool::{FunctionFacts, LoadId, PackageRef, ResetId};

pub(super) struct Vm {
    pub(super) state: State,
    pub(super) since: Nanos,
    pub(super) containers: BTreeMap<ContainerId, Container>,
    pub(super) loads: BTreeMap<LoadId, Load>,
    pub(super) load_last: u64,
    /// What lies in the window: package, offset, end. A reset leaves it there.
    pub(super) window: Vec<(PackageRef, u64, u64)>,
    pub(super) window_end: u64,
    /// What of the window the guest was given since its restore or reset: from, to.
    pub(super) seen: Vec<(u64, u64)>,
    pub(super) reset: ResetId,
    /// Whether the guest knows whose it is.
    pub(super) is_told: bool,
    /// Invokes that entered it, also those that were never sent, since its restore or reset.
    pub(super) entered: BTreeSet<InvokeId>,
    /// One of them is of freshness `vm`.
    pub(super) is_spent: bool,
    /// What the snapshot it was restored from has in it.
    pub(super) prepared: Option<FunctionFacts>,
    /// An invoke waited for it when it started, or has since.
    pub(super) is_awaited: bool,
}

impl Vm {
    /// As its snapshot has it.
    pub(super) fn begin(&mut self, window_start: u64) {
        self.containers.clear();
        self.loads.clear();
        self.entered.clear();
        self.seen.clear();
        (self.is_told, self.is_spent) = (false, false);
        let Some(facts) = self.prepared else { return };
        let load = LoadId(1);
        self.loads.insert(load, Load { package: facts.package, is_there: true });
        let container = Container { facts, load, busy: None, invokes: 0, made: Some(0) };
        self.containers.insert(ContainerId(1), container);
        let is_inline = facts.package_bytes <= u64::try_from(INLINE_BYTES_MAX).unwrap();
        let end = window_start + facts.package_bytes;
        if !is_inline && self.window.iter().all(|(_, at, _)| *at != window_start) {
            self.window.push((facts.package, window_start, end));
            self.window_end = end;
        }
    }

    /// What its snapshot has in it is this function's from now on, and after each reset.
    pub(super) fn adopt(&mut self, facts: FunctionFacts) {
        if self.prepared.is_some() {
            self.prepared = Some(facts);
            self.containers.values_mut().for_each(|container| container.facts = facts);
        }
    }

    /// What lies in its window for good.
    pub(super) fn window_kept(&self, window_start: u64) -> u64 {
        let prepared = self.prepared.map_or(0, |facts| facts.package_bytes);
        let is_inline = prepared <= u64::try_from(INLINE_BYTES_MAX).unwrap();
        if is_inline { window_start } else { window_start + prepared }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    Starting,
    Warm,
    Active(ActiveKey),
    Resetting(ActiveKey),
    Waking(ActiveKey),
    Leaving,
}

impl State {
    /// Whose the VM is.
    pub(super) fn key(self) -> Option<ActiveKey> {
        match self {
            Self::Active(key) | Self::Resetting(key) | Self::Waking(key) => Some(key),
            Self::Starting | Self::Warm | Self::Leaving => None,
        }
    }
}

pub(super) struct Container {
    pub(super) facts: FunctionFacts,
    pub(super) load: LoadId,
    pub(super) busy: Option<InvokeId>,
    pub(super) invokes: u64,
    /// When its first invoke went in; 0: it was in the snapshot.
    pub(super) made: Option<Nanos>,
}

pub(super) struct Load {
    pub(super) package: PackageRef,
    pub(super) is_there: bool,
}
