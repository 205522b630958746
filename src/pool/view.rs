//! What can be asked of a pool: where an invoke is, what there is for a key, how many of what.

use crate::credential::ActiveKey;
use crate::invoke::{ContainerId, InvokeId, VmId};

use super::Pool;
use super::event::{KeyState, SnapshotRef};
use super::lodger::Lodger;

/// How many of everything there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Census {
    /// VMs that start.
    pub starting: u32,
    /// VMs restored from the base and nobody's.
    pub warm: u32,
    /// VMs restored from the snapshot of a function, and nobody's.
    pub prepared: u32,
    /// VMs assigned and idle.
    pub assigned: u32,
    /// VMs with invokes in them.
    pub invoking: u32,
    /// VMs being put back to their snapshot.
    pub resetting: u32,
    /// VMs told to end.
    pub leaving: u32,
    /// Containers in assigned VMs.
    pub containers: u32,
    /// Packages loaded in assigned VMs.
    pub packages: u32,
    /// Invokes in VMs.
    pub running: u32,
    /// Invokes that wait.
    pub waiting: u32,
    /// Warm VMs of the base there are to be while nobody waits: follows what was taken lately.
    pub warm_target: u32,
    /// Shards that let go of VMs because the host is short of memory.
    pub under_pressure: u32,
    /// Starts that failed in a row.
    pub spawn_failures: u32,
}

impl std::ops::AddAssign for Census {
    fn add_assign(&mut self, other: Self) {
        self.starting += other.starting;
        self.warm += other.warm;
        self.prepared += other.prepared;
        self.assigned += other.assigned;
        self.invoking += other.invoking;
        self.resetting += other.resetting;
        self.leaving += other.leaving;
        self.containers += other.containers;
        self.packages += other.packages;
        self.running += other.running;
        self.waiting += other.waiting;
        self.warm_target += other.warm_target;
        self.under_pressure += other.under_pressure;
        self.spawn_failures += other.spawn_failures;
    }
}

/// One VM as the pools see it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Sketch {
    /// Its name.
    pub vm: String,
    /// `starting`, `warm`, `assigned` (idle), `invoking`, `resetting` or `leaving`.
    pub state: &'static str,
    /// Whether it was restored from the snapshot of a function, and not from the base.
    pub is_prepared: bool,
    /// Beginning of the digest of the user, logging service and credential it is assigned to; VMs
    /// with the same are interchangeable. Says nothing to anyone without the node's key.
    pub key: Option<String>,
    /// Containers in it.
    pub containers: u32,
    /// Invokes in it.
    pub running: u32,
}

impl Sketch {
    fn of_nobody((vm, is_prepared): (VmId, bool), state: &'static str) -> Self {
        Self { vm: vm.to_string(), state, is_prepared, key: None, containers: 0, running: 0 }
    }
}

/// Where an invoke is that has no answer yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whereabouts {
    /// In the queue.
    Waiting,
    /// A container is reserved; its package is on the way.
    Loading {
        /// In which VM.
        vm: VmId,
    },
    /// It was sent.
    Running {
        /// To which VM.
        vm: VmId,
        /// Into which container.
        container: ContainerId,
    },
}

/// What a pool can do for a key at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sight {
    /// Its VMs for the key.
    pub key: KeyState,
    /// Whether it has a warm VM for the function.
    pub has_warm: bool,
}

impl Pool {
    /// Where an invoke runs: only that VM may speak for it.
    #[must_use]
    pub fn place_of(&self, invoke: InvokeId) -> Option<(VmId, ContainerId)> {
        let running = self.inflight.running(invoke)?;
        running.is_sent.then_some((running.vm, running.container))
    }

    /// What became of an invoke so far; `None`: it was answered, or never came.
    #[must_use]
    pub fn whereabouts(&self, invoke: InvokeId) -> Option<Whereabouts> {
        if let Some(running) = self.inflight.running(invoke) {
            let (vm, container) = (running.vm, running.container);
            return Some(match running.is_sent {
                true => Whereabouts::Running { vm, container },
                false => Whereabouts::Loading { vm },
            });
        }
        let mut waiting = self.inflight.all_waiting();
        let waits = waiting.any(|waiting| waiting.arrival.invoke == invoke);
        waits.then_some(Whereabouts::Waiting)
    }

    /// What this shard can do at once for an invoke under this key of a function of this snapshot.
    #[must_use]
    pub fn sight(&self, key: &ActiveKey, snapshot: SnapshotRef) -> Sight {
        Sight { key: self.active.state_of(key), has_warm: self.warming.has_for(snapshot) }
    }

    /// Whether a VM was told to end.
    #[must_use]
    pub fn is_leaving(&self, vm: VmId) -> bool {
        self.leaving.ids().any(|id| id == vm)
    }

    /// The key a VM is assigned to.
    #[must_use]
    pub fn key_of(&self, vm: VmId) -> Option<ActiveKey> {
        self.active.get(vm).map(Lodger::key)
    }

    /// Whether [`super::Event::Stop`] was taken and no VM and no invoke is left.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        let invokes = self.inflight.running_count() + self.inflight.waiting_count();
        self.is_stopping && self.occupied() == 0 && invokes == 0
    }

    /// How many of everything there are.
    #[must_use]
    pub fn census(&self) -> Census {
        let length = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        let mut census = Census {
            starting: self.warming.starting_count(),
            warm: self.warming.base_count(),
            prepared: self.warming.warm_count() - self.warming.base_count(),
            warm_target: self.warming.base_target(),
            under_pressure: u32::from(self.warming.is_under_pressure()),
            leaving: self.leaving.count(),
            running: self.inflight.running_count(),
            waiting: self.inflight.waiting_count(),
            spawn_failures: self.warming.failures(),
            ..Census::default()
        };
        for lodger in self.active.lodgers() {
            match lodger {
                Lodger::Clean(_) | Lodger::Idle(_) => census.assigned += 1,
                Lodger::Busy(_) | Lodger::Alone(_) => census.invoking += 1,
                Lodger::Resetting(_) | Lodger::Waking(_) => census.resetting += 1,
            }
            census.containers += length(lodger.interior().containers().len());
            census.packages += length(lodger.interior().packages_count());
        }
        census
    }

    /// Every VM there is.
    #[must_use]
    pub fn sketches(&self) -> Vec<Sketch> {
        let starting = self.warming.all_starting().map(|vm| Sketch::of_nobody(vm, "starting"));
        let warm = self.warming.all_warm().map(|vm| Sketch::of_nobody(vm, "warm"));
        let leaving = self.leaving.all().map(|vm| Sketch::of_nobody(vm, "leaving"));
        let active = self.active.lodgers().map(|lodger| Sketch {
            vm: lodger.id().to_string(),
            state: lodger.state(),
            is_prepared: lodger.interior().prepared().is_some(),
            key: Some(format!("{:04x}", lodger.key().fingerprint() & 0xffff)),
            containers: u32::try_from(lodger.interior().containers().len()).unwrap_or(u32::MAX),
            running: lodger.running(),
        });
        starting.chain(warm).chain(active).chain(leaving).collect()
    }

    /// Checks every invariant that shows inside the pools: for simulations.
    ///
    /// # Panics
    /// When one is broken.
    pub fn check(&self) {
        let (warming, leaving) = (self.warming.ids(), self.leaving.ids());
        let active = self.active.lodgers().map(Lodger::id);
        let mut vms: Vec<VmId> = warming.chain(leaving).chain(active).collect();
        let count = vms.len();
        vms.sort_unstable();
        vms.dedup();
        assert_eq!(vms.len(), count, "a VM is in one room");
        assert_eq!(u32::try_from(count), Ok(self.occupied()), "rooms add up");
        assert!(self.occupied() <= self.limits.vms_max, "more VMs than slots");
        self.active.check();
        for running in self.inflight.all_running() {
            let lodger = self.active.get(running.vm);
            let containers = lodger.into_iter().flat_map(|lodger| lodger.interior().containers());
            let mut its = containers.filter(|c| c.invoke() == Some(running.arrival.invoke));
            let container = its.next().map(|container| container.id);
            assert_eq!(container, Some(running.container), "an invoke has its container");
        }
        for waiting in self.inflight.all_waiting() {
            let running = self.inflight.running(waiting.arrival.invoke);
            assert!(running.is_none(), "an invoke waits or runs");
        }
    }
}
