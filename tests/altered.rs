//! What a node is made of, altered: before it is verified that is told, afterwards nobody can.
//! Packages in the store: `tests/claim_a_code_store.rs`; snapshots that a VMM is given:
//! `vmm/tests/machine/restore.rs`. Needs KVM.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::fs::{SealFlags, fcntl_get_seals, ftruncate};
use rustix::io::{Errno, pwrite};
use support::node::{package, run, text, wait_for_status};
use support::programs::program;
use support::served::Served;

/// A configuration in which only what a user's first invoke takes is made.
const CONFIG: &str = "[pools]\nwarm_target = 2\n";
/// The node's copies of what it has verified, by the names it gives them.
const VERIFIED: [&str; 4] =
    ["pilotlight-root", "pilotlight-snapshot", "pilotlight-package", "pilotlight-function"];

/// The memory files of a process that have one of these names: where they can be opened.
fn memory_files(process: u32) -> BTreeMap<String, PathBuf> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{process}/fd")).unwrap() {
        let path = entry.unwrap().path();
        // One that was closed meanwhile is none.
        let Ok(target) = fs::read_link(&path) else { continue };
        let name = target.to_string_lossy().replace("/memfd:", "").replace(" (deleted)", "");
        if VERIFIED.contains(&name.as_str()) {
            found.insert(name, path);
        }
    }
    found
}

/// Tries to change a file in every way there is; root may open any.
fn try_to_alter(path: &Path) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let before = fs::read(path).unwrap();
    // The seal forbids shared mappings for writing too.
    let seals = fcntl_get_seals(&file).unwrap();
    assert!(seals.contains(SealFlags::SEAL | SealFlags::WRITE), "{path:?}: {seals:?}");
    assert_eq!(pwrite(&file, b"x", 0), Err(Errno::PERM), "{path:?}");
    assert_eq!(ftruncate(&file, 0), Err(Errno::PERM), "{path:?}");
    assert_eq!(ftruncate(&file, before.len() as u64 + 4096), Err(Errno::PERM), "{path:?}");
    assert!(fs::read(path).unwrap() == before, "{path:?}");
}

/// `pilotlight serve` with this in its configuration, which is to refuse to start: what it says.
fn refuses_to_start(paths: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("node.toml");
    fs::write(&config, format!("[paths]\n{paths}\n")).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_pilotlight"));
    command.arg("serve").arg("--state").arg(folder.path().join("state"));
    command.arg("--socket").arg(folder.path().join("node.sock"));
    let output = command.arg("--config").arg(config).stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

#[test]
fn nobody_alters_what_was_verified() {
    let node = Served::configured(CONFIG);
    let mut client = node.client();
    client.deploy(("ada", "cat"), &package("busybox", &["cat"])).unwrap();
    wait_for_status(&mut client, "the function's snapshot", |status| {
        status["snapshots"]["made"].as_u64().is_some_and(|made| made > 0)
    });
    let first = run(&mut client, "ada", "cat", b"one");
    let verified = memory_files(node.child.id());
    let names: Vec<_> = verified.keys().map(String::as_str).collect();
    let mut expected = VERIFIED;
    expected.sort_unstable();
    assert_eq!(names, expected);
    verified.values().for_each(|path| try_to_alter(path));
    // The VM that is there, and those that are restored from it now, are as they were.
    let again = run(&mut client, "ada", "cat", b"two");
    assert_eq!((again.outcome.vm, text(&again).as_str()), (first.outcome.vm, "two"));
    client.deploy(("bob", "cat"), &package("busybox", &["cat"])).unwrap();
    assert_eq!(text(&run(&mut client, "bob", "cat", b"three")), "three");
}

#[test]
fn an_image_or_kernel_that_is_altered_while_the_node_runs_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (kernel, image) = (folder.path().join("kernel"), folder.path().join("root.tar"));
    fs::copy(program("hostile-guest"), &kernel).unwrap();
    let tree = folder.path().join("tree");
    fs::create_dir_all(tree.join("etc")).unwrap();
    fs::write(tree.join("etc/motto"), "as it was").unwrap();
    let tar = |image: &Path| {
        let mut command = Command::new("tar");
        command.arg("-C").arg(&tree).arg("-cf").arg(image).arg("etc");
        assert!(command.status().unwrap().success());
    };
    tar(&image);
    let node = Served::configured(&format!(
        "{CONFIG}[paths]\nkernel = {kernel:?}\nroot_image = {image:?}\n"
    ));
    let mut client = node.client();
    fs::write(tree.join("etc/motto"), "as it is not").unwrap();
    // In place, as whoever has it open would see it.
    let other = folder.path().join("other.tar");
    tar(&other);
    fs::write(&image, fs::read(&other).unwrap()).unwrap();
    fs::write(&kernel, vec![0; 4096]).unwrap();
    for user in ["ada", "bob", "eve"] {
        let shown = package("busybox", &["cat", "/etc/motto"]);
        client.deploy((user, "motto"), &shown).unwrap();
        assert_eq!(text(&run(&mut client, user, "motto", b"")), "as it was");
    }
}

#[test]
fn an_image_or_kernel_that_is_none_is_told_before_anybody_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    let whole = fs::read(program("hostile-guest")).unwrap();
    let mut no_elf = whole.clone();
    no_elf[1] ^= 1;
    // Its first segment reaches behind the end of the file, or behind the RAM there is.
    let mut absurd = whole.clone();
    absurd[64 + 32..64 + 40].fill(0xff);
    for bytes in [&b""[..], b"no kernel", &whole[..whole.len() / 2], &no_elf, &absurd] {
        fs::write(&file, bytes).unwrap();
        let said = refuses_to_start(&format!("kernel = {file:?}"));
        assert!(said.contains("did not boot") && said.contains("paths.kernel"), "{said}");
        assert!(said.contains(&file.display().to_string()), "{said}");
    }
    let noise: Vec<u8> =
        (0..8192_u32).map(|at| (at.wrapping_mul(0x9e37_79b9) >> 24) as u8).collect();
    for bytes in [&b""[..], &noise] {
        fs::write(&file, bytes).unwrap();
        let said = refuses_to_start(&format!("root_image = {file:?}"));
        assert!(
            said.contains("root image") && said.contains(&file.display().to_string()),
            "{said}"
        );
    }
    let said = refuses_to_start(&format!("root_image = {:?}", folder.path().join("missing")));
    assert!(said.contains("missing: No such file"), "{said}");
}
