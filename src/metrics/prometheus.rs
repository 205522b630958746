//! A node's status in the text format of Prometheus, version 0.0.4
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>). Pure: what a STATUS request
//! answers goes in. Names nobody: no user, function, VM or key is in it, so that whoever may read the
//! page learns what the node does and not for whom, and so that its size does not grow with them.

use std::fmt::{Display, Write};

use serde_json::Value;

use crate::invoke::{Status, status_name};

/// Content type of the page.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Counters of the status, and what they count.
const COUNTERS: [(&str, &str); 27] = [
    ("boots", "VMs booted from the kernel image."),
    ("restores", "VMs restored from a snapshot."),
    ("restores_failed", "Attempts to restore a VM that failed."),
    ("resets", "VMs put back to their snapshot."),
    ("resets_failed", "VMs that ended instead of being put back to their snapshot."),
    ("resets_verified", "Resets after which the whole VM was found the same as its snapshot."),
    ("resets_verified_partly", "Resets after which as much was compared as there was time for."),
    ("reset_pages", "Pages put back in all resets."),
    ("vms_gone", "VMs that ended, for whatever reason."),
    ("guest_faults", "VMs that ended because their guest broke a rule."),
    ("vm_exits", "Returns of KVM_RUN to a VMM."),
    ("assigns", "VMs given to a user."),
    ("acquires", "Containers made."),
    ("loads", "Packages loaded into VMs."),
    ("invokes", "Invokes taken in."),
    ("forwarded", "Invokes sent on to the shard that has their VM."),
    ("log_records", "Log records taken from VMs."),
    ("log_dropped", "Log records given up."),
    ("sleeps", "Times a shard slept for want of work."),
    ("step_asides", "Times a polling shard let its other tasks run."),
    ("receives", "Receives from clients that found something."),
    ("receives_empty", "Receives from clients that found nothing."),
    ("sends", "Sends to clients."),
    ("attaches", "Clients that went on in shared memory."),
    ("ring_receives", "Times bytes were found in the ring of a client in shared memory."),
    ("ring_sends", "Times bytes were put into the ring of a client in shared memory."),
    ("doorbells", "Times a sleeping guest was rung for."),
];

/// Numbers of the status that go up and down: path, name, what it is.
const GAUGES: [(&str, &str, &str); 11] = [
    ("/functions", "functions", "Deployed functions of all users."),
    ("/pools/containers", "containers", "Containers in VMs of users."),
    ("/pools/packages", "packages", "Packages in VMs of users."),
    ("/pools/running", "invokes_running", "Invokes in VMs."),
    ("/pools/waiting", "invokes_waiting", "Invokes that wait for a VM."),
    ("/pools/warm_target", "vms_warm_wanted", "Warm VMs there are to be."),
    ("/pools/spawn_failures", "spawn_failures_in_row", "Starts of VMs that failed in a row."),
    ("/pools/under_pressure", "shards_under_pressure", "Shards whose host is short of memory."),
    ("/snapshots/bytes", "function_snapshots_bytes", "Memory held by snapshots of functions."),
    ("/snapshots/pending", "function_snapshots_pending", "Snapshots of functions to be made."),
    ("/snapshot_bytes", "base_snapshot_bytes", "Size of the snapshot every VM comes from."),
];

/// States a VM goes through.
const VM_STATES: [&str; 7] =
    ["starting", "warm", "prepared", "assigned", "invoking", "resetting", "leaving"];
/// Stages that follow one another in an invoke.
const INVOKE_STAGES: [&str; 6] = ["accept", "route", "acquire", "load", "run", "reply"];
/// What else is timed: stage of the status, name, what it is.
const TIMES: [(&str, &str, &str); 4] = [
    ("total", "invoke_duration_seconds", "Time of invokes that ended in a VM, from their arrival."),
    ("restore", "vm_restore_duration_seconds", "Time a VM takes from its snapshot."),
    ("reset", "vm_reset_duration_seconds", "Time a VM takes back to its snapshot."),
    ("verify", "vm_verify_duration_seconds", "Time taken to compare a VM with its snapshot."),
];
/// Of whom a shard's polling is told: key of the status, label.
const POLLING: [(&str, &str); 3] =
    [("for_clients", "clients"), ("for_guests", "guests"), ("by_guests", "shard")];

/// The page for a status.
#[must_use]
pub fn page(status: &Value) -> String {
    let mut page = Page(String::new());
    let build = ["version", "flavour", "isolation"];
    let build = build.map(|key| (key, status[key].as_str().unwrap_or_default()));
    page.family("build_info", "gauge", "What runs here; the value says nothing.");
    page.sample("build_info", &build, 1);
    page.family("uptime_seconds", "gauge", "Since the start of the node.");
    page.sample("uptime_seconds", &[], seconds(number(&status["uptime_nanos"])));
    for (path, name, help) in GAUGES {
        page.family(name, "gauge", help);
        page.sample(name, &[], status.pointer(path).map_or(0, number));
    }
    page.family("vms", "gauge", "VMs by state.");
    for state in VM_STATES {
        page.sample("vms", &[("state", state)], number(&status["pools"][state]));
    }
    page.family("function_snapshots", "gauge", "Snapshots of functions; failed: will have none.");
    for state in ["made", "failed"] {
        page.sample("function_snapshots", &[("state", state)], number(&status["snapshots"][state]));
    }
    page.counters(status);
    page.times(status);
    page.0
}

struct Page(String);

/// How a number of the status is shown.
type Show = fn(u64) -> String;

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        self.line(format_args!("# HELP pilotlight_{name} {help}"));
        self.line(format_args!("# TYPE pilotlight_{name} {kind}"));
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let labels: Vec<_> =
            labels.iter().map(|(key, value)| format!("{key}=\"{}\"", escaped(value))).collect();
        match labels.is_empty() {
            true => self.line(format_args!("pilotlight_{name} {value}")),
            false => self.line(format_args!("pilotlight_{name}{{{}}} {value}", labels.join(","))),
        }
    }

    fn line(&mut self, line: std::fmt::Arguments<'_>) {
        // A string takes everything.
        let _ = writeln!(self.0, "{line}");
    }

    fn counters(&mut self, status: &Value) {
        for (key, help) in COUNTERS {
            let name = format!("{key}_total");
            self.family(&name, "counter", help);
            self.sample(&name, &[], number(&status["counters"][key]));
        }
        self.family("outcomes_total", "counter", "Invokes that ended in a VM, by how.");
        for outcome in (0..=u8::MAX).filter_map(|number| Status::from_number(number).ok()) {
            let outcome = status_name(outcome);
            let count = number(&status["outcomes"][outcome]);
            self.sample("outcomes_total", &[("outcome", outcome)], count);
        }
        self.family("refusals_total", "counter", "Requests answered with an error, by its code.");
        for (code, count) in status["refusals"].as_object().into_iter().flatten() {
            self.sample("refusals_total", &[("code", code)], number(count));
        }
        // By number there could be as many series as a guest likes to make up.
        let missing = status["missing_syscalls"].as_array().into_iter().flatten();
        let help = "System calls programs made that the guest kernel does not have.";
        self.family("missing_syscalls_total", "counter", help);
        let count: u64 = missing.map(|call| number(&call["count"])).sum();
        self.sample("missing_syscalls_total", &[], count);
        self.polling(status);
    }

    fn polling(&mut self, status: &Value) {
        let families: [(&str, &str, &str, Show); 3] = [
            ("polls_hit_total", "hits", "Idle times that ended while polling.", |n| n.to_string()),
            ("polls_missed_total", "misses", "Idle times that ended later.", |n| n.to_string()),
            ("polls_vain_seconds_total", "vain_nanos", "Time polled in vain.", seconds),
        ];
        for (name, key, help, show) in families {
            self.family(name, "counter", help);
            for (shard, described) in status["shards"].as_array().into_iter().flatten().enumerate()
            {
                let (shard, polling) = (shard.to_string(), &described["polling"]);
                // A shard that had no time to answer has no samples rather than zeros.
                for (of, target) in POLLING.into_iter().filter(|_| polling.is_object()) {
                    let value = show(number(&polling[of][key]));
                    self.sample(name, &[("shard", &shard), ("for", target)], value);
                }
            }
        }
    }

    fn times(&mut self, status: &Value) {
        for (stage, name, help) in TIMES {
            self.family(name, "histogram", help);
            self.histogram(name, &[], (status, stage));
        }
        let name = "invoke_stage_duration_seconds";
        self.family(name, "histogram", "Time of invokes by stage; stages follow one another.");
        for stage in INVOKE_STAGES {
            self.histogram(name, &[("stage", stage)], (status, stage));
        }
    }

    fn histogram(&mut self, name: &str, labels: &[(&str, &str)], (status, stage): (&Value, &str)) {
        let buckets = &status["latency_buckets"];
        let bounds = buckets["bounds_nanos"].as_array().into_iter().flatten();
        let stage = &buckets["stages"][stage];
        let counts = stage["counts"].as_array().into_iter().flatten();
        let bucket = format!("{name}_bucket");
        for (bound, count) in bounds.zip(counts) {
            let bound = seconds(number(bound));
            self.sample(&bucket, &[labels, &[("le", &bound)]].concat(), number(count));
        }
        let count = number(&stage["count"]);
        self.sample(&bucket, &[labels, &[("le", "+Inf")]].concat(), count);
        self.sample(&format!("{name}_sum"), labels, seconds(number(&stage["sum_nanos"])));
        self.sample(&format!("{name}_count"), labels, count);
    }
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

/// Nanoseconds as seconds, exactly.
fn seconds(nanos: u64) -> String {
    let text = format!("{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::metrics::{BOUNDS_NANOS, ShardMetrics};

    /// A status as a node makes it, as far as it comes from here.
    fn status(metrics: &ShardMetrics) -> Value {
        let report = metrics.snapshot().report();
        json!({
            "version": "1", "flavour": "pvm", "isolation": "vm", "uptime_nanos": 1_500_000_000_u64,
            "counters": report.counters, "outcomes": report.outcomes,
            "refusals": report.refusals, "latency_buckets": report.latency_buckets,
            "pools": { "warm": 2 },
            "shards": [{ "polling": { "for_clients": { "hits": 3, "vain_nanos": 25_000 } } }, {}],
            "missing_syscalls": [{ "count": 2 }, { "count": 3 }],
        })
    }

    #[test]
    fn times_are_cumulative_buckets_in_seconds() {
        let mut metrics = ShardMetrics::new();
        metrics.finished(Status::Exited, 20_000);
        metrics.finished(Status::Exited, 30_000);
        metrics.finished(Status::Exited, 20_000_000_000);
        let page = page(&status(&metrics));
        let name = "pilotlight_invoke_duration_seconds";
        for line in [
            "_bucket{le=\"0.00001\"} 0",
            "_bucket{le=\"0.000025\"} 1",
            "_bucket{le=\"0.00005\"} 2",
            "_bucket{le=\"10\"} 2",
            "_bucket{le=\"+Inf\"} 3",
            "_sum 20.00005",
            "_count 3",
        ] {
            assert!(page.contains(&format!("\n{name}{line}\n")), "no {line} in {page}");
        }
        let buckets = page.lines().filter(|line| line.starts_with(&format!("{name}_bucket")));
        assert_eq!(buckets.count(), BOUNDS_NANOS.len() + 1);
        assert!(page.contains("stage_duration_seconds_bucket{stage=\"run\",le=\"0.1\"} 0\n"));
    }

    #[test]
    fn every_counter_is_there_with_its_help() {
        let mut metrics = ShardMetrics::new();
        metrics.refused(crate::code::Code::Busy);
        let status = status(&metrics);
        let page = page(&status);
        let counters = status["counters"].as_object().unwrap();
        assert_eq!(counters.len(), COUNTERS.len());
        for key in counters.keys() {
            assert!(page.contains(&format!("\n# TYPE pilotlight_{key}_total counter\n")), "{key}");
            assert!(page.contains(&format!("\npilotlight_{key}_total 0\n")), "{key}");
        }
        for line in [
            "pilotlight_outcomes_total{outcome=\"deadline-exceeded\"} 0",
            "pilotlight_refusals_total{code=\"busy\"} 1",
            "pilotlight_missing_syscalls_total 5",
            "pilotlight_polls_hit_total{shard=\"0\",for=\"clients\"} 3",
            "pilotlight_polls_vain_seconds_total{shard=\"0\",for=\"clients\"} 0.000025",
            "pilotlight_uptime_seconds 1.5",
            "pilotlight_vms{state=\"warm\"} 2",
        ] {
            assert!(page.lines().any(|it| it == line), "no {line} in {page}");
        }
        assert!(!page.contains("shard=\"1\""), "it had no time to answer");
    }

    #[test]
    fn labels_cannot_break_out() {
        assert_eq!(escaped("a\"b\\c\nd"), "a\\\"b\\\\c\\nd");
    }
}
