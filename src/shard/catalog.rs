//! A shard's tables of functions and packages: names to numbers the pool can hold, and what the
//! guest has to be told of each. Filled from the store at start and by deploys later; a name that
//! is deployed again gets a new number. Invokes that came before finish on the old one: it, its
//! package and its snapshot are let go of behind the last of them.

use std::cell::Cell;
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
    /// Where its times were found last.
    pub(super) measured: Cell<usize>,
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
    entries: HashMap<FunctionRef, Rc<Entry>>,
    names: HashMap<(User, FunctionName), FunctionRef>,
    /// Those that lost their name, until no invoke needs them.
    outdated: Vec<FunctionRef>,
    packages: HashMap<PackageRef, (Digest, Package)>,
    digests: HashMap<Digest, PackageRef>,
    snapshots: HashMap<SnapshotRef, (SnapshotKey, SnapshotState)>,
    snapshot_keys: HashMap<SnapshotKey, SnapshotRef>,
    /// Functions, packages and snapshots are numbered; a number is used once.
    next: u32,
}

/// What is of no function any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Unused {
    pub(super) package: Option<Digest>,
    pub(super) snapshot: Option<SnapshotRef>,
}

impl Catalog {
    /// An empty one, of a node whose VMs are restored from the base with this identity.
    pub(super) fn new(base: [u8; 32]) -> Self {
        Self {
            base,
            entries: HashMap::new(),
            names: HashMap::new(),
            outdated: Vec::new(),
            packages: HashMap::new(),
            digests: HashMap::new(),
            snapshots: HashMap::new(),
            snapshot_keys: HashMap::new(),
            next: 0,
        }
    }

    fn number(&mut self) -> u32 {
        self.next = self.next.wrapping_add(1);
        self.next
    }

    /// Adds a function, or what replaces it from now on.
    pub(super) fn put(&mut self, function: Function) {
        let package = self.package_ref(function.package);
        let snapshot = self.snapshot_ref(SnapshotKey::of(&self.base, &function));
        let number = FunctionRef(self.number());
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
        self.outdated.extend(before);
        let acquire = function.acquire_message();
        self.entries
            .insert(number, Rc::new(Entry { function, facts, acquire, measured: Cell::default() }));
    }

    /// Takes a name away.
    pub(super) fn remove(&mut self, user: User, name: FunctionName) {
        self.outdated.extend(self.names.remove(&(user, name)));
    }

    /// Lets go of a function that lost its name, once no invoke is of it any more. Says what is of
    /// none by that; what is being loaded or restored holds on to it. Asked again until `None`.
    pub(super) fn let_go(&mut self) -> Option<Unused> {
        let is_free = |number: &FunctionRef| {
            self.entries.get(number).is_none_or(|entry| Rc::strong_count(entry) == 1)
        };
        let place = self.outdated.iter().position(is_free)?;
        let number = self.outdated.swap_remove(place);
        let mut unused = Unused::default();
        let Some(gone) = self.entries.remove(&number) else { return Some(unused) };
        let FunctionFacts { package, snapshot, .. } = gone.facts;
        // Who shares the snapshot shares the package, so mostly one look is enough.
        if self.entries.values().any(|other| other.facts.snapshot == snapshot) {
            return Some(unused);
        }
        if let Some((key, _)) = self.snapshots.remove(&snapshot) {
            self.snapshot_keys.remove(&key);
            unused.snapshot = Some(snapshot);
        }
        if !self.entries.values().any(|other| other.facts.package == package)
            && let Some((digest, _)) = self.packages.remove(&package)
        {
            self.digests.remove(&digest);
            unused.package = Some(digest);
        }
        Some(unused)
    }

    /// What there is to restore VMs from.
    pub(super) fn snapshot(&self, number: SnapshotRef) -> &SnapshotState {
        self.snapshots.get(&number).map_or(&SnapshotState::Absent, |(_, state)| state)
    }

    /// What became of a snapshot. Gives one of the functions it is of, if there is still one.
    pub(super) fn set_snapshot(
        &mut self,
        key: &SnapshotKey,
        state: SnapshotState,
    ) -> Option<FunctionFacts> {
        let number = *self.snapshot_keys.get(key)?;
        let mut named = self.names.values().filter_map(|name| self.entries.get(name));
        let facts = named.find(|entry| entry.facts.snapshot == number)?.facts;
        self.snapshots.get_mut(&number)?.1 = state;
        Some(facts)
    }

    /// The function of this name.
    pub(super) fn find(&self, user: User, name: FunctionName) -> Option<&Rc<Entry>> {
        let number = self.names.get(&(user, name))?;
        self.entries.get(number)
    }

    /// The function with this number; it is there as long as an invoke of it is.
    pub(super) fn entry(&self, number: FunctionRef) -> Option<Rc<Entry>> {
        self.entries.get(&number).map(Rc::clone)
    }

    /// Whether there is such a function, or invokes of one that was.
    pub(super) fn has(&self, number: FunctionRef) -> bool {
        self.entries.contains_key(&number)
    }

    /// All functions of a user by name.
    pub(super) fn list(&self, user: User) -> Vec<&Rc<Entry>> {
        let named = self.names.iter().filter(|((owner, _), _)| *owner == user);
        let mut entries: Vec<_> =
            named.filter_map(|(_, number)| self.entries.get(number)).collect();
        entries.sort_by_key(|entry| entry.function.name);
        entries
    }

    /// Functions of a user that lost their name, and how many invokes finish on each.
    pub(super) fn finishing(&self, user: User) -> Vec<(&Function, usize)> {
        let entries = self.outdated.iter().filter_map(|number| self.entries.get(number));
        let of_user = entries.filter(|entry| entry.function.user == user);
        let finishing = of_user.map(|entry| (&entry.function, Rc::strong_count(entry) - 1));
        let mut finishing: Vec<_> = finishing.filter(|(_, invokes)| *invokes > 0).collect();
        finishing.sort_by_key(|(function, _)| (function.name, function.version));
        finishing
    }

    /// How many functions there are.
    pub(super) fn count(&self) -> usize {
        self.names.len()
    }

    /// A package's name and state; it is there as long as a function of it is.
    pub(super) fn package(&mut self, number: PackageRef) -> Option<(Digest, &mut Package)> {
        let (digest, package) = self.packages.get_mut(&number)?;
        Some((*digest, package))
    }

    fn snapshot_ref(&mut self, key: SnapshotKey) -> SnapshotRef {
        if let Some(number) = self.snapshot_keys.get(&key) {
            return *number;
        }
        let number = SnapshotRef(self.number());
        self.snapshot_keys.insert(key, number);
        self.snapshots.insert(number, (key, SnapshotState::Absent));
        number
    }

    fn package_ref(&mut self, digest: Digest) -> PackageRef {
        if let Some(number) = self.digests.get(&digest) {
            return *number;
        }
        let number = PackageRef(self.number());
        self.digests.insert(digest, number);
        self.packages.insert(number, (digest, Package::Closed));
        number
    }
}
