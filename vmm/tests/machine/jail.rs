//! What is left to a VMM that a guest has taken over: nothing but its VM.

use crate::cell::{Answer, Cell, Shape};
use crate::{SNAPSHOT, ask, guest, vmm};
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Any user that is not root.
const USER: u32 = 61_234;

fn confined(user: u32) -> Cell {
    let cell = Cell::spawn(&vmm());
    cell.restore(&SNAPSHOT, None, Shape { user, ..Shape::default() }, 1);
    let answer = cell.answer();
    assert!(matches!(answer, Answer::Running(_)), "{answer:?}");
    assert_eq!(ask(&cell, guest::RING, 0), 1, "it works in there");
    cell
}

/// Whether a line of the status file has this value in every thread: the vCPU's, the control
/// thread, and one KVM may have started.
fn assert_all(cell: &Cell, key: &str, value: &str) {
    let tasks = fs::read_dir(format!("/proc/{}/task", cell.child.id())).expect("a process");
    let mut count = 0;
    for task in tasks {
        let path = task.expect("a thread").path().join("status");
        let status = fs::read_to_string(path).expect("a thread");
        let line = status.lines().find_map(|line| line.strip_prefix(key)).expect("a known key");
        assert_eq!(line.split_whitespace().collect::<Vec<_>>().join(" "), value, "{key} {status}");
        count += 1;
    }
    assert!((2..=3).contains(&count), "{count} threads");
}

fn namespace(process: &str, kind: &str) -> String {
    let link = fs::read_link(format!("/proc/{process}/ns/{kind}")).expect("a namespace");
    link.display().to_string()
}

#[test]
fn no_privilege_is_left_on_either_thread() {
    let cell = confined(USER);
    for (key, value) in [
        ("NoNewPrivs:", "1"),
        ("Seccomp:", "2"),
        ("CapInh:", "0000000000000000"),
        ("CapPrm:", "0000000000000000"),
        ("CapEff:", "0000000000000000"),
        ("CapBnd:", "0000000000000000"),
        ("CapAmb:", "0000000000000000"),
        ("Uid:", "61234 61234 61234 61234"),
        ("Gid:", "61234 61234 61234 61234"),
        ("Groups:", ""),
    ] {
        assert_all(&cell, key, value);
    }
}

#[test]
fn root_that_stays_root_has_no_capability() {
    let cell = confined(0);
    assert_all(&cell, "CapEff:", "0000000000000000");
    assert_all(&cell, "CapBnd:", "0000000000000000");
}

#[test]
fn file_system_and_network_are_empty() {
    let cell = confined(USER);
    let process = cell.child.id().to_string();
    assert_eq!(fs::read_dir(format!("/proc/{process}/root/")).unwrap().count(), 0);
    let mounts = fs::read_to_string(format!("/proc/{process}/mounts")).unwrap();
    // An initramfs cannot be unmounted, only covered.
    assert!(mounts.lines().all(|it| it.contains(" / tmpfs ro,") || it.contains(" / rootfs ")));
    let network = fs::read_to_string(format!("/proc/{process}/net/dev")).unwrap();
    assert!(network.lines().skip(2).all(|line| line.trim().starts_with("lo:")), "{network}");
    for kind in ["mnt", "net", "ipc", "uts", "cgroup"] {
        assert_ne!(namespace(&process, kind), namespace("self", kind), "{kind}");
    }
}

#[test]
fn descriptors_are_the_vm_and_its_wires() {
    let cell = confined(USER);
    let mut kinds: Vec<String> = fs::read_dir(format!("/proc/{}/fd", cell.child.id()))
        .unwrap()
        .map(|entry| fs::read_link(entry.unwrap().path()).unwrap().display().to_string())
        .map(|link| link.split(":0").next().unwrap_or_default().to_owned())
        .map(|link| link.split(':').take(2).collect::<Vec<_>>().join(":"))
        .map(|link| if link.ends_with("/pagemap") { "/proc/PID/pagemap".into() } else { link })
        .map(|link| if link.starts_with("socket") { "socket".into() } else { link })
        .collect();
    kinds.sort();
    kinds.dedup();
    let expected = [
        "/memfd:nowhere (deleted)",
        "/memfd:region (deleted)",
        "/memfd:snapshot (deleted)",
        "/proc/PID/pagemap",
        "anon_inode:[eventfd]",
        "anon_inode:[timerfd]",
        "anon_inode:kvm-vcpu",
        "anon_inode:kvm-vm",
        "socket",
    ];
    assert_eq!(kinds, expected);
}

#[test]
fn limits_leave_no_room_for_files_dumps_or_processes() {
    let cell = confined(USER);
    let limits = fs::read_to_string(format!("/proc/{}/limits", cell.child.id())).unwrap();
    for name in ["Max core file size", "Max file size", "Max processes", "Max locked memory"] {
        let line = limits.lines().find(|line| line.starts_with(name)).unwrap();
        let values: Vec<_> = line[name.len()..].split_whitespace().take(2).collect();
        assert_eq!(values, ["0", "0"], "{name}");
    }
}

#[test]
fn no_memory_is_writable_and_executable() {
    let cell = confined(USER);
    let maps = fs::read_to_string(format!("/proc/{}/maps", cell.child.id())).unwrap();
    let bad: Vec<_> = maps.lines().filter(|line| line.contains(" rwx")).collect();
    assert!(bad.is_empty(), "{bad:?}");
}

#[test]
fn without_root_a_user_namespace_does_the_same() {
    // By descriptor: the user may not be allowed to reach the directory it lies in.
    let file = fs::File::open(vmm()).unwrap();
    let mut command_line = Command::new(format!("/proc/self/fd/{}", file.as_raw_fd()));
    command_line.uid(USER).gid(USER);
    let cell = Cell::spawn_with(command_line);
    cell.restore(&SNAPSHOT, None, Shape::default(), 1);
    let answer = cell.answer();
    assert!(matches!(answer, Answer::Running(_)), "{answer:?}");
    assert_eq!(ask(&cell, guest::RING, 0), 1, "it works in there");
    assert_all(&cell, "CapEff:", "0000000000000000");
    assert_all(&cell, "Seccomp:", "2");
    assert_all(&cell, "NoNewPrivs:", "1");
    let process = cell.child.id().to_string();
    if namespace(&process, "user") != namespace("self", "user") {
        assert_eq!(fs::read_dir(format!("/proc/{process}/root/")).unwrap().count(), 0);
        assert_ne!(namespace(&process, "net"), namespace("self", "net"));
    }
}
