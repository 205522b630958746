//! What a shard tells its operator: see [`crate::trace`].

use super::engine::{Engine, Running};
use crate::invoke::{InvokeError, InvokeId, Nanos, NodeFault, VmId};
use crate::pool::{Notice, RetireReason};

/// What the pool has to tell.
pub(super) fn notice(notice: Notice) {
    match notice {
        Notice::SpawnFailing { failures, retry_in_nanos } => {
            let retry_in_millis = retry_in_nanos / 1_000_000;
            tracing::error!(failures, retry_in_millis, "VMs do not start");
        }
        Notice::SpawnRecovered => tracing::info!("VMs start again"),
        Notice::StrangeOutcome { vm } => {
            tracing::warn!(%vm, "guest finished an invoke it does not have");
        }
    }
}

/// That a VM is told to end; again if it is told again.
pub(super) fn retired(vm: VmId, reason: RetireReason) {
    let why = reason.as_str();
    match reason {
        RetireReason::Idle
        | RetireReason::SlotNeeded
        | RetireReason::Superseded
        | RetireReason::Surplus
        | RetireReason::Pressure
        | RetireReason::Stopping => tracing::info!(%vm, why, "VM retired"),
        RetireReason::NotReady
        | RetireReason::Unresponsive
        | RetireReason::LoadTimeout
        | RetireReason::ResetTimeout
        | RetireReason::Fault(_) => tracing::warn!(%vm, why, "VM retired"),
    }
}

/// That a fault of guest or node ended an invoke. (A node without room says so to the client, which
/// may come again as often as it likes: that is counted.)
pub(super) fn lost(invoke: InvokeId, running: &Running, error: &InvokeError) {
    let is_fault = matches!(
        error,
        InvokeError::Guest(_)
            | InvokeError::Node(NodeFault::VmLost { .. } | NodeFault::PackageUnavailable { .. })
    );
    if is_fault {
        let (blame, code) = (error.blame(), error.code().as_str());
        let function = &running.entry.function;
        let (user, function) = (function.user.as_str(), function.name.as_str());
        let vm = running.vm.map(tracing::field::display);
        tracing::warn!(%invoke, user, function, vm, blame, code, "invoke lost");
    }
}

impl Engine {
    /// That a client was turned away, or its connection closed on it.
    pub(super) fn tell_refused(&mut self, now: Nanos, why: &str) {
        if let Some(untold) = self.refused.admit(now) {
            tracing::warn!(why, untold, "client refused");
        }
    }
}
