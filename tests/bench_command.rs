//! `pilotlight bench` measures every scenario on a node of its own and reports what it promises.
//! Needs KVM. Nothing here depends on how fast the machine is.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::process::Command;

use serde_json::Value;

/// Runs the command with `--json` and returns its objects.
fn bench(arguments: &[&str]) -> Vec<Value> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pilotlight"));
    let output = command.arg("bench").args(arguments).arg("--json").output().unwrap();
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{words}");
    let lines = String::from_utf8(output.stdout).unwrap();
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn check(report: &Value, scenario: &str, count: u64) {
    assert_eq!(report["scenario"], scenario, "{report}");
    assert_eq!(report["count"], count, "{report}");
    let percentiles = ["p50", "p90", "p99", "p99_9", "p99_99", "max"];
    let nanos = percentiles.map(|name| report["latency_nanos"][name].as_u64().unwrap());
    assert!(nanos[0] > 0 && nanos.is_sorted(), "{report}");
    for baseline in ["uds_echo_blocking", "uds_echo_runtime", "posix_spawn"] {
        let nanos =
            ["p50", "p99"].map(|name| report["baselines"][baseline][name].as_u64().unwrap());
        assert!(nanos[0] > 0 && nanos.is_sorted(), "{report}");
        assert!(report["ratios"][baseline].as_f64().unwrap() > 0.0, "{report}");
    }
    assert!(report["vm_exits_per_invoke"].as_f64().unwrap() >= 0.0, "{report}");
    let layout = &report["layout"];
    assert!(layout["shards"][0].is_u64() && layout["guests"][0].is_u64(), "{report}");
    assert!(layout["client"].is_u64() && layout["echo_server"].is_u64(), "{report}");
}

#[test]
fn warm_reports_every_figure() {
    let reports = bench(&["warm", "--count", "200"]);
    assert_eq!(reports.len(), 1);
    check(&reports[0], "warm", 200);
}

#[test]
fn without_a_scenario_all_are_measured() {
    let reports = bench(&["--count", "30"]);
    assert_eq!(reports.len(), 3);
    for (report, scenario) in reports.iter().zip(["warm", "warm-program", "first"]) {
        check(report, scenario, 30);
    }
}

#[test]
fn people_get_a_table() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pilotlight"));
    let output = command.args(["bench", "first", "--count", "3"]).output().unwrap();
    let table = String::from_utf8(output.stdout).unwrap();
    for word in ["first: 3 invokes", "p99.99", "uds echo, blocking", "VM exits per invoke"] {
        assert!(table.contains(word), "{table}");
    }
}

#[test]
fn no_node_at_a_socket_is_said() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pilotlight"));
    let output = command.args(["bench", "warm", "--socket", "/nonexistent/sock"]).output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("no node at /nonexistent/sock"));
}
