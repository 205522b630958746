//! Promise: a node runs as an ordinary user who may open `/dev/kvm`, with nothing of root's. Needs KVM,
//! and root, to become that user and to give it a `/dev/kvm`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use pilotlight::client::Client;
use serde_json::Value;

use self::support::node::{assert_success, invoke, package, text, wait_for_status};

/// A user id without a login, and its group.
const UID: &str = "64321";

/// Gives a folder's `kvm` the place of `/dev/kvm`, for this process and what it becomes, and becomes
/// the user, without a capability.
const BECOME: &str = "mount --bind \"$1/kvm\" /dev/kvm && shift && \
    exec setpriv --reuid \"$1\" --regid \"$1\" --clear-groups --inh-caps=-all --bounding-set=-all \
        --no-new-privs -- \"${@:2}\"";

fn as_user(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "bash", "-c", BECOME, "bash"]).arg(folder).arg(UID);
    command.arg(folder.join("pilotlight")).args(arguments);
    command.env("HOME", folder.join("home")).env_remove("XDG_RUNTIME_DIR");
    command.env_remove("XDG_STATE_HOME");
    command
}

/// What the user finds: an executable, a home and a KVM device.
fn prepare() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
    fs::copy(env!("CARGO_BIN_EXE_pilotlight"), path.join("pilotlight")).unwrap();
    let run = |program: &str, arguments: &[&str]| {
        let status = Command::new(program).args(arguments).current_dir(path).status().unwrap();
        assert!(status.success(), "{program} {arguments:?}: needs root");
    };
    run("mknod", &["-m", "666", "kvm", "c", "10", "232"]);
    fs::create_dir(path.join("home")).unwrap();
    run("chown", &[&format!("{UID}:{UID}"), "home"]);
    folder
}

/// Lines of `/proc/PID/status` by name.
fn fact(pid: u32, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim_start_matches(':').trim().to_owned()
}

/// A node that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn a_node_of_an_ordinary_user_does_the_whole_job() {
    let folder = prepare();
    let doctor = as_user(folder.path(), &["doctor", "--json"]).output().unwrap();
    let found: Value = serde_json::from_slice(&doctor.stdout).unwrap();
    assert!(doctor.status.success(), "{found:#}");
    let checks = found["checks"].as_array().unwrap();
    let user = checks.iter().find(|check| check["name"] == "user").unwrap();
    assert!(user["finding"].as_str().unwrap().contains("root adds"), "{user:#}");

    let socket = folder.path().join("home/node.sock");
    let state = folder.path().join("home/state");
    let mut command = as_user(folder.path(), &["serve"]);
    command.arg("--socket").arg(&socket).arg("--state").arg(&state);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut node = Running(child);
    let mut line = String::new();
    let mut output = BufReader::new(node.0.stdout.take().unwrap());
    output.read_line(&mut line).unwrap();
    if !line.contains("isolation vm") {
        output.read_to_string(&mut line).unwrap();
        panic!("it did not start: {line}");
    }
    // What runs is the node itself: each step before it became the next one.
    let pid = node.0.id();
    assert_eq!(fact(pid, "Uid").split_whitespace().next(), Some(UID));
    assert_eq!(fact(pid, "CapEff"), "0000000000000000");
    assert_eq!(fact(pid, "CapBnd"), "0000000000000000");

    let mut client = Client::connect(&socket).unwrap();
    client.deploy(("ada", "cat"), &package("busybox", &["cat"])).unwrap();
    let done = client.invoke(&invoke("ada", "cat", b"as anybody")).unwrap();
    assert_success(&done);
    assert_eq!(text(&done), "as anybody");
    let status = wait_for_status(&mut client, "warm VMs", |status| status["pools"]["warm"] != 0);
    for vm in status["vms"].as_array().unwrap() {
        let Some(pid) = vm["pid"].as_u64() else { continue };
        let pid = u32::try_from(pid).unwrap();
        assert_eq!(fact(pid, "NoNewPrivs"), "1");
        assert_eq!(fact(pid, "Seccomp"), "2");
        assert_eq!(fact(pid, "CapEff"), "0000000000000000");
    }
}
