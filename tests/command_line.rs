//! The command end to end, as people use it: the built binary, a node of its own, real VMs. Needs
//! KVM and Debian's busybox-static.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::ops::Deref;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdin, Command, Output, Stdio};

use rustix::process::{Pid, Signal};
use serde_json::Value;

mod support;

use self::support::served::Served;

const BUSYBOX: &str = "/bin/busybox";
/// A shell script that ends only when it is ended.
const ENDLESS: &str = "echo begun; while :; do :; done";

/// A node, spoken to by the command.
struct Spoken(Served);

impl Deref for Spoken {
    type Target = Served;

    fn deref(&self) -> &Served {
        &self.0
    }
}

impl Spoken {
    fn start() -> Self {
        Self(Served::start())
    }

    /// One that has a shell as function `sh`: it runs what it reads.
    fn with_shell() -> Self {
        let served = Self::start();
        served.deploy("sh", &["--timeout", "60s", "--", "sh", "-s"]);
        served
    }

    /// Exit status, response and the rest of what the shell says when it runs `script`.
    fn shell(&self, script: &str) -> (Option<i32>, String, String) {
        told(&self.run("invoke", &["sh", "--payload", script]))
    }

    /// Starts a shell that reads its script from here, and waits until it has begun.
    fn begin(&self) -> Begun {
        let mut command = self.command("invoke", &["sh", "--payload", "-"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut begun = Begun {
            input: child.stdin.take().unwrap(),
            log: BufReader::new(child.stderr.take().unwrap()),
            child,
        };
        begun.log("begun");
        begun
    }

    fn signal(&self, signal: Signal) {
        send(&self.0.child, signal);
    }

    /// Waits for the node's end; its exit status.
    fn end(mut self) -> Option<i32> {
        self.0.child.wait().unwrap().code()
    }
}

/// An invoke that goes on as long as its input does.
struct Begun {
    input: ChildStdin,
    log: BufReader<ChildStderr>,
    child: Child,
}

impl Begun {
    /// Has the program log a word, and waits for it.
    fn log(&mut self, word: &str) {
        writeln!(self.input, "echo {word} >&2").unwrap();
        let mut line = String::new();
        self.log.read_line(&mut line).unwrap();
        assert_eq!(line.trim_end(), word, "while the input is still open");
    }

    /// Ends its input with these words: exit status, response, the rest of what it says. Whether
    /// anybody still takes them is another matter.
    fn end(mut self, last_words: &str) -> (Option<i32>, String, String) {
        drop(self.input.write_all(last_words.as_bytes()));
        drop(self.input);
        let mut rest = String::new();
        self.log.read_to_string(&mut rest).unwrap();
        let (status, response, _) = told(&self.child.wait_with_output().unwrap());
        (status, response, rest)
    }
}

fn send(child: &Child, signal: Signal) {
    rustix::process::kill_process(Pid::from_child(child), signal).unwrap();
}

fn told(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn pilotlight(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_pilotlight")).args(arguments).output().unwrap()
}

#[test]
fn response_log_and_status_come_back() {
    let node = Spoken::with_shell();
    let (status, response, rest) = node.shell("echo out; echo err >&2; exit 3");
    assert_eq!((status, response.as_str()), (Some(3), "out\n"), "{rest}");
    assert!(rest.starts_with("err\n"), "{rest}");
    assert!(rest.contains("exited with status 3") && rest.contains("warming pool"), "{rest}");
    let (status, _, rest) = node.shell("kill -SEGV $$");
    assert_eq!(status, Some(139), "{rest}");
    let (status, _, rest) = node.shell("kill -9 $$");
    assert_eq!(status, Some(137), "{rest}");
    assert!(rest.contains("active pool"), "the VM lives on: {rest}");
}

#[test]
fn a_deadline_is_124_whoever_sets_it() {
    let node = Spoken::with_shell();
    let (status, response, rest) =
        told(&node.run("invoke", &["sh", "--payload", ENDLESS, "--timeout", "300ms"]));
    assert_eq!((status, response.as_str()), (Some(124), "begun\n"), "{rest}");
    assert!(rest.contains("deadline exceeded"), "{rest}");
    node.deploy("short", &["--timeout", "300ms", "--", "sh", "-s"]);
    let longer = ["short", "--payload", ENDLESS, "--timeout", "10m"];
    let (status, _, rest) = told(&node.run("invoke", &longer));
    assert_eq!(status, Some(124), "an invoke gets no more than its function: {rest}");
}

#[test]
fn ctrl_c_cancels_and_the_answer_is_still_told() {
    let node = Spoken::with_shell();
    let mut begun = node.begin();
    send(&begun.child, Signal::INT);
    // Its input stays open: only the signal can have ended it.
    let mut rest = String::new();
    begun.log.read_to_string(&mut rest).unwrap();
    assert_eq!(begun.child.wait().unwrap().code(), Some(130), "{rest}");
    assert!(rest.contains("cancelled"), "{rest}");
    assert_eq!(node.json("status", &[])["outcomes"]["cancelled"], 1);
}

#[test]
fn standard_input_goes_in_and_the_response_out_as_they_come() {
    const BYTES: usize = 1 << 20;
    let node = Spoken::start();
    node.deploy("cat", &["--timeout", "60s", "--", "cat"]);
    let mut command = node.command("invoke", &["cat", "--payload", "-"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let (mut input, mut output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
    // Not text, and many frames.
    let bytes: Vec<u8> = (0..BYTES).map(|at| at.to_le_bytes()[1]).collect();
    let expected = bytes.clone();
    let (half, has_half) = std::sync::mpsc::channel();
    let writer = std::thread::spawn(move || {
        input.write_all(&bytes).unwrap();
        // Half of it came back while the input is open; what fills no frame waits for its end.
        has_half.recv().unwrap();
    });
    let mut back = vec![0; BYTES / 2];
    output.read_exact(&mut back).unwrap();
    half.send(()).unwrap();
    output.read_to_end(&mut back).unwrap();
    writer.join().unwrap();
    assert!(back == expected, "{} of {BYTES} bytes came back as they went", back.len());
    assert_eq!(child.wait().unwrap().code(), Some(0));

    let file = node.0.folder.path().join("body");
    fs::write(&file, "from a file").unwrap();
    let payload = format!("@{}", file.display());
    assert_eq!(told(&node.run("invoke", &["cat", "--payload", &payload])).1, "from a file");
}

#[test]
fn json_says_everything_once() {
    let node = Spoken::with_shell();
    let script = "printf '\\377'; echo line >&2; exit 4";
    let output = node.run("invoke", &["sh", "--json", "--payload", script]);
    assert_eq!(output.status.code(), Some(4));
    assert_eq!(told(&output).2, "", "nothing beside the object");
    let object: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(object["response_base64"], "/w==");
    assert_eq!((&object["status"], &object["exit_status"]), (&"exited".into(), &4.into()));
    assert_eq!((&object["pool"], &object["signal"]), (&"warming".into(), &Value::Null));
    assert_eq!(object["log"][0]["text"], "line");
    assert_eq!(object["log_account"]["produced"], 1);
    assert!(object["timings_nanos"]["run"].as_u64().unwrap() > 0);
    let object = node.json("invoke", &["sh", "--payload", "echo text"]);
    assert_eq!((&object["response"], &object["pool"]), (&"text\n".into(), &"active".into()));
}

#[test]
fn functions_are_listed_and_removed() {
    let node = Spoken::start();
    node.deploy("count", &["--memory", "64", "--env", "A=b=c", "--", "sh", "-c", "echo $A"]);
    node.deploy("other", &["--user", "ada", "--", "true"]);
    assert_eq!(told(&node.run("invoke", &["count"])).1, "b=c\n");
    let functions = node.json("list", &[]);
    let function = &functions["functions"][0];
    assert_eq!(functions["functions"].as_array().unwrap().len(), 1, "only the caller's own");
    assert_eq!((&function["name"], &function["memory_mib"]), (&"count".into(), &64.into()));
    assert_eq!(function["timeout_millis"], 3_000);
    assert_eq!(function["arguments"], serde_json::json!(["busybox", "sh", "-c", "echo $A"]));
    assert!(told(&node.run("list", &["--user", "ada"])).1.contains("other"));
    assert_eq!(node.run("remove", &["count"]).status.code(), Some(0));
    let (status, _, rest) = told(&node.run("invoke", &["count"]));
    assert_eq!(status, Some(125));
    assert!(rest.contains("no function count"), "{rest}");
    assert_eq!(node.run("remove", &["count"]).status.code(), Some(1));
}

#[test]
fn a_folder_with_a_bootstrap_is_a_program() {
    let node = Spoken::start();
    let folder = node.0.folder.path().join("cat");
    fs::create_dir(&folder).unwrap();
    fs::copy(BUSYBOX, folder.join("bootstrap")).unwrap();
    fs::write(folder.join("data"), "beside it").unwrap();
    let path = folder.to_str().unwrap();
    let deploy = ["in", "--program", path, "--", "/var/task/data"];
    let output = node.run("deploy", &deploy);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    // Busybox is what it is called, and a folder's program is called like the folder.
    let (status, response, rest) = told(&node.run("invoke", &["in"]));
    assert_eq!((status, response.as_str()), (Some(0), "beside it"), "{rest}");
}

#[test]
fn mistakes_are_told_with_what_to_do() {
    let node = Spoken::start();
    let own = std::env::current_exe().unwrap();
    let text = node.0.folder.path().join("text");
    fs::write(&text, "#!/bin/sh\n").unwrap();
    let empty = node.0.folder.path().join("empty");
    fs::create_dir(&empty).unwrap();
    let cases: [(&Path, &str); 4] = [
        (&own, "link it statically"),
        (&text, "with the script in a directory"),
        (&empty, "chmod +x"),
        (Path::new("/nowhere"), "cannot be read"),
    ];
    for (path, advice) in cases {
        let output = node.run("deploy", &["x", "--program", path.to_str().unwrap()]);
        let (status, _, rest) = told(&output);
        assert_eq!(status, Some(1), "{rest}");
        assert!(rest.contains(advice), "{rest}");
    }
    let invokes: [(&[&str], &str); 4] = [
        (&["nothing"], "`pilotlight deploy nothing --program PATH`"),
        (&["x", "--user", "a/b"], "is not a name"),
        (&["x", "--log-address", "127.0.0.1:9"], "add --log-protocol syslog-tls"),
        (&["x", "--log-protocol", "syslog-tcp"], "Add --log-address HOST:PORT"),
    ];
    for (arguments, advice) in invokes {
        let (status, _, rest) = told(&node.run("invoke", arguments));
        assert_eq!(status, Some(125), "{rest}");
        assert!(rest.contains(advice), "{rest}");
    }
    let (status, _, rest) = told(&pilotlight(&["invoke", "--socket", "/nowhere", "x"]));
    assert_eq!(status, Some(125));
    assert!(rest.contains("pilotlight serve"), "{rest}");
    let fault = pilotlight(&["status", "--socket", "/nowhere", "--json"]);
    let object: Value = serde_json::from_slice(&fault.stdout).unwrap();
    assert_eq!((fault.status.code(), &object["error"]["code"]), (Some(1), &"no-node".into()));
}

#[test]
fn a_node_that_is_still_starting_is_waited_for() {
    let mut node = Served::start();
    node.kill();
    let (status, _, rest) = told(&node.run("list", &["--wait", "50ms"]));
    assert_eq!(status, Some(1), "{rest}");
    assert!(rest.contains("no-node"), "{rest}");
    let mut early = node.command("list", &["--wait", "60s"]).spawn().unwrap();
    node.start_again();
    assert_eq!(early.wait().unwrap().code(), Some(0));
}

#[test]
fn status_counts_what_happened() {
    let node = Spoken::with_shell();
    // Busybox's shell starts a process for this; the guest has no way to.
    node.shell("/bin/true; echo still here");
    let status = node.json("status", &[]);
    let counters = &status["counters"];
    for counter in ["invokes", "assigns", "acquires", "loads", "boots"] {
        assert_eq!(counters[counter], 1, "{counter}: {status:#}");
    }
    assert!(counters["restores"].as_u64().unwrap() > 0);
    assert!(counters["vm_exits"].as_u64().unwrap() > 0);
    assert_eq!(status["latency_nanos"]["total"]["count"], 1);
    assert_eq!(status["pools"]["assigned"], 1, "{status:#}");
    let vms = status["vms"].as_array().unwrap();
    let assigned = vms.iter().find(|vm| vm["state"] == "assigned").unwrap();
    assert_eq!((&assigned["containers"], &assigned["running"]), (&1.into(), &0.into()));
    assert!(assigned["key"].is_string() && assigned["pid"].is_number(), "{assigned}");
    for call in status["missing_syscalls"].as_array().unwrap() {
        assert!(call["name"].is_string() && call["count"].as_u64().unwrap() > 0, "{call}");
    }
    let (code, text, _) = told(&node.run("status", &[]));
    assert_eq!(code, Some(0));
    for word in ["boots 1", "restores", "vm exits", "missing", "assigned", "warm", "P99"] {
        assert!(text.contains(word), "no {word} in: {text}");
    }
}

#[test]
fn doctor_finds_this_host_fit() {
    let output = pilotlight(&["doctor", "--json"]);
    let object: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{object:#}");
    assert_eq!(object["can_run"], true);
    let checks = object["checks"].as_array().unwrap();
    let names: BTreeSet<_> = checks.iter().map(|check| check["name"].as_str().unwrap()).collect();
    for name in [
        "kvm",
        "io_uring",
        "memory lock",
        "cores",
        "cgroups",
        "flavour",
        "root image",
        "restore",
        "memory",
    ] {
        assert!(names.contains(name), "{name}: {object:#}");
    }
    assert!(checks.iter().all(|check| check["verdict"] == "ok" || check["fix"].is_string()));
    let isolation = match object["flavour"].as_str().unwrap() {
        "stock" => "vm+container",
        _ => "vm",
    };
    assert_eq!(object["isolation"], isolation);
    for key in ["eventfd_wake_up", "socket_round_trip", "io_uring_operation", "vm_restore"] {
        assert!(object["primitives_nanos"][key]["p50"].as_u64().unwrap() > 0, "{key}");
    }
}

#[test]
fn the_demo_shows_what_went_where() {
    let output = pilotlight(&["demo", "--json"]);
    let object: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{object:#}");
    let invokes = object["invokes"].as_array().unwrap();
    let users: Vec<_> = invokes.iter().map(|invoke| invoke["user"].as_str().unwrap()).collect();
    assert_eq!(users, ["ada", "ada", "bob"]);
    for invoke in invokes {
        let record = &invoke["records"][0];
        let user = invoke["user"].as_str().unwrap();
        assert_eq!(record["service"], user);
        assert_eq!(record["certificate"], format!("{user}.example"));
        assert!(record["record"].as_str().unwrap().contains(invoke["vm"].as_str().unwrap()));
    }
    assert_eq!(invokes[0]["vm"], invokes[1]["vm"]);
    assert_ne!(invokes[0]["vm"], invokes[2]["vm"]);
    for kind in ["first", "program", "stream"] {
        assert!(object["latency_nanos"][kind]["p99"].as_u64().unwrap() > 0);
    }
}

/// Device and inode of what each of a process' descriptors with such a name is.
fn descriptors(process: &Path, name: &str) -> BTreeSet<(u64, u64)> {
    let entries = fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
    let named = entries.filter(|entry| {
        fs::read_link(entry.path()).is_ok_and(|link| link.to_string_lossy().contains(name))
    });
    let identity = |entry: fs::DirEntry| fs::metadata(entry.path()).ok();
    named.filter_map(identity).map(|file| (file.dev(), file.ino())).collect()
}

#[test]
fn sigterm_drains_and_leaves_nothing() {
    let mut node = Spoken::with_shell();
    let mut begun = node.begin();
    let status = node.json("status", &[]);
    let vmms: Vec<_> =
        status["vms"].as_array().unwrap().iter().map(|vm| vm["pid"].clone()).collect();
    assert!(!vmms.is_empty());
    let pid = node.0.child.id();
    let memfds = descriptors(Path::new(&format!("/proc/{pid}")), "memfd:pilotlight");
    assert!(memfds.len() >= 3, "VMM, snapshot, root image: {memfds:?}");
    let cgroups = status["cgroups"].as_str().unwrap().to_owned();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let (socket, folder) = (node.0.socket(), node.0.folder.path().to_owned());

    node.signal(Signal::TERM);
    // It was heard when the socket is gone; what runs goes on.
    while socket.exists() {
        std::thread::yield_now();
    }
    begun.log("still here");
    let (status, response, rest) = begun.end("echo done; exit 5");
    assert_eq!((status, response.as_str()), (Some(5), "done\n"), "{rest}");
    assert_eq!(node.0.child.wait().unwrap().code(), Some(0));
    assert!(!socket.exists());
    let left: Vec<_> =
        fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["state"]);
    for vmm in vmms.iter().filter(|vmm| vmm.is_number()) {
        assert!(!Path::new(&format!("/proc/{vmm}")).exists(), "VMM {vmm} lives on");
    }
    for process in fs::read_dir("/proc").unwrap().flatten() {
        let held = descriptors(&process.path(), "memfd:pilotlight");
        assert!(held.is_disjoint(&memfds), "{:?} holds a memfd", process.path());
    }
    assert_eq!(fs::read_to_string("/proc/self/mountinfo").unwrap(), mounts);
    if let Some(path) = cgroups.split_whitespace().find(|word| word.starts_with("/sys/")) {
        assert!(!Path::new(path).exists(), "{path} is left");
    }
}

#[test]
fn a_second_signal_ends_at_once() {
    let node = Spoken::with_shell();
    let begun = node.begin();
    node.signal(Signal::TERM);
    // The first was heard when the socket is gone.
    while node.0.socket().exists() {
        std::thread::yield_now();
    }
    node.signal(Signal::TERM);
    assert_eq!(node.end(), Some(130));
    let (status, _, rest) = begun.end("");
    assert_eq!(status, Some(125), "{rest}");
}
