//! Programs nobody here wrote, unmodified: Debian's busybox and Lua, and Rust programs with
//! threads and TCP. What they answer in a VM is what they answer on the host. Needs KVM.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::io::{BufRead, BufReader, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;

use pilotlight::client::{Client, Package};

use self::support::node::{TestNode, package, run, text};
use self::support::programs::{lua_package, program};

/// Runs a program of the host and returns its output.
fn on_host(name: &str, arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut command = Command::new(program(name));
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let output = thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(input).unwrap());
        child.wait_with_output().unwrap()
    });
    assert!(output.status.success());
    output.stdout
}

/// Lines of text that differ, `bytes` of them; always the same.
fn lines(bytes: usize) -> Vec<u8> {
    let mut text = Vec::new();
    let mut state: u64 = 42;
    while text.len() < bytes {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        writeln!(text, "{} word{} {}", state >> 40, state >> 61, state % 97).unwrap();
    }
    text.truncate(bytes);
    text
}

/// Deploys busybox with these arguments and compares VM and host on every input.
fn compare(client: &mut Client, arguments: &[&str], inputs: &[&[u8]]) {
    let mut package = package("busybox", arguments);
    package.settings.memory_mib = 256;
    client.deploy(("ada", "applet"), &package).unwrap();
    for input in inputs {
        let inside = run(client, "ada", "applet", input);
        let host = on_host("busybox", arguments, input);
        let (inside, length) = (&inside.response, input.len());
        assert!(*inside == host, "{arguments:?} of {length} bytes: {} bytes", inside.len());
    }
}

#[test]
fn busybox_does_in_a_vm_what_it_does_on_the_host() {
    let node = TestNode::new();
    let mut client = node.client();
    let (small, large) = (lines(1_000), lines(5 << 20));
    let binary: Vec<u8> =
        large.iter().enumerate().map(|(at, byte)| byte ^ at.to_le_bytes()[0]).collect();
    let all: [&[u8]; 4] = [b"", &small, &large, &binary];
    let texts: [&[u8]; 2] = [&small, &large];
    compare(&mut client, &["sha256sum"], &all);
    compare(&mut client, &["wc"], &all);
    compare(&mut client, &["gzip", "-c"], &all);
    compare(&mut client, &["sort"], &texts);
    compare(&mut client, &["sort", "-n", "-r", "-k", "3"], &texts);
    let sum = "{ sum += $1; seen[$2]++ } END { print NR, sum; for (w in seen) print w, seen[w] }";
    compare(&mut client, &["awk", sum], &texts);
    compare(&mut client, &["sed", "s/word\\([0-9]\\)/\\1w/g"], &texts);
    compare(&mut client, &["grep", "-c", "word7"], &texts);
    let zipped = on_host("busybox", &["gzip", "-c"], &large);
    compare(&mut client, &["gunzip", "-c"], &[&zipped]);
    compare(&mut client, &["tac"], &texts);
}

const SCRIPT: &str = r#"
local words, count = {}, 0
for word in io.read("a"):gmatch("%a+") do
  words[word] = (words[word] or 0) + 1
  count = count + 1
end
local names = {}
for word in pairs(words) do names[#names + 1] = word end
table.sort(names)
for _, word in ipairs(names) do print(word, words[word]) end
print(count, string.format("%.10f", math.pi * 2), ("x"):rep(3), 7 // 2, 2^53)
local co = coroutine.wrap(function() for i = 1, 3 do coroutine.yield(i * i) end end)
print(co(), co(), co())
print(pcall(error, "on purpose"))
local path = os.tmpname()
local file <close> = assert(io.open(path, "w+"))
file:write("kept")
file:seek("set")
print(file:read("a"))
print(collectgarbage("count") > 0, os.time() > 1.7e9, os.getenv("PILOTLIGHT_VM_ID") ~= nil)
"#;

#[test]
fn lua_runs_a_script_that_lies_beside_it() {
    let folder = tempfile::tempdir().unwrap();
    lua_package(folder.path(), SCRIPT);
    let mut package = Package::read(folder.path()).unwrap();
    package.settings.arguments = vec!["main.lua".to_owned()];
    package.settings.timeout_millis = 60_000;
    let node = TestNode::new();
    let mut client = node.client();
    client.deploy(("ada", "script"), &package).unwrap();
    let input = lines(200_000);
    let inside = text(&run(&mut client, "ada", "script", &input));
    let script = folder.path().join("main.lua");
    let host = on_host("lua", &[script.to_str().unwrap()], &input);
    let host = String::from_utf8(host).unwrap();
    // The one line that is to differ: where it runs.
    assert!(host.ends_with("true\ttrue\tfalse\n"), "{host}");
    assert_eq!(inside, host.replace("true\ttrue\tfalse\n", "true\ttrue\ttrue\n"));
}

/// Serves every connection on a thread of its own, for as long as the test lives.
fn serve(session: fn(&TcpStream)) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            thread::spawn(move || session(&stream));
        }
    });
    address
}

fn answer_in_capitals(stream: &TcpStream) {
    stream.set_nodelay(true).unwrap();
    for line in BufReader::new(stream).lines() {
        let line = line.unwrap().to_uppercase() + "\n";
        (&*stream).write_all(line.as_bytes()).unwrap();
    }
}

fn send_back(stream: &TcpStream) {
    std::io::copy(&mut &*stream, &mut &*stream).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
}

#[test]
fn rust_programs_use_threads_and_tcp() {
    let (capitals, echo) = (serve(answer_in_capitals), serve(send_back));
    let node = TestNode::with(|config| config.egress.allow = vec![capitals, echo]);
    let mut client = node.client();
    let steps = ["threads", "condvar", "channel", "files", "clocks", "hashing", "panic", "memory"];
    let steps = steps.iter().chain(&["tcp"]).map(|step| format!("ok {step}\n"));
    let expected = steps.collect::<String>() + "all ok\n";
    let package = package("rust-probe", &[&capitals.to_string()]);
    client.deploy(("ada", "rust"), &package).unwrap();
    assert_eq!(text(&run(&mut client, "ada", "rust", b"")), expected);

    let package = self::package("tokio-probe", &[&echo.to_string()]);
    client.deploy(("ada", "tokio"), &package).unwrap();
    let said = text(&run(&mut client, "ada", "tokio", b""));
    assert_eq!(said, "ok tasks\nok timers\nok tcp\nall ok\n");

    // Both ends in the container.
    for (name, steps) in [("rust-probe", 10), ("tokio-probe", 4)] {
        client.deploy(("ada", "loopback"), &self::package(name, &["loopback"])).unwrap();
        let said = text(&run(&mut client, "ada", "loopback", b""));
        assert!(said.ends_with("ok tcp\nall ok\n"), "{name}: {said}");
        assert_eq!(said.lines().count(), steps, "{name}: {said}");
    }
}

#[test]
fn programs_of_every_static_kind_start() {
    let node = TestNode::new();
    let mut client = node.client();
    for name in ["env", "env-glibc", "env-pie"] {
        let mut package = package(name, &["one", "two three", ""]);
        package.settings.environment = vec![("GREETING".to_owned(), "hello world".to_owned())];
        client.deploy(("ada", "env"), &package).unwrap();
        let said = text(&run(&mut client, "ada", "env", b""));
        let expected =
            format!("argv[0]={name}\nargv[1]=one\nargv[2]=two three\nargv[3]=\ncwd=/var/task\n");
        assert!(said.starts_with(&expected), "{said}");
        assert!(said.contains("\nGREETING=hello world\n"), "{said}");
    }
}
