//! Ordinary Linux programs do in a VM what they do on Linux. Each builds real programs, runs them
//! on this machine's KVM and looks at what they say, or compares it with the same program run on
//! the host. Needs KVM.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use pilotlight::client::{Client, ClientError, Completed, Package};
use pilotlight::invoke::Status;
use pilotlight::socket::request::{Invoke, OPTION_WANT_LOG};
use pilotlight::{Config, Node};
use tempfile::TempDir;

use self::support::programs::{lua_package, program};

/// For every program that does not say otherwise: long, because machines are shared.
const TIMEOUT_MILLIS: u64 = 60_000;

/// A node of its own for a test.
struct Machine {
    node: Option<Node>,
    client: Client,
    _state: TempDir,
}

impl Machine {
    fn start() -> Self {
        let state = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.paths.state = state.path().to_owned();
        let node = Node::start(config).unwrap();
        let client = node.client().unwrap();
        Self { node: Some(node), client, _state: state }
    }

    fn deploy(&mut self, function: &str, path: &Path, arguments: &[&str], timeout_millis: u64) {
        let mut package = Package::read(path).unwrap();
        package.settings.arguments = arguments.iter().map(ToString::to_string).collect();
        package.settings.timeout_millis = timeout_millis;
        self.client.deploy(("ada", function), &package).unwrap();
    }

    fn invoke(&mut self, function: &str, body: &[u8]) -> Result<Completed, ClientError> {
        let options = OPTION_WANT_LOG;
        let invoke =
            Invoke { user: "ada", function, options, timeout_nanos: 0, logging: None, body };
        self.client.invoke(&invoke)
    }

    /// Deploys and runs a program of `tests/programs`.
    fn run(&mut self, name: &str, arguments: &[&str], body: &[u8]) -> Completed {
        self.deploy(name, &program(name), arguments, TIMEOUT_MILLIS);
        self.invoke(name, body).unwrap()
    }

    /// A program that checks itself, step by step.
    fn check(&mut self, name: &str) {
        let done = self.run(name, &[], b"");
        let said = String::from_utf8_lossy(&done.response);
        let log: Vec<_> = done.log.iter().map(|line| String::from_utf8_lossy(&line.text)).collect();
        let is_well = done.outcome.status == Status::Exited && said.ends_with("all ok\n");
        assert!(is_well, "{name} said {said}{log:?} and ended: {:?}", done.outcome);
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(node) = self.node.take() {
            node.stop();
        }
    }
}

/// What a program says and how it exits, run on the host.
fn on_host(path: &Path, arguments: &[&str], body: &[u8]) -> (Vec<u8>, i32) {
    let mut child = Command::new(path)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    std::thread::scope(|scope| {
        // A program that has read enough closes the pipe.
        scope.spawn(move || input.write_all(body).ok());
        let output = child.wait_with_output().unwrap();
        (output.stdout, output.status.code().unwrap())
    })
}

#[test]
fn c_programs_find_linux_with_either_library() {
    let mut machine = Machine::start();
    for name in ["linux-abi", "linux-abi-glibc", "linux-abi-pie"] {
        machine.check(name);
    }
}

#[test]
fn processes_are_made_replaced_and_asked_for() {
    let mut machine = Machine::start();
    machine.check("processes");
    machine.check("processes-glibc");
    let (said, status) = on_host(&program("processes"), &[], b"");
    assert!(status == 0 && said.ends_with(b"all ok\n"), "Linux itself says the same");
}

#[test]
fn a_shell_runs_others() {
    let busybox = program("busybox");
    let mut machine = Machine::start();
    for script in [
        "echo hello | cat | tr a-z A-Z",
        "x=$(echo one; echo two); echo \"$x\" | while read n; do echo \"<$n>\"; done",
        "(exit 3); echo $?; sh -c 'kill -9 $$'; echo $?",
        "sleep 0.1 & wait $!; echo $?; { echo a; echo b >&2; } 2>&1 | sort -r",
        "seq 1 20000 | awk '{ s += $1 } END { print s }'; yes | head -n 3",
        "trap 'echo trapped' TERM; kill -TERM $$; echo behind",
        "find /proc/self/fd -name 0; cat <<END | wc -l\n1\n2\nEND",
        "i=0; while [ $i -lt 100 ]; do busybox true || echo no; i=$((i + 1)); done; echo $i",
        "echo kept > /tmp/f; (cd /; echo more >> /tmp/f); cat /tmp/f; rm /tmp/f; nothing-there",
    ] {
        let done = machine.run("busybox", &["sh", "-c", script], b"");
        let (said, status) = on_host(&busybox, &["sh", "-c", script], b"");
        let (ours, theirs) =
            (String::from_utf8_lossy(&done.response), String::from_utf8_lossy(&said));
        assert_eq!(ours, theirs, "{script} {:?}", done.log);
        assert_eq!(done.outcome.detail, u32::try_from(status).unwrap(), "{script}");
    }
}

/// A request is over when its first process is, and what that left behind with it.
#[test]
fn nothing_of_a_request_stays_behind() {
    let mut machine = Machine::start();
    let script = "yes > /dev/null & sleep 1000 & (trap '' TERM; while :; do :; done) & echo left";
    machine.deploy("busybox", &program("busybox"), &["sh", "-c", script], TIMEOUT_MILLIS);
    for _ in 0..5 {
        let done = machine.invoke("busybox", b"").unwrap();
        assert_eq!((&done.response[..], done.outcome.detail), (&b"left\n"[..], 0), "{done:?}");
    }
    machine.deploy("ps", &program("busybox"), &["sh", "-c", "jobs; wait; echo $?"], 5_000);
    let done = machine.invoke("ps", b"").unwrap();
    assert_eq!(done.response, b"0\n", "{done:?}");
    // Neither do the copies of a function that has initialised itself in processes.
    let script = "sleep 1000 & while read -r line; do echo \"$line\"; break; done";
    let mut package = Package::read(&program("busybox")).unwrap();
    package.settings.arguments = vec!["sh".into(), "-c".into(), script.into()];
    package.settings.freshness = pilotlight::invoke::Freshness::Fork;
    package.settings.timeout_millis = TIMEOUT_MILLIS;
    machine.client.deploy(("ada", "forked"), &package).unwrap();
    for _ in 0..3 {
        assert_eq!(machine.invoke("forked", b"line\n").unwrap().response, b"line\n");
    }
}

#[test]
fn threads_share_wait_and_end() {
    let mut machine = Machine::start();
    machine.check("threads");
    machine.check("threads-glibc");
}

#[test]
fn rust_and_cpp_programs_find_their_libraries_at_home() {
    let mut machine = Machine::start();
    for name in ["rust-probe", "rust-abi", "tokio-probe", "exceptions"] {
        machine.check(name);
    }
}

#[test]
fn a_database_keeps_its_promises() {
    let done = Machine::start().run("database", &[], b"");
    let (said, status) = on_host(&program("database"), &[], b"");
    assert_eq!(String::from_utf8_lossy(&done.response), String::from_utf8_lossy(&said));
    assert_eq!((done.outcome.status, done.outcome.detail, status), (Status::Exited, 0, 0));
}

#[test]
fn lua_does_what_it_does_on_the_host() {
    let script = include_str!("programs/exercise.lua");
    let folder = tempfile::tempdir().unwrap();
    lua_package(folder.path(), script);
    let mut machine = Machine::start();
    machine.deploy("lua", folder.path(), &["main.lua"], TIMEOUT_MILLIS);
    let done = machine.invoke("lua", b"first line\n42 3.5\n").unwrap();
    let main = folder.path().join("main.lua");
    let arguments = [main.to_str().unwrap()];
    let (said, _) = on_host(&folder.path().join("bootstrap"), &arguments, b"first line\n42 3.5\n");
    let said = String::from_utf8_lossy(&said);
    assert_eq!(String::from_utf8_lossy(&done.response), said, "{:?}", done.log);
    assert!(said.ends_with("all ok\n"));
}

#[test]
fn busybox_tools_give_the_same_bytes() {
    let words: Vec<u8> = (1..3000_u32)
        .flat_map(|n| format!("{} line number {n}\n", n * 7 % 1000).into_bytes())
        .collect();
    let busybox = program("busybox");
    let packed = |tool| on_host(&busybox, &[tool, "-c"], &words).0;
    let (gzip, bzip2) = (packed("gzip"), packed("bzip2"));
    let tools: &[(&[&str], &[u8])] = &[
        (&["sha256sum"], &words),
        (&["sha512sum"], &words),
        (&["md5sum"], &words),
        (&["cksum"], &words),
        (&["sort"], &words),
        (&["sort", "-n", "-k1,1", "-k4"], &words),
        (
            &["awk", "{ sum[$1 % 10] += $4 } END { for (i = 0; i < 10; i++) print i, sum[i] }"],
            &words,
        ),
        (&["sed", "s/line \\(.*\\)/<\\1>/"], &words),
        (&["grep", "-c", "line.*9$"], &words),
        (&["grep", "nothing here"], &words),
        (&["cut", "-d ", "-f", "2-3"], &words),
        (&["tr", "a-z", "A-Z"], &words),
        (&["wc"], &words),
        (&["head", "-n", "3"], &words),
        (&["tail", "-n", "3"], &words),
        (&["tac"], &words),
        (&["rev"], &words),
        (&["od", "-c"], &words),
        (&["hexdump", "-C"], &words),
        (&["base64"], &words),
        (&["gzip", "-c"], &words),
        (&["gunzip", "-c"], &gzip),
        (&["bzip2", "-c"], &words),
        (&["bunzip2", "-c"], &bzip2),
        (&["factor", "1234567890", "999999999989"], b""),
        (&["seq", "1", "3", "1000"], b""),
        (&["expr", "6", "*", "7"], b""),
        (&["dc"], b"20k 2v p 2 64^p"),
        (&["bc"], b"scale=20; sqrt(2); 2^64\n"),
        (&["date", "-u", "-d", "@1700000000"], b""),
        (&["cal", "2024"], b""),
        (&["cat", "/proc/self/comm"], b""),
        (&["test", "-d", "/tmp"], b""),
        (&["false"], b""),
        (&["dd", "bs=1000", "count=2"], &words),
        (&["sh", "-c", "i=0; while [ $i -lt 100 ]; do i=$((i + 1)); done; echo $i; exit 3"], b""),
    ];
    let mut machine = Machine::start();
    for (arguments, body) in tools {
        let done = machine.run("busybox", arguments, body);
        let (said, status) = on_host(&busybox, arguments, body);
        let (ours, theirs) =
            (String::from_utf8_lossy(&done.response), String::from_utf8_lossy(&said));
        assert_eq!(ours, theirs, "{arguments:?} {:?}", done.outcome);
        assert_eq!(done.outcome.detail, u32::try_from(status).unwrap(), "{arguments:?}");
    }
    for arguments in [["df"], ["free"], ["uptime"], ["ps"], ["id"]] {
        let done = machine.run("busybox", &arguments, b"");
        assert!(done.outcome.detail == 0 && !done.response.is_empty(), "{arguments:?} {done:?}");
    }
}

/// What a program does wrong, its time limit, and what the outcome has to name it.
const WRONGS: [(&str, &str, u64, Status, u32); 15] = [
    ("faults", "segv", 20_000, Status::Signalled, 11),
    ("faults", "jump", 20_000, Status::Signalled, 11),
    ("faults", "ill", 20_000, Status::Signalled, 4),
    ("faults", "div", 20_000, Status::Signalled, 8),
    ("faults", "int3", 20_000, Status::Signalled, 5),
    ("faults", "abort", 20_000, Status::Signalled, 6),
    ("faults", "stack", 20_000, Status::StackOverflow, 11),
    ("faults", "memory", 60_000, Status::MemoryExhausted, 9),
    ("faults", "loop", 500, Status::DeadlineExceeded, 0),
    ("faults", "sleep", 500, Status::DeadlineExceeded, 0),
    ("threads", "loop", 500, Status::DeadlineExceeded, 0),
    ("threads", "call", 500, Status::DeadlineExceeded, 0),
    ("threads", "pass", 500, Status::DeadlineExceeded, 0),
    ("threads", "overflow", 20_000, Status::StackOverflow, 11),
    ("threads", "exit", 20_000, Status::Exited, 7),
];

#[test]
fn what_goes_wrong_is_named_and_the_vm_lives() {
    let mut machine = Machine::start();
    let vm = machine.run("uname", &[], b"").outcome.vm;
    for (name, how, timeout_millis, status, detail) in WRONGS {
        machine.deploy("wrong", &program(name), &[how], timeout_millis);
        let done = machine.invoke("wrong", b"").unwrap();
        let outcome = &done.outcome;
        assert_eq!(
            (outcome.status, outcome.detail, outcome.vm),
            (status, detail, vm),
            "{name} {how}"
        );
        let said = machine.invoke("uname", b"").unwrap();
        assert!(
            said.response.starts_with(b"Linux|") && said.outcome.vm == vm,
            "after {name} {how}"
        );
    }
}

/// On a host without hardware virtualisation these act on the VM (docs: isolation `vm`): it may be
/// ended, or serve its own user badly. Every request is answered, and others notice nothing.
#[test]
fn instructions_of_a_kernel_end_in_an_answer() {
    let mut machine = Machine::start();
    let other = Package::read(&program("uname")).unwrap();
    machine.client.deploy(("bob", "uname"), &other).unwrap();
    for how in [
        "privileged",
        "cli",
        "out",
        "in",
        "wrmsr",
        "rdmsr",
        "cr3",
        "lidt",
        "int80",
        "int48",
        "int8",
        "vmcall",
        "sysenter",
        "trap",
        "align",
        "swapgs",
        "iretq",
        "sysret",
        "invlpg",
        "read-kernel",
        "write-kernel",
        "direct-map",
        "jump-kernel",
        "wrgsbase",
        "stack-kernel",
    ] {
        machine.deploy("faults", &program("faults"), &[how], 1000);
        let answer = machine.invoke("faults", b"");
        assert!(matches!(answer, Ok(_) | Err(ClientError::Refused { .. })), "{how}: {answer:?}");
        let invoke = Invoke { user: "bob", ..Invoke::new("uname", b"") };
        let said = machine.client.invoke(&invoke).unwrap();
        assert!(said.response.starts_with(b"Linux|"), "after {how}: {said:?}");
    }
}

#[test]
fn no_call_with_whatever_arguments_ends_the_kernel() {
    let mut machine = Machine::start();
    let vm = machine.run("uname", &[], b"").outcome.vm;
    for seed in ["1", "2"] {
        let done = machine.run("syscall-fuzz", &[seed, "100000"], b"");
        let said = String::from_utf8_lossy(&done.response);
        assert!(said.starts_with("100000 calls"), "seed {seed}: {said} {:?}", done.outcome);
        assert_eq!(machine.invoke("uname", b"").unwrap().outcome.vm, vm, "seed {seed}");
    }
}

#[test]
fn whatever_is_hoarded_the_kernel_stands() {
    let mut machine = Machine::start();
    let vm = machine.run("uname", &[], b"").outcome.vm;
    for what in [
        "files",
        "pipes",
        "sockets",
        "areas",
        "epolls",
        "folders",
        "threads",
        "deep",
        "processes",
        "bomb",
    ] {
        let done = machine.run("hoard", &[what], b"");
        let said = String::from_utf8_lossy(&done.response);
        let is_named = matches!(done.outcome.status, Status::Exited | Status::MemoryExhausted);
        assert!(is_named && done.outcome.detail != 1, "{what}: {said} {:?}", done.outcome);
        assert_eq!(machine.invoke("uname", b"").unwrap().outcome.vm, vm, "after {what}");
    }
}

/// `name=value` lines.
fn value<'a>(text: &'a str, name: &str) -> &'a str {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    line.unwrap_or_else(|| panic!("no {name} in {text}"))
}

#[test]
fn no_two_requests_or_vms_draw_the_same() {
    let mut machine = Machine::start();
    machine.deploy("fresh", &program("fresh"), &[], TIMEOUT_MILLIS);
    let package = Package::read(&program("fresh")).unwrap();
    machine.client.deploy(("bob", "fresh"), &package).unwrap();
    let mut drawn = std::collections::HashSet::new();
    let mut vms = std::collections::HashSet::new();
    let mut last = std::collections::HashMap::new();
    let mut at_random = std::collections::HashMap::new();
    for round in 0..20 {
        let user = if round % 2 == 0 { "ada" } else { "bob" };
        let before = since_epoch();
        let done = machine.client.invoke(&Invoke { user, ..Invoke::new("fresh", b"") }).unwrap();
        let text = String::from_utf8(done.response).unwrap();
        for name in ["getrandom", "urandom"] {
            assert!(drawn.insert(value(&text, name).to_owned()), "drawn twice: {text}");
        }
        // Its C library takes a canary from these before it looks outside: they are the process's,
        // which serves all its requests.
        at_random.entry(done.outcome.vm).or_insert_with(|| value(&text, "at_random").to_owned());
        let nanos = |name| Duration::from_nanos(value(&text, name).parse().unwrap());
        let (realtime, second) = (nanos("realtime"), Duration::from_secs(1));
        assert!(realtime + second >= before && realtime <= since_epoch() + second, "{text}");
        let earlier = last.insert(done.outcome.vm, nanos("monotonic"));
        assert!(earlier.is_none_or(|earlier| earlier < nanos("monotonic")));
        vms.insert(done.outcome.vm);
    }
    assert_eq!(vms.len(), 2, "a VM for each user");
    assert!(at_random.values().all(|value| drawn.insert(value.clone())), "{at_random:?}");
}

fn since_epoch() -> Duration {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap()
}

#[test]
fn a_request_finds_nothing_of_the_last_one() {
    let mut machine = Machine::start();
    let list =
        ["sh", "-c", "cd /tmp; for f in *; do echo \"$f\"; done; echo x > left; read a; echo $a"];
    machine.deploy("list", &program("busybox"), &list, TIMEOUT_MILLIS);
    for word in ["one", "two", "three"] {
        let done = machine.invoke("list", word.as_bytes()).unwrap();
        assert_eq!(String::from_utf8_lossy(&done.response), format!("*\n{word}\n"));
    }
}
