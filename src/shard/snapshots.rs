//! Functions and the snapshots VMs can be restored from: what the maker says of them, and what the
//! pool is told.

use std::sync::Arc;

use serde_json::{Value, json};

use super::catalog::{Entry, SnapshotState};
use super::engine::Engine;
use crate::invoke::{Function, FunctionName, Nanos, User};
use crate::maker::SnapshotNews;
use crate::pool::{Event, FunctionRef};
use crate::snapshot_store::FunctionSnapshot;

impl Engine {
    /// A function was deployed.
    pub(super) fn put_function(&mut self, function: Function, now: Nanos) {
        let before = self.catalog.put(function);
        self.drop_snapshot(before, now);
    }

    /// A function was removed.
    pub(super) fn remove_function(&mut self, user: User, name: FunctionName, now: Nanos) {
        let before = self.catalog.remove(user, name);
        self.drop_snapshot(before, now);
    }

    /// Nobody asks for the function with this number any more: neither for its snapshot.
    fn drop_snapshot(&mut self, number: Option<FunctionRef>, now: Nanos) {
        let Some(function) = number else { return };
        self.catalog.entry(function).snapshot.take();
        self.drive(Event::SnapshotGone { function }, now, None);
    }

    /// The maker made a snapshot, or could not, or had to drop one. It may speak of a function
    /// that was deployed anew meanwhile, which is none of ours then.
    pub(super) fn take_snapshot(&mut self, news: SnapshotNews, now: Nanos) {
        let (function, state) = match news {
            SnapshotNews::Made { function, snapshot } => (function, SnapshotState::Made(snapshot)),
            SnapshotNews::Failed { function, reason } => (function, SnapshotState::Failed(reason)),
            SnapshotNews::Gone { function } => (function, SnapshotState::Absent),
        };
        let Some(entry) = self.catalog.find(function.user, function.name) else { return };
        if entry.function != *function {
            return;
        }
        let facts = entry.facts;
        let event = match state {
            SnapshotState::Made(_) => Event::SnapshotMade { facts },
            SnapshotState::Failed(_) | SnapshotState::Absent => {
                Event::SnapshotGone { function: facts.function }
            }
        };
        entry.snapshot.replace(state);
        self.drive(event, now, None);
    }

    /// What VMs of a function are restored from, if there is such a thing.
    pub(super) fn snapshot(&self, function: FunctionRef) -> Option<Arc<FunctionSnapshot>> {
        match &*self.catalog.entry(function).snapshot.borrow() {
            SnapshotState::Made(snapshot) => Some(Arc::clone(snapshot)),
            SnapshotState::Absent | SnapshotState::Failed(_) => None,
        }
    }

    /// Lets those who work in the background see how busy this shard is.
    pub(super) fn publish_invokes(&self) {
        self.publisher.publish_invokes(self.metrics.invokes);
    }
}

/// What a listing says of a function's snapshot.
pub(super) fn describe_snapshot(entry: &Entry) -> Value {
    let name = entry.function.name.as_str();
    match &*entry.snapshot.borrow() {
        SnapshotState::Absent => json!({ "name": name, "state": "absent" }),
        SnapshotState::Made(snapshot) => {
            json!({ "name": name, "state": "made", "bytes": snapshot.bytes_held() })
        }
        SnapshotState::Failed(reason) => {
            json!({ "name": name, "state": "failed", "reason": **reason })
        }
    }
}
