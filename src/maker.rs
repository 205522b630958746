//! The maker: the node's side thread that makes snapshots of functions in the background.
//!
//! ```text
//!  librarian ── deployed, removed ──► maker ── base snapshot ──► a VM of its own
//!  start ────── stored functions ──►   │  ◄─ stands before its first request ─┘
//!  shards ◄── Made, Failed, Gone ──────┘
//! ```
//! One at a time, newest first, at low priority, and later while the node is busy. It takes a VM
//! from no pool: that VM has never been anybody's, gets no logging service and no credential, and
//! may connect nowhere. A function whose program does not come to its first request has no
//! snapshot; that and the reason are remembered until it is deployed anew.

mod rehearsal;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use region::clock::monotonic_nanos;

use crate::cell::Nursery;
use crate::config::Snapshots;
use crate::inbox::Inbox;
use crate::invoke::{Function, FunctionName, Nanos, User};
use crate::pool::index;
use crate::shard::Letter;
use crate::snapshot_store::{FunctionSnapshot, Known, SnapshotKey, SnapshotStore};
use crate::store::Store;

use rehearsal::{Piece, rehearse};

/// First number of the VMs snapshots are made in: no shard gives such.
const VM_FIRST: u64 = 1 << 62;
/// First and longest pause while the node is busy.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// The thread's nice value, and so that of its VMMs.
const NICE: i32 = 19;

/// What the maker is told.
pub(crate) enum Order {
    /// A function was deployed, or is stored.
    Prepare(Box<Function>),
    /// A function was removed.
    Forget(User, FunctionName),
    /// The node stops.
    Stop,
}

/// What became of the snapshot of all functions that have this key.
pub(crate) enum SnapshotNews {
    /// VMs can be restored from it.
    Made { key: SnapshotKey, snapshot: Arc<FunctionSnapshot> },
    /// There will be none.
    Failed { key: SnapshotKey, reason: Arc<str> },
    /// It had to make room for others.
    Gone { key: SnapshotKey },
}

/// How many snapshots there are, for whoever asks.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    made: AtomicU64,
    failed: AtomicU64,
    bytes: AtomicU64,
    pending: AtomicU64,
}

impl Tally {
    /// Snapshots, functions that can have none, bytes held, snapshots still to be made.
    pub(crate) fn read(&self) -> [u64; 4] {
        // Relaxed: each number stands for itself; pairs with `Workshop::count`.
        [&self.made, &self.failed, &self.bytes, &self.pending]
            .map(|count| count.load(Ordering::Relaxed))
    }
}

/// What the maker works with.
pub(crate) struct Means {
    pub(crate) nursery: Arc<Nursery>,
    pub(crate) store: Arc<Store>,
    pub(crate) inboxes: Arc<[Arc<Inbox<Letter>>]>,
    pub(crate) index: index::Shared,
    pub(crate) limits: Snapshots,
    pub(crate) orders: Receiver<Order>,
}

/// Handle to the thread. Dropping it breaks off what it makes and waits for its end.
pub(crate) struct Maker {
    orders: Sender<Order>,
    is_stopped: Arc<AtomicBool>,
    tally: Arc<Tally>,
    thread: Option<JoinHandle<()>>,
}

/// A way to tell a maker, and what it hears by it.
pub(crate) fn orders() -> (Sender<Order>, Receiver<Order>) {
    unbounded()
}

impl Maker {
    /// Starts the thread. `functions` are those stored, the newest first.
    ///
    /// # Errors
    /// The process is out of threads.
    pub(crate) fn start(
        means: Means,
        orders: Sender<Order>,
        functions: Vec<Function>,
    ) -> std::io::Result<Self> {
        let is_stopped = Arc::new(AtomicBool::new(false));
        let tally = Arc::new(Tally::default());
        let snapshots = SnapshotStore::new(means.limits.count_max, means.limits.bytes_max);
        let workshop = Workshop {
            means,
            is_stopped: Arc::clone(&is_stopped),
            tally: Arc::clone(&tally),
            snapshots,
            functions: HashMap::new(),
            pending: VecDeque::new(),
            next_vm: VM_FIRST,
            sample: (0, 0),
        };
        let thread = std::thread::Builder::new()
            .name("maker".to_owned())
            .spawn(move || workshop.work(functions))?;
        Ok(Self { orders, is_stopped, tally, thread: Some(thread) })
    }

    /// How many snapshots there are.
    pub(crate) fn tally(&self) -> Arc<Tally> {
        Arc::clone(&self.tally)
    }
}

impl Drop for Maker {
    fn drop(&mut self) {
        // Relaxed: the flag publishes nothing; pairs with the loads in `Workshop` and `rehearsal`.
        self.is_stopped.store(true, Ordering::Relaxed);
        drop(self.orders.send(Order::Stop));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

/// The thread's own state.
struct Workshop {
    means: Means,
    is_stopped: Arc<AtomicBool>,
    tally: Arc<Tally>,
    snapshots: SnapshotStore,
    functions: HashMap<(User, FunctionName), (Arc<Function>, SnapshotKey)>,
    /// Functions to make snapshots for, the next one in front.
    pending: VecDeque<(User, FunctionName)>,
    next_vm: u64,
    /// Invokes so far when the node was looked at last, and when that was.
    sample: (u64, Nanos),
}

impl Workshop {
    fn work(mut self, functions: Vec<Function>) {
        // A host that refuses leaves it at normal priority: it waits while the node is busy anyway.
        let thread = rustix::thread::gettid();
        let _ = rustix::process::setpriority_process(Some(thread), NICE);
        for function in functions.into_iter().rev() {
            self.prepare(function);
        }
        while !self.is_stopped() {
            self.count();
            let order = match self.pending.is_empty() {
                true => self.means.orders.recv().ok(),
                false => self.means.orders.try_recv().ok(),
            };
            match order {
                Some(order) => self.take(order),
                None if self.pending.is_empty() => return,
                None => self.make_next(),
            }
        }
    }

    fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Relaxed)
    }

    fn take(&mut self, order: Order) {
        match order {
            Order::Prepare(function) => self.prepare(*function),
            Order::Forget(user, name) => self.forget((user, name)),
            // Whoever sends it has raised the flag.
            Order::Stop => {}
        }
    }

    fn prepare(&mut self, function: Function) {
        if self.means.limits.count_max == 0 {
            return;
        }
        let name = (function.user, function.name);
        let key = SnapshotKey::of(self.means.nursery.identity(), &function);
        if self.functions.get(&name).is_none_or(|(_, before)| *before != key) {
            self.forget(name);
        }
        self.functions.insert(name, (Arc::new(function), key));
        self.pending.retain(|other| *other != name);
        if let Some(known) = self.snapshots.find(&key) {
            return self.tell_known(key, known);
        }
        self.pending.push_front(name);
        // More would only drive each other out.
        self.pending.truncate(usize::try_from(self.means.limits.count_max).unwrap_or(usize::MAX));
    }

    fn forget(&mut self, name: (User, FunctionName)) {
        self.pending.retain(|other| *other != name);
        let Some((_, key)) = self.functions.remove(&name) else { return };
        if self.functions.values().all(|(_, other)| *other != key) {
            self.snapshots.remove(&key);
        }
    }

    fn make_next(&mut self) {
        if !self.wait_until_quiet() {
            return;
        }
        let Some(name) = self.pending.pop_front() else { return };
        let Some((function, key)) = self.functions.get(&name).cloned() else { return };
        match self.snapshots.find(&key).cloned() {
            Some(known) => self.tell_known(key, &known),
            None => self.make(&function, key),
        }
    }

    fn make(&mut self, function: &Arc<Function>, key: SnapshotKey) {
        let vm = self.next_vm;
        self.next_vm += 1;
        let package = self.means.store.open_package(&function.package);
        let made = package.map_err(|error| error.to_string()).and_then(|package| {
            let piece = Piece { function, package };
            rehearse(&self.means.nursery, vm, piece, &self.means.limits, &self.is_stopped)
        });
        if self.is_stopped() {
            return;
        }
        match made {
            Ok(snapshot) => {
                let (user, function) = (function.user.as_str(), function.name.as_str());
                let bytes = snapshot.bytes_held();
                tracing::info!(user, function, bytes, "function snapshot captured");
                let snapshot = Arc::new(snapshot);
                self.tell_known(key, &Known::Made(Arc::clone(&snapshot)));
                for gone in self.snapshots.put(key, snapshot) {
                    self.tell_all(|| SnapshotNews::Gone { key: gone });
                }
            }
            Err(reason) => {
                let (user, function) = (function.user.as_str(), function.name.as_str());
                tracing::info!(user, function, reason, "no snapshot of this function");
                let reason: Arc<str> = reason.into();
                self.snapshots.fail(key, Arc::clone(&reason));
                self.tell_known(key, &Known::Failed(reason));
            }
        }
    }

    fn tell_known(&self, key: SnapshotKey, known: &Known) {
        self.tell_all(|| match known {
            Known::Made(snapshot) => SnapshotNews::Made { key, snapshot: Arc::clone(snapshot) },
            Known::Failed(reason) => SnapshotNews::Failed { key, reason: Arc::clone(reason) },
        });
    }

    fn tell_all(&self, news: impl Fn() -> SnapshotNews) {
        for inbox in self.means.inboxes.iter() {
            inbox.post_blocking(Letter::Snapshot(news()));
        }
    }

    /// Waits while the node is busy, within its patience; false when there is something else to
    /// do first.
    fn wait_until_quiet(&mut self) -> bool {
        let patience = Duration::from_millis(self.means.limits.patience_millis);
        let patience = u64::try_from(patience.as_nanos()).unwrap_or(u64::MAX);
        let until = monotonic_nanos().saturating_add(patience);
        // Who was just deployed is about to be invoked, and to be in no way of that.
        let mut pause = Duration::from_millis(self.means.limits.settle_millis);
        self.look();
        loop {
            match self.means.orders.recv_timeout(pause) {
                Ok(order) => {
                    self.take(order);
                    return false;
                }
                Err(RecvTimeoutError::Disconnected) => return false,
                Err(RecvTimeoutError::Timeout) => {}
            }
            if !self.look() || monotonic_nanos() >= until {
                return true;
            }
            pause = (pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
        }
    }

    /// Whether the node was busy since the last look.
    fn look(&mut self) -> bool {
        let now = (self.means.index.invokes(), monotonic_nanos());
        let before = std::mem::replace(&mut self.sample, now);
        is_busy(before, now, self.means.limits.busy_invokes_per_second)
    }

    fn count(&self) {
        let totals = self.snapshots.totals();
        let tally = &self.tally;
        for (count, value) in [
            (&tally.made, totals.made),
            (&tally.failed, totals.failed),
            (&tally.bytes, totals.bytes),
            (&tally.pending, self.pending.len() as u64),
        ] {
            count.store(value, Ordering::Relaxed);
        }
    }
}

/// Whether more invokes than `per_second` came between two looks (invokes so far, nanoseconds).
fn is_busy(before: (u64, Nanos), now: (u64, Nanos), per_second: u32) -> bool {
    let invokes = u128::from(now.0.saturating_sub(before.0));
    let nanos = u128::from(now.1.saturating_sub(before.1));
    invokes * 1_000_000_000 > nanos * u128::from(per_second)
}

#[cfg(test)]
mod tests {
    use super::is_busy;

    #[test]
    fn busy_is_a_rate() {
        let second = 1_000_000_000;
        assert!(!is_busy((100, second), (300, 2 * second), 200));
        assert!(is_busy((100, second), (301, 2 * second), 200));
        assert!(is_busy((100, second), (105, second + second / 50), 200));
        assert!(!is_busy((100, second), (100, second), 0));
    }
}
