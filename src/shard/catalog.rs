//! A shard's tables of functions and packages: names to numbers the pool can hold, and what the
//! guest has to be told of each. Filled from the store at start and by deploys later; a name that
//! is deployed again gets a new number, and invokes in flight finish on the old one.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use crate::invoke::{Digest, Function, FunctionName, User};
use crate::librarian::OpenPackage;
use crate::pool::{FunctionFacts, FunctionRef, PackageRef};
use crate::snapshot_store::FunctionSnapshot;

/// A function as the shard uses it.
pub(super) struct Entry {
    pub(super) function: Function,
    pub(super) facts: FunctionFacts,
    /// The encoded acquire message.
    pub(super) acquire: Vec<u8>,
    /// What VMs may be restored from, if there is such a thing.
    pub(super) snapshot: RefCell<SnapshotState>,
}

/// A function's snapshot.
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

#[derive(Default)]
pub(super) struct Catalog {
    entries: Vec<Rc<Entry>>,
    names: HashMap<(User, FunctionName), FunctionRef>,
    packages: Vec<(Digest, Package)>,
    digests: HashMap<Digest, PackageRef>,
}

impl Catalog {
    /// Adds a function, or what replaces it from now on; gives what had the name before.
    pub(super) fn put(&mut self, function: Function) -> Option<FunctionRef> {
        let package = self.package_ref(function.package);
        let number = FunctionRef(u32::try_from(self.entries.len()).unwrap_or(u32::MAX));
        let facts = FunctionFacts {
            function: number,
            package,
            package_bytes: function.package_bytes,
            contract: function.contract,
            freshness: function.freshness,
            memory_mib: function.memory_mib,
        };
        let before = self.names.insert((function.user, function.name), number);
        let acquire = function.acquire_message();
        let snapshot = RefCell::default();
        self.entries.push(Rc::new(Entry { function, facts, acquire, snapshot }));
        self.close_unused(before);
        before
    }

    /// Takes a name away; gives what had it.
    pub(super) fn remove(&mut self, user: User, name: FunctionName) -> Option<FunctionRef> {
        let before = self.names.remove(&(user, name));
        self.close_unused(before);
        before
    }

    /// Lets go of the package of a function that lost its name, unless another one has the same.
    /// What is being loaded holds on to it.
    fn close_unused(&mut self, function: Option<FunctionRef>) {
        let package_of = |number: &FunctionRef| self.entries[number.0 as usize].facts.package;
        let Some(package) = function.as_ref().map(package_of) else { return };
        let is_used = self.names.values().any(|number| package_of(number) == package);
        let state = &mut self.packages[package.0 as usize].1;
        if !is_used && matches!(state, Package::Open(_)) {
            *state = Package::Closed;
        }
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

    fn package_ref(&mut self, digest: Digest) -> PackageRef {
        let next = PackageRef(u32::try_from(self.packages.len()).unwrap_or(u32::MAX));
        let number = *self.digests.entry(digest).or_insert(next);
        if number == next {
            self.packages.push((digest, Package::Closed));
        }
        number
    }
}
