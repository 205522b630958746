//! Functions and the snapshots VMs can be restored from: what the maker says of them, and what the
//! pool is told.

use serde_json::{Value, json};

use super::catalog::{Entry, SnapshotState};
use super::engine::Engine;
use crate::invoke::{Function, FunctionName, Nanos, User};
use crate::maker::SnapshotNews;
use crate::pool::FunctionRef;

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
    fn drop_snapshot(&mut self, number: Option<FunctionRef>, _now: Nanos) {
        let Some(number) = number else { return };
        self.catalog.entry(number).snapshot.take();
    }

    /// The maker made a snapshot, or could not, or had to drop one. It may speak of a function
    /// that was deployed anew meanwhile, which is none of ours then.
    pub(super) fn take_snapshot(&mut self, news: SnapshotNews, _now: Nanos) {
        let (function, state) = match news {
            SnapshotNews::Made { function, snapshot } => (function, SnapshotState::Made(snapshot)),
            SnapshotNews::Failed { function, reason } => (function, SnapshotState::Failed(reason)),
            SnapshotNews::Gone { function } => (function, SnapshotState::Absent),
        };
        let Some(entry) = self.catalog.find(function.user, function.name) else { return };
        if entry.function == *function {
            entry.snapshot.replace(state);
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
