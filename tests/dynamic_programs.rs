//! Promise: dynamic programs of Debian run unmodified where the root image has their loader and
//! libraries, and start one another. Needs KVM.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use self::support::node::{TestNode, assert_success, invoke, package, text};

/// Of the host, which is a Debian: shells, tools and interpreters that link to several libraries.
const PROGRAMS: [&str; 10] = [
    "/bin/bash",
    "/bin/sh",
    "/usr/bin/tr",
    "/usr/bin/perl",
    "/usr/bin/sort",
    "/usr/bin/env",
    "/usr/bin/sha256sum",
    "/bin/ls",
    "/usr/bin/openssl",
    "/bin/sed",
];

/// What a program is linked with, its loader included, as `ldd` finds them.
fn libraries(program: &str) -> Vec<String> {
    let output = Command::new("ldd").arg(program).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let paths = text.split_whitespace().filter(|word| word.starts_with('/'));
    paths.map(ToOwned::to_owned).collect()
}

/// A root image of busybox, these programs and their libraries.
fn root_image(image: &Path) {
    let mut files: BTreeSet<String> = PROGRAMS.map(ToOwned::to_owned).into();
    files.extend(PROGRAMS.iter().flat_map(|program| libraries(program)));
    files.insert("/bin/busybox".to_owned());
    let relative = files.iter().map(|file| file.trim_start_matches('/'));
    let mut tar = Command::new("tar");
    tar.args(["--create", "--dereference", "--directory", "/", "--file"]).arg(image).args(relative);
    assert!(tar.status().unwrap().success());
}

const SCRIPTS: [&str; 9] = [
    "for i in {1..3}; do echo -n $i; done; echo; echo ${BASH_VERSINFO[0]}",
    "x=$(printf 'b\\na\\nc\\n' | sort -r | tr '\\n' ' '); echo \"<$x>\"",
    "perl -e 'print join(\",\", map { $_ ** 2 } 1..5), \"\\n\"; exit 3'; echo $?",
    "env -i A=b env | sed s/b/c/",
    "perl -e 'my $pid = fork; if (!$pid) { exit 7 } waitpid($pid, 0); print $? >> 8, \"\\n\"'",
    "echo hello | sha256sum; openssl dgst -sha512 <<< hello",
    "read x < <(echo from a process); echo $x; sort <(echo b) <(echo a)",
    "perl -e 'open(my $p, \"-|\", \"echo piped; exit 2\"); print <$p>; close $p; print $? >> 8, \"\\n\"'",
    "ls /nowhere; echo $?; (trap 'echo term' TERM; kill -TERM $BASHPID; echo on)",
];

#[test]
fn debian_s_dynamic_programs_do_what_they_do_on_the_host() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("root.tar");
    root_image(&image);
    let node = TestNode::with(|config| config.paths.root_image = Some(image.clone()));
    let mut client = node.client();
    // What is deployed is static; what it becomes is not.
    client.deploy(("ada", "bash"), &package("busybox", &["sh", "-c", "exec bash -s"])).unwrap();
    for script in SCRIPTS {
        let done = client.invoke(&invoke("ada", "bash", script.as_bytes())).unwrap();
        assert_success(&done);
        let theirs = Command::new("bash").args(["-c", script]).output().unwrap();
        assert_eq!(text(&done), String::from_utf8_lossy(&theirs.stdout), "{script}");
    }
}

#[test]
fn one_without_its_loader_is_told_so() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy("/usr/bin/env", folder.path().join("tool")).unwrap();
    std::fs::copy("/bin/busybox", folder.path().join("bootstrap")).unwrap();
    let mut package = pilotlight::client::Package::read(folder.path()).unwrap();
    let script = "/var/task/tool; echo $?";
    package.settings.argv0 = "busybox".to_owned();
    package.settings.arguments = vec!["sh".into(), "-c".into(), script.into()];
    let node = TestNode::new();
    let mut client = node.client();
    client.deploy(("ada", "tool"), &package).unwrap();
    let done = client.invoke(&invoke("ada", "tool", b"")).unwrap();
    // As on a Linux without it: the loader is what is not found.
    assert_eq!(text(&done), "127\n");
}
