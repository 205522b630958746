//! `pilotlight bench compare` says whether two runs differ, and why it cannot where it cannot.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use perf::{Dice, Latencies};
use serde_json::{Value, json};
use tempfile::TempDir;

fn compare(folder: &TempDir, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pilotlight"));
    command.current_dir(folder.path()).args(["bench", "compare"]).args(arguments).output().unwrap()
}

fn words(output: &[u8]) -> String {
    String::from_utf8(output.to_vec()).unwrap()
}

/// Batches around `nanos`.
fn batches(seed: u64, count: usize, nanos: u64) -> Vec<u64> {
    let mut dice = Dice::new(seed);
    (0..count).map(|_| nanos + dice.roll() % (nanos / 50)).collect()
}

/// A line as the bench writes it, with an echo beside.
fn line(seed: u64, scenario: &str, count: usize, (nanos, echo_nanos): (u64, u64)) -> Value {
    let mut latencies = Latencies::new();
    (1..1000).for_each(|number| latencies.record(Duration::from_nanos(nanos + number)));
    let echo = batches(seed + 100, count, echo_nanos);
    json!({
        "scenario": scenario,
        "batches_p50_nanos": batches(seed, count, nanos),
        "histogram": latencies.encode(),
        "baselines": {
            "uds_echo_blocking": { "p50": echo_nanos, "batches_p50_nanos": echo },
            "runc": null,
        },
        "rate": null,
        "machine": { "cpu": "one" },
    })
}

fn write(folder: &TempDir, name: &str, lines: &[Value]) {
    let lines: Vec<String> = lines.iter().map(Value::to_string).collect();
    fs::write(folder.path().join(name), lines.join("\n")).unwrap();
}

fn folder() -> TempDir {
    tempfile::tempdir().unwrap()
}

#[test]
fn a_slower_run_and_a_busier_machine_are_told_apart() {
    let folder = folder();
    let before = [line(1, "warm", 20, (17_000, 9_000)), line(2, "first", 20, (1_400_000, 9_000))];
    // Warm costs more; for first everything did.
    let after = [line(3, "warm", 20, (18_700, 9_000)), line(4, "first", 20, (2_800_000, 18_000))];
    write(&folder, "a", &before);
    write(&folder, "b", &after);
    let output = compare(&folder, &["a", "b", "--json"]);
    assert!(output.status.success(), "{}", words(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    let [first, warm] = [0, 1].map(|place| &found["comparisons"][place]);
    assert_eq!([&first["scenario"], &warm["scenario"]], ["first", "warm"], "{found}");
    assert_eq!(warm["latency_nanos"]["verdict"], "b_slower", "{found}");
    assert_eq!(warm["ratio_to_echo"]["verdict"], "b_slower", "{found}");
    let percent = warm["latency_nanos"]["percent"].as_f64().unwrap();
    assert!((9.0..11.0).contains(&percent), "{found}");
    assert_eq!(first["latency_nanos"]["verdict"], "b_slower", "{found}");
    assert_eq!(first["ratio_to_echo"]["verdict"], "undecided", "{found}");
    assert_eq!(warm["batches"], json!([20, 20]), "{found}");
    let p99 = warm["percentiles_nanos"][1]["p99"].as_u64().unwrap();
    assert!(p99.abs_diff(19_690) < 40, "{found}");
}

#[test]
fn people_get_a_table() {
    let folder = folder();
    let mut busier = line(2, "warm", 20, (17_000, 9_000));
    busier["machine"]["cpu"] = json!("another");
    write(
        &folder,
        "a",
        &[line(1, "warm", 20, (17_000, 9_000)), line(1, "fork", 20, (90_000, 9_000))],
    );
    write(&folder, "b", &[busier, line(1, "burst", 5, (90_000, 9_000))]);
    let output = compare(&folder, &["a", "b"]);
    let table = words(&output.stdout);
    let expected = [
        "SCENARIO  MEDIAN OF",
        "B TO A",
        "B SLOWER",
        "VERDICT",
        "warm      latency ",
        " us ",
        "latency to echo",
        "undecided",
        "warm: p99 of all invokes",
        "warm: measured differently: machine {\"cpu\":\"one\"} and {\"cpu\":\"another\"}",
        "not compared: burst: A has no run of it",
        "not compared: fork: B has no run of it",
    ];
    for words in expected {
        assert!(table.contains(words), "{words}: {table}");
    }
}

#[test]
fn runs_of_one_scenario_in_a_file_count_together() {
    let folder = folder();
    let run = |seed, nanos| line(seed, "warm", 15, (nanos, 9_000));
    write(&folder, "a", &[run(1, 17_000), run(2, 17_100)]);
    write(&folder, "b", &[run(3, 19_000), run(4, 19_100)]);
    let output = compare(&folder, &["a", "b", "--json"]);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["comparisons"][0]["batches"], json!([30, 30]), "{found}");
    assert_eq!(found["comparisons"][0]["latency_nanos"]["verdict"], "b_slower", "{found}");
}

#[test]
fn a_run_without_an_echo_is_compared_without_one() {
    let folder = folder();
    let mut alone = line(1, "warm", 20, (17_000, 9_000));
    alone["baselines"]["uds_echo_blocking"] = Value::Null;
    write(&folder, "a", &[alone]);
    write(&folder, "b", &[line(2, "warm", 20, (17_000, 9_000))]);
    let output = compare(&folder, &["a", "b", "--json"]);
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["comparisons"][0]["ratio_to_echo"], Value::Null, "{found}");
}

#[test]
fn what_cannot_be_compared_is_said() {
    let folder = folder();
    let good = line(1, "warm", 20, (17_000, 9_000));
    let mut broken = good.clone();
    broken["histogram"] = json!("bm8gaGlzdG9ncmFt");
    write(&folder, "good", &[good]);
    write(&folder, "short", &[line(1, "warm", 9, (17_000, 9_000))]);
    write(&folder, "first", &[line(1, "first", 20, (17_000, 9_000))]);
    write(&folder, "broken", &[broken]);
    write(&folder, "other", &[json!({ "error": { "code": "failed" } })]);
    write(&folder, "empty", &[]);
    fs::write(folder.path().join("text"), "warm: 200 invokes\n").unwrap();
    let cases = [
        ("none", "none cannot be read: No such file"),
        ("short", "warm: a run of warm has 9 batches, and a comparison needs 10: measure more"),
        ("first", "first: A has no run of it; warm: B has no run of it"),
        ("broken", "histogram: not a histogram in HdrHistogram's V2 format"),
        ("other", "is not what `pilotlight bench --json` writes: missing field `scenario`"),
        ("text", "is not what `pilotlight bench --json` writes: expected value at line 1"),
        ("empty", "empty holds no run: make one with `pilotlight bench SCENARIO --json > empty`"),
    ];
    for (file, reason) in cases {
        let output = compare(&folder, &["good", file]);
        let said = words(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{file}: {said}");
        assert!(said.contains(reason), "{file}: {said}");
        let output = compare(&folder, &["good", file, "--json"]);
        let object: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(object["error"]["message"].as_str().unwrap().contains(reason), "{object}");
    }
}

#[test]
fn the_command_line_keeps_measuring_and_comparing_apart() {
    let folder = folder();
    let run = |arguments: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pilotlight"));
        let output = command.current_dir(Path::new("/")).arg("bench").args(arguments).output();
        output.unwrap()
    };
    for arguments in [&["compare"][..], &["compare", "a"], &["--count", "3", "compare", "a", "b"]] {
        assert_eq!(run(arguments).status.code(), Some(2), "{arguments:?}");
    }
    let help = words(&run(&["compare", "--help"]).stdout);
    assert!(help.contains("Tells whether two measurements differ"), "{help}");
    let help = words(&run(&["--help"]).stdout);
    assert!(help.contains("compare") && help.contains("[SCENARIO]"), "{help}");
    drop(folder);
}
