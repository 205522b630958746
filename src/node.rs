//! A node: one shard per core, their keepers, one librarian. This is what programs embed.
//!
//! ```no_run
//! use pilotlight::{Config, Node};
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let node = Node::start(Config::default())?;
//! let mut client = node.client()?;
//! println!("{}", client.status()?);
//! node.stop();
//! # Ok(())
//! # }
//! ```
//! What it has to tell its operator it emits as `tracing` events.
//!
//! There is one way into a node: a connection. [`Node::client`] makes one inside the process, and
//! [`Node::listen`] lets other processes make theirs; both speak the same protocol.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use abi::layout::Flavour;
use glommio::{ExecutorJoinHandle, LocalExecutorBuilder, Placement};

use crate::cell::{Nursery, NurserySettings, open_kvm};
use crate::client::{Client, ClientError};
use crate::code::Code;
use crate::config::{Config, ConfigError, Paths};
use crate::credential::NodeKey;
use crate::door::{Door, greet_self};
use crate::exporter::Exporter;
use crate::inbox::Inbox;
use crate::keeper::Keeper;
use crate::librarian::Librarian;
use crate::maker::{self, Maker, Means};
use crate::passage::End;
use crate::pool::Pool;
use crate::pool::index::Index;
use crate::root_image::RootImage;
use crate::shard::{Letter, NodeFacts, Setting, Shard, flavour_name, isolation_name};
use crate::store::{Store, StoreError};

/// This part of the time a VM may take to start (`pools.spawn_timeout_millis`) it is quiet at most, if
/// nobody waits for it: far longer than a start takes where there is time for it.
const QUIET_PARTS: u64 = 10;

/// Letters that may wait for one shard.
const LETTERS_MAX: usize = 4096;
/// When the runtime breaks off a task that does not step aside. Long, because it loses tasks: when
/// this timer fires after events were taken in and before the first task ran (a busy host takes
/// the core away there), the runtime sleeps although tasks are ready, until something else
/// completes. Tasks step aside on their own instead ([`crate::signal::step_aside`]).
const PREEMPT_INTERVAL: Duration = Duration::from_secs(1);
/// How long the runtime looks for events before it sleeps: more than a task steps
/// aside for, so that it never sleeps over that.
const SPIN: Duration = Duration::from_micros(20);
/// Memory the runtime registers with io_uring for file I/O, which a shard hardly does.
const IO_MEMORY_BYTES: usize = 512 * 1024;
/// Memory the runtime must be allowed to lock for its rings.
const RING_DEPTH: usize = 128;

/// Why a node does not start or listen; the text says what to do.
#[derive(Debug)]
pub struct NodeError {
    code: Code,
    message: String,
}

impl NodeError {
    fn new(code: Code, message: impl fmt::Display) -> Self {
        Self { code, message: message.to_string() }
    }

    /// Of a host that lacks something.
    fn lack(message: impl fmt::Display) -> Self {
        Self::new(Code::StartFailed, message)
    }

    /// Its stable code.
    #[must_use]
    pub fn code(&self) -> Code {
        self.code
    }
}

impl From<ConfigError> for NodeError {
    fn from(error: ConfigError) -> Self {
        Self::new(Code::BadConfiguration, error)
    }
}

impl From<StoreError> for NodeError {
    fn from(error: StoreError) -> Self {
        Self::new(error.code(), error)
    }
}

impl fmt::Display for NodeError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl std::error::Error for NodeError {}

/// A running node. Dropping it kills what runs; [`Node::stop`] lets it finish.
pub struct Node {
    inboxes: Arc<[Arc<Inbox<Letter>>]>,
    maker: Option<Maker>,
    threads: Vec<ExecutorJoinHandle<io::Result<()>>>,
    door: Option<Door>,
    exporter: Option<Exporter>,
    config: Arc<Config>,
    flavour: Flavour,
    warning: Option<String>,
}

impl Node {
    /// Boots the guest, captures the base snapshot and starts the shards.
    ///
    /// # Errors
    /// [`NodeError`] when the configuration does not fit together or the host lacks something.
    pub fn start(config: Config) -> Result<Self, NodeError> {
        config.check()?;
        raise_descriptor_limit();
        let cores = config.core_split(&available_cores()?)?;
        let kvm = open_kvm().map_err(|what| NodeError::new(Code::NoKvm, what))?;
        let store = Arc::new(Store::open(&config.paths.state, &config)?);
        let (functions, damaged) = store.functions()?;
        for error in damaged {
            tracing::warn!(error = error.to_string(), "a stored function is left out");
        }
        let root_image = RootImage::load(config.paths.root_image.as_deref()).map_err(|error| {
            NodeError::lack(format_args!("the root image cannot be read: {error}"))
        })?;
        let nursery = Nursery::boot(NurserySettings {
            kvm,
            ram_bytes: config.ram_bytes(),
            guest_cores: cores.guests.clone(),
            user: vmm_user(),
            root_image: root_image.archive,
            vmm: config.paths.vmm.clone(),
            kernel: config.paths.kernel.clone(),
        })
        .map_err(|error| NodeError::lack(format_args!("{error}{}", replaced(&config.paths))))?;
        let flavour = nursery.flavour();
        tracing::info!(
            flavour = flavour_name(flavour),
            snapshot_bytes = nursery.snapshot_bytes(),
            cgroups = nursery.cgroups().to_string(),
            restore = nursery.restoring().to_string(),
            "guest booted, base snapshot captured"
        );
        let broken =
            |error: io::Error| NodeError::lack(format_args!("the node cannot start: {error}"));
        let shards = u16::try_from(cores.shards.len()).unwrap_or(u16::MAX);
        let inboxes: io::Result<Vec<_>> =
            (0..shards).map(|_| Inbox::new(LETTERS_MAX).map(Arc::new)).collect();
        let inboxes: Arc<[_]> = inboxes.map_err(broken)?.into();
        let node_key = Arc::new(NodeKey::random().map_err(broken)?);
        let (orders, order_queue) = maker::orders();
        let librarian = Librarian::start(Arc::clone(&store), Arc::clone(&inboxes), orders.clone())
            .map_err(broken)?;
        let librarian = Arc::new(librarian);
        let mut limits = config.pool_limits(u32::from(shards), nursery.window_start());
        let guest_cores = cores.guests.len().div_ceil(cores.shards.len().max(1));
        limits.guest_cores = u32::try_from(guest_cores).unwrap_or(u32::MAX);
        let (config, nursery) = (Arc::new(config), Arc::new(nursery));
        let (index, publishers) = Index::new(shards, config.pools.vms_max);
        let means = Means {
            nursery: Arc::clone(&nursery),
            store,
            inboxes: Arc::clone(&inboxes),
            index: index.clone(),
            limits: config.snapshots.clone(),
            orders: order_queue,
        };
        let maker = Maker::start(means, orders, functions.clone()).map_err(broken)?;
        let facts = Arc::new(NodeFacts::new(&nursery, &cores, maker.tally()));
        let mut passages = passages(&inboxes);
        let mut node = Self {
            inboxes,
            maker: Some(maker),
            threads: Vec::new(),
            door: None,
            exporter: None,
            config: Arc::clone(&config),
            flavour,
            warning: root_image.warning,
        };
        for ((shard, core), publisher) in (0..shards).zip(&cores.shards).zip(publishers) {
            let inbox = Arc::clone(&node.inboxes[usize::from(shard)]);
            let doorbell = inbox.doorbell().duplicate().map_err(broken)?.into();
            let quiet_nanos = limits.spawn_timeout_nanos / QUIET_PARTS;
            let memory = (config.memory.clone(), quiet_nanos);
            let tell = move |news| inbox.post_blocking(Letter::News(news));
            let setting = Setting {
                config: Arc::clone(&config),
                node_key: Arc::clone(&node_key),
                inboxes: Arc::clone(&node.inboxes),
                neighbours: std::mem::take(&mut passages[usize::from(shard)].0),
                passages: std::mem::take(&mut passages[usize::from(shard)].1),
                index: index.clone(),
                keeper: Keeper::start(Arc::clone(&nursery), doorbell, memory, tell)
                    .map_err(broken)?,
                librarian: Arc::clone(&librarian),
                publisher,
                pool: Pool::new(limits, shard, shards),
                functions: functions.clone(),
                shard,
                first_invoke: first_invoke(shard).map_err(broken)?,
                facts: Arc::clone(&facts),
            };
            node.threads.push(spawn(setting, *core)?);
        }
        node.export()?;
        Ok(node)
    }

    /// Answers scrapes, if the configuration says where.
    fn export(&mut self) -> Result<(), NodeError> {
        let Some(address) = self.config.metrics.listen else { return Ok(()) };
        let (inboxes, config) = (Arc::clone(&self.inboxes), Arc::clone(&self.config));
        let exporter = Exporter::open(address, move || client_of(&inboxes, &config));
        let exporter = exporter.map_err(|error| {
            NodeError::lack(format_args!("metrics.listen: cannot listen at {address}: {error}"))
        })?;
        tracing::info!(address = %exporter.address(), "metrics to be had");
        self.exporter = Some(exporter);
        Ok(())
    }

    /// Where metrics are to be had over HTTP, if anywhere.
    #[must_use]
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.exporter.as_ref().map(Exporter::address)
    }

    /// Lets other processes of this machine connect at `socket`.
    ///
    /// # Errors
    /// [`NodeError`] when a node listens there already, or the path cannot be made.
    pub fn listen(&mut self, socket: &Path) -> Result<(), NodeError> {
        let failed = |what: &dyn fmt::Display| {
            NodeError::lack(format_args!("cannot listen at {}: {what}", socket.display()))
        };
        if UnixStream::connect(socket).is_ok() {
            let what = "a node listens there already; stop it, or use another --socket";
            return Err(NodeError { code: Code::SocketInUse, ..failed(&what) });
        }
        if let Some(folder) = socket.parent() {
            std::fs::create_dir_all(folder).map_err(|error| failed(&error))?;
        }
        // A socket there was left behind by a node that is gone: nobody answered. It is replaced.
        match std::fs::symlink_metadata(socket) {
            Ok(there) if !there.file_type().is_socket() => {
                return Err(failed(&"what is there is no socket; use another --socket"));
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(&error)),
            Ok(_) | Err(_) => {}
        }
        let door = Door::open(socket, Arc::clone(&self.inboxes), Arc::clone(&self.config));
        self.door = Some(door.map_err(|error| failed(&error))?);
        Ok(())
    }

    /// A client of this node that acts for every user, without a socket in the file system.
    ///
    /// # Errors
    /// The process is out of descriptors, or the node is stopping.
    pub fn client(&self) -> Result<Client, ClientError> {
        client_of(&self.inboxes, &self.config)
    }

    /// Which kind of KVM this host has, and so which isolation programs get.
    #[must_use]
    pub fn flavour(&self) -> Flavour {
        self.flavour
    }

    /// What separates programs of different users, outermost first: `vm+container` or `vm`.
    #[must_use]
    pub fn isolation(&self) -> &'static str {
        isolation_name(self.flavour)
    }

    /// What an operator should know, if anything.
    #[must_use]
    pub fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }

    /// Takes no more invokes, finishes those that run, delivers their logs, ends every VM.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.door = None;
        self.exporter = None;
        // Before the shards: they have to be there for its letters.
        self.maker = None;
        for inbox in self.inboxes.iter() {
            inbox.post_blocking(Letter::Stop);
        }
        for thread in self.threads.drain(..) {
            if let Err(error) = thread.join() {
                tracing::error!(error = error.to_string(), "a shard ended badly");
            }
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if !self.threads.is_empty() {
            self.end();
        }
    }
}

fn client_of(inboxes: &[Arc<Inbox<Letter>>], config: &Config) -> Result<Client, ClientError> {
    let (ours, theirs) = UnixStream::pair().map_err(ClientError::Io)?;
    let connection = greet_self(config);
    inboxes[0].post_blocking(Letter::Client(theirs, Box::new(connection)));
    Client::over(ours)
}

/// For each shard: its ends as a client of each other one (none at its own number), and those at
/// which the others are its clients.
fn passages(inboxes: &[Arc<Inbox<Letter>>]) -> Vec<(Vec<Option<End>>, Vec<End>)> {
    let mut ends: Vec<(Vec<Option<End>>, Vec<End>)> = Vec::new();
    ends.resize_with(inboxes.len(), Default::default);
    for (from, to) in (0..inboxes.len()).flat_map(|one| (0..inboxes.len()).map(move |b| (one, b))) {
        let pair = (from != to).then(|| End::pair(&inboxes[from], &inboxes[to]));
        let (ours, theirs) = pair.unzip();
        ends[from].0.push(ours);
        ends[to].1.extend(theirs);
    }
    ends
}

fn spawn(setting: Setting, core: u32) -> Result<ExecutorJoinHandle<io::Result<()>>, NodeError> {
    LocalExecutorBuilder::new(Placement::Fixed(core as usize))
        .name(&format!("shard-{}", setting.shard))
        .preempt_timer(PREEMPT_INTERVAL)
        .spin_before_park(SPIN)
        .io_memory(IO_MEMORY_BYTES)
        .ring_depth(RING_DEPTH)
        .spawn(move || async move { Shard::new(setting).run().await })
        .map_err(|error| {
            NodeError::lack(format_args!(
                "a shard cannot start on core {core}: {error}; it needs io_uring and 512 KiB of \
                 lockable memory (`pilotlight doctor` says which is missing)"
            ))
        })
}

/// Invoke numbers start anywhere, so that those of two runs of a node differ, and each shard has
/// its own.
fn first_invoke(shard: u16) -> io::Result<u64> {
    let mut bytes = [0; 4];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(u64::from(u32::from_le_bytes(bytes) >> 1) << 32 | u64::from(shard) << 26 | 1)
}

/// User id the VMM processes become: nobody's when the node is root, else the node's own.
fn vmm_user() -> u32 {
    const NOBODY: u32 = 65_534;
    if rustix::process::geteuid().is_root() { NOBODY } else { 0 }
}

/// What a VM is made of that the library did not carry, for who has to find out which it was.
fn replaced(paths: &Paths) -> String {
    let keys = [("vmm", &paths.vmm), ("kernel", &paths.kernel), ("root_image", &paths.root_image)];
    let told = |(key, path): (&str, &Option<PathBuf>)| {
        path.as_ref().map(|path| format!("; paths.{key} is {}", path.display()))
    };
    keys.into_iter().filter_map(told).collect()
}

/// Clients and VMs take more descriptors than the usual soft limit of 1,024 allows; the hard limit
/// is what the operator means.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    // A host that refuses keeps its limit; what does not fit it is refused one by one.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
}

/// The cores this process may use.
///
/// # Errors
/// [`NodeError`] when the host does not say.
pub fn available_cores() -> Result<Vec<u32>, NodeError> {
    let set = rustix::thread::sched_getaffinity(None).map_err(|error| {
        NodeError::lack(format_args!("the host does not say which cores there are: {error}"))
    })?;
    let cores = 0..u32::try_from(rustix::thread::CpuSet::MAX_CPU).unwrap_or(0);
    Ok(cores.filter(|core| set.is_set(*core as usize)).collect())
}
