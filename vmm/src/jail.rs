//! The jail: a VMM that a guest has taken over finds nothing to take next.
//!
//! ```text
//! start    close what was inherited
//! enter    namespaces, empty root, user, capabilities, limits      the thread that will run the vCPU
//! seal     seccomp on both threads                                 before the first guest instruction
//! ```
//! What a restored VM is made of may be put together on a second thread meanwhile, which keeps the
//! privileges it began with and is over before the vCPU runs: making a VM belongs to the trusted
//! part. The control thread descends from the thread in the jail. Memory and CPU limits (cgroup) are
//! the node's to set: it knows what the VM is for.
//!
//! A host may forbid namespaces (a container without the right, a sysctl); then the walls are the
//! system-call filter, the missing privileges and the closed descriptors.

mod filter;

pub(crate) use filter::Filter;

use crate::gone::{Doing, Gone};
use crate::pagemap::Question;
use rustix::io::Errno;
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_change, mount_move, unmount,
};
use rustix::process::{
    DumpableBehavior, Gid, Resource, Rlimit, Signal, Uid, chdir, chroot, geteuid, getgid, getuid,
    pivot_root, set_dumpable_behavior, set_parent_process_death_signal, setrlimit,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, UnshareFlags, capability_is_in_bounding_set,
    clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
    set_no_new_privs, set_thread_groups, set_thread_res_gid, set_thread_res_uid,
};
use std::io;

/// Descriptors of a running VMM are about ten; a message may bring eight more.
const DESCRIPTORS_MAX: u64 = 32;
/// Room in a snapshot beside RAM: head and tables.
const SNAPSHOT_SLACK_BYTES: u64 = 1 << 20;
/// Where the empty root is mounted before it becomes the root. It exists wherever programs run.
const MOUNT_POINT: &str = "/proc";

/// Closes every descriptor but the first three, whoever left them open.
pub(crate) fn close_inherited() {
    // SAFETY: nothing in this process owns a descriptor yet; the call takes no pointers. A kernel
    // that lacks it (before 5.9) leaves them open, and the node opens none without CLOEXEC.
    unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, 0_u32) };
}

/// Whether entering the jail takes a process of one thread: a user namespace does, and who is not
/// root needs one.
pub(crate) fn is_for_one_thread() -> bool {
    !geteuid().is_root()
}

/// Gives up everything that is not needed to run a VM. On the thread that will run it.
pub(crate) fn enter(user: u32, snapshot_ram_bytes: Option<u64>) -> Result<(), Gone> {
    silence().doing("close the standard output")?;
    let is_isolated = leave_namespaces().doing("enter namespaces")?;
    if is_isolated {
        empty_root().doing("empty the root directory")?;
    }
    drop_bounding_set().doing("drop capabilities")?;
    if user != 0 && geteuid().is_root() {
        become_user(user).doing("become another user")?;
    }
    clear_ambient_capability_set().doing("drop capabilities")?;
    let none = CapabilitySet::empty();
    let none = CapabilitySets { effective: none, permitted: none, inheritable: none };
    set_capabilities(None, none).doing("drop capabilities")?;
    set_no_new_privs(true).doing("give up new privileges")?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).doing("forbid dumps")?;
    // After the change of user, which clears it. The node's end closing has the same effect.
    set_parent_process_death_signal(Some(Signal::KILL)).doing("die with the node")?;
    let file_bytes = snapshot_ram_bytes.map_or(0, |bytes| bytes + SNAPSHOT_SLACK_BYTES);
    limit(Resource::Core, 0)?;
    limit(Resource::Fsize, file_bytes)?;
    limit(Resource::Memlock, 0)?;
    limit(Resource::Nofile, DESCRIPTORS_MAX)
}

/// What a VM needs beyond running.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Needs {
    /// It will be captured.
    pub(crate) writes_snapshot: bool,
    /// How a VM that can be reset finds its private pages; `None` for one that cannot.
    pub(crate) pagemap: Option<Question>,
}

/// Locks the door: no more threads, and only the system calls such a VM needs.
pub(crate) fn seal(filter: &Filter) -> Result<(), Gone> {
    limit(Resource::Nproc, 0)?;
    filter.apply()
}

fn limit(resource: Resource, value: u64) -> Result<(), Gone> {
    let limit = Rlimit { current: Some(value), maximum: Some(value) };
    setrlimit(resource, limit).doing("limit resources")
}

/// What is printed from now on goes nowhere: into a file that takes no bytes.
fn silence() -> io::Result<()> {
    let nowhere = region::sealed::frozen("nowhere", b"")?;
    rustix::stdio::dup2_stdout(&nowhere)?;
    Ok(rustix::stdio::dup2_stderr(&nowhere)?)
}

/// Leaves the host's mounts, network, IPC, names and cgroup tree; `false` where that is forbidden.
/// A PID namespace would only matter to children, and this process can have none.
fn leave_namespaces() -> io::Result<bool> {
    let wanted = UnshareFlags::NEWNS
        | UnshareFlags::NEWNET
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWUTS
        | UnshareFlags::NEWCGROUP;
    let (user, group) = (getuid(), getgid());
    if is_for_one_thread() {
        return match unshare(wanted | UnshareFlags::NEWUSER) {
            Ok(()) => map_self(user, group).map(|()| true),
            Err(error) => is_forbidden(error),
        };
    }
    match unshare(wanted) {
        Ok(()) => Ok(true),
        Err(error) => is_forbidden(error),
    }
}

fn is_forbidden(error: Errno) -> io::Result<bool> {
    // Not permitted, no user namespaces left or configured, not built in.
    match error {
        Errno::PERM | Errno::NOSPC | Errno::USERS | Errno::INVAL | Errno::NOSYS => Ok(false),
        other => Err(other.into()),
    }
}

fn unshare(flags: UnshareFlags) -> Result<(), Errno> {
    // SAFETY: the flags do not unshare the descriptor table; what another thread may still do is
    // make a KVM machine, which needs neither names nor files.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}

/// In a new user namespace this user has to be somebody before it may mount.
fn map_self(user: Uid, group: Gid) -> io::Result<()> {
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/uid_map", format!("{0} {0} 1", user.as_raw()))?;
    std::fs::write("/proc/self/gid_map", format!("{0} {0} 1", group.as_raw()))
}

/// The root becomes an empty read-only file system; everything else is unmounted.
fn empty_root() -> io::Result<()> {
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("none", MOUNT_POINT, "tmpfs", flags, c"size=4k,nr_inodes=1,mode=0555")?;
    chdir(MOUNT_POINT)?;
    match pivot_root(".", ".") {
        // Old and new root are stacked on each other, the old one on top (pivot_root(2)).
        Ok(()) => unmount(".", UnmountFlags::DETACH)?,
        // The first root of a kernel, an initramfs, cannot be pivoted away: it is covered instead.
        Err(Errno::INVAL) => {
            mount_move(".", "/")?;
            chroot(".")?;
        }
        Err(error) => return Err(error.into()),
    }
    Ok(chdir("/")?)
}

fn drop_bounding_set() -> io::Result<()> {
    for number in 0..64 {
        let capability = CapabilitySet::from_bits_retain(1 << number);
        match capability_is_in_bounding_set(capability) {
            Ok(true) => {}
            Ok(false) => continue,
            // The first number this kernel does not know.
            Err(_) => break,
        }
        match remove_capability_from_bounding_set(capability) {
            // Not ours to remove without the right; then it is not ours to gain either.
            Ok(()) | Err(Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn become_user(user: u32) -> io::Result<()> {
    let (user, group) = (Uid::from_raw(user), Gid::from_raw(user));
    set_thread_groups(&[])?;
    set_thread_res_gid(group, group, group)?;
    Ok(set_thread_res_uid(user, user, user)?)
}
