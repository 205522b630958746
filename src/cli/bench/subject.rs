//! The node that is measured, seen from its socket: everything here goes over it, as for any
//! client. Only what its processes use of the machine is read from `/proc`.

use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use perf::{Deadline, Process};
use pilotlight::client::Client;
use serde_json::Value;

use super::super::fault::Fault;
use super::ClientCore;
use super::lines::{Lines, OPEN_PER_LINE};
use super::program::Program;
use super::role::{LISTENING, Part, Shape};
use super::vms::Vms;

/// How long VMs may take to become warm before the bench gives up.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a snapshot of a function may take before the bench goes on without.
const SNAPSHOT_PATIENCE: Duration = Duration::from_secs(10);
/// The same of a VM in place of one that was taken.
const REFILL_PATIENCE: Duration = Duration::from_secs(2);
/// Pause between two looks at the pools.
const PAUSE: Duration = Duration::from_millis(1);

/// A node and connections to it.
pub(super) struct Subject {
    // Dropped before the node they are connected to.
    pub(super) client: Client,
    /// More connections, for many requests at once.
    more: Vec<Client>,
    /// Connections are in shared memory, and poll for so long.
    poll: Option<Duration>,
    socket: PathBuf,
    cores: NodeCores,
    flavour: String,
    version: String,
    process: Process,
    /// Makes names of users that no node has seen.
    nonce: u64,
    users: u64,
    own: Option<OwnNode>,
}

/// Which cores a node uses.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub(super) struct NodeCores {
    pub(super) shards: Vec<u32>,
    pub(super) guests: Vec<u32>,
}

impl Subject {
    /// A node of the bench's own, with its state in `folder`: on its first core a shard, on the
    /// second VMs, and the third is left to the client.
    pub(super) fn start(folder: &Path, shape: Shape) -> Result<Self, Fault> {
        let cores = perf::cores()?;
        let shard = *cores.first().ok_or_else(|| Fault::new("there is no core to run on"))?;
        let guest = cores.get(1).copied().unwrap_or(shard);
        let node = OwnNode::start(folder, (shard, guest), shape)?;
        let mut subject = Self::running(&Part::Node.socket(folder))?;
        subject.own = Some(node);
        Ok(subject)
    }

    /// The node that listens at `socket`.
    pub(super) fn running(socket: &Path) -> Result<Self, Fault> {
        let mut client = Client::connect(socket)?;
        let status = client.status()?;
        let numbers = |list: &Value, key: Option<&str>| -> Vec<u32> {
            let entries = list.as_array().into_iter().flatten();
            let entries = entries.map(|entry| key.map_or(entry, |key| &entry[key]));
            entries.filter_map(|entry| u32::try_from(entry.as_u64()?).ok()).collect()
        };
        let cores = NodeCores {
            shards: numbers(&status["shards"], Some("core")),
            guests: numbers(&status["guest_cores"], None),
        };
        let text = |key: &str| status[key].as_str().unwrap_or_default().to_owned();
        let (flavour, version) = (text("flavour"), text("version"));
        // Who listens is who the kernel names for the other end of a connection.
        let listener = rustix::net::sockopt::socket_peercred(client.as_fd())?.pid;
        let process = Process(listener.as_raw_nonzero().get().unsigned_abs());
        let mut nonce = [0; 8];
        rustix::rand::getrandom(&mut nonce, rustix::rand::GetRandomFlags::empty())?;
        let nonce = u64::from_le_bytes(nonce);
        let (more, socket) = (Vec::new(), socket.to_owned());
        Ok(Self {
            client,
            more,
            poll: None,
            socket,
            cores,
            flavour,
            version,
            process,
            nonce,
            users: 0,
            own: None,
        })
    }

    /// The cores it uses.
    pub(super) fn cores(&self) -> &NodeCores {
        &self.cores
    }

    /// Its kind of KVM.
    pub(super) fn flavour(&self) -> &str {
        &self.flavour
    }

    /// Its version.
    pub(super) fn version(&self) -> &str {
        &self.version
    }

    /// Whether the bench started it.
    pub(super) fn is_own(&self) -> bool {
        self.own.is_some()
    }

    /// Where it answers: servers to compare with run there too.
    pub(super) fn shard_core(&self) -> u32 {
        self.cores.shards.first().copied().unwrap_or(0)
    }

    /// Whether nothing of it runs on that core.
    pub(super) fn leaves(&self, core: u32) -> bool {
        !self.cores.shards.contains(&core) && !self.cores.guests.contains(&core)
    }

    /// A core the node does not use, if there is one; else the shard's: a client that blocks hands
    /// its core over and is woken on it by the answer (23 us), while on a guest's core it waits
    /// for the guest to halt first, or disturbs it (62 us; 56 us where the system chooses).
    pub(super) fn client_core(&self) -> ClientCore {
        let cores = perf::cores().unwrap_or_default();
        let free = cores.into_iter().find(|core| self.leaves(*core));
        ClientCore::Fixed(free.unwrap_or_else(|| self.shard_core()))
    }

    /// Connections for `open` requests at once.
    pub(super) fn lines(&mut self, open: usize) -> Result<Lines<'_>, Fault> {
        let count = open.div_ceil(OPEN_PER_LINE).max(1);
        while self.more.len() + 1 < count {
            self.more.push(match self.poll {
                Some(poll) => Client::connect_shared(&self.socket, poll)?,
                None => Client::connect(&self.socket)?,
            });
        }
        let more = self.more.iter_mut().take(count - 1);
        Ok(Lines::new(std::iter::once(&mut self.client).chain(more)))
    }

    /// Goes on in shared memory; a client that waits polls for up to `poll`.
    pub(super) fn share_memory(&mut self, poll: Duration) -> Result<(), Fault> {
        self.poll = Some(poll);
        Ok(self.client.attach(poll)?)
    }

    /// The name of a user no node has seen.
    pub(super) fn new_user(&mut self) -> String {
        self.users += 1;
        format!("bench-{:016x}-{}", self.nonce, self.users)
    }

    /// Deploys a program for a user; empty: for the client's own login.
    pub(super) fn deploy(&mut self, user: &str, program: &Program) -> Result<(), Fault> {
        self.client.deploy((user, program.name), &program.package())?;
        Ok(())
    }

    /// Forgets what was deployed in a node that goes on; one of the bench's own goes as a whole.
    pub(super) fn forget(&mut self, user: &str, program: &Program) {
        if !self.is_own() {
            // It was measured; that it stays is no reason to fail.
            let _ = self.client.remove(user, program.name);
        }
    }

    /// What the node says of its VMs now.
    pub(super) fn vms(&mut self) -> Result<Vms, Fault> {
        Ok(Vms::of(&self.client.status()?))
    }

    /// Processor time that its process and those of its VMs have used.
    pub(super) fn cpu_time(&self, vms: &Vms) -> Result<Duration, Fault> {
        let node = self.process.cpu_time()?;
        // One that has ended since is in its parent's account.
        Ok(vms.processes().filter_map(|vm| vm.cpu_time().ok()).sum::<Duration>() + node)
    }

    /// Waits until a VM is warm and none comes or goes.
    pub(super) fn await_warm(&mut self) -> Result<Vms, Fault> {
        let what = "no VM became warm in a minute; `pilotlight status` says what the node is \
                    short of, `pilotlight doctor` what the host is";
        self.await_vms(what, |vms| vms.warm() > 0 && vms.unsettled() == 0)
    }

    /// The same, and that one restored from a function's snapshot is there, if the bench started
    /// the node, whose pool has room for such.
    pub(super) fn await_prepared(&mut self) -> Result<Vms, Fault> {
        let is_own = self.is_own();
        self.await_vms("no VM was restored from a function's snapshot in a minute", |vms| {
            let is_prepared = vms.count("prepared") > 0 || !is_own;
            vms.warm() > 0 && vms.unsettled() == 0 && is_prepared
        })
    }

    /// Waits until the VMs are as wanted.
    pub(super) fn await_vms(
        &mut self,
        what: &str,
        is_it: impl Fn(&Vms) -> bool,
    ) -> Result<Vms, Fault> {
        let deadline = Deadline::after(PATIENCE);
        loop {
            let vms = self.vms()?;
            if is_it(&vms) {
                return Ok(vms);
            }
            if deadline.has_passed() {
                return Err(Fault::new(what));
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Waits until the node has nothing to do by itself: VMs are warm, and snapshots of what was
    /// deployed are made, if that does not take too long.
    pub(super) fn settle(&mut self) -> Result<(), Fault> {
        let deadline = Deadline::after(SNAPSHOT_PATIENCE);
        while !deadline.has_passed() && self.vms()?.snapshots_pending() > 0 {
            std::thread::sleep(10 * PAUSE);
        }
        self.await_warm().map(drop)
    }

    /// Waits until as many VMs are warm as there were once, if that does not take too long: making one
    /// in place of one that was taken is no part of a steady load.
    pub(super) fn await_refill(&mut self, warm: u64) -> Result<(), Fault> {
        let deadline = Deadline::after(REFILL_PATIENCE);
        while !deadline.has_passed() {
            let vms = self.vms()?;
            if vms.warm() >= warm && vms.unsettled() == 0 {
                break;
            }
            std::thread::sleep(10 * PAUSE);
        }
        Ok(())
    }
}

/// A node in a process of its own; it stops when its standard input is closed.
struct OwnNode(Child);

impl OwnNode {
    fn start(folder: &Path, cores: (u32, u32), shape: Shape) -> Result<Self, Fault> {
        let mut command = Part::node(folder, cores, shape)?;
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let output = child.stdout.take();
        let node = Self(child);
        let mut line = String::new();
        if let Some(output) = output {
            BufReader::new(output).read_line(&mut line)?;
        }
        match line.trim_end() == LISTENING {
            true => Ok(node),
            // It said why on standard error, which is ours too.
            false => Err(Fault::new("the node to be measured does not start")),
        }
    }
}

impl Drop for OwnNode {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        // One that cannot be waited for is gone.
        let _ = self.0.wait();
    }
}
