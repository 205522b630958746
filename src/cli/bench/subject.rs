//! The node that is measured, seen from its socket: everything here goes over it, as for any
//! client.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;

use perf::Deadline;
use pilotlight::client::{Client, Package};
use pilotlight::invoke::Contract;
use serde_json::Value;

use super::super::fault::Fault;
use super::ClientCore;
use super::role::{LISTENING, Part};

/// How long VMs may take to become warm before the bench gives up.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pause between two looks at the warming pool.
const PAUSE: Duration = Duration::from_millis(1);

/// A node and a connection to it.
pub(super) struct Subject {
    // Dropped before the node it is connected to.
    pub(super) client: Client,
    cores: NodeCores,
    flavour: String,
    version: String,
    own: Option<OwnNode>,
}

/// Which cores a node uses.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub(super) struct NodeCores {
    pub(super) shards: Vec<u32>,
    pub(super) guests: Vec<u32>,
}

/// What the node says of its VMs.
#[derive(Debug)]
pub(super) struct Vms {
    warm: u64,
    unsettled: u64,
    exits: BTreeMap<String, u64>,
}

impl Vms {
    /// Exits of one VM since `earlier`.
    pub(super) fn exits_since(&self, earlier: &Self, vm: &str) -> u64 {
        let exits = |vms: &Self| vms.exits.get(vm).copied().unwrap_or(0);
        exits(self).saturating_sub(exits(earlier))
    }
}

impl Subject {
    /// A node of the bench's own, with its state in `folder`: on its first core a shard, on the
    /// second VMs, and the third is left to the client.
    pub(super) fn start(folder: &Path) -> Result<Self, Fault> {
        let cores = perf::cores()?;
        let shard = *cores.first().ok_or_else(|| Fault::new("there is no core to run on"))?;
        let guest = cores.get(1).copied().unwrap_or(shard);
        let node = OwnNode::start(folder, shard, guest)?;
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
        Ok(Self { client, cores, flavour, version, own: None })
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

    /// A core the node does not use, if there is one; else the shard's: a client that blocks hands
    /// its core over and is woken on it by the answer (23 us), while on a guest's core it waits
    /// for the guest to halt first, or disturbs it (62 us; 56 us where the system chooses).
    pub(super) fn client_core(&self) -> ClientCore {
        let cores = perf::cores().unwrap_or_default();
        let is_free =
            |core: &u32| !self.cores.shards.contains(core) && !self.cores.guests.contains(core);
        ClientCore::Fixed(cores.into_iter().find(is_free).unwrap_or_else(|| self.shard_core()))
    }

    /// Deploys a program for a user; empty: for the client's own login.
    pub(super) fn deploy(
        &mut self,
        (user, name): (&str, &str),
        program: &[u8],
        contract: Contract,
    ) -> Result<(), Fault> {
        let mut package = Package::of_elf(name, program);
        package.settings.contract = contract;
        self.client.deploy((user, name), &package)?;
        Ok(())
    }

    /// What the node says of its VMs now.
    pub(super) fn vms(&mut self) -> Result<Vms, Fault> {
        let status = self.client.status()?;
        let pool = |key: &str| status["pools"][key].as_u64().unwrap_or(0);
        let entries = status["vms"].as_array().into_iter().flatten();
        let exits = entries
            .filter_map(|entry| {
                Some((entry["vm"].as_str()?.to_owned(), entry["vm_exits"].as_u64()?))
            })
            .collect();
        Ok(Vms { warm: pool("warm"), unsettled: pool("starting") + pool("leaving"), exits })
    }

    /// Waits until a VM is warm and none comes or goes.
    pub(super) fn await_warm(&mut self) -> Result<Vms, Fault> {
        let deadline = Deadline::after(PATIENCE);
        loop {
            let vms = self.vms()?;
            if vms.warm > 0 && vms.unsettled == 0 {
                return Ok(vms);
            }
            if deadline.has_passed() {
                return Err(Fault::new(
                    "no VM became warm in a minute; `pilotlight status` says what the node is \
                     short of, `pilotlight doctor` what the host is",
                ));
            }
            std::thread::sleep(PAUSE);
        }
    }
}

/// A node in a process of its own; it stops when its standard input is closed.
struct OwnNode(Child);

impl OwnNode {
    fn start(folder: &Path, shard: u32, guest: u32) -> Result<Self, Fault> {
        let mut command = Part::node(folder, shard, guest)?;
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
