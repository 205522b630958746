//! Which process is which: perf knows numbers and names of threads only.

use std::collections::{BTreeMap, BTreeSet};

use crate::sample::Recording;

/// What the VMM's executable is called: it has no path, because it is started from memory.
const VMM: &str = "memfd:pilotlight-vmm";
/// How threads of shards are called.
const SHARD: &str = "shard-";

/// Processes that share a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Node,
    Vmm,
    Client,
}

impl Kind {
    pub(crate) const ALL: [Self; 3] = [Self::Node, Self::Vmm, Self::Client];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Vmm => "vmm",
            Self::Client => "client",
        }
    }

    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Node => "Node",
            Self::Vmm => "VMMs and their guests",
            Self::Client => "Client",
        }
    }
}

/// Processes by number.
#[derive(Debug)]
pub(crate) struct Processes(BTreeMap<i32, Kind>);

impl Processes {
    /// What the client started, directly or not: a process that once had a shard is a node, one
    /// that was once in the VMM's executable a VMM. Nobody else's, the machine may have others.
    pub(crate) fn of(recording: &Recording, client: i32) -> Self {
        let mut family = BTreeSet::from([client]);
        for (child, parent) in &recording.forks {
            if family.contains(parent) {
                family.insert(*child);
            }
        }
        let mut kinds = BTreeMap::from([(client, Kind::Client)]);
        for sample in recording.samples.iter().filter(|sample| family.contains(&sample.pid)) {
            if sample.thread.starts_with(SHARD) {
                kinds.insert(sample.pid, Kind::Node);
            } else if sample.is_in(VMM) {
                kinds.insert(sample.pid, Kind::Vmm);
            }
        }
        Self(kinds)
    }

    pub(crate) fn kind(&self, pid: i32) -> Option<Kind> {
        self.0.get(&pid).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::tests::TEXT;

    #[test]
    fn processes_are_told_apart() {
        let processes = Processes::of(&Recording::read(TEXT.as_bytes()).unwrap(), 10);
        let kinds = [10, 11, 13].map(|pid| processes.kind(pid));
        assert_eq!(kinds, [Some(Kind::Client), Some(Kind::Node), Some(Kind::Vmm)]);
        let strangers = [14, 20, 22].map(|pid| processes.kind(pid));
        assert_eq!(strangers, [None; 3], "another node and its VMM are not ours");
    }
}
