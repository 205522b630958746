//! A shard's tables of functions and packages: names to numbers the pool can hold, and what the
//! guest has to be told of each. Filled from the store at start and by deploys later; a name that
//! is deployed again gets a new number, and invokes in flight finish on the old one.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use crate::invoke::{Digest, Function, FunctionName, User};
use crate::librarian::OpenPackage;
use crate::pool::{FunctionFacts, FunctionRef, PackageRef, SnapshotRef};
use crate::snapshot_store::{FunctionSnapshot, SnapshotKey};

/// A function as the shard uses it.
pub(super) struct Entry {
    pub(super) function: Function,
    pub(super) facts: FunctionFacts,
    /// The encoded acquire message.
    pub(super) acquire: Vec<u8>,
}

/// The snapshot of the functions of one key: what VMs may be restored from for any of them.
#[derive(Clone, Debug, Default)]
pub(super) enum SnapshotState {
    /// Not made yet, or gone to make room.
    #[default]
    Absent,
    /// VMs can be restored from it.
    Made(Arc<FunctionSnapshot>),
    /// There will be none, and why.
    Failed(Arc<str>),
}

/// A package, once somebody needed it.
pub(super) enum Package {
    /// Only its name is known.
    Closed,
    /// The librarian verifies it.
    Opening,
    /// It can be loaded.
    Open(Rc<OpenPackage>),
}

pub(super) struct Catalog {
    /// Identity of the base snapshot.
    base: [u8; 32],
    entries: Vec<Rc<Entry>>,
    names: HashMap<(User, FunctionName), FunctionRef>,
    packages: Vec<(Digest, Package)>,
    digests: HashMap<Digest, PackageRef>,
    snapshots: Vec<SnapshotState>,
    snapshot_keys: HashMap<SnapshotKey, SnapshotRef>,
}

impl Catalog {
    /// An empty one, of a node whose VMs are restored from the base with this identity.
    pub(super) fn new(base: [u8; 32]) -> Self {
        Self {
            base,
            entries: Vec::new(),
            names: HashMap::new(),
            packages: Vec::new(),
            digests: HashMap::new(),
            snapshots: Vec::new(),
            snapshot_keys: HashMap::new(),
        }
    }

    /// Adds a function, or what replaces it from now on; gives a snapshot that is of no function
    /// any more by that.
    pub(super) fn put(&mut self, function: Function) -> Option<SnapshotRef> {
        let package = self.package_ref(function.package);
        let snapshot = self.snapshot_ref(SnapshotKey::of(&self.base, &function));
        let number = FunctionRef(u32::try_from(self.entries.len()).unwrap_or(u32::MAX));
        let facts = FunctionFacts {
            function: number,
            package,
            snapshot,
            package_bytes: function.package_bytes,
            contract: function.contract,
            freshness: function.freshness,
            memory_mib: function.memory_mib,
        };
        let before = self.names.insert((function.user, function.name), number);
        let acquire = function.acquire_message();
        self.entries.push(Rc::new(Entry { function, facts, acquire }));
        self.let_go(before)
    }

    /// Takes a name away; gives a snapshot that is of no function any more by that.
    pub(super) fn remove(&mut self, user: User, name: FunctionName) -> Option<SnapshotRef> {
        let before = self.names.remove(&(user, name));
        self.let_go(before)
    }

    /// Lets go of package and snapshot of a function that lost its name, unless another one has
    /// the same. What is being loaded or restored holds on to them.
    fn let_go(&mut self, function: Option<FunctionRef>) -> Option<SnapshotRef> {
        let facts_of = |number: FunctionRef| self.entries[number.0 as usize].facts;
        let FunctionFacts { package, snapshot, .. } = function.map(facts_of)?;
        let mut others = self.names.values().map(|number| facts_of(*number));
        // Who shares the snapshot shares the package, so mostly one look is enough.
        if others.any(|facts| facts.snapshot == snapshot) {
            return None;
        }
        let mut others = self.names.values().map(|number| facts_of(*number));
        let is_used = others.any(|facts| facts.package == package);
        let state = &mut self.packages[package.0 as usize].1;
        if !is_used && matches!(state, Package::Open(_)) {
            *state = Package::Closed;
        }
        self.snapshots[snapshot.0 as usize] = SnapshotState::Absent;
        Some(snapshot)
    }

    /// What there is to restore VMs from.
    pub(super) fn snapshot(&self, number: SnapshotRef) -> &SnapshotState {
        &self.snapshots[number.0 as usize]
    }

    /// What became of a snapshot. Gives one of the functions it is of, if there is still one.
    pub(super) fn set_snapshot(
        &mut self,
        key: &SnapshotKey,
        state: SnapshotState,
    ) -> Option<FunctionFacts> {
        let number = *self.snapshot_keys.get(key)?;
        let mut facts = self.names.values().map(|name| self.entries[name.0 as usize].facts);
        let facts = facts.find(|facts| facts.snapshot == number)?;
        self.snapshots[number.0 as usize] = state;
        Some(facts)
    }

    /// The function of this name.
    pub(super) fn find(&self, user: User, name: FunctionName) -> Option<&Rc<Entry>> {
        let number = self.names.get(&(user, name))?;
        self.entries.get(number.0 as usize)
    }

    /// The function with this number; numbers are never taken away.
    pub(super) fn entry(&self, number: FunctionRef) -> Rc<Entry> {
        Rc::clone(&self.entries[number.0 as usize])
    }

    /// All functions of a user by name.
    pub(super) fn list(&self, user: User) -> Vec<&Rc<Entry>> {
        let named = self.names.iter().filter(|((owner, _), _)| *owner == user);
        let mut entries: Vec<_> =
            named.map(|(_, number)| &self.entries[number.0 as usize]).collect();
        entries.sort_by_key(|entry| entry.function.name);
        entries
    }

    /// How many functions there are.
    pub(super) fn count(&self) -> usize {
        self.names.len()
    }

    /// A package's name and state.
    pub(super) fn package(&mut self, number: PackageRef) -> (Digest, &mut Package) {
        let (digest, package) = &mut self.packages[number.0 as usize];
        (*digest, package)
    }

    fn snapshot_ref(&mut self, key: SnapshotKey) -> SnapshotRef {
        let next = SnapshotRef(u32::try_from(self.snapshots.len()).unwrap_or(u32::MAX));
        let number = *self.snapshot_keys.entry(key).or_insert(next);
        if number == next {
            self.snapshots.push(SnapshotState::Absent);
        }
        number
    }

    fn package_ref(&mut self, digest: Digest) -> PackageRef {
        let next = PackageRef(u32::try_from(self.packages.len()).unwrap_or(u32::MAX));
        let number = *self.digests.entry(digest).or_insert(next);
        if number == next {
            self.packages.push((digest, Package::Closed));
        }
        number
    }
}
