//! What a node says of itself when asked: pools, counters, and what it runs on. Each shard knows
//! its own part; the one that was asked collects them.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use abi::layout::Flavour;
use serde_json::{Value, json};
use syscalls::Sysno;

use super::Letter;
use super::clients::{ClientId, Clients};
use super::engine::Engine;
use crate::cell::Nursery;
use crate::config::CoreSplit;
use crate::invoke::Nanos;
use crate::maker::Tally;
use crate::metrics;
use crate::metrics::functions::Measured;
use crate::pool::{Census, FunctionRef};
use crate::socket::Peer;

/// What does not change while a node runs.
pub(crate) struct NodeFacts {
    flavour: Flavour,
    cgroups: String,
    restoring: String,
    snapshot_bytes: u64,
    base_identity: [u8; 32],
    boots: u64,
    shards: Vec<u32>,
    guests: Vec<u32>,
    snapshots: Arc<Tally>,
    started_nanos: Nanos,
}

impl NodeFacts {
    pub(crate) fn new(nursery: &Nursery, cores: &CoreSplit, snapshots: Arc<Tally>) -> Self {
        Self {
            flavour: nursery.flavour(),
            cgroups: nursery.cgroups().to_string(),
            restoring: nursery.restoring().to_string(),
            snapshot_bytes: nursery.snapshot_bytes(),
            base_identity: *nursery.identity(),
            boots: nursery.boots(),
            shards: cores.shards.clone(),
            guests: cores.guests.clone(),
            snapshots,
            started_nanos: super::moment(),
        }
    }
}

impl NodeFacts {
    /// The shards' cores and the guests'.
    pub(super) fn cores(&self) -> (&[u32], &[u32]) {
        (&self.shards, &self.guests)
    }

    /// What the snapshot is that all VMs come from.
    pub(super) fn base_identity(&self) -> &[u8; 32] {
        &self.base_identity
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

/// What one shard says of itself, to itself or to the shard that was asked.
pub(crate) struct Part {
    census: Census,
    metrics: metrics::Snapshot,
    vms: Vec<Value>,
    /// The shard's number and how it polls.
    polling: Vec<(u16, Value)>,
    functions: Vec<Measured>,
}

/// A status whose parts are being collected.
pub(super) struct Gathering {
    client: ClientId,
    request: u64,
    peer: Peer,
    missing: usize,
    parts: Vec<Part>,
}

impl Gathering {
    pub(super) fn is_of(&self, client: ClientId) -> bool {
        self.client == client
    }
}

impl Engine {
    /// Answers a status request, at once if no other shard has a part in it.
    pub(super) fn ask_status(
        &mut self,
        (client, request): (ClientId, u64),
        peer: &Peer,
    ) -> Option<Vec<u8>> {
        let ticket = self.next_gathering;
        self.next_gathering += 1;
        let asked = (0_u16..).zip(self.inboxes.iter()).filter(|(shard, _)| *shard != self.shard);
        // A shard whose mailbox is full has no time for this: its part is left out.
        let from = self.shard;
        let posted =
            asked.filter(|(_, inbox)| inbox.post(Letter::AskStatus { ticket, from }).is_ok());
        let missing = posted.count();
        let own = self.part();
        if missing == 0 {
            return Some(self.report(vec![own], peer));
        }
        let peer = peer.clone();
        let gathering = Gathering { client, request, peer, missing, parts: vec![own] };
        self.gathering.insert(ticket, gathering);
        None
    }

    /// Tells another shard this one's part.
    pub(super) fn send_part(&mut self, ticket: u64, to: u16) {
        let part = Box::new(self.part());
        // Its client waits until its connection ends; a full mailbox lasts for microseconds.
        drop(self.inboxes[usize::from(to)].post(Letter::StatusPart { ticket, part }));
    }

    /// Takes another shard's part; with the last one the client is answered.
    pub(super) fn take_part(&mut self, ticket: u64, part: Part, clients: &mut Clients) {
        let Some(gathering) = self.gathering.get_mut(&ticket) else { return };
        gathering.parts.push(part);
        gathering.missing -= 1;
        if gathering.missing > 0 {
            return;
        }
        let Some(gathering) = self.gathering.remove(&ticket) else { return };
        let json = self.report(gathering.parts, &gathering.peer);
        if let Some(client) = clients.find(gathering.client) {
            let _ = client.connection.reply(gathering.request, &json);
        }
    }

    fn part(&mut self) -> Part {
        let mut metrics = self.metrics.snapshot();
        metrics.complete(|metrics| {
            // The node booted for all of its shards.
            metrics.boots = if self.shard == 0 { self.facts.boots } else { 0 };
            metrics.vm_exits += self.vms.iter_mut().map(|vm| vm.side.cell.exits()).sum::<u64>();
            metrics.doorbells += self.vms.iter_mut().map(|vm| vm.link.rings()).sum::<u64>();
            metrics.log_dropped = self.relay.dropped();
        });
        let (census, vms) = (self.pool.census(), self.describe_vms());
        let polling = vec![(self.shard, self.polls.describe())];
        let functions = self.functions.latest(|number| self.catalog.has(FunctionRef(number)));
        Part { census, metrics, vms, polling, functions }
    }

    /// The status as JSON; `docs/status.md` lists its keys. Of users' functions it has those of users
    /// the client may act for.
    fn report(&self, parts: Vec<Part>, peer: &Peer) -> Vec<u8> {
        let mut parts = parts.into_iter();
        let Some(mut whole) = parts.next() else { return Vec::new() };
        for part in parts {
            whole.census += part.census;
            whole.metrics.merge(&part.metrics);
            whole.vms.extend(part.vms);
            whole.polling.extend(part.polling);
            whole.functions.extend(part.functions);
        }
        let functions = Measured::merge_all(whole.functions, |user| peer.may_act_for(user));
        let report = whole.metrics.report();
        let facts = &self.facts;
        let [made, failed, bytes, pending] = facts.snapshots.read();
        let status = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "uptime_nanos": super::moment().saturating_sub(facts.started_nanos),
            "flavour": flavour_name(facts.flavour),
            "isolation": isolation_name(facts.flavour),
            "cgroups": facts.cgroups,
            "restore": facts.restoring,
            "snapshot_bytes": facts.snapshot_bytes,
            "shards": describe_shards(&facts.shards, whole.polling),
            "guest_cores": facts.guests,
            "functions": self.catalog.count(),
            "snapshots": { "made": made, "failed": failed, "bytes": bytes, "pending": pending },
            "pools": whole.census,
            "vms": whole.vms,
            "counters": report.counters,
            "outcomes": report.outcomes,
            "refusals": report.refusals,
            "latency_nanos": report.latency_nanos,
            "latency_buckets": report.latency_buckets,
            "function_latency": functions.iter().map(Measured::describe).collect::<Vec<_>>(),
            "missing_syscalls": describe_missing(&report.missing_calls),
        });
        status.to_string().into_bytes()
    }

    /// Each VM as the pools see it, and its process if there is one yet.
    fn describe_vms(&mut self) -> Vec<Value> {
        let sketches = self.pool.sketches();
        let mut processes: BTreeMap<String, [u64; 3]> = self
            .vms
            .iter_mut()
            .map(|vm| {
                let cell = &vm.side.cell;
                let known = [u64::from(cell.pid), cell.exits(), cell.exits_by_signal()];
                (vm.side.id.to_string(), known)
            })
            .collect();
        let described = sketches.iter().map(|sketch| {
            let known = processes.remove(&sketch.vm);
            let mut vm = json!(sketch);
            for (index, key) in ["pid", "vm_exits", "vm_exits_by_signal"].into_iter().enumerate() {
                vm[key] = json!(known.map(|known| known[index]));
            }
            vm
        });
        described.collect()
    }
}

/// Each shard's core and how it polls; one that had no time to answer has only a core.
fn describe_shards(cores: &[u32], mut polling: Vec<(u16, Value)>) -> Vec<Value> {
    let described = (0_u16..).zip(cores).map(|(shard, core)| {
        let found = polling.iter_mut().find(|(of, _)| *of == shard);
        json!({ "core": core, "polling": found.map(|(_, polling)| polling.take()) })
    });
    described.collect()
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
