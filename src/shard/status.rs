//! What a node says of itself when asked: pools, counters, and what it runs on.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use abi::layout::Flavour;
use serde_json::{Value, json};
use syscalls::Sysno;

use super::engine::Engine;
use crate::cell::Nursery;
use crate::config::CoreSplit;

/// What does not change while a node runs.
pub(crate) struct NodeFacts {
    flavour: Flavour,
    cgroups: String,
    snapshot_bytes: u64,
    shards: Vec<u32>,
    guests: Vec<u32>,
}

impl NodeFacts {
    pub(crate) fn new(nursery: &Nursery, cores: &CoreSplit) -> Self {
        Self {
            flavour: nursery.flavour(),
            cgroups: nursery.cgroups().to_string(),
            snapshot_bytes: nursery.snapshot_bytes(),
            shards: cores.shards.clone(),
            guests: cores.guests.clone(),
        }
    }
}

/// Stable name of a flavour.
pub(crate) fn flavour_name(flavour: Flavour) -> &'static str {
    match flavour {
        Flavour::Stock => "stock",
        Flavour::Pvm => "pvm",
    }
}

/// What separates programs of different users on a flavour, outermost first.
pub(crate) fn isolation_name(flavour: Flavour) -> &'static str {
    match flavour {
        Flavour::Stock => "vm+container",
        Flavour::Pvm => "vm",
    }
}

impl Engine {
    /// The status as JSON; `docs/status.md` lists its keys.
    pub(super) fn status(&mut self) -> Vec<u8> {
        let mut metrics = self.metrics.clone();
        metrics.vm_exits += self.vms.iter_mut().map(|vm| vm.side.cell.exits()).sum::<u64>();
        metrics.doorbells += self.vms.iter_mut().map(|vm| vm.link.rings()).sum::<u64>();
        metrics.boots = u64::from(self.shard == 0);
        let report = metrics.snapshot().report();
        let vms = self.describe_vms();
        let facts = &self.facts;
        let status = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "flavour": flavour_name(facts.flavour),
            "isolation": isolation_name(facts.flavour),
            "cgroups": facts.cgroups,
            "snapshot_bytes": facts.snapshot_bytes,
            "shards": facts.shards.iter().map(|core| json!({ "core": core })).collect::<Vec<_>>(),
            "guest_cores": facts.guests,
            "functions": self.catalog.count(),
            "pools": self.pool.census(),
            "vms": vms,
            "counters": report.counters,
            "outcomes": report.outcomes,
            "refusals": report.refusals,
            "latency_nanos": report.latency_nanos,
            "missing_syscalls": describe_missing(&report.missing_calls),
        });
        status.to_string().into_bytes()
    }

    /// Each VM as the pools see it, and its process if there is one yet.
    fn describe_vms(&mut self) -> Vec<Value> {
        let sketches = self.pool.sketches();
        let mut processes: BTreeMap<String, (u32, u64)> = self
            .vms
            .iter_mut()
            .map(|vm| (vm.side.id.to_string(), (vm.side.cell.pid, vm.side.cell.exits())))
            .collect();
        let described = sketches.iter().map(|sketch| {
            let (pid, exits) = processes.remove(&sketch.vm).unzip();
            let mut vm = json!(sketch);
            vm["pid"] = json!(pid);
            vm["vm_exits"] = json!(exits);
            vm
        });
        described.collect()
    }
}

/// Missing system calls, the most wanted first.
fn describe_missing(counts: &BTreeMap<u32, u64>) -> Vec<Value> {
    let mut counts: Vec<_> = counts.iter().collect();
    counts.sort_by_key(|(number, count)| (Reverse(**count), **number));
    let described = counts.iter().map(|(number, count)| {
        let known = usize::try_from(**number).ok().and_then(Sysno::new);
        let name = known.map(|call| call.name());
        json!({ "number": number, "name": name, "count": count })
    });
    described.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_calls_have_their_names() {
        let described = describe_missing(&BTreeMap::from([(57, 1), (299, 5), (9999, 1)]));
        assert_eq!(
            json!(described),
            json!([
                { "number": 299, "name": "recvmmsg", "count": 5 },
                { "number": 57, "name": "fork", "count": 1 },
                { "number": 9999, "name": null, "count": 1 },
            ])
        );
    }
}
