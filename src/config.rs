//! Every limit of a node, with its unit and the reason for its value.
//!
//! A configuration file is TOML; every table and key may be left out. Units are part of a key's
//! name. Invariants: a [`Config`] that passed [`Config::check`] has limits that fit each other;
//! what is fixed at build time is tied together by const asserts at the end of this file.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use abi::layout;
use serde::{Deserialize, Serialize};

use crate::invoke::{BusyReason, Limit, Nanos, User};

mod pools;
mod requests;

pub use pools::{PoolLimits, Pools};
pub use requests::Requests;

const MIB: u64 = 1 << 20;

/// Bytes of a request's body and of a response: what AWS Lambda allows for synchronous invokes.
pub const BODY_BYTES_MAX: u64 = 6 * MIB;
/// Bytes of arguments and environment together: they travel in one acquire message, which has
/// [`abi::frame::invoke::MESSAGE_BYTES_MAX`].
pub const ARGUMENT_BYTES_MAX: usize = 128 * 1024;
/// Arguments, and environment variables, a function may have.
pub const ARGUMENTS_MAX: usize = 1024;
/// Containers a VM may ever hold at once: each invoke of a VM is looked for among them.
pub const CONTAINERS_PER_VM_MAX: u32 = 64;
/// VMs one shard may hold: slots are searched in a row on the way to a new VM.
pub const VMS_PER_SHARD_MAX: u32 = 4096;
/// Longest a guest may poll, microseconds: for machines on which everything else is slow too, as an
/// emulated one.
pub const POLL_MICROS_MAX: u32 = 1_000_000;
/// Longest a verification may take, microseconds: well within `pools.reset_timeout_millis`.
const VERIFY_MICROS_MAX: u32 = 1_000_000;
/// Functions a shard measures the latency of: 2 KiB each. With more, those used last.
pub const FUNCTIONS_MEASURED_MAX: usize = 1024;
/// Of them, how many a status tells of: each costs the shard that is asked some 2 us.
pub const FUNCTIONS_TOLD_MAX: usize = 128;
/// Shards a node may have: each has a segment in the index all of them read.
pub const SHARDS_MAX: usize = 64;
/// How alike two keys are when one may be meant for the other; the same is 1.
const LIKENESS_MIN: f64 = 0.75;
/// Longest time a function may run: as AWS Lambda, 15 minutes.
pub const TIMEOUT_MILLIS_MAX: u64 = 15 * 60 * 1000;

/// A node's configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where things are.
    pub paths: Paths,
    /// Which cores do what.
    pub cores: Cores,
    /// How many VMs, containers and waiting invokes.
    pub pools: Pools,
    /// What one VM is.
    pub vm: Vm,
    /// Snapshots of functions.
    pub snapshots: Snapshots,
    /// When the host is short of memory.
    pub memory: Memory,
    /// What one request may be.
    pub requests: Requests,
    /// Delivery of logs.
    pub log: Log,
    /// Connections that leave a VM.
    pub egress: Egress,
    /// Who may act for whom.
    pub access: Access,
    /// What is particular to a user, by name.
    pub users: BTreeMap<User, UserAccess>,
    /// Counters and times for Prometheus.
    pub metrics: Metrics,
}

/// Where things are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Paths {
    /// Code store and functions.
    pub state: PathBuf,
    /// Invoke socket.
    pub socket: PathBuf,
    /// A VMM executable instead of the one the library carries.
    pub vmm: Option<PathBuf>,
    /// A guest kernel instead of the one the library carries.
    pub kernel: Option<PathBuf>,
    /// A root image (tar) instead of the one made from the host's busybox and certificates.
    pub root_image: Option<PathBuf>,
}

/// Which cores do what. A polling guest and a polling shard on one core take milliseconds to hand
/// over to each other, so they are kept apart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Cores {
    /// Cores with a shard each; none given: the first half of those the node may use.
    pub shards: Vec<u32>,
    /// Cores on which VMs run; none given: the rest.
    pub guests: Vec<u32>,
}

/// What one VM is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Vm {
    /// RAM, MiB. Costs nothing until touched, but the host's tables for it do (up to 4 MiB per
    /// GiB under shadow paging).
    pub ram_mib: u32,
    /// Of it, what the guest kernel keeps for itself, MiB: heap, page tables, sockets.
    pub kernel_mib: u32,
    /// How long an idle guest polls its rings at most before it halts, microseconds; less where that
    /// rarely helps, not at all while more guests are at work than there are cores for. A doorbell
    /// costs about 30, more polling than that burns a core for little.
    pub poll_micros: u32,
    /// A shard without work for this long sleeps, microseconds; sooner where polling rarely helps,
    /// at once where its core is a guest's too.
    pub shard_poll_micros: u32,
    /// Every so many resets of a shard one is verified: the VM is compared with its snapshot before
    /// it runs. 0: none.
    pub verify_every: u32,
    /// How long that may take, microseconds: the VM's next request waits as long. What there was no
    /// time for comes first the next time.
    pub verify_micros_max: u32,
}

/// Snapshots of functions: VMs in which a function is loaded and stands before its first request.
/// They are made in the background after a deploy, and at start for what is stored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Snapshots {
    /// How many the node keeps; the longest unused goes. 0: it makes none.
    pub count_max: u32,
    /// Bytes of memory they may take together, packages included.
    pub bytes_max: u64,
    /// A program that does not stand before its first request by then gets none, milliseconds.
    pub prepare_timeout_millis: u64,
    /// With more invokes a second than this the node is busy, and making one waits: it takes a
    /// core for tens of milliseconds.
    pub busy_invokes_per_second: u32,
    /// But no longer than this, milliseconds: a node that is never idle needs them most.
    pub patience_millis: u64,
    /// Not before so long after the last deploy, milliseconds: it would be in the way of the
    /// invokes that follow one.
    pub settle_millis: u64,
}

/// When the host is short of memory: warm VMs beyond `pools.warm_min` are ended then, and after
/// them VMs of users in which nothing runs, the longest idle first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Memory {
    /// Percent of the last ten seconds in which some task of the host waited for memory
    /// (`/proc/pressure/memory`). A host that swaps a little stays below it.
    pub stall_percent_max: u32,
    /// Percent of the host's memory that is to stay available: room for the programs that run to
    /// grow into, and for the kernel's caches.
    pub available_percent_min: u32,
}

/// Delivery of logs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// Bytes of records waiting for one logging service, 256 for each and its text; more are
    /// dropped and counted. One that was sent waits until it counts as arrived: a twentieth of a
    /// second, at first half a second over TLS.
    pub spool_bytes_max: u64,
    /// Records waiting for one logging service, those that were sent too.
    pub spool_records_max: u32,
    /// Bytes of text that programs of one user may log in a second on one shard; more are dropped and
    /// counted. A second's worth may come at once.
    pub bytes_per_second_per_user_max: u64,
    /// Pause before the first new attempt to reach a logging service, milliseconds; doubles.
    pub retry_min_millis: u64,
    /// Longest such pause, milliseconds.
    pub retry_max_millis: u64,
    /// An attempt to connect (TLS included) may take this long, milliseconds.
    pub connect_timeout_millis: u64,
    /// Records of a VM that is gone are still delivered for this long, seconds.
    pub linger_seconds: u64,
    /// How long an answer waits, when its client asks for that, so that its account says what
    /// became of the log, milliseconds. 0: never.
    pub account_wait_millis: u64,
}

/// Connections that leave a VM.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Egress {
    /// `IP:PORT` any program may connect to, besides its logging service.
    pub allow: Vec<std::net::SocketAddr>,
    /// Connections one VM may have open.
    pub connections_per_vm: u32,
    /// A connection that is not made by then has failed, milliseconds.
    pub connect_timeout_millis: u64,
}

/// Who may act for whom, by the user id the kernel reports for a connection. A caller may always
/// act for the user of their own login; root and the node's own user for any.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Access {
    /// Further user ids that may act for any user.
    pub operators: Vec<u32>,
}

/// What is particular to a user, in a table of their name: `[users.ada]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UserAccess {
    /// Further user ids that may act for this user: those of a service, or of a team that shares it.
    pub uids: Vec<u32>,
}

/// Counters and times for Prometheus, over HTTP. Whoever reaches the address may read them, without a
/// login: they name no user, function or VM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Metrics {
    /// `IP:PORT` at which `GET /metrics` is answered, as `127.0.0.1:9464`; none given: nowhere.
    pub listen: Option<std::net::SocketAddr>,
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            state: default_state(),
            socket: default_socket(),
            vmm: None,
            kernel: None,
            root_image: None,
        }
    }
}

impl Default for Vm {
    fn default() -> Self {
        Self {
            ram_mib: 512,
            kernel_mib: 64,
            poll_micros: 50,
            shard_poll_micros: 1_000,
            // A build for tests verifies each.
            verify_every: if cfg!(debug_assertions) { 1 } else { 64 },
            // Reading all that 4 MiB of snapshot and 2 MiB of a program's pages hold takes half.
            // A build for tests reads everything.
            verify_micros_max: if cfg!(debug_assertions) { 1_000_000 } else { 1_000 },
        }
    }
}

impl Default for Snapshots {
    fn default() -> Self {
        Self {
            count_max: 64,
            bytes_max: 1024 * MIB,
            prepare_timeout_millis: 10_000,
            busy_invokes_per_second: 200,
            patience_millis: 5_000,
            settle_millis: 500,
        }
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self { stall_percent_max: 10, available_percent_min: 5 }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            spool_bytes_max: 16 * MIB,
            spool_records_max: 65_536,
            bytes_per_second_per_user_max: 64 * MIB,
            retry_min_millis: 100,
            retry_max_millis: 30_000,
            connect_timeout_millis: 5_000,
            linger_seconds: 30,
            account_wait_millis: 5_000,
        }
    }
}

impl Default for Egress {
    fn default() -> Self {
        Self { allow: Vec::new(), connections_per_vm: 64, connect_timeout_millis: 5_000 }
    }
}

/// Which cores have a shard and which run VMs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CoreSplit {
    /// One shard each.
    pub shards: Vec<u32>,
    /// VMs run on these, in turn.
    pub guests: Vec<u32>,
}

/// What is wrong with a configuration, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(String);

impl fmt::Display for ConfigError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// [`ConfigError`] when it cannot be read, is not TOML, has an unknown key, or limits that do
    /// not fit each other.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| ConfigError(format!("cannot read {}: {error}", path.display())))?;
        Self::parse(&text)
            .map_err(|error| ConfigError(format!("{}: {}", path.display(), error.0.trim_end())))
    }

    /// Reads a configuration from TOML text.
    ///
    /// # Errors
    /// [`ConfigError`] as for [`Config::load`].
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        let unread = |error: toml::de::Error| {
            let hint = suggestion(error.message()).unwrap_or_default();
            ConfigError(format!("{}{hint}", error.to_string().trim_end()))
        };
        let config: Self = toml::from_str(text).map_err(unread)?;
        config.check()?;
        Ok(config)
    }

    /// Checks that the limits fit each other.
    ///
    /// # Errors
    /// [`ConfigError`] naming the key, and what it may be.
    pub fn check(&self) -> Result<(), ConfigError> {
        self.pools.check()?;
        self.check_sizes()?;
        self.check_times()
    }

    fn check_sizes(&self) -> Result<(), ConfigError> {
        let ram_max = mib(layout::RAM_BYTES_MAX);
        between("memory.stall_percent_max", self.memory.stall_percent_max, 1, 101)?;
        between("memory.available_percent_min", self.memory.available_percent_min, 0, 100)?;
        between("vm.ram_mib", self.vm.ram_mib, mib(layout::RAM_BYTES_MIN), ram_max)?;
        between("vm.kernel_mib", self.vm.kernel_mib, 16, self.vm.ram_mib - 1)?;
        between("vm.poll_micros", self.vm.poll_micros, 0, POLL_MICROS_MAX)?;
        between("vm.verify_micros_max", self.vm.verify_micros_max, 1, VERIFY_MICROS_MAX)?;
        let memory_mib_max = self.memory_mib_max();
        self.requests.check(memory_mib_max)
    }

    fn check_times(&self) -> Result<(), ConfigError> {
        let (pools, log) = (&self.pools, &self.log);
        let timeout = self.requests.timeout_millis_default;
        between("requests.timeout_millis_default", timeout, 1, TIMEOUT_MILLIS_MAX)?;
        let day_millis = 24 * 3600 * 1000;
        for (key, millis) in [
            ("pools.queue_wait_millis", pools.queue_wait_millis),
            ("pools.demand_window_millis", pools.demand_window_millis),
            ("pools.spawn_timeout_millis", pools.spawn_timeout_millis),
            ("pools.spawn_backoff_min_millis", pools.spawn_backoff_min_millis),
            ("pools.spawn_backoff_max_millis", pools.spawn_backoff_max_millis),
            ("pools.load_timeout_millis", pools.load_timeout_millis),
            ("pools.reset_timeout_millis", pools.reset_timeout_millis),
            ("pools.deadline_grace_millis", pools.deadline_grace_millis),
            ("pools.retire_patience_millis", pools.retire_patience_millis),
            ("snapshots.prepare_timeout_millis", self.snapshots.prepare_timeout_millis),
            ("log.retry_min_millis", log.retry_min_millis),
            ("log.retry_max_millis", log.retry_max_millis),
            ("log.connect_timeout_millis", log.connect_timeout_millis),
            ("egress.connect_timeout_millis", self.egress.connect_timeout_millis),
        ] {
            between(key, millis, 1, day_millis)?;
        }
        between("pools.refill_delay_millis", pools.refill_delay_millis, 0, 60_000)?;
        between("log.account_wait_millis", log.account_wait_millis, 0, day_millis)?;
        between("pools.patience_millis", pools.patience_millis, 0, 60_000)?;
        between("snapshots.patience_millis", self.snapshots.patience_millis, 0, day_millis)?;
        between("snapshots.count_max", self.snapshots.count_max, 0, 4096)?;
        let rate = log.bytes_per_second_per_user_max;
        between("log.bytes_per_second_per_user_max", rate, 1 << 14, 1 << 40)?;
        between("log.linger_seconds", log.linger_seconds, 0, 3600)?;
        between("pools.idle_expiry_seconds", pools.idle_expiry_seconds, 1, 365 * 24 * 3600)
    }

    /// The limit that is met when there is no room for this reason; a shard's own where limits are.
    #[must_use]
    pub fn limit_met(&self, reason: BusyReason) -> Option<Limit> {
        let (pools, requests) = (&self.pools, &self.requests);
        let (key, value) = match reason {
            BusyReason::QueueFull => ("pools.queue_max", pools.queue_max.into()),
            BusyReason::UserQueueFull => {
                ("pools.queue_per_user_max", pools.queue_per_user_max.into())
            }
            BusyReason::WaitedTooLong | BusyReason::WouldWaitTooLong => {
                ("pools.vms_max", pools.vms_max.into())
            }
            BusyReason::UserAtWork { is_vms: true } => {
                ("pools.vms_per_user_max", pools.vms_per_user_max.into())
            }
            BusyReason::UserAtWork { is_vms: false } => {
                ("pools.inflight_per_user_max", pools.inflight_per_user_max.into())
            }
            BusyReason::BodiesFull => ("requests.waiting_bytes_max", requests.waiting_bytes_max),
            BusyReason::PackagesFull => ("requests.deploy_bytes_max", requests.deploy_bytes_max),
            BusyReason::SharedMemoryFull => {
                ("requests.shared_connections_max", requests.shared_connections_max.into())
            }
            BusyReason::VmsDoNotStart => return None,
        };
        Some(Limit { key, value })
    }

    /// Memory a VM can promise to its containers, MiB.
    #[must_use]
    pub fn memory_mib_max(&self) -> u32 {
        self.vm.ram_mib.saturating_sub(self.vm.kernel_mib)
    }

    /// Bytes of RAM of a VM.
    #[must_use]
    pub fn ram_bytes(&self) -> u64 {
        u64::from(self.vm.ram_mib) * MIB
    }

    /// How long an idle guest polls, nanoseconds.
    #[must_use]
    pub fn poll_nanos(&self) -> Nanos {
        u64::from(self.vm.poll_micros) * 1_000
    }

    /// How long an outcome may be held for its log, nanoseconds.
    #[must_use]
    pub fn account_wait_nanos(&self) -> Nanos {
        nanos(Duration::from_millis(self.log.account_wait_millis))
    }

    /// How long a shard without work polls, nanoseconds.
    #[must_use]
    pub fn shard_poll_nanos(&self) -> Nanos {
        u64::from(self.vm.shard_poll_micros) * 1_000
    }

    /// How long a verification may take, nanoseconds.
    #[must_use]
    pub fn verify_nanos_max(&self) -> Nanos {
        u64::from(self.vm.verify_micros_max) * 1_000
    }

    /// Splits the cores the node may use: as configured, else the first half for shards and the
    /// rest for VMs, at least one of each. A single core serves both.
    ///
    /// # Errors
    /// [`ConfigError`] when a configured core is not among them or none is left.
    pub fn core_split(&self, available: &[u32]) -> Result<CoreSplit, ConfigError> {
        let cores = &self.cores;
        for core in cores.shards.iter().chain(&cores.guests) {
            if !available.contains(core) {
                return Err(ConfigError(format!(
                    "cores: {core} is not among the cores this process may use: {available:?}"
                )));
            }
        }
        if available.is_empty() {
            return Err(ConfigError("cores: this process may use none".to_owned()));
        }
        let rest = |taken: &[u32]| -> Vec<u32> {
            available.iter().copied().filter(|core| !taken.contains(core)).collect()
        };
        let mut shards = cores.shards.clone();
        if shards.is_empty() {
            let free = rest(&cores.guests);
            let half = if cores.guests.is_empty() { (free.len() / 2).max(1) } else { free.len() };
            shards = free.into_iter().take(half).collect();
        }
        if shards.is_empty() {
            shards = available[..1].to_vec();
        }
        shards.truncate(SHARDS_MAX);
        let mut guests = cores.guests.clone();
        if guests.is_empty() {
            guests = rest(&shards);
        }
        if guests.is_empty() {
            guests.clone_from(&shards);
        }
        Ok(CoreSplit { shards, guests })
    }
}

/// The key that was probably meant, when a message says that one is unknown and which there are.
fn suggestion(message: &str) -> Option<String> {
    let mut names = message.split('`').skip(1).step_by(2);
    let unknown = names.next().filter(|_| message.starts_with("unknown field"))?;
    let likeness = |name: &str| strsim::jaro_winkler(unknown, name);
    let meant = names.max_by(|one, other| likeness(one).total_cmp(&likeness(other)))?;
    if likeness(meant) < LIKENESS_MIN {
        return None;
    }
    Some(format!("; did you mean `{meant}`?"))
}

/// Default state directory: `/var/lib/pilotlight` for root, else `~/.local/state/pilotlight`
/// (`$XDG_STATE_HOME` first).
#[must_use]
pub fn default_state() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/var/lib/pilotlight");
    }
    let state = absolute("XDG_STATE_HOME");
    let home = || absolute("HOME").map(|home| home.join(".local/state"));
    state.or_else(home).unwrap_or_else(std::env::temp_dir).join("pilotlight")
}

/// Socket of a node that root runs, or a host's service.
pub const HOST_SOCKET: &str = "/run/pilotlight/node.sock";

/// Default socket: [`HOST_SOCKET`] for root, else `$XDG_RUNTIME_DIR/pilotlight/node.sock`,
/// without that variable the state directory's `node.sock`.
#[must_use]
pub fn default_socket() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return PathBuf::from(HOST_SOCKET);
    }
    let runtime = absolute("XDG_RUNTIME_DIR").map(|directory| directory.join("pilotlight"));
    runtime.unwrap_or_else(default_state).join("node.sock")
}

fn absolute(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute())
}

fn between<T: PartialOrd + fmt::Display>(
    key: &str,
    value: T,
    least: T,
    most: T,
) -> Result<(), ConfigError> {
    if value < least || value > most {
        return Err(ConfigError(format!("{key} is {value}; it may be {least} to {most}")));
    }
    Ok(())
}

fn nanos(duration: Duration) -> Nanos {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

fn mib(bytes: u64) -> u32 {
    u32::try_from(bytes / MIB).unwrap_or(u32::MAX)
}

const _: () = {
    assert!(BODY_BYTES_MAX < u32::MAX as u64, "lengths of bodies are 32 bits wide");
    assert!(2 * ARGUMENT_BYTES_MAX <= abi::frame::invoke::MESSAGE_BYTES_MAX);
    assert!(ARGUMENTS_MAX * 4 <= ARGUMENT_BYTES_MAX, "an argument costs its length field too");
    assert!(abi::frame::code::INLINE_BYTES_MAX as u64 <= layout::WINDOW_BYTES);
    assert!(256 * MIB < layout::WINDOW_BYTES, "the default package fits beside a root image");
    assert!(VMS_PER_SHARD_MAX < u16::MAX as u32, "slot numbers are 16 bits wide");
    assert!(SHARDS_MAX <= u16::MAX as usize, "shard numbers are 16 bits wide");
    assert!(FUNCTIONS_TOLD_MAX <= FUNCTIONS_MEASURED_MAX);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_fit_each_other() {
        Config::default().check().unwrap();
        assert_eq!(Config::parse("").unwrap(), Config::default());
    }

    #[test]
    fn written_defaults_read_back() {
        let text = toml::to_string(&Config::default()).unwrap();
        assert_eq!(Config::parse(&text).unwrap(), Config::default());
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line_and_those_that_exist() {
        let error = Config::parse("[pools]\nwarm_target = 2\nwarm_tagret = 3\n").unwrap_err();
        let text = error.to_string();
        assert!(text.contains("warm_tagret") && text.contains("line 3"), "{text}");
        assert!(text.ends_with("did you mean `warm_target`?"), "{text}");
        let error = Config::parse("[pols]\n").unwrap_err().to_string();
        assert!(error.ends_with("did you mean `pools`?"), "{error}");
        let error = Config::parse("[pools]\nxyzzy = 1\n").unwrap_err().to_string();
        assert!(error.contains("warm_target") && !error.contains("did you mean"), "{error}");
    }

    #[test]
    fn limits_that_do_not_fit_are_named() {
        let error = Config::parse("[pools]\nwarm_max = 100\n").unwrap_err();
        assert_eq!(error.to_string(), "pools.warm_max is 100; it may be 1 to 64");
        let error = Config::parse("[vm]\nram_mib = 4\n").unwrap_err();
        assert!(error.to_string().starts_with("vm.ram_mib is 4; it may be 32 to"), "{error}");
    }

    #[test]
    fn a_shard_gets_its_share_and_never_nothing() {
        let limits = Config::default().pool_limits(16, 5000);
        assert_eq!((limits.vms_max, limits.warm_target), (4, 1));
        assert_eq!(limits.window_start, 8192);
        assert_eq!(limits.window_start + limits.window_bytes, layout::WINDOW_BYTES);
    }

    #[test]
    fn cores_split_in_halves() {
        let split = |config: &Config, cores: &[u32]| {
            let split = config.core_split(cores).unwrap();
            (split.shards, split.guests)
        };
        let mut config = Config::default();
        assert_eq!(split(&config, &[0]), (vec![0], vec![0]));
        assert_eq!(split(&config, &[0, 1]), (vec![0], vec![1]));
        assert_eq!(split(&config, &[0, 1, 2]), (vec![0], vec![1, 2]));
        assert_eq!(split(&config, &[2, 3, 4, 5]), (vec![2, 3], vec![4, 5]));
        config.cores.guests = vec![2];
        assert_eq!(split(&config, &[0, 1, 2]), (vec![0, 1], vec![2]));
        config.cores.shards = vec![1];
        assert_eq!(split(&config, &[0, 1, 2]), (vec![1], vec![2]));
        assert!(config.core_split(&[0, 1]).is_err());
    }
}
