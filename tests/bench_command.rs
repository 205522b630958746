//! `pilotlight bench` measures every scenario on a node of its own and reports what it promises.
//! Needs KVM. Nothing here depends on how fast the machine is.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::collections::BTreeSet;
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// Peers that are tested on their own (`cargo nextest run -p perf`) and take their time.
const WITHOUT: [&str; 6] =
    ["--without", "bubblewrap", "--without", "runc", "--without", "wasmtime"];
const SCENARIOS: [&str; 14] = [
    "warm",
    "warm-program",
    "asleep",
    "shm",
    "first",
    "cold",
    "fresh-vm",
    "fork",
    "burst",
    "mix",
    "payload",
    "log",
    "density",
    "overload",
];
const PERCENTILES: [&str; 6] = ["p50", "p90", "p99", "p99_9", "p99_99", "max"];

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pilotlight"));
    command.arg("bench").args(arguments);
    command
}

/// Runs the command with `--json`, without the slower peers, and returns its objects.
fn bench(arguments: &[&str]) -> Vec<Value> {
    reports(&command(arguments).args(WITHOUT).arg("--json").output().unwrap())
}

fn reports(output: &Output) -> Vec<Value> {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let lines = str::from_utf8(&output.stdout).unwrap();
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Why a command line is refused, and the exit status.
fn refusal(command: &mut Command) -> (i32, String) {
    let output = command.output().unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}

/// Percentiles that are there and in order.
fn check_percentiles(summary: &Value, names: &[&str]) {
    let nanos: Vec<u64> = names.iter().map(|name| summary[*name].as_u64().unwrap()).collect();
    assert!(nanos.is_sorted(), "{summary}");
}

fn check(report: &Value, scenario: &str) {
    assert_eq!(report["scenario"], scenario, "{report}");
    check_percentiles(&report["latency_nanos"], &PERCENTILES);
    assert!(report["latency_nanos"]["p50"].as_u64().unwrap() > 0, "{report}");
    for stage in ["accept", "route", "load", "acquire", "run", "reply", "outside"] {
        check_percentiles(&report["stages_nanos"][stage], &PERCENTILES);
    }
    for name in ["uds_echo_blocking", "uds_echo_runtime", "posix_spawn"] {
        let baseline = &report["baselines"][name];
        check_percentiles(baseline, &["p50", "p99"]);
        let batches = baseline["batches_p50_nanos"].as_array().unwrap();
        assert!(batches.iter().all(|nanos| nanos.as_u64().unwrap() > 0), "{report}");
        assert!(report["ratios"][name].as_f64().unwrap() > 0.0, "{report}");
    }
    for name in ["bubblewrap", "runc", "wasmtime"] {
        assert!(report["baselines"][name].is_null() && report["ratios"][name].is_null());
    }
    assert!(!report["batches_p50_nanos"].as_array().unwrap().is_empty(), "{report}");
    assert!(report["vm_exits_per_invoke"].as_f64().unwrap() >= 0.0, "{report}");
    assert!(report["duration_seconds"].as_f64().unwrap() > 0.0, "{report}");
    assert!(report["errors"]["busy"].is_u64() && report["extra"].is_object(), "{report}");
    let layout = &report["layout"];
    assert!(layout["shards"][0].is_u64() && layout["guests"][0].is_u64(), "{report}");
    assert!(layout["client"].is_u64() && layout["echo_server"].is_u64(), "{report}");
}

/// Every key of an object and of those in it; what is in `extra` and the codes of errors are a
/// scenario's own.
fn keys(value: &Value, prefix: &str, found: &mut BTreeSet<String>) {
    for (key, inner) in value.as_object().into_iter().flatten() {
        let name = format!("{prefix}{key}");
        if key != "extra" && key != "errors" {
            keys(inner, &format!("{name}."), found);
        }
        found.insert(name);
    }
}

#[test]
fn all_scenarios_report_the_same_keys() {
    let reports = bench(&["--count", "8", "--duration", "4"]);
    assert_eq!(reports.len(), SCENARIOS.len());
    let all_keys: Vec<_> = reports
        .iter()
        .map(|report| {
            let mut found = BTreeSet::new();
            keys(report, "", &mut found);
            found
        })
        .collect();
    for ((report, scenario), keys) in reports.iter().zip(SCENARIOS).zip(&all_keys) {
        check(report, scenario);
        assert_eq!(keys, &all_keys[0], "{scenario}");
        if scenario != "overload" {
            assert_eq!(report["count"], 8, "{report}");
            assert_eq!(report["errors"], serde_json::json!({ "busy": 0 }), "{report}");
        }
    }
    let extra = |scenario: &str| {
        let index = SCENARIOS.iter().position(|name| *name == scenario).unwrap();
        &reports[index]["extra"]
    };
    assert_eq!(reports[5]["private_bytes_per_idle_vm"], Value::Null, "no VM is warm in `cold`");
    assert!(reports[0]["private_bytes_per_idle_vm"].as_u64().unwrap() > 0);
    assert!(reports[6]["dirty_pages_per_invoke"].as_f64().unwrap() >= 64.0, "{}", reports[6]);
    assert_eq!(extra("burst")["last_answer_nanos"].as_array().unwrap().len(), 1);
    let sizes = extra("payload")["sizes"].as_array().unwrap();
    assert!(sizes[0]["bytes"] == 0 && sizes[7]["bytes"] == 6 << 20, "{sizes:?}");
    assert_eq!(extra("log")["records_missing"], 0);
    let points = extra("density")["density"].as_array().unwrap();
    assert!(points.iter().all(|point| point["private_bytes_per_vm"].as_u64().unwrap() > 0));
    let steps = extra("overload")["steps"].as_array().unwrap();
    assert!(steps.iter().all(|step| step["count"].as_u64().unwrap() > 0), "{steps:?}");
    assert!(extra("overload")["recovery"]["after_p50_nanos"].as_u64().unwrap() > 0);
}

#[test]
fn many_requests_are_open_at_once() {
    let reports = bench(&["warm", "--concurrency", "150", "--count", "600"]);
    check(&reports[0], "warm");
    assert_eq!((&reports[0]["count"], &reports[0]["concurrency"]), (&600.into(), &150.into()));
    assert!(reports[0]["rate"].is_null(), "{}", reports[0]);
}

/// What is sent late because the node stood still counts from when it was to be sent: in a closed
/// loop one request would be slow, here all that were due meanwhile are.
#[test]
fn an_open_loop_counts_from_the_intended_send() {
    let arguments = ["warm", "--rate", "100", "--duration", "6s", "--json"];
    let bench = command(&arguments).args(WITHOUT).stdout(Stdio::piped()).spawn().unwrap();
    let node = await_node(&bench.id());
    // The node stands still for half of the time from somewhere in the run.
    let still = Duration::from_millis(1500);
    for _ in 0..2 {
        sleep(still);
        kill_process(node, Signal::STOP).unwrap();
        sleep(still);
        kill_process(node, Signal::CONT).unwrap();
    }
    let reports = reports(&bench.wait_with_output().unwrap());
    let report = &reports[0];
    check(report, "warm");
    assert!(report["rate"] == 100 && report["concurrency"].is_null(), "{report}");
    assert!(report["extra"]["send_lateness_nanos"]["p50"].is_u64(), "{report}");
    let nanos = |name: &str| report["latency_nanos"][name].as_u64().unwrap();
    assert!(nanos("max") >= 500_000_000, "{report}");
    assert!(nanos("p90") >= 100_000_000, "{report}");
}

/// The node a bench has started, once it serves invokes.
fn await_node(bench: &u32) -> Pid {
    let children = format!("/proc/{bench}/task/{bench}/children");
    for _ in 0..6000 {
        let numbers = std::fs::read_to_string(&children).unwrap_or_default();
        // The echo servers are started behind it, when it listens.
        if let [node, _, _, ..] = numbers.split_whitespace().collect::<Vec<_>>()[..] {
            return Pid::from_raw(node.parse().unwrap()).unwrap();
        }
        sleep(Duration::from_millis(10));
    }
    panic!("the bench starts no node");
}

#[test]
fn peers_are_measured_beside() {
    let arguments = ["first", "--count", "2", "--without", "wasmtime", "--json"];
    let reports = reports(&command(&arguments).output().unwrap());
    for name in ["bubblewrap", "runc"] {
        let baseline = &reports[0]["baselines"][name];
        check_percentiles(baseline, &["p50", "p99"]);
        assert!(baseline["count"].as_u64().unwrap() > 0, "{baseline}");
    }
    assert!(reports[0]["baselines"]["wasmtime"].is_null(), "{}", reports[0]);
}

#[test]
fn a_missing_peer_is_an_error() {
    let arguments = ["warm", "--count", "1", "--without", "bubblewrap", "--without", "runc"];
    let mut bench = command(&arguments);
    let (status, words) = refusal(bench.env("PILOTLIGHT_WASMTIME_PEER", "/nonexistent"));
    assert_eq!(status, 1);
    assert!(words.contains("or leave it out with --without wasmtime"), "{words}");
}

#[test]
fn people_get_a_table() {
    let output = command(&["first", "--count", "3"]).args(WITHOUT).output().unwrap();
    let table = String::from_utf8(output.stdout).unwrap();
    for word in
        ["first: 3 invokes", "p99.99", "  outside", "uds echo, blocking", "VM exits per invoke"]
    {
        assert!(table.contains(word), "{table}");
    }
    assert!(!table.contains("runc"), "{table}");
}

#[test]
fn no_node_at_a_socket_is_said() {
    let (status, words) = refusal(&mut command(&["warm", "--socket", "/nonexistent/sock"]));
    assert_eq!(status, 1);
    assert!(words.contains("no node at /nonexistent/sock"), "{words}");
}

#[test]
fn what_does_not_fit_together_is_refused() {
    for (arguments, status, word) in [
        (&["cold", "--rate", "5"][..], 1, "leave out --rate and --concurrency"),
        (&["cold", "--socket", "/a"], 1, "leave out --socket"),
        (&["overload", "--count", "5"], 1, "use --duration"),
        (&["warm", "--rate", "5", "--concurrency", "2"], 2, "cannot be used with"),
        (&["--rate", "5"], 2, "SCENARIO"),
        (&["warm", "--rate", "0"], 2, "--rate"),
        (&["warm", "--duration", "0"], 2, "more than no time"),
        (&["warm", "--without", "docker"], 2, "bubblewrap"),
    ] {
        let (got, words) = refusal(&mut command(arguments));
        assert!(got == status && words.contains(word), "{arguments:?}: {got} {words}");
    }
}
