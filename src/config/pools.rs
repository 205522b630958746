//! How many VMs, containers and waiting invokes: as configured for a node, and one shard's share.

use std::time::Duration;

use abi::layout;
use serde::{Deserialize, Serialize};

use super::{CONTAINERS_PER_VM_MAX, Config, ConfigError, VMS_PER_SHARD_MAX, between, nanos};
use crate::invoke::Nanos;

/// How many VMs, containers and waiting invokes; per node unless it says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Pools {
    /// Warm VMs the node keeps even when that costs an idle user their VM.
    pub warm_min: u32,
    /// Warm VMs the node keeps while slots are free and nothing happens; while memory is short it
    /// keeps `warm_min`.
    pub warm_target: u32,
    /// Warm VMs of all kinds when there is demand: as many as were taken lately, and those that
    /// invokes wait for.
    pub warm_max: u32,
    /// Of them, VMs kept that were restored from the snapshot of one function, for it and for all that
    /// are the same in code and settings. As many as were lately taken for keys that had no VM; one
    /// when the snapshot was just made. 0: none is kept. Those that invokes wait for come beside them.
    pub warm_per_function_max: u32,
    /// What `lately` is, milliseconds. Longer than bursts are apart, shorter than a pause.
    pub demand_window_millis: u64,
    /// VMs in any state.
    pub vms_max: u32,
    /// Containers one VM may hold at once. Past it the same user gets another VM.
    pub containers_per_vm: u32,
    /// VMs one user may hold on one shard.
    pub vms_per_user_max: u32,
    /// Packages loaded in one VM; the longest unused is forgotten.
    pub packages_per_vm: u32,
    /// While all of a function's containers are busy and their guests compute, how long an invoke
    /// waits for one of them before another container, or another VM, is made, milliseconds, but
    /// no longer than half of the time it may wait. Making one takes the core from those that could
    /// answer meanwhile. Another VM is not made before that half while as many are at work as there
    /// are cores for them. While a guest rests, because its programs wait for others, one is made
    /// without delay. 0: always so.
    pub patience_millis: u64,
    /// Invokes that run at once on one shard.
    pub inflight_max: u32,
    /// Of those, invokes of one user; further ones wait.
    pub inflight_per_user_max: u32,
    /// Invokes that wait for a VM on one shard.
    pub queue_max: u32,
    /// Of those, invokes of one user, so that one cannot fill the queue for all.
    pub queue_per_user_max: u32,
    /// How long an invoke waits for a VM before it is answered "busy", milliseconds. One that would
    /// wait longer, as fast as those ahead of it get theirs, is answered so at once.
    pub queue_wait_millis: u64,
    /// An assigned VM without an invoke for this long is ended, seconds. Memory against the time
    /// of a first invoke.
    pub idle_expiry_seconds: u64,
    /// VMs that start at the same time on one shard while invokes wait for them; a quarter of them
    /// otherwise, because starting competes with running ones. Half of a start is waiting for the
    /// host's kernel: on two cores 56 new users at once had their answers after 1.04 s with two,
    /// 0.81 s with four, 0.73 s with eight.
    pub spawns_at_once_max: u32,
    /// A VM that is not ready by then has failed, milliseconds. A restore takes about 10. One that no
    /// invoke waits for gives way to other VMs for a tenth of this.
    pub spawn_timeout_millis: u64,
    /// A warm VM that was taken is replaced this much later, milliseconds, unless none is left or
    /// somebody waits: its first invoke has the cores to itself.
    pub refill_delay_millis: u64,
    /// Pause after the first failed start, milliseconds; doubles with each further one.
    pub spawn_backoff_min_millis: u64,
    /// Longest such pause, milliseconds.
    pub spawn_backoff_max_millis: u64,
    /// A package that is not in its VM by then has failed, milliseconds.
    pub load_timeout_millis: u64,
    /// A VM that is not reset and awake again by then has failed, milliseconds. A reset takes a
    /// fraction of one; one that is verified reads all of the VM's memory.
    pub reset_timeout_millis: u64,
    /// How long after its deadline a guest may still say so itself, milliseconds; then its VM is
    /// ended from outside. A busy two-core host may not schedule a vCPU for tens of them.
    pub deadline_grace_millis: u64,
    /// A VM that is not gone this long after it was told so is told again, milliseconds.
    pub retire_patience_millis: u64,
}

impl Default for Pools {
    fn default() -> Self {
        Self {
            warm_min: 1,
            warm_target: 4,
            warm_max: 8,
            warm_per_function_max: 4,
            demand_window_millis: 10_000,
            vms_max: 64,
            containers_per_vm: 8,
            vms_per_user_max: 8,
            packages_per_vm: 32,
            patience_millis: 50,
            inflight_max: 1024,
            inflight_per_user_max: 512,
            queue_max: 1024,
            queue_per_user_max: 256,
            queue_wait_millis: 10_000,
            idle_expiry_seconds: 300,
            spawns_at_once_max: 4,
            spawn_timeout_millis: 5_000,
            refill_delay_millis: 5,
            spawn_backoff_min_millis: 100,
            spawn_backoff_max_millis: 30_000,
            load_timeout_millis: 5_000,
            reset_timeout_millis: 5_000,
            deadline_grace_millis: 250,
            retire_patience_millis: 2_000,
        }
    }
}

impl Pools {
    pub(super) fn check(&self) -> Result<(), ConfigError> {
        let pools = self;
        between("pools.vms_max", pools.vms_max, 1, VMS_PER_SHARD_MAX)?;
        between("pools.warm_max", pools.warm_max, 1, pools.vms_max)?;
        between("pools.warm_target", pools.warm_target, 0, pools.warm_max)?;
        between("pools.warm_min", pools.warm_min, 0, pools.warm_target)?;
        let per_function = pools.warm_per_function_max;
        between("pools.warm_per_function_max", per_function, 0, VMS_PER_SHARD_MAX)?;
        between("pools.containers_per_vm", pools.containers_per_vm, 1, CONTAINERS_PER_VM_MAX)?;
        between("pools.vms_per_user_max", pools.vms_per_user_max, 1, VMS_PER_SHARD_MAX)?;
        between("pools.packages_per_vm", pools.packages_per_vm, 1, 1024)?;
        between("pools.inflight_max", pools.inflight_max, 1, 1 << 16)?;
        between("pools.inflight_per_user_max", pools.inflight_per_user_max, 1, 1 << 16)?;
        between("pools.queue_max", pools.queue_max, 0, 1 << 16)?;
        between("pools.spawns_at_once_max", pools.spawns_at_once_max, 1, 64)
    }
}

/// What one shard's pools are held to. Times in nanoseconds.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "each is a key of `Pools` or `Vm`, converted")]
pub struct PoolLimits {
    pub warm_min: u32,
    pub warm_target: u32,
    pub warm_max: u32,
    pub warm_per_function_max: u32,
    pub demand_window_nanos: Nanos,
    pub vms_max: u32,
    pub containers_per_vm: u32,
    pub vms_per_user_max: u32,
    pub packages_per_vm: u32,
    pub patience_nanos: Nanos,
    pub inflight_max: u32,
    pub inflight_per_user_max: u32,
    pub queue_max: u32,
    pub queue_per_user_max: u32,
    pub queue_wait_nanos: Nanos,
    pub idle_expiry_nanos: Nanos,
    pub spawns_at_once_max: u32,
    pub spawn_timeout_nanos: Nanos,
    pub refill_delay_nanos: Nanos,
    pub spawn_backoff_min_nanos: Nanos,
    pub spawn_backoff_max_nanos: Nanos,
    pub load_timeout_nanos: Nanos,
    pub reset_timeout_nanos: Nanos,
    pub deadline_grace_nanos: Nanos,
    pub retire_patience_nanos: Nanos,
    /// Cores on which VMs of the shard run.
    pub guest_cores: u32,
    /// Memory the containers of one VM may be promised together, MiB.
    pub memory_mib_max: u32,
    /// Bytes of the image window behind the root image.
    pub window_bytes: u64,
    /// Offset of those bytes in the window.
    pub window_start: u64,
}

impl Config {
    /// The limits of one shard out of `shards`, whose VMs run on one core: what is per node is
    /// divided, at least one each. `root_image_bytes` lie at the start of the image window.
    #[must_use]
    pub fn pool_limits(&self, shards: u32, root_image_bytes: u64) -> PoolLimits {
        let pools = &self.pools;
        let share = |whole: u32| whole.div_ceil(shards.max(1));
        let millis = |millis: u64| nanos(Duration::from_millis(millis));
        let window_start = root_image_bytes.next_multiple_of(layout::PAGE_BYTES);
        PoolLimits {
            warm_min: share(pools.warm_min),
            warm_target: share(pools.warm_target),
            warm_max: share(pools.warm_max),
            warm_per_function_max: share(pools.warm_per_function_max),
            demand_window_nanos: millis(pools.demand_window_millis),
            vms_max: share(pools.vms_max),
            containers_per_vm: pools.containers_per_vm,
            vms_per_user_max: pools.vms_per_user_max,
            packages_per_vm: pools.packages_per_vm,
            patience_nanos: millis(pools.patience_millis),
            inflight_max: pools.inflight_max,
            inflight_per_user_max: pools.inflight_per_user_max,
            queue_max: pools.queue_max,
            queue_per_user_max: pools.queue_per_user_max,
            queue_wait_nanos: millis(pools.queue_wait_millis),
            idle_expiry_nanos: nanos(Duration::from_secs(pools.idle_expiry_seconds)),
            spawns_at_once_max: pools.spawns_at_once_max,
            spawn_timeout_nanos: millis(pools.spawn_timeout_millis),
            refill_delay_nanos: millis(pools.refill_delay_millis),
            spawn_backoff_min_nanos: millis(pools.spawn_backoff_min_millis),
            spawn_backoff_max_nanos: millis(pools.spawn_backoff_max_millis),
            load_timeout_nanos: millis(pools.load_timeout_millis),
            reset_timeout_nanos: millis(pools.reset_timeout_millis),
            deadline_grace_nanos: millis(pools.deadline_grace_millis),
            retire_patience_nanos: millis(pools.retire_patience_millis),
            guest_cores: 1,
            memory_mib_max: self.memory_mib_max(),
            window_bytes: layout::WINDOW_BYTES.saturating_sub(window_start),
            window_start,
        }
    }
}
