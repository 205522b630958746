//! A shard's tables of functions and packages: names to numbers the pool can hold, and what the
//! guest has to be told of each. Filled from the store at start and by deploys later; a name that
//! is deployed again gets a new number, and invokes in flight finish on the old one.

use std::collections::HashMap;
use std::rc::Rc;

use crate::invoke::{Digest, Function, FunctionName, User};
use crate::librarian::OpenPackage;
use crate::pool::{FunctionFacts, FunctionRef, PackageRef};
use abi::frame::invoke::{Acquire, MESSAGE_BYTES_MAX};
use abi::wire::Writer;

/// A function as the shard uses it.
pub(super) struct Entry {
    pub(super) function: Function,
    pub(super) facts: FunctionFacts,
    /// The encoded acquire message.
    pub(super) acquire: Vec<u8>,
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
    /// Adds a function, or what replaces it from now on.
    pub(super) fn put(&mut self, function: Function) {
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
        let acquire = encode_acquire(&function);
        self.entries.push(Rc::new(Entry { function, facts, acquire }));
        self.close_unused(before);
    }

    /// Takes a name away.
    pub(super) fn remove(&mut self, user: User, name: FunctionName) {
        let before = self.names.remove(&(user, name));
        self.close_unused(before);
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
    pub(super) fn list(&self, user: User) -> Vec<&Function> {
        let named = self.names.iter().filter(|((owner, _), _)| *owner == user);
        let mut functions: Vec<_> =
            named.map(|(_, number)| &self.entries[number.0 as usize].function).collect();
        functions.sort_by_key(|function| function.name);
        functions
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

/// The message that makes a container for a function; checked at deploy to fit.
fn encode_acquire(function: &Function) -> Vec<u8> {
    let arguments: Vec<&[u8]> = function.arguments.iter().map(String::as_bytes).collect();
    let environment: Vec<String> =
        function.environment.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let environment: Vec<&[u8]> = environment.iter().map(String::as_bytes).collect();
    let mut buffer = vec![0; MESSAGE_BYTES_MAX];
    let mut writer = Writer::new(&mut buffer);
    let memory_bytes = u64::from(function.memory_mib) << 20;
    let fixed = (
        function.contract.into(),
        function.freshness.into(),
        memory_bytes,
        function.entry.as_str(),
    );
    let encoded = Acquire::encode(&mut writer, fixed, &arguments, &environment);
    let length = writer.length();
    assert!(encoded.is_ok(), "the store keeps arguments within ARGUMENT_BYTES_MAX");
    buffer.truncate(length);
    buffer.shrink_to_fit();
    buffer
}
