//! Promise: every error has a stable code and says what to do; `docs/errors.md` has them all.
//! `UPDATE=1` writes it anew. Needs KVM, and root to be somebody else.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::fmt::Write as _;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use pilotlight::code::{Code, Turn};
use serde_json::Value;

use self::support::programs::program;
use self::support::served::Served;

const HEAD: &str = "\
# Errors

Every error has a code that does not change, and a text for people that says what to do. The command prints the code in
brackets behind the text, and with `--json` in `error.code`; clients of the socket get it in the ERROR frame
(`docs/protocol.md`), users of the library from `code()`. A refusal because of a limit names its key in the configuration \
(`docs/config.md`) and its value.

An invoke that ran has an outcome instead, whatever its program did: a crash, a deadline, too much memory are outcomes.

This page is made from `src/code.rs` by `UPDATE=1 cargo nextest run --test errors`.

| code | what happened | whose turn | next step |
|---|---|---|---|
";

/// A user id without a login.
const STRANGER: &str = "64321";

fn document() -> String {
    let mut text = HEAD.to_owned();
    for code in Code::ALL {
        let turn = match code.turn() {
            Turn::Client => "client",
            Turn::Again => "client, again",
            Turn::Operator => "operator",
            Turn::Nobody => "nobody",
        };
        let (meaning, next) = (code.meaning(), code.next_step());
        writeln!(text, "| `{code}` | {meaning} | {turn} | {next} |").unwrap();
    }
    text
}

#[test]
fn the_document_has_every_code() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/errors.md");
    let wanted = document();
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, &wanted).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap_or_default();
    assert!(found == wanted, "UPDATE=1 cargo nextest run --test errors writes it anew");
}

/// What a command said in failing: its code, the same in text and in JSON, and its text.
fn fault(mut command: Command) -> (Code, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let Output { status, stdout, stderr } = command.stdin(Stdio::null()).output().unwrap();
    let (out, said) = (text(&stdout), text(&stderr));
    assert!(!status.success(), "{out}{said}");
    let code = said.trim_end().rsplit_once(" [").and_then(|(_, code)| code.strip_suffix(']'));
    let code = code.and_then(Code::find).unwrap_or_else(|| panic!("no code in {said}"));
    // A command that reports in JSON says it there too.
    let json: Option<Value> = out.lines().last().and_then(|line| serde_json::from_str(line).ok());
    if let Some(error) = json.as_ref().and_then(|json| json.get("error")) {
        assert_eq!(code, error["code"].as_str().unwrap());
    }
    (code, said)
}

fn pilotlight(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pilotlight"));
    command.args(arguments);
    command
}

/// A command to this node.
fn asking(node: &Served, arguments: &[&str]) -> Command {
    let socket = node.socket();
    let mut command = pilotlight(&arguments[..1]);
    command.arg("--socket").arg(socket).args(&arguments[1..]);
    command
}

/// A program that nothing here can run, in a folder of its own.
fn file(folder: &Path, name: &str, bytes: &[u8]) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, bytes).unwrap();
    fs::set_permissions(&path, Permissions::from_mode(0o755)).unwrap();
    path
}

#[test]
fn asking_wrongly_is_told_with_a_code_and_a_next_step() {
    let node = Served::start();
    let folder = node.folder.path().to_owned();
    let (code, said) = fault(pilotlight(&["list", "--socket", "/nowhere/node.sock"]));
    assert_eq!(code, Code::NoNode);
    assert!(said.contains("pilotlight serve"), "{said}");

    let deploy = |path: &Path| {
        fault(asking(&node, &["deploy", "tool", "--program", path.to_str().unwrap()]))
    };
    // The test itself is a dynamic program.
    let (code, said) = deploy(&std::env::current_exe().unwrap());
    assert_eq!(code, Code::DynamicProgram, "{said}");
    assert!(said.contains("-static"), "{said}");
    let (code, said) = deploy(&file(&folder, "script", b"#!/bin/sh\necho\n"));
    assert_eq!(code, Code::Script, "{said}");
    assert!(said.contains("interpreter"), "{said}");
    let tree = folder.join("tree");
    fs::create_dir(&tree).unwrap();
    file(&tree, "bootstrap", b"#!/bin/sh\necho\n");
    assert_eq!(deploy(&tree).0, Code::Script, "in a directory too");
    assert_eq!(deploy(&file(&folder, "text", b"hello")).0, Code::BadPackage);

    let (code, said) = fault(asking(&node, &["invoke", "nothing"]));
    assert_eq!(code, Code::UnknownFunction);
    assert!(said.contains("pilotlight list") && said.contains("pilotlight deploy"), "{said}");
    let path = program("noop");
    let done = asking(&node, &["deploy", "noop", "--program", path.to_str().unwrap()]).output();
    assert!(done.unwrap().status.success());
    let body = file(&folder, "body", &vec![0; (6 << 20) + 1]);
    let payload = format!("@{}", body.display());
    let (code, said) = fault(asking(&node, &["invoke", "noop", "--payload", &payload]));
    assert_eq!(code, Code::TooLarge, "{said}");
    assert_eq!(fault(asking(&node, &["invoke", "a/b"])).0, Code::BadName);
    let (code, said) = fault(asking(
        &node,
        &["deploy", "big", "--memory", "100000", "--program", path.to_str().unwrap()],
    ));
    assert_eq!(code, Code::TooMuchMemory);
    assert!(said.contains("vm.ram_mib"), "{said}");
}

#[test]
fn another_user_is_told_who_could_help() {
    let node = Served::start();
    let as_stranger = |arguments: &[&str]| {
        let mut command = Command::new("setpriv");
        command.args(["--reuid", STRANGER, "--regid", STRANGER, "--clear-groups", "--"]);
        let asked = asking(&node, arguments);
        command.arg(asked.get_program()).args(asked.get_args());
        fault(command)
    };
    // The executable is the tests' own: it may be in a folder of root's.
    fs::set_permissions(node.folder.path(), Permissions::from_mode(0o755)).unwrap();
    let (code, said) = as_stranger(&["list"]);
    assert_eq!(code, Code::NoAccess, "{said}");
    fs::set_permissions(node.socket(), Permissions::from_mode(0o666)).unwrap();
    let (code, said) = as_stranger(&["list", "--user", "ada"]);
    assert_eq!(code, Code::NotAllowed, "{said}");
    assert!(said.contains("uid-64321") && said.contains("operator"), "{said}");
}

#[test]
fn a_node_that_cannot_start_says_why() {
    let node = Served::start();
    let folder = tempfile::tempdir().unwrap();
    let (socket, state) = (folder.path().join("node.sock"), folder.path().join("state"));
    let serve = |socket: &Path, state: &Path| {
        let mut command = pilotlight(&["serve"]);
        command.arg("--socket").arg(socket).arg("--state").arg(state);
        command
    };
    assert_eq!(fault(serve(&node.socket(), &state)).0, Code::SocketInUse);
    assert_eq!(fault(serve(&socket, &node.state())).0, Code::StateInUse);
    let config = file(folder.path(), "node.toml", b"[pools]\nwarm_tagret = 1\n");
    let mut command = serve(&socket, &state);
    command.arg("--config").arg(&config);
    assert_eq!(fault(command).0, Code::BadConfiguration);
    // As on a machine without it.
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", "mount -t tmpfs none /dev && exec \"$@\"", "sh"]);
    let asked = serve(&socket, &state);
    command.arg(asked.get_program()).args(asked.get_args());
    let (code, said) = fault(command);
    assert_eq!(code, Code::NoKvm, "{said}");
    assert!(said.contains("kvm_amd"), "{said}");
}
