//! What a node that runs as a process of its own holds: descriptors, memory, processes.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
#![allow(dead_code, reason = "each test file uses its part of this")]

use std::fs;
use std::path::PathBuf;

use super::node::wait_for_status;
use super::served::Served;

/// Bytes the node may have grown by: an allocator keeps some of what it was asked for.
const GROWTH_BYTES_MAX: u64 = 24 << 20;
/// Descriptors more than before that say nothing: the runtime opens some for a while. What every attack
/// left behind would be more.
const GROWTH_DESCRIPTORS_MAX: usize = 4;

/// What a node holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held {
    pub(crate) descriptors: usize,
    pub(crate) memfds: usize,
    pub(crate) processes: usize,
    pub(crate) bytes: u64,
}

impl Held {
    /// Once no more VMs than these are anybody's, and two are warm, as they are to be.
    pub(crate) fn at_rest(node: &Served, assigned: u64) -> Self {
        wait_for_status(&mut node.client(), "the pools to be as at the start", |status| {
            let pools = &status["pools"];
            let count = |key: &str| pools[key].as_u64().unwrap();
            let moving = ["starting", "waiting", "leaving", "resetting"];
            count("warm") == 2
                && count("assigned") + count("invoking") == assigned
                && moving.iter().all(|key| count(key) == 0)
        });
        let process = PathBuf::from(format!("/proc/{}", node.child.id()));
        let links = fs::read_dir(process.join("fd")).unwrap();
        let links: Vec<_> =
            links.filter_map(|link| fs::read_link(link.unwrap().path()).ok()).collect();
        let is_memfd = |link: &&PathBuf| link.to_string_lossy().starts_with("/memfd:");
        let tasks = fs::read_dir(process.join("task")).unwrap();
        let children =
            |task: PathBuf| fs::read_to_string(task.join("children")).unwrap_or_default();
        let processes = tasks.map(|task| children(task.unwrap().path()).split_whitespace().count());
        let status = fs::read_to_string(process.join("status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
        Self {
            descriptors: links.len(),
            memfds: links.iter().filter(is_memfd).count(),
            processes: processes.sum(),
            bytes: kib << 10,
        }
    }

    /// Fails if it is more than before.
    pub(crate) fn is_no_more_than(self, before: Self) {
        eprintln!("before {before:?}, after {self:?}");
        assert!(self.memfds <= before.memfds, "{before:?} {self:?}");
        assert!(self.processes <= before.processes, "{before:?} {self:?}");
        let descriptors_max = before.descriptors + GROWTH_DESCRIPTORS_MAX;
        assert!(self.descriptors <= descriptors_max, "{before:?} {self:?}");
        assert!(self.bytes <= before.bytes + GROWTH_BYTES_MAX, "{before:?} {self:?}");
    }
}
