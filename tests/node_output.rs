//! Promises: a node tells its operator what happens, in lines a program can read; what reads them, or
//! does not, holds up nobody.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write, pipe};
use std::path::Path;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use self::support::node::{PATIENCE, wait_until};
use self::support::rsyslog::Rsyslog;
use self::support::served::Served;

/// The lines written so far; each has a time, a level and a message.
fn lines(file: &Path) -> Vec<Value> {
    let text = fs::read_to_string(file).unwrap();
    let lines = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
    let lines = lines.map(|line| {
        let object: Value =
            serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"));
        let time = object["timestamp"].as_str().unwrap();
        assert!(time.ends_with('Z') && humantime::parse_rfc3339(time).is_ok(), "{line}");
        assert!(object["level"].is_string() && object["message"].is_string(), "{line}");
        object
    });
    lines.collect()
}

/// The first line with this message, once it is there.
fn wait_for_line(file: &Path, message: &str) -> Value {
    let mut found = None;
    wait_until(&format!("{message:?} among the node's lines"), || {
        found = lines(file).into_iter().find(|line| line["message"] == message);
        found.is_some()
    });
    found.unwrap()
}

/// Has the shell log a word and then kills its VM: what the command says of that.
fn lose_invoke(node: &Served, arguments: &[&str]) -> String {
    let mut invoke = node.command("invoke", &["sh", "--payload", "-"]);
    invoke.args(arguments);
    invoke.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut invoke = invoke.spawn().unwrap();
    let mut said = BufReader::new(invoke.stderr.take().unwrap());
    let mut input = invoke.stdin.take().unwrap();
    input.write_all(b"echo begun >&2\n").unwrap();
    said.read_line(&mut String::new()).unwrap();
    let status = node.json("status", &[]);
    let vms = status["vms"].as_array().unwrap();
    let vm = vms.iter().find(|vm| vm["running"] == 1).unwrap();
    let pid = i32::try_from(vm["pid"].as_i64().unwrap()).unwrap();
    kill_process(Pid::from_raw(pid).unwrap(), Signal::KILL).unwrap();
    assert_eq!(invoke.wait().unwrap().code(), Some(125));
    let mut rest = String::new();
    said.read_to_string(&mut rest).unwrap();
    rest
}

#[test]
fn what_happens_is_told_as_json() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lines");
    let mut node = Served::start_with(&["--log-format", "json"], File::create(&file).unwrap());
    let ready = wait_for_line(&file, "ready");
    assert_eq!(ready["socket"], node.socket().display().to_string());
    let booted = wait_for_line(&file, "guest booted, base snapshot captured");
    assert!(booted["snapshot_bytes"].as_u64().unwrap() > 0, "{booted}");

    node.deploy("sh", &["--user", "ada", "--timeout", "60s", "--", "sh", "-s"]);
    let deployed = wait_for_line(&file, "function deployed");
    assert_eq!((&deployed["user"], &deployed["function"]), (&"ada".into(), &"sh".into()));
    let captured = wait_for_line(&file, "function snapshot captured");
    assert_eq!((&captured["user"], &captured["function"]), (&"ada".into(), &"sh".into()));

    let rest = lose_invoke(&node, &["--user", "ada"]);
    let (lost, ended) = (wait_for_line(&file, "invoke lost"), wait_for_line(&file, "VM lost"));
    assert_eq!((&lost["level"], &ended["level"]), (&"WARN".into(), &"WARN".into()));
    assert_eq!((&lost["vm"], &lost["code"]), (&ended["vm"], &"vm-lost".into()), "{lost} {ended}");
    assert_eq!((&lost["user"], &lost["function"]), (&"ada".into(), &"sh".into()));
    assert!(rest.contains(lost["invoke"].as_str().unwrap()), "{rest} {lost}");

    assert!(node.run("remove", &["sh", "--user", "ada"]).status.success());
    wait_for_line(&file, "function removed");
    node.stop();
    let retired = wait_for_line(&file, "VM retired");
    assert!(retired["vm"].is_string() && retired["why"].is_string(), "{retired}");
    let told: Vec<_> = lines(&file).iter().map(|line| line["message"].clone()).collect();
    assert_eq!((&told[0], told.last().unwrap()), (&"starting".into(), &"stopped".into()));
}

#[test]
fn an_invoke_has_one_name_in_its_answer_its_log_and_the_nodes_lines() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lines");
    let rsyslog = Rsyslog::tcp();
    let node = Served::start_with(&["--log-format", "json"], File::create(&file).unwrap());
    node.deploy("sh", &["--timeout", "60s", "--", "sh", "-s"]);
    let address = rsyslog.address().to_string();
    let service = ["--log-address", &address, "--log-protocol", "syslog-tcp"];

    let well = [&["sh", "--payload", "echo one >&2"], service.as_slice()].concat();
    let object = node.json("invoke", &well);
    assert_eq!(rsyslog.wait_for_records(1)[0].process_id, object["invoke"]);
    let text = String::from_utf8(node.run("invoke", &well).stderr).unwrap();
    let id = rsyslog.wait_for_records(2)[1].process_id.clone();
    assert!(id != object["invoke"] && text.contains(&format!("; invoke {id}, vm-")), "{text}");

    let rest = lose_invoke(&node, &service);
    let id = rsyslog.wait_for_records(3)[2].process_id.clone();
    assert!(rest.contains(&format!("(invoke {id})")), "{rest} is not of {id}");
    assert_eq!(wait_for_line(&file, "invoke lost")["invoke"], id);
}

#[test]
fn a_client_that_breaks_the_protocol_is_told_of_at_a_pace() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("lines");
    let node = Served::start_with(&[], File::create(&file).unwrap());
    for _ in 0..200 {
        let mut stream = std::os::unix::net::UnixStream::connect(node.socket()).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        stream.read_to_end(&mut Vec::new()).unwrap();
    }
    let refusals = || {
        let text = fs::read_to_string(&file).unwrap();
        text.lines().filter(|line| line.contains("client refused")).count()
    };
    wait_until("a refused client among the lines", || refusals() > 0);
    let text = fs::read_to_string(&file).unwrap();
    assert!(
        text.contains(" WARN client refused why=\"") && text.contains("broke the protocol"),
        "{text}"
    );
    let ready = format!(" INFO ready socket={:?} flavour=\"", node.socket());
    assert!(text.contains(&ready), "words are in quotes: {text}");
    assert!(refusals() < 100, "{text}");
}

#[test]
fn a_standard_error_that_nobody_reads_holds_up_nobody() {
    const PIPE_BYTES: usize = 4096;
    let (reader, writer) = pipe().unwrap();
    rustix::pipe::fcntl_setpipe_size(&writer, PIPE_BYTES).unwrap();
    let mut node = Served::start_with(&[], writer);
    // Each says so in a line of some hundred bytes.
    for round in 0..PIPE_BYTES / 100 {
        node.deploy("true", &["--", "true", &round.to_string()]);
    }
    let waiting = rustix::io::ioctl_fionread(&reader).unwrap();
    assert!(waiting > PIPE_BYTES as u64 * 3 / 4, "no room for another line: {waiting}");
    let begun = std::time::SystemTime::now();
    assert!(node.run("invoke", &["true"]).status.success());
    node.stop();
    assert!(begun.elapsed().unwrap() < PATIENCE);
}
