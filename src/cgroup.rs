//! Memory and CPU limits of VMM processes: control groups of the version the host has, else only
//! the resource limits each VMM sets for itself.
//!
//! Each VMM gets a group of its own under `pilotlight-<node pid>-<number>`; the group goes when the
//! VMM is gone. What a node that was killed left behind goes when the next one starts.
//!
//! To move a process into a group, the kernel keeps all others from starting threads, and waits
//! 10 ms for that where nobody has moved one lately. A thread that moves itself waits for nothing,
//! and what it starts is in its group: so where threads can move (version 1) the starting thread
//! visits the group. Writing a group's files may still take milliseconds, so all of this runs on
//! the cell keeper's thread, never on a shard.

use std::fmt;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};

/// Nodes this process has had.
static NODES: AtomicU32 = AtomicU32::new(0);
/// What the name of a node's group begins with.
const PREFIX: &str = "pilotlight-";
const MOUNT: &str = "/sys/fs/cgroup";
/// Scheduler period the CPU limit counts in, microseconds.
const CPU_PERIOD_MICROS: u64 = 100_000;
/// CPU time a VMM may use per period: its vCPU's core and a tenth for its control thread.
const CPU_QUOTA_MICROS: u64 = 110_000;

/// How this host limits VMM processes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Cgroups {
    /// One hierarchy; the path is the group VMM groups are made in.
    V2(PathBuf),
    /// One hierarchy per controller; memory's and cpu's, in that order, each with the group VMM
    /// groups are made in and the one this process is in.
    V1 { places: [PathBuf; 2], homes: [PathBuf; 2] },
    /// Neither can be written; the text says why.
    None(String),
}

impl fmt::Display for Cgroups {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::V2(path) => write!(f, "version 2 at {}", path.display()),
            Self::V1 { places, .. } => write!(f, "version 1 at {}", places[0].display()),
            Self::None(why) => write!(f, "none ({why}): resource limits only"),
        }
    }
}

impl Cgroups {
    /// Finds out what the host has and makes the node's group in it.
    #[must_use]
    pub(crate) fn prepare() -> Self {
        // Relaxed: only tells the nodes of one process apart.
        let number = NODES.fetch_add(1, Ordering::Relaxed);
        let group = format!("{PREFIX}{}-{number}", std::process::id());
        match Self::prepare_v2(&group).or_else(|_| Self::prepare_v1(&group)) {
            Ok(cgroups) => cgroups,
            Err(error) => Self::None(format!("{MOUNT} cannot be used: {error}")),
        }
    }

    fn prepare_v2(group: &str) -> io::Result<Self> {
        let controllers = fs::read_to_string(Path::new(MOUNT).join("cgroup.controllers"))?;
        if !["memory", "cpu"].iter().all(|name| controllers.split(' ').any(|c| c.trim() == *name)) {
            return Err(io::Error::other("memory and cpu controllers are not available"));
        }
        let own = own_group("0::")?;
        let parent = Path::new(MOUNT).join(own.trim_start_matches('/'));
        if own != "/" {
            // A group with controllers for its children may hold no process itself: step aside.
            let leaf = parent.join("node");
            create(&leaf)?;
            fs::write(leaf.join("cgroup.procs"), std::process::id().to_string())?;
        }
        fs::write(parent.join("cgroup.subtree_control"), "+memory +cpu")?;
        sweep(&parent);
        let path = parent.join(group);
        create(&path)?;
        fs::write(path.join("cgroup.subtree_control"), "+memory +cpu")?;
        Ok(Self::V2(path))
    }

    fn prepare_v1(group: &str) -> io::Result<Self> {
        let paths = ["memory", "cpu"].map(|name| Path::new(MOUNT).join(name).join(group));
        paths.iter().filter_map(|path| path.parent()).for_each(sweep);
        paths.iter().try_for_each(|path| create(path))?;
        let homes = ["memory", "cpu"].map(|name| {
            let own = own_group_of(name).unwrap_or_default();
            Path::new(MOUNT).join(name).join(own.trim_start_matches('/'))
        });
        Ok(Self::V1 { places: paths, homes })
    }

    /// Starts a process in a group of its own with these limits.
    ///
    /// # Errors
    /// What the host answered; there is no process then.
    pub(crate) fn spawn(
        &self,
        command: &mut Command,
        name: &str,
        memory_bytes: u64,
    ) -> io::Result<(Child, Group)> {
        let group = self.make(name, memory_bytes)?;
        if let Self::V1 { homes, .. } = self {
            // A host that does not let this thread move has its ways with processes.
            if let Ok(visit) = Visit::pay(&group, homes) {
                let mut child = command.spawn();
                if let (Err(error), Ok(child)) = (visit.end(), &mut child) {
                    drop((child.kill(), child.wait()));
                    return Err(error);
                }
                return child.map(|child| (child, group));
            }
        }
        let mut child = command.spawn()?;
        if let Err(error) = group.take_in(child.id()) {
            drop((child.kill(), child.wait()));
            return Err(error);
        }
        Ok((child, group))
    }

    /// Makes a group with these limits.
    fn make(&self, name: &str, memory_bytes: u64) -> io::Result<Group> {
        let memory = memory_bytes.to_string();
        let (memory_file, places) = match self {
            Self::None(_) => return Ok(Group(Vec::new())),
            Self::V2(path) => ("memory.max", vec![path.join(name)]),
            Self::V1 { places, .. } => {
                ("memory.limit_in_bytes", places.iter().map(|path| path.join(name)).collect())
            }
        };
        let group = Group(places);
        group.0.iter().try_for_each(|place| create(place))?;
        let (first, last) = (&group.0[0], &group.0[group.0.len() - 1]);
        fs::write(first.join(memory_file), memory)?;
        if matches!(self, Self::V2(_)) {
            fs::write(last.join("cpu.max"), format!("{CPU_QUOTA_MICROS} {CPU_PERIOD_MICROS}"))?;
        } else {
            fs::write(last.join("cpu.cfs_period_us"), CPU_PERIOD_MICROS.to_string())?;
            fs::write(last.join("cpu.cfs_quota_us"), CPU_QUOTA_MICROS.to_string())?;
        }
        Ok(group)
    }

    /// Removes the node's group once all of its VMMs are gone.
    pub(crate) fn remove(&self) {
        match self {
            Self::None(_) => {}
            Self::V2(path) => drop(fs::remove_dir(path)),
            Self::V1 { places, .. } => {
                places.iter().for_each(|path| drop(fs::remove_dir(path)));
            }
        }
    }
}

/// One VMM's group; dropping it removes it, which works once the process is gone.
#[derive(Debug)]
pub(crate) struct Group(Vec<PathBuf>);

impl Group {
    fn take_in(&self, pid: u32) -> io::Result<()> {
        let mut places = self.0.iter();
        places.try_for_each(|place| fs::write(place.join("cgroup.procs"), pid.to_string()))
    }

    /// Whether its processes run only when no other VM of theirs would, and are put aside at once when
    /// one wakes. Where there are no groups, or the host's kernel cannot do that (before 5.15), they are
    /// like the others.
    pub(crate) fn set_quiet(&self, is_quiet: bool) {
        if let Some(cpu) = self.0.last() {
            drop(fs::write(cpu.join("cpu.idle"), if is_quiet { "1" } else { "0" }));
        }
    }
}

/// This thread is in a VMM's group, for as short as starting it takes.
struct Visit<'a> {
    homes: &'a [PathBuf; 2],
}

impl<'a> Visit<'a> {
    fn pay(group: &Group, homes: &'a [PathBuf; 2]) -> io::Result<Self> {
        let visit = Self { homes };
        let entered = group.0.iter().try_for_each(|place| move_here(place));
        match entered {
            Ok(()) => Ok(visit),
            Err(error) => visit.end().and(Err(error)),
        }
    }

    fn end(self) -> io::Result<()> {
        self.homes.iter().try_for_each(|home| move_here(home))
    }
}

/// Moves this thread, and no other, into a group of version 1.
fn move_here(group: &Path) -> io::Result<()> {
    fs::File::options().write(true).open(group.join("tasks"))?.write_all(b"0")
}

impl Drop for Group {
    fn drop(&mut self) {
        for place in &self.0 {
            // A group that is still busy stays behind and is removed with the node's.
            drop(fs::remove_dir(place));
        }
    }
}

/// Removes the groups of nodes that are no more. One that is still busy stays for the next time.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let node = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        let pid = node.and_then(|node| node.split('-').next()?.parse::<u32>().ok());
        if pid.is_none_or(|pid| Path::new("/proc").join(pid.to_string()).exists()) {
            continue;
        }
        for vm in fs::read_dir(entry.path()).into_iter().flatten().flatten() {
            drop(fs::remove_dir(vm.path()));
        }
        drop(fs::remove_dir(entry.path()));
    }
}

fn create(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// The group this process is in, from the line of `/proc/self/cgroup` with that prefix.
fn own_group(prefix: &str) -> io::Result<String> {
    let text = fs::read_to_string("/proc/self/cgroup")?;
    let line = text.lines().find_map(|line| line.strip_prefix(prefix));
    line.map(str::to_owned).ok_or_else(|| io::Error::other("this process is in no group"))
}

/// The group this process is in, of a controller's hierarchy of version 1.
fn own_group_of(controller: &str) -> Option<String> {
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mut groups = text.lines().filter_map(|line| line.split_once(':')?.1.split_once(':'));
    let own = groups.find(|(names, _)| names.split(',').any(|name| name == controller));
    own.map(|(_, path)| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Stdio;

    fn groups_of(process: &str) -> String {
        fs::read_to_string(format!("/proc/{process}/cgroup")).unwrap()
    }

    #[test]
    fn a_process_starts_in_its_group_and_this_thread_stays_where_it_was() {
        let cgroups = Cgroups::prepare();
        let before = groups_of("thread-self");
        let mut command = Command::new("sleep");
        command.arg("60").stdin(Stdio::null());
        let (mut child, group) = cgroups.spawn(&mut command, "vm-test", 64 << 20).unwrap();
        let (found, after) = (groups_of(&child.id().to_string()), groups_of("thread-self"));
        drop((child.kill(), child.wait()));
        let places = group.0.clone();
        let quiet = places.last().map(|cpu| cpu.join("cpu.idle")).filter(|file| file.exists());
        for is_quiet in [true, false] {
            group.set_quiet(is_quiet);
            let expected = if is_quiet { "1\n" } else { "0\n" };
            assert!(quiet.iter().all(|file| fs::read_to_string(file).unwrap() == expected));
        }
        drop(group);
        cgroups.remove();
        assert_eq!(found.matches("/vm-test").count(), places.len(), "{found}");
        assert_eq!(before, after);
        assert!(places.iter().all(|place| !place.exists()), "{places:?}");
    }

    #[test]
    fn a_visit_moves_one_thread() {
        let cgroups = Cgroups::prepare();
        // Where there are no groups of version 1, nobody visits one.
        if let Cgroups::V1 { homes, .. } = &cgroups {
            let group = cgroups.make("vm-test", 64 << 20).unwrap();
            let seen = std::thread::scope(|scope| {
                let visitor = scope.spawn(|| {
                    let visit = Visit::pay(&group, homes).unwrap();
                    let seen = ["thread-self", "self"].map(groups_of);
                    visit.end().unwrap();
                    seen
                });
                visitor.join().unwrap()
            });
            drop(group);
            assert_eq!(seen.map(|groups| groups.matches("/vm-test").count()), [2, 0]);
        }
        cgroups.remove();
    }
}
