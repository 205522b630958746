//! What can be looked at without a node.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use glommio::{LocalExecutorBuilder, Placement};
use pilotlight::config::{default_socket, default_state};
use pilotlight::{Config, available_cores};
use rustix::fs::Access;
use rustix::process::Resource;

use super::check::Check;

const KVM: &str = "/dev/kvm";
const IO_URING_DISABLED: &str = "/proc/sys/kernel/io_uring_disabled";
/// Bytes one shard locks: the runtime's buffer, registered with each of its three rings.
const SHARD_LOCKED_BYTES: u64 = 3 * 512 * 1024;
/// Bytes the runtime asks for before it starts at all.
const RUNTIME_LOCKED_BYTES: u64 = 512 * 1024;

/// How to let containers use io_uring, which their runtimes block by default.
const CONTAINER_FIX: &str = "container runtimes block io_uring by default (Docker, Podman, containerd, \
     CRI-O): use --security-opt seccomp=PROFILE with io_uring_setup, io_uring_enter and \
     io_uring_register allowed, or seccomp=unconfined; in Kubernetes securityContext.seccompProfile \
     with type Localhost or Unconfined. gVisor has no io_uring";

/// Looks at everything.
pub(super) fn examine() -> Vec<Check> {
    vec![user(), kvm(), io_uring(), memory_lock(), cores(), places()]
}

/// As whom a node would run, and what it would have as root.
fn user() -> Check {
    const NAME: &str = "user";
    let uid = rustix::process::geteuid();
    if uid.is_root() {
        return Check::ok(NAME, "root; VMs run as nobody");
    }
    let own = "its own user id for VMs, who then share none with the node; control groups without \
               delegation: a bound on what a VM takes of the host besides its RAM; clients of every \
               user, without a socket in a folder of theirs";
    Check::ok(NAME, format!("{uid}, which is enough; root adds: {own}", uid = uid.as_raw()))
}

fn kvm() -> Check {
    const NAME: &str = "kvm";
    match File::options().read(true).write(true).open(KVM) {
        Ok(_) => Check::ok(NAME, format!("{KVM} can be opened")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Check::lack(
            NAME,
            format!("there is no {KVM}"),
            "modprobe kvm_amd (or kvm_intel); on a virtual machine: one with nested virtualisation; \
             in a container: --device /dev/kvm",
        ),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Check::lack(
            NAME,
            format!("{KVM} may not be opened by this user"),
            "usermod -aG kvm $USER and log in again; in a container also --device /dev/kvm",
        ),
        Err(error) => Check::lack(
            NAME,
            format!("{KVM} cannot be opened: {error}"),
            format!("make it a working device: rm {KVM}; mknod {KVM} c 10 232"),
        ),
    }
}

/// Whether the runtime gets its rings: asked of the runtime itself.
fn io_uring() -> Check {
    const NAME: &str = "io_uring";
    let setting = fs::read_to_string(IO_URING_DISABLED).unwrap_or_default();
    let started = LocalExecutorBuilder::new(Placement::Unbound)
        .name("doctor")
        .spawn(|| async {})
        .and_then(glommio::ExecutorJoinHandle::join);
    let Err(error) = started else {
        return Check::ok(NAME, "works");
    };
    let fix = match setting.trim() {
        "1" => "sysctl kernel.io_uring_disabled=0, or add this user to the group of \
                kernel.io_uring_group"
            .to_owned(),
        "2" => "sysctl kernel.io_uring_disabled=0".to_owned(),
        _ if is_lock_limit_low() => lock_fix(),
        "" => {
            "use Linux 5.8 or newer with CONFIG_IO_URING; in a container: ".to_owned()
                + CONTAINER_FIX
        }
        _ => CONTAINER_FIX.to_owned(),
    };
    Check::lack(NAME, format!("does not work: {error}"), fix)
}

fn lock_limit() -> Option<u64> {
    rustix::process::getrlimit(Resource::Memlock).current
}

fn is_lock_limit_low() -> bool {
    lock_limit().is_some_and(|bytes| bytes < RUNTIME_LOCKED_BYTES)
}

fn lock_fix() -> String {
    "ulimit -l unlimited; for a service LimitMEMLOCK=infinity; in a container --ulimit memlock=-1"
        .to_owned()
}

fn memory_lock() -> Check {
    const NAME: &str = "memory lock";
    let Some(bytes) = lock_limit() else { return Check::ok(NAME, "no limit") };
    let cores = available_cores().unwrap_or_default();
    let shards = Config::default().core_split(&cores).map_or(1, |split| split.shards.len());
    let wanted = SHARD_LOCKED_BYTES * u64::try_from(shards).unwrap_or(1);
    let finding = format!("limit {} KiB; {shards} shards lock {} KiB", bytes >> 10, wanted >> 10);
    if is_lock_limit_low() {
        return Check::lack(NAME, finding, lock_fix());
    }
    // Root is not held to it.
    if bytes < wanted && !rustix::process::geteuid().is_root() {
        return Check::note(NAME, finding, lock_fix());
    }
    Check::ok(NAME, finding)
}

fn cores() -> Check {
    const NAME: &str = "cores";
    let cores = match available_cores() {
        Ok(cores) => cores,
        Err(error) => {
            return Check::lack(NAME, error.to_string(), "mount /proc and allow sched_getaffinity");
        }
    };
    match Config::default().core_split(&cores) {
        Ok(split) if cores.len() > 1 => Check::ok(
            NAME,
            format!("{}: shards on {:?}, VMs on {:?}", cores.len(), split.shards, split.guests),
        ),
        Ok(_) => Check::note(
            NAME,
            "1: shard and VMs share it, so every hand-over waits for the scheduler",
            "give the node two cores or more (docker run --cpuset-cpus, systemd AllowedCPUs=)",
        ),
        Err(error) => Check::lack(NAME, error.to_string(), "let this process use a core (taskset)"),
    }
}

/// Whether the default state folder and socket can be made.
fn places() -> Check {
    const NAME: &str = "places";
    let (state, socket) = (default_state(), default_socket());
    let found = format!("state {}, socket {}", state.display(), socket.display());
    let closed: Vec<_> = [state.as_path(), socket.parent().unwrap_or(&socket)]
        .into_iter()
        .filter_map(|place| {
            let present = nearest(place);
            let is_open = rustix::fs::access(&present, Access::WRITE_OK | Access::EXEC_OK).is_ok();
            (!is_open).then(|| present.display().to_string())
        })
        .collect();
    if closed.is_empty() {
        return Check::ok(NAME, found);
    }
    Check::note(
        NAME,
        format!("{found}; not writable: {}", closed.join(", ")),
        "name others: pilotlight serve --state DIR --socket PATH",
    )
}

/// The folder itself, or the nearest one above it that is there.
fn nearest(place: &Path) -> PathBuf {
    let present = place.ancestors().find(|folder| folder.exists());
    present.unwrap_or(Path::new("/")).to_owned()
}
