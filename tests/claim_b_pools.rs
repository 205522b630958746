//! Claim b: many VMs on the hardware, in a warming pool (unassigned, software components loaded)
//! and an active pool (assigned to users), each restored from one snapshot. Needs KVM.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use pilotlight::client::Package;
use pilotlight::socket::settings::PackageForm;

use self::support::node::{TestNode, package, run, text, wait_for_status};

const WARM: u32 = 8;

#[test]
fn claim_b_every_vm_of_both_pools_was_restored() {
    let node = TestNode::with(|config| {
        config.pools.warm_target = WARM;
        config.pools.warm_max = WARM;
    });
    let mut client = node.warm_client();
    let status = client.status().unwrap();
    assert_eq!(status["counters"]["boots"], 1);
    assert_eq!(status["counters"]["restores"], WARM);
    assert_eq!(status["pools"]["assigned"], 0);
    let processes = processes(&status);
    assert_eq!(processes.len(), WARM as usize, "a process for each: {status:#}");
    assert!(processes.iter().all(|pid| Path::new(&format!("/proc/{pid}")).exists()));

    for user in ["ada", "grace", "lin"] {
        client.deploy((user, "noop"), &package("noop", &[])).unwrap();
        run(&mut client, user, "noop", b"");
    }
    // What left the warming pool for the active pool is made up for, by restores alone.
    let status = wait_for_status(&mut client, "three VMs for users, eight warm ones", |status| {
        status["pools"]["assigned"] == 3 && status["pools"]["warm"] == WARM
    });
    assert_eq!(status["counters"]["boots"], 1);
    assert_eq!(status["counters"]["restores"], WARM + 3);
    assert_eq!(status["vms"].as_array().unwrap().len(), WARM as usize + 3);
}

fn processes(status: &serde_json::Value) -> HashSet<u64> {
    let vms = status["vms"].as_array().unwrap().iter();
    vms.map(|vm| vm["pid"].as_u64().unwrap()).collect()
}

/// A package that holds nothing but a link into the component image.
fn linked(name: &str, target: &str, arguments: &[&str]) -> Package {
    let folder = tempfile::tempdir().unwrap();
    symlink("/bin/busybox", folder.path().join("bootstrap")).unwrap();
    symlink(target, folder.path().join(name)).unwrap();
    let mut package = Package::read(folder.path()).unwrap();
    assert_eq!(package.settings.package, PackageForm::Tar);
    // The base name of the entry is what busybox takes for the program it is to be.
    package.settings.entry = name.to_owned();
    package.settings.argv0 = String::new();
    package.settings.arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
    package.settings.timeout_millis = 60_000;
    package
}

#[test]
fn claim_b_a_program_runs_from_the_component_image() {
    const FILES: [&str; 2] = ["/bin/busybox", "/etc/ssl/certs/ca-certificates.crt"];
    let node = TestNode::new();
    let mut client = node.warm_client();
    let package = linked("sha256sum", "/bin/busybox", &FILES);
    let deployed = client.deploy(("ada", "sum"), &package).unwrap();
    let busybox = fs::read(FILES[0]).unwrap();
    assert!(deployed.package_bytes < 16 * 1024 && busybox.len() > 500 * 1024, "no code in there");
    let inside = text(&run(&mut client, "ada", "sum", b""));
    let host = Command::new(FILES[0]).arg("sha256sum").args(FILES).output().unwrap();
    assert_eq!(inside, String::from_utf8(host.stdout).unwrap());

    // The file that ran is the image's, through every link on the way.
    let package = linked("readlink", "/usr/bin/readlink", &["/proc/self/exe"]);
    client.deploy(("ada", "self"), &package).unwrap();
    assert_eq!(text(&run(&mut client, "ada", "self", b"")), "/bin/busybox\n");
}

#[test]
fn claim_b_no_program_changes_the_component_image() {
    const HOSTS: &str = "/etc/hosts";
    let node = TestNode::new();
    let mut client = node.client();
    client.deploy(("ada", "cat"), &package("busybox", &["cat", HOSTS])).unwrap();
    client.deploy(("ada", "tee"), &package("busybox", &["tee", HOSTS])).unwrap();
    let before = run(&mut client, "ada", "cat", b"");
    assert!(text(&before).contains("localhost"));
    run(&mut client, "ada", "tee", b"10.0.0.1 elsewhere\n");
    assert_eq!(text(&run(&mut client, "ada", "cat", b"")), text(&before), "its layer is gone");
}
