//! Promise: `pilotlight top` shows pools, rates and percentiles per function, on a terminal again and
//! again, elsewhere once.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod support;

use std::fs::File;
use std::io::{BufReader, Read};
use std::os::fd::OwnedFd;
use std::process::Stdio;

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use self::support::served::Served;

/// A node on which `true` ran this often and well, and `false` once.
fn busy(invokes: usize) -> Served {
    let node = Served::start_with(&[], Stdio::null());
    node.deploy("true", &["--", "true"]);
    node.deploy("false", &["--user", "ada", "--", "false"]);
    for _ in 0..invokes {
        assert!(node.run("invoke", &["true"]).status.success());
    }
    assert_eq!(node.run("invoke", &["false", "--user", "ada"]).status.code(), Some(1));
    node
}

#[test]
fn without_a_terminal_there_is_one_picture() {
    let node = busy(3);
    let output = node.run("top", &[]);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(!text.contains('\x1b'), "{text:?}");
    assert!(text.contains("rates and times since its start"), "{text}");
    let words = |name: &str| -> Vec<String> {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().map(str::to_owned).collect()
    };
    assert_eq!(words("FUNCTION")[3..8], ["RATE", "P50", "P90", "P99", "MAX"]);
    let (well, badly) = (words("true"), words("false"));
    assert_eq!(well[well.len() - 2..], ["0", "3"], "{text}");
    assert_eq!(
        (badly[1].as_str(), &badly[badly.len() - 2..]),
        ("ada", ["1", "1"].map(str::to_owned).as_slice())
    );
    let status = node.json("status", &[]);
    let told = status["function_latency"].as_array().unwrap();
    assert_eq!((&told[0]["name"], &told[1]["name"]), (&"false".into(), &"true".into()), "{told:?}");
    assert_eq!(told[1]["latency_nanos"]["count"], 3);
    let sum = told[1]["sum_nanos"].as_u64().unwrap();
    let max = told[1]["latency_nanos"]["max"].as_u64().unwrap();
    assert!(sum > max && sum < 4 * max, "{told:?}");

    // What is gone is not told of any more.
    assert!(node.run("remove", &["false", "--user", "ada"]).status.success());
    assert!(!String::from_utf8(node.run("top", &["--once"]).stdout).unwrap().contains("ada"));
}

/// A terminal of this size: our end and its.
fn terminal(ws_col: u16, ws_row: u16) -> (OwnedFd, File) {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let path = ptsname(&ours, Vec::new()).unwrap();
    let theirs = File::options().read(true).write(true).open(path.to_str().unwrap()).unwrap();
    tcsetwinsize(&theirs, Winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
    (ours, theirs)
}

#[test]
fn on_a_terminal_it_is_drawn_again_and_again() {
    let node = busy(1);
    let (ours, theirs) = terminal(60, 9);
    let mut command = node.command("top", &["--interval", "100ms"]);
    let mut top = command.stdout(theirs).spawn().unwrap();
    drop(command);
    let mut picture = String::new();
    let mut output = BufReader::new(File::from(ours));
    let mut drawn = 0;
    while drawn < 3 {
        let mut bytes = [0; 1024];
        let count = output.read(&mut bytes).unwrap();
        picture += str::from_utf8(&bytes[..count]).unwrap();
        drawn = picture.matches("\x1b[J").count();
    }
    top.kill().unwrap();
    top.wait().unwrap();
    assert!(picture.starts_with("\x1b[2J\x1b[H\x1b[Hpilotlight "), "{picture:?}");
    let first = picture.split("\x1b[J").next().unwrap();
    let lines: Vec<_> = first.split("\r\n").collect();
    assert_eq!(lines.len(), 9, "as the terminal has: {lines:?}");
    assert_eq!(lines[8], "and 1 more\x1b[K");
    assert!(
        picture.contains("in the last 1"),
        "a later one is of the time in between: {picture:?}"
    );
}
