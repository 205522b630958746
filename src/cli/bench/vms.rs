//! What a node says of its VMs at one moment.

use std::collections::BTreeMap;

use perf::Process;
use serde_json::Value;

/// A status, as far as a bench wants it.
#[derive(Debug)]
pub(super) struct Vms {
    pools: BTreeMap<String, u64>,
    pending: u64,
    resets: u64,
    reset_pages: u64,
    vms: BTreeMap<String, Vm>,
}

#[derive(Debug)]
struct Vm {
    is_warm: bool,
    process: Option<Process>,
    exits: u64,
}

impl Vms {
    /// Reads a status.
    pub(super) fn of(status: &Value) -> Self {
        let number = |value: &Value| value.as_u64().unwrap_or(0);
        let pools = status["pools"].as_object().into_iter().flatten();
        let vms = status["vms"].as_array().into_iter().flatten().filter_map(|entry| {
            let vm = Vm {
                is_warm: entry["state"] == "warm",
                process: entry["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).map(Process),
                exits: number(&entry["vm_exits"]),
            };
            Some((entry["vm"].as_str()?.to_owned(), vm))
        });
        let counter = |name: &str| number(&status["counters"][name]);
        Self {
            pools: pools.map(|(name, count)| (name.clone(), number(count))).collect(),
            pending: number(&status["snapshots"]["pending"]),
            resets: counter("resets"),
            reset_pages: counter("reset_pages"),
            vms: vms.collect(),
        }
    }

    /// VMs in a pool's state.
    pub(super) fn count(&self, state: &str) -> u64 {
        self.pools.get(state).copied().unwrap_or(0)
    }

    /// Warm VMs of any user's.
    pub(super) fn warm(&self) -> u64 {
        self.count("warm")
    }

    /// VMs that come or go.
    pub(super) fn unsettled(&self) -> u64 {
        self.count("starting") + self.count("leaving") + self.count("resetting")
    }

    /// Snapshots still to be made.
    pub(super) fn snapshots_pending(&self) -> u64 {
        self.pending
    }

    /// VMs put back so far, and pages in all of them.
    pub(super) fn resets(&self) -> (u64, u64) {
        (self.resets, self.reset_pages)
    }

    /// Exits of one VM since `earlier`.
    pub(super) fn exits_since(&self, earlier: &Self, vm: &str) -> u64 {
        let exits = |vms: &Self| vms.vms.get(vm).map_or(0, |vm| vm.exits);
        exits(self).saturating_sub(exits(earlier))
    }

    /// The same of all VMs that are there.
    pub(super) fn all_exits_since(&self, earlier: &Self) -> u64 {
        self.vms.keys().map(|vm| self.exits_since(earlier, vm)).sum()
    }

    /// Its VMMs.
    pub(super) fn processes(&self) -> impl Iterator<Item = Process> {
        self.vms.values().filter_map(|vm| vm.process)
    }

    /// Private memory of a warm VM, on average, VMM process included. None: there is no warm VM.
    pub(super) fn warm_private_bytes(&self) -> Option<u64> {
        let warm = self.vms.values().filter(|vm| vm.is_warm).filter_map(|vm| vm.process);
        mean(warm)
    }

    /// The same of VMs in any state.
    pub(super) fn private_bytes(&self) -> Option<u64> {
        mean(self.processes())
    }
}

fn mean(processes: impl Iterator<Item = Process>) -> Option<u64> {
    let bytes: Vec<u64> = processes.filter_map(|process| process.private_bytes().ok()).collect();
    bytes.iter().sum::<u64>().checked_div(bytes.len() as u64)
}
