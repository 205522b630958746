//! Which snapshots of functions exist: in memory, as sealed memfds, made anew by each node.
//!
//! A snapshot is good for every function that has the same package and settings, on the base it
//! was made from; [`SnapshotKey`] is the digest of all that. The maker puts them in; shards hold
//! on to those they restore VMs from, so what goes from here goes for good when its last VM was
//! started. Bounded by count and bytes: the longest unused goes first. That one could not be made
//! is remembered too, with the reason.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sha2::{Digest as _, Sha256};

use crate::invoke::{Function, Nanos};

/// Reasons remembered for each snapshot that may be kept: they are small.
const FAILED_PER_SNAPSHOT: usize = 16;

/// What a snapshot depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SnapshotKey([u8; 32]);

impl SnapshotKey {
    /// The key of a function on the base with this identity.
    pub(crate) fn of(base: &[u8; 32], function: &Function) -> Self {
        let mut hash = Sha256::new_with_prefix(base);
        hash.update(function.package.0);
        // Entry, arguments, environment, contract, freshness and memory, each with its length.
        hash.update(function.acquire_message());
        Self(hash.finalize().into())
    }
}

/// A VM with a function loaded: container 1 runs package 1 and stands before its first request.
#[derive(Debug)]
pub(crate) struct FunctionSnapshot {
    /// Sealed.
    pub(crate) memfd: OwnedFd,
    /// Its length.
    pub(crate) bytes: u64,
    /// The package, unless it is in the VM's own memory.
    pub(crate) package: Option<WindowPackage>,
    used_nanos: AtomicU64,
}

/// A package that has to lie in the image window of every VM restored from a snapshot.
#[derive(Debug)]
pub(crate) struct WindowPackage {
    /// Sealed.
    pub(crate) memfd: OwnedFd,
    /// Where in the window.
    pub(crate) offset: u64,
    /// Its length.
    pub(crate) bytes: u64,
}

impl FunctionSnapshot {
    /// One that was just made.
    pub(crate) fn new(
        memfd: OwnedFd,
        bytes: u64,
        package: Option<WindowPackage>,
        now: Nanos,
    ) -> Self {
        Self { memfd, bytes, package, used_nanos: AtomicU64::new(now) }
    }

    /// A VM is restored from it.
    pub(crate) fn touch(&self, now: Nanos) {
        // Relaxed: pairs with the load in `evict`; the time publishes nothing but itself.
        self.used_nanos.store(now, Ordering::Relaxed);
    }

    /// Memory it takes.
    pub(crate) fn bytes_held(&self) -> u64 {
        self.bytes + self.package.as_ref().map_or(0, |package| package.bytes)
    }
}

/// What is known of a key.
#[derive(Clone, Debug)]
pub(crate) enum Known {
    /// There it is.
    Made(Arc<FunctionSnapshot>),
    /// There can be none, and why.
    Failed(Arc<str>),
}

/// How many there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    pub(crate) made: u64,
    pub(crate) failed: u64,
    pub(crate) bytes: u64,
}

/// All of a node's.
#[derive(Debug)]
pub(crate) struct SnapshotStore {
    entries: HashMap<SnapshotKey, Known>,
    count_max: usize,
    bytes_max: u64,
}

impl SnapshotStore {
    /// An empty one.
    pub(crate) fn new(count_max: u32, bytes_max: u64) -> Self {
        let count_max = usize::try_from(count_max).unwrap_or(usize::MAX);
        Self { entries: HashMap::new(), count_max, bytes_max }
    }

    /// What is known of a key.
    pub(crate) fn find(&self, key: &SnapshotKey) -> Option<&Known> {
        self.entries.get(key)
    }

    /// Keeps a snapshot and gives the keys of those that had to go for it; its own, if it is
    /// larger than all of them may be.
    pub(crate) fn put(
        &mut self,
        key: SnapshotKey,
        snapshot: Arc<FunctionSnapshot>,
    ) -> Vec<SnapshotKey> {
        self.entries.insert(key, Known::Made(snapshot));
        let mut gone = Vec::new();
        loop {
            let Totals { made, bytes, .. } = self.totals();
            let is_within = usize::try_from(made).is_ok_and(|made| made <= self.count_max)
                && bytes <= self.bytes_max;
            let Some(oldest) = (!is_within).then(|| self.longest_unused(&key)).flatten() else {
                break;
            };
            self.entries.remove(&oldest);
            gone.push(oldest);
        }
        gone
    }

    /// The snapshot to go first: the new one last, whatever its time.
    fn longest_unused(&self, new: &SnapshotKey) -> Option<SnapshotKey> {
        let made = self.entries.iter().filter_map(|(key, known)| match known {
            // Relaxed: pairs with `touch`.
            Known::Made(snapshot) => {
                Some((key == new, snapshot.used_nanos.load(Ordering::Relaxed), *key))
            }
            Known::Failed(_) => None,
        });
        made.min().map(|(_, _, key)| key)
    }

    /// Remembers that there can be none. Of very many such only some.
    pub(crate) fn fail(&mut self, key: SnapshotKey, reason: Arc<str>) {
        let failed = usize::try_from(self.totals().failed).unwrap_or(usize::MAX);
        if failed < self.count_max.max(1).saturating_mul(FAILED_PER_SNAPSHOT) {
            self.entries.insert(key, Known::Failed(reason));
        }
    }

    /// Nobody needs this one any more.
    pub(crate) fn remove(&mut self, key: &SnapshotKey) {
        self.entries.remove(key);
    }

    /// How many there are.
    pub(crate) fn totals(&self) -> Totals {
        let mut totals = Totals::default();
        for known in self.entries.values() {
            match known {
                Known::Made(snapshot) => {
                    totals.made += 1;
                    totals.bytes += snapshot.bytes_held();
                }
                Known::Failed(_) => totals.failed += 1,
            }
        }
        totals
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invoke::{Contract, Digest, Freshness, FunctionName, User};

    fn snapshot(bytes: usize, now: Nanos) -> Arc<FunctionSnapshot> {
        let memfd = region::sealed::frozen("test-snapshot", &vec![1; bytes]).unwrap();
        Arc::new(FunctionSnapshot::new(memfd, bytes as u64, None, now))
    }

    fn key(number: u8) -> SnapshotKey {
        SnapshotKey([number; 32])
    }

    fn function() -> Function {
        Function {
            user: User::new("ann").unwrap(),
            name: FunctionName::new("hello").unwrap(),
            version: 1,
            package: Digest([7; 32]),
            package_bytes: 5000,
            entry: "hello".to_owned(),
            arguments: vec!["hello".to_owned()],
            environment: vec![("A".to_owned(), "1".to_owned())],
            contract: Contract::Stream,
            freshness: Freshness::Reuse,
            memory_mib: 64,
            timeout_millis: 3000,
        }
    }

    #[test]
    fn the_longest_unused_goes_first() {
        let mut store = SnapshotStore::new(2, 1 << 20);
        let first = snapshot(4096, 1);
        assert!(store.put(key(1), Arc::clone(&first)).is_empty());
        assert!(store.put(key(2), snapshot(4096, 2)).is_empty());
        first.touch(3);
        assert_eq!(store.put(key(3), snapshot(4096, 4)), [key(2)]);
        assert!(store.find(&key(1)).is_some() && store.find(&key(2)).is_none());
        assert_eq!(store.totals(), Totals { made: 2, failed: 0, bytes: 8192 });
    }

    #[test]
    fn bytes_are_bounded_and_the_new_one_goes_last() {
        let mut store = SnapshotStore::new(9, 10_000);
        store.put(key(1), snapshot(4096, 5));
        store.put(key(2), snapshot(4096, 6));
        // Older than both by its time, and yet they go.
        assert_eq!(store.put(key(3), snapshot(8192, 0)), [key(1), key(2)]);
        assert_eq!(store.put(key(4), snapshot(12_288, 9)), [key(3), key(4)]);
        assert_eq!(store.totals(), Totals::default());
    }

    #[test]
    fn failures_are_remembered_within_bounds() {
        let mut store = SnapshotStore::new(1, 1 << 20);
        for number in 0..100 {
            store.fail(key(number), "it reads nothing".into());
        }
        assert_eq!(store.totals().failed, 16);
        assert!(
            matches!(store.find(&key(3)), Some(Known::Failed(reason)) if &**reason == "it reads nothing")
        );
        store.remove(&key(3));
        assert!(store.find(&key(3)).is_none());
    }

    /// Everything that changes what is in the snapshot changes its key, and nothing else does.
    #[test]
    fn the_key_is_what_matters() {
        let base = [1; 32];
        let of = |change: fn(&mut Function)| {
            let mut function = function();
            change(&mut function);
            SnapshotKey::of(&base, &function)
        };
        let same = of(|_| ());
        assert_eq!(same, of(|it| it.user = User::new("bob").unwrap()));
        assert_eq!(same, of(|it| it.name = FunctionName::new("other").unwrap()));
        assert_eq!(same, of(|it| it.timeout_millis = 1));
        let changes: [fn(&mut Function); 7] = [
            |it| it.package = Digest([8; 32]),
            |it| it.entry = "bye".to_owned(),
            |it| it.arguments.push("-v".to_owned()),
            |it| it.environment[0].1 = "2".to_owned(),
            |it| it.contract = Contract::Program,
            |it| it.freshness = Freshness::Vm,
            |it| it.memory_mib = 65,
        ];
        for change in changes {
            assert_ne!(same, of(change));
        }
        assert_ne!(same, SnapshotKey::of(&[2; 32], &function()));
    }
}
