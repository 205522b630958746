//! Promise: what a distribution needs is there and fits the command: its version, manual and
//! completions. Needs Debian's groff-base.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use pilotlight::socket::frame;

const COMMAND: &str = env!("CARGO_BIN_EXE_pilotlight");

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
