//! Promise: what a node was told to keep is kept, or refused: whenever it is killed, and when the disk
//! is full. Needs KVM, root (to mount a small disk) and Debian's strace.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use pilotlight::client::{Client, ClientError, Package};

use self::support::node::{TestNode, invoke, package, text};
use self::support::served::Served;

/// System calls by which a deploy changes anything: files, the database, and messages to shards.
const CHANGES: [&str; 10] = [
    "openat",
    "write",
    "pwrite64",
    "fsync",
    "fdatasync",
    "rename",
    "mkdir",
    "unlink",
    "ftruncate",
    "fallocate",
];

/// A program that says which round it is of, in a package like no other round's.
fn of_round(round: u32) -> Package {
    let mut package = package("env", &[]);
    package.settings.environment = vec![("ROUND".to_owned(), round.to_string())];
    // Behind what the ELF file says it is.
    package.bytes.extend(round.to_le_bytes());
    package
}

/// Makes the node die right before its librarian's `number`th `call` from now on.
fn kill_at(node: &Served, call: &str, number: u32) -> Child {
    let tasks = fs::read_dir(format!("/proc/{}/task", node.child.id())).unwrap();
    let librarian = tasks.map(|task| task.unwrap().path()).find(|task| {
        fs::read_to_string(task.join("comm")).is_ok_and(|name| name.trim() == "librarian")
    });
    let librarian = librarian.unwrap();
    let mut command = Command::new("strace");
    command.arg("-p").arg(librarian.file_name().unwrap());
    command.args(["-o", "/dev/null", "-e", &format!("trace={call}")]);
    command.args(["-e", &format!("inject={call}:signal=KILL:when={number}")]);
    let mut strace = command.stderr(Stdio::piped()).spawn().expect("strace is installed");
    let mut said = BufReader::new(strace.stderr.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).unwrap();
    assert!(line.contains("attached"), "{line}");
    strace
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { found.extend(files(&path)) } else { found.push(path) }
    }
    found
}

/// The round of the program that is there, which runs.
fn round_of(node: &Served) -> u32 {
    let mut client = node.client();
    let functions = client.list("ada").unwrap();
    let said = text(&client.invoke(&invoke("ada", "tool", b"")).unwrap());
    let round = said.lines().find_map(|line| line.strip_prefix("ROUND=")).unwrap();
    assert_eq!(functions.len(), 1);
    assert_eq!(functions[0].environment[0].1, round, "what runs is what is listed");
    round.parse().unwrap()
}

#[test]
fn a_node_killed_at_any_point_of_a_deploy_has_the_old_function_or_the_new_one() {
    let mut node = Served::start();
    node.client().deploy(("ada", "tool"), &of_round(0)).unwrap();
    let (mut round, mut now) = (0, 0);
    let (mut kept, mut replaced) = (0, 0);
    for call in CHANGES {
        for number in 1.. {
            round += 1;
            let mut strace = kill_at(&node, call, number);
            let answer = node.client().deploy(("ada", "tool"), &of_round(round));
            if answer.is_ok() {
                drop(strace.kill());
            }
            strace.wait().unwrap();
            // What comes behind the answer may have killed it too, and dying takes a while.
            let lives = || Client::connect(&node.socket()).is_ok_and(|mut it| it.status().is_ok());
            if answer.is_ok() && lives() {
                now = round_of(&node);
                assert_eq!(now, round);
                break;
            }
            node.start_again();
            let before = std::mem::replace(&mut now, round_of(&node));
            assert!(now == round || now == before && answer.is_err(), "{before}, {round}: {now}");
            if now == before {
                kept += 1
            } else {
                replaced += 1
            }
            assert!(files(&node.state().join("incoming")).is_empty());
            assert_eq!(files(&node.state().join("sha256")).len(), 1, "the other package is gone");
        }
    }
    eprintln!(
        "killed {} times: {kept} times the old one is left, {replaced} the new",
        kept + replaced
    );
    assert!(kept >= 8 && replaced >= 1);
}

/// A file system of a few MiB, for as long as it lives.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mounted_at(path: PathBuf, mib: u32) -> Self {
        let size = format!("size={mib}m");
        let mut command = Command::new("mount");
        command.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(&path);
        assert!(command.status().unwrap().success(), "mounting needs root");
        Self(path)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("--lazy").arg(&self.0).status());
    }
}

fn is_refused(answer: Result<impl Sized, ClientError>) -> Option<String> {
    match answer {
        Ok(_) => None,
        Err(error) => {
            assert_eq!(error.code(), "store-failed", "{error}");
            Some(error.to_string())
        }
    }
}

#[test]
fn a_full_disk_refuses_the_deploy_and_damages_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let disk = SmallDisk::mounted_at(folder.path().to_owned(), 8);
    let mut node = TestNode::with(|config| config.paths.state = disk.0.join("state"));
    let mut client = node.client();
    let run =
        |client: &mut Client, name: &str| text(&client.invoke(&invoke("ada", name, b"")).unwrap());
    client.deploy(("ada", "first"), &of_round(0)).unwrap();
    // Some room for a package is left, and none for what comes behind it, in the end.
    let filler = disk.0.join("filler");
    let mut refusals = 0;
    for kib in (0..8 * 1024).step_by(16).rev() {
        let Ok(()) = fs::write(&filler, vec![0; kib * 1024]) else { continue };
        let refused = is_refused(client.deploy(("ada", "second"), &of_round(1)));
        let Some(message) = refused else { break };
        refusals += 1;
        assert!(message.contains("room"), "{message}");
        assert!(run(&mut client, "first").contains("ROUND=0"), "it still runs");
        assert_eq!(client.list("ada").unwrap().len(), 1);
    }
    eprintln!("refused {refusals} times, with more room each time");
    assert!(refusals > 2);
    assert!(run(&mut client, "second").contains("ROUND=1"), "with room it is taken");
    drop(client);
    node.restart();
    let mut client = node.client();
    assert!(run(&mut client, "first").contains("ROUND=0"));
    assert!(run(&mut client, "second").contains("ROUND=1"));
    // Others have filled it; who makes room for themselves can.
    let full = fs::File::create(&filler).unwrap();
    let chunk = vec![0; 64 * 1024];
    while (&full).write_all(&chunk).is_ok() {}
    client.remove("ada", "second").unwrap();
    assert_eq!(client.list("ada").unwrap().len(), 1);
    drop(client);
    node.stop();
}
