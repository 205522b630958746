//! Promise: what a distribution needs is there and fits the command: its version, manual and
//! completions, a unit and a configuration for systemd, and what a node tells that. Needs KVM, and
//! Debian's groff-base and systemd; the Debian package itself is checked by `scripts/deb --check`.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use pilotlight::Config;
use pilotlight::client::Client;
use pilotlight::socket::frame;
use rustix::process::{Pid, Signal};

const COMMAND: &str = env!("CARGO_BIN_EXE_pilotlight");
const UNIT: &str = include_str!("../packaging/pilotlight.service");
/// How long a node may take to start or stop on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

fn pilotlight(arguments: &[&str]) -> String {
    let output = Command::new(COMMAND).args(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_version_names_build_and_protocols() {
    let short = format!("pilotlight {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(pilotlight(&["-V"]), short);
    let long = pilotlight(&["--version"]);
    let lines: Vec<_> = long.strip_prefix(&short).unwrap().lines().collect();
    let abi = format!("guest ABI {}", abi::ABI_VERSION);
    let protocol = format!("protocol {} to {}", frame::VERSION_MIN, frame::VERSION_MAX);
    assert_eq!(lines[1..], [abi, protocol]);
    let (commit, profile) = lines[0].strip_prefix("commit ").unwrap().split_once(' ').unwrap();
    let digits = commit.strip_suffix('+').unwrap_or(commit);
    let is_commit = digits.len() == 12 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    // Those of release builds are held against the repository by `scripts/deb --check`.
    let build = if cfg!(debug_assertions) { "(debug build)" } else { "(release build)" };
    assert!(profile == build && (commit == "unknown" || is_commit), "{long}");
}

/// The commands of `pilotlight` and what is below them, as arguments.
fn commands(above: &[String]) -> Vec<Vec<String>> {
    let mut arguments: Vec<_> = above.iter().map(String::as_str).collect();
    arguments.push("-h");
    let help = pilotlight(&arguments);
    let listed = help.split_once("\nCommands:\n").map_or("", |(_, rest)| rest);
    let lines = listed.lines().take_while(|line| line.starts_with("  "));
    let names = lines.filter_map(|line| line.strip_prefix("  ")?.split(' ').next());
    let mut found = vec![above.to_vec()];
    for name in names.filter(|name| !name.is_empty() && *name != "help") {
        found.extend(commands(&[above, &[name.to_owned()]].concat()));
    }
    found
}

/// Words of a text that are long options.
fn options(text: &str) -> BTreeSet<String> {
    let is_of_one = |character: char| character.is_ascii_lowercase() || character == '-';
    let words = text.split(|character| !is_of_one(character));
    words.filter(|word| word.len() > 3 && word.starts_with("--")).map(str::to_owned).collect()
}

#[test]
fn every_command_has_a_page_that_says_what_its_help_says() {
    let folder = tempfile::tempdir().unwrap();
    pilotlight(&["man", folder.path().to_str().unwrap()]);
    let entries = fs::read_dir(folder.path()).unwrap();
    let mut pages: BTreeSet<_> = entries.map(|entry| entry.unwrap().path()).collect();
    let commands = commands(&[]);
    assert!(commands.len() > 10, "{commands:?}");
    for command in commands {
        let name = [&["pilotlight".to_owned()], &command[..]].concat().join("-");
        let page = folder.path().join(format!("{name}.1"));
        assert!(pages.remove(&page), "{name} has no page");
        let mut groff = Command::new("groff");
        let output = groff.args(["-man", "-Tutf8", "-ww", "-P-cbou"]).arg(&page).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{name}: {said}");
        let text = String::from_utf8_lossy(&output.stdout).replace('\u{2010}', "-");
        let footer = text.trim_end().lines().next_back().unwrap();
        let version = concat!("pilotlight ", env!("CARGO_PKG_VERSION"));
        assert!(footer.starts_with(version) && footer.ends_with(&format!("{name}(1)")), "{footer}");
        let mut arguments: Vec<_> = command.iter().map(String::as_str).collect();
        arguments.push("--help");
        let missing: Vec<_> =
            options(&pilotlight(&arguments)).difference(&options(&text)).cloned().collect();
        assert!(missing.is_empty(), "{name} says nothing of {missing:?}: {text}");
    }
    assert!(pages.is_empty(), "pages of no command: {pages:?}");
    let page = fs::read_to_string(folder.path().join("pilotlight.1")).unwrap();
    assert_eq!(pilotlight(&["man"]), page);
}

#[test]
fn shells_complete_commands_and_options() {
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = pilotlight(&["completions", shell]);
        assert!(script.contains("check-config"), "{shell}: {script}");
    }
    let complete = |words: &str, at: usize| {
        let script = pilotlight(&["completions", "bash"]);
        let ask = format!(
            "{script}\nCOMP_WORDS=({words}) COMP_CWORD={at}\n\
             _pilotlight pilotlight \"${{COMP_WORDS[$COMP_CWORD]}}\" \
             \"${{COMP_WORDS[$COMP_CWORD - 1]}}\"\necho \"${{COMPREPLY[@]}}\""
        );
        let output = Command::new("bash").args(["--norc", "-c", &ask]).output().unwrap();
        assert!(output.stderr.is_empty(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(complete("pilotlight ser", 1), "serve\n");
    assert_eq!(complete("pilotlight serve --ch", 2), "--check-config\n");
}

/// A node that a service manager started: the test is that.
struct Service {
    child: Child,
    socket: PathBuf,
}

impl Service {
    fn start(folder: &Path, manager: &str, arguments: &[&str]) -> Self {
        let socket = folder.join("node.sock");
        let mut command = Command::new(COMMAND);
        command.arg("serve").arg("--state").arg(folder.join("state")).args(arguments);
        command.arg("--socket").arg(&socket).env("NOTIFY_SOCKET", manager);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        Self { child, socket }
    }

    fn signal(&self, signal: Signal) {
        rustix::process::kill_process(Pid::from_child(&self.child), signal).unwrap();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

fn told(manager: &UnixDatagram) -> String {
    let mut bytes = [0; 256];
    let length = manager.recv(&mut bytes).unwrap();
    String::from_utf8_lossy(&bytes[..length]).into_owned()
}

/// Fails if there is more to hear.
fn assert_silent(manager: &UnixDatagram) {
    manager.set_nonblocking(true).unwrap();
    let heard = manager.recv(&mut [0; 256]).unwrap_err();
    assert_eq!(heard.kind(), ErrorKind::WouldBlock);
}

fn is_told_of_a_life(manager: &UnixDatagram, name: &str, folder: &Path) {
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut service = Service::start(folder, name, &[]);
    assert_eq!(told(manager), "READY=1");
    let mut client = Client::connect(&service.socket).expect("its socket answers by then");
    assert!(client.status().unwrap()["pools"].is_object());
    drop(client);
    service.signal(Signal::TERM);
    assert_eq!(told(manager), "STOPPING=1");
    assert!(service.child.wait().unwrap().success());
    assert_silent(manager);
}

#[test]
fn the_service_manager_is_told_when_the_socket_answers_and_when_it_stops() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("manager");
    let manager = UnixDatagram::bind(&path).unwrap();
    is_told_of_a_life(&manager, path.to_str().unwrap(), folder.path());
}

#[test]
fn a_service_manager_may_have_an_abstract_socket() {
    let folder = tempfile::tempdir().unwrap();
    let name = folder.path().to_str().unwrap();
    let address = SocketAddr::from_abstract_name(name).unwrap();
    let manager = UnixDatagram::bind_addr(&address).unwrap();
    is_told_of_a_life(&manager, &format!("@{name}"), folder.path());
}

#[test]
fn a_node_that_does_not_start_says_it_is_not_ready_by_ending() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("manager");
    let manager = UnixDatagram::bind(&path).unwrap();
    // Up, but with nowhere to listen: the last thing that can fail.
    fs::write(folder.path().join("node.sock"), "no socket").unwrap();
    let mut service = Service::start(folder.path(), path.to_str().unwrap(), &[]);
    assert_eq!(service.child.wait().unwrap().code(), Some(1));
    assert_silent(&manager);
}

#[test]
fn a_service_manager_that_is_gone_ends_no_node() {
    let folder = tempfile::tempdir().unwrap();
    let mut service = Service::start(folder.path(), "/nowhere/manager", &[]);
    while Client::connect(&service.socket).is_err() {
        assert!(service.child.try_wait().unwrap().is_none(), "it serves");
        std::thread::yield_now();
    }
    service.signal(Signal::TERM);
    assert!(service.child.wait().unwrap().success());
}

#[test]
fn the_unit_is_one_and_starts_this_command() {
    let folder = tempfile::tempdir().unwrap();
    let unit = folder.path().join("pilotlight.service");
    fs::write(&unit, UNIT.replace("/usr/bin/pilotlight", COMMAND)).unwrap();
    let mut analyze = Command::new("systemd-analyze");
    let output = analyze.args(["verify", "--man=no"]).arg(&unit).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && said.is_empty(), "{}", String::from_utf8_lossy(&said));

    let start = UNIT.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    let mut words = start.split(' ').skip(1).map(|word| match word {
        "/etc/pilotlight/config.toml" => {
            concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/config.toml")
        }
        other => other,
    });
    let arguments: Vec<_> = words.by_ref().chain(["--check-config"]).collect();
    assert!(pilotlight(&arguments).starts_with("ok: "));
}

#[test]
fn the_packaged_configuration_is_the_default_and_shows_it() {
    let text = include_str!("../packaging/config.toml");
    assert_eq!(Config::parse(text).unwrap(), Config::default());
    let shown = text.lines().filter_map(|line| line.strip_prefix('#'));
    let keys: Vec<_> = shown.filter(|line| !line.starts_with([' ', '#'])).collect();
    assert!(keys.iter().filter(|line| line.contains(" = ")).count() > 5, "{keys:?}");
    assert_eq!(Config::parse(&keys.join("\n")).unwrap(), Config::default());
}
