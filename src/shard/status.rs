//! What a node says of itself when asked: pools, counters, and what it runs on.

use std::collections::BTreeMap;

use abi::layout::Flavour;
use serde_json::json;

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
    /// The status as JSON; `docs/protocol.md` lists its keys.
    pub(super) fn status(&mut self) -> Vec<u8> {
        let live_exits: u64 = self.vms.iter_mut().map(|vm| vm.side.cell.exits()).sum();
        let mut metrics = self.metrics.clone();
        metrics.vm_exits += live_exits;
        metrics.boots = u64::from(self.shard == 0);
        let report = metrics.snapshot().report();
        let vms: Vec<_> = self
            .vms
            .iter_mut()
            .map(|vm| {
                json!({
                    "vm": vm.side.id.to_string(),
                    "pid": vm.side.cell.pid,
                    "vm_exits": vm.side.cell.exits(),
                })
            })
            .collect();
        let missing: BTreeMap<String, u64> = report
            .missing_calls
            .iter()
            .map(|(number, count)| (number.to_string(), *count))
            .collect();
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
            "missing_syscalls": missing,
        });
        status.to_string().into_bytes()
    }
}
