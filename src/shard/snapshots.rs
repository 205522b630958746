//! Functions and the snapshots VMs can be restored from: what the maker says of them, and what the
//! pool is told.

use std::sync::Arc;

use serde_json::{Value, json};

use super::catalog::{SnapshotState, Unused};
use super::engine::Engine;
use crate::invoke::{Function, FunctionName, Nanos, User};
use crate::librarian::Job;
use crate::maker::SnapshotNews;
use crate::pool::{Event, SnapshotRef};
use crate::snapshot_store::FunctionSnapshot;

impl Engine {
    /// A function was deployed. If another one of the same code and settings has a snapshot, it has
    /// one at once.
    pub(super) fn put_function(&mut self, function: Function) {
        self.catalog.put(function);
    }

    /// A function was removed.
    pub(super) fn remove_function(&mut self, user: User, name: FunctionName) {
        self.catalog.remove(user, name);
    }

    /// Lets go of functions that were replaced or removed, behind the answers of their last invokes.
    pub(super) fn let_go(&mut self, now: Nanos) {
        while let Some(Unused { package, snapshot }) = self.catalog.let_go() {
            if let Some(digest) = package {
                self.librarian.ask(Job::Release { shard: self.shard, digest });
            }
            if let Some(snapshot) = snapshot {
                self.drive(Event::SnapshotGone { snapshot }, now, None);
            }
        }
    }

    /// The maker made a snapshot, or could not, or had to drop one. The functions it is of may be
    /// gone meanwhile; it is none of ours then.
    pub(super) fn take_snapshot(&mut self, news: SnapshotNews, now: Nanos) {
        let (key, state) = match news {
            SnapshotNews::Made { key, snapshot } => (key, SnapshotState::Made(snapshot)),
            SnapshotNews::Failed { key, reason } => (key, SnapshotState::Failed(reason)),
            SnapshotNews::Gone { key } => (key, SnapshotState::Absent),
        };
        let is_made = matches!(state, SnapshotState::Made(_));
        let Some(facts) = self.catalog.set_snapshot(&key, state) else { return };
        let event = match is_made {
            true => Event::SnapshotMade { facts },
            false => Event::SnapshotGone { snapshot: facts.snapshot },
        };
        self.drive(event, now, None);
    }

    /// What VMs are restored from, if it is there.
    pub(super) fn snapshot(&self, snapshot: SnapshotRef) -> Option<Arc<FunctionSnapshot>> {
        match self.catalog.snapshot(snapshot) {
            SnapshotState::Made(snapshot) => Some(Arc::clone(snapshot)),
            SnapshotState::Absent | SnapshotState::Failed(_) => None,
        }
    }

    /// What a listing says of a function's snapshot.
    pub(super) fn describe_snapshot(&self, name: FunctionName, snapshot: SnapshotRef) -> Value {
        let name = name.as_str();
        match self.catalog.snapshot(snapshot) {
            SnapshotState::Absent => json!({ "name": name, "state": "absent" }),
            SnapshotState::Made(snapshot) => {
                json!({ "name": name, "state": "made", "bytes": snapshot.bytes_held() })
            }
            SnapshotState::Failed(reason) => {
                json!({ "name": name, "state": "failed", "reason": **reason })
            }
        }
    }

    /// Lets those who work in the background see how busy this shard is.
    pub(super) fn publish_invokes(&self) {
        self.publisher.publish_invokes(self.metrics.invokes);
    }
}
