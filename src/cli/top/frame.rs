//! One picture of a node, made of two statuses: what changed between them, over the node's own time
//! between them. Pure.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use serde_json::Value;

use super::super::report;

/// A terminal's.
#[derive(Clone, Copy, Debug)]
pub(super) struct Size {
    pub(super) columns: usize,
    pub(super) lines: usize,
}

/// Lines above the table of functions that are not its own: five and an empty one.
const HEAD_LINES: usize = 6;

/// The picture. Without a status before, rates and percentiles are since the start of the node;
/// without a size it is as large as it gets.
pub(super) fn frame(before: Option<&Value>, now: &Value, size: Option<Size>) -> String {
    // A node that was started anew counts anew.
    let uptime = |status: &Value| number(&status["uptime_nanos"]);
    let before = before.filter(|before| uptime(before) < uptime(now));
    let span = Span { before: before.unwrap_or(&Value::Null), now };
    let mut text = head(&span);
    let rows = functions(&span);
    let room = size.map_or(usize::MAX, |size| size.lines.saturating_sub(HEAD_LINES + 2));
    let heading =
        ["FUNCTION", "USER", "VERSION", "RATE", "P50", "P90", "P99", "MAX", "FAILED", "ALL"];
    text += &report::table(heading, &rows[..rows.len().min(room)]);
    if rows.len() > room {
        text += &format!("and {} more\n", rows.len() - room);
    }
    match size {
        Some(size) => text.lines().map(|line| cut(line, size.columns)).collect(),
        None => text,
    }
}

fn cut(line: &str, columns: usize) -> String {
    line.chars().take(columns).chain(['\n']).collect()
}

/// Two statuses of one node.
struct Span<'a> {
    before: &'a Value,
    now: &'a Value,
}

impl Span<'_> {
    fn nanos(&self) -> u64 {
        let uptime = |status: &Value| number(&status["uptime_nanos"]);
        uptime(self.now).saturating_sub(uptime(self.before))
    }

    /// A count per second.
    fn rate(&self, count: u64) -> String {
        rate(count, self.nanos())
    }

    /// How much a counter has grown.
    fn grown(&self, counter: &str) -> u64 {
        let count = |status: &Value| number(&status["counters"][counter]);
        count(self.now).saturating_sub(count(self.before))
    }

    /// How much the counts of an object have grown together.
    fn all_grown(&self, object: &str) -> u64 {
        let count = |status: &Value| -> u64 {
            status[object].as_object().into_iter().flatten().map(|(_, count)| number(count)).sum()
        };
        count(self.now).saturating_sub(count(self.before))
    }
}

fn head(span: &Span<'_>) -> String {
    let now = span.now;
    let pools = |key: &str| number(&now["pools"][key]);
    let since = match span.before.is_null() {
        true => "since its start".to_owned(),
        false => format!("in the last {}", report::nanos(span.nanos())),
    };
    let word = |key: &str| now[key].as_str().unwrap_or("-");
    let mut text = format!(
        "pilotlight {}, up {}; rates and times {since}; {} KVM, isolation {}\n",
        word("version"),
        up(number(&now["uptime_nanos"])),
        word("flavour"),
        word("isolation"),
    );
    text += &format!(
        "invokes  {}/s taken in, {}/s ended, {}/s refused; {} running, {} waiting\n",
        span.rate(span.grown("invokes")),
        span.rate(span.all_grown("outcomes")),
        span.rate(span.all_grown("refusals")),
        pools("running"),
        pools("waiting"),
    );
    let states = ["warm", "prepared", "assigned", "invoking", "starting", "resetting", "leaving"];
    let states = states.map(|state| format!("{} {state}", pools(state)));
    text += &format!(
        "VMs      {}; {} warm wanted, {} containers\n",
        states.join(", "),
        pools("warm_target"),
        pools("containers")
    );
    text += &format!(
        "         {}/s restored, {}/s reset, {}/s gone, {}/s exits\n",
        span.rate(span.grown("restores")),
        span.rate(span.grown("resets")),
        span.rate(span.grown("vms_gone")),
        span.rate(span.grown("vm_exits")),
    );
    text += &format!(
        "logs     {}/s records, {}/s dropped\n\n",
        span.rate(span.grown("log_records")),
        span.rate(span.grown("log_dropped")),
    );
    text
}

/// A line for each function, the busiest first.
fn functions(span: &Span<'_>) -> Vec<[String; 10]> {
    let list =
        |status: &'_ Value| status["function_latency"].as_array().cloned().unwrap_or_default();
    let id = |function: &Value| ["user", "name", "version"].map(|key| function[key].to_string());
    let before: BTreeMap<_, _> = list(span.before).into_iter().map(|it| (id(&it), it)).collect();
    let mut functions: Vec<_> = list(span.now)
        .iter()
        .map(|function| {
            let times = Times::between(before.get(&id(function)), function);
            let all = number(&function["latency_nanos"]["count"]);
            let text = |key: &str| function[key].as_str().unwrap_or("-").to_owned();
            let row = [
                text("name"),
                text("user"),
                function["version"].to_string(),
                format!("{}/s", span.rate(times.count())),
                times.percentile(500),
                times.percentile(900),
                times.percentile(990),
                times.percentile(1000),
                number(&function["failed"]).to_string(),
                all.to_string(),
            ];
            (Reverse((times.count(), all)), row)
        })
        .collect();
    functions.sort();
    functions.into_iter().map(|(_, row)| row).collect()
}

/// Counts of times, by the longest a bucket holds.
struct Times(BTreeMap<u64, u64>);

impl Times {
    /// What came in between.
    fn between(before: Option<&Value>, now: &Value) -> Self {
        let mut times = buckets(now);
        for (nanos, count) in before.map(buckets).unwrap_or_default() {
            if let Some(now) = times.get_mut(&nanos) {
                *now = now.saturating_sub(count);
            }
        }
        Self(times)
    }

    fn count(&self) -> u64 {
        self.0.values().sum()
    }

    /// The time that so many of a thousand did not exceed.
    fn percentile(&self, per_mille: u64) -> String {
        let rank = (self.count() * per_mille).div_ceil(1000);
        let mut seen = 0;
        let reaches = |(_, count): &(&u64, &u64)| {
            seen += **count;
            seen >= rank
        };
        match self.0.iter().filter(|(_, count)| **count > 0).find(reaches) {
            Some((nanos, _)) => report::nanos(*nanos),
            None => "-".to_owned(),
        }
    }
}

fn buckets(function: &Value) -> BTreeMap<u64, u64> {
    let buckets = function["buckets"].as_array().into_iter().flatten();
    buckets.map(|bucket| (number(&bucket[0]), number(&bucket[1]))).collect()
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

/// So many in so long, per second.
fn rate(count: u64, nanos: u64) -> String {
    let tenths = u128::from(count) * 10_000_000_000 / u128::from(nanos.max(1));
    format!("{}.{}", tenths / 10, tenths % 10)
}

/// How long it has run.
fn up(nanos: u64) -> String {
    let minutes = nanos / 60_000_000_000;
    match minutes {
        0 => format!("{} s", nanos / 1_000_000_000),
        1..60 => format!("{minutes} min"),
        60..1440 => format!("{} h {} min", minutes / 60, minutes % 60),
        _ => format!("{} d {} h", minutes / 1440, minutes / 60 % 24),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(seconds: u64, invokes: u64, functions: &[(&str, &[(u64, u64)])]) -> Value {
        let functions = functions.iter().map(|(name, buckets)| {
            let count: u64 = buckets.iter().map(|(_, count)| count).sum();
            json!({
                "user": "ada", "name": name, "version": 2, "failed": 1,
                "latency_nanos": { "count": count }, "buckets": buckets,
            })
        });
        json!({
            "version": "1.2.3", "flavour": "pvm", "isolation": "vm",
            "uptime_nanos": seconds * 1_000_000_000,
            "counters": { "invokes": invokes, "restores": 4 },
            "outcomes": { "exited": invokes }, "refusals": { "busy": 2 },
            "pools": { "warm": 2, "warm_target": 3, "running": 1 },
            "function_latency": functions.collect::<Vec<_>>(),
        })
    }

    #[test]
    fn a_first_picture_is_since_the_start() {
        let now = status(10, 105, &[("echo", &[(100_000, 98), (2_000_000, 2)])]);
        let text = frame(None, &now, None);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(
            lines[0],
            "pilotlight 1.2.3, up 10 s; rates and times since its start; pvm KVM, isolation vm"
        );
        assert_eq!(
            lines[1],
            "invokes  10.5/s taken in, 10.5/s ended, 0.2/s refused; 1 running, 0 waiting"
        );
        assert!(lines[2].starts_with("VMs      2 warm, 0 prepared"), "{text}");
        assert!(lines[2].ends_with("3 warm wanted, 0 containers"), "{text}");
        assert!(lines[HEAD_LINES - 1].is_empty() && lines[HEAD_LINES].starts_with("FUNCTION"));
        let words: Vec<_> = lines[HEAD_LINES + 1].split("  ").filter(|it| !it.is_empty()).collect();
        let words: Vec<_> = words.into_iter().map(str::trim).collect();
        let times = ["100.0 us", "100.0 us", "2.00 ms", "2.00 ms"];
        assert_eq!(words[..4], ["echo", "ada", "2", "10.0/s"]);
        assert_eq!(words[4..8], times);
        assert_eq!(words[8..], ["1", "100"]);
    }

    #[test]
    fn a_later_one_is_of_the_time_in_between_and_the_busiest_comes_first() {
        let idle: (&str, &[(u64, u64)]) = ("idle", &[(50_000, 900)]);
        let before = status(10, 1_000, &[("echo", &[(100_000, 100)]), idle]);
        let now = status(12, 1_050, &[idle, ("echo", &[(100_000, 110), (9_000_000, 40)])]);
        let text = frame(Some(&before), &now, None);
        assert!(text.contains("in the last 2.00 s") && text.contains("25.0/s taken in"), "{text}");
        let rows: Vec<_> = text.lines().skip(HEAD_LINES + 1).collect();
        assert!(rows[0].starts_with("echo") && rows[0].contains("25.0/s"), "{text}");
        assert!(rows[0].contains("9.00 ms  9.00 ms  9.00 ms"), "{text}");
        assert!(rows[1].starts_with("idle") && rows[1].contains("0.0/s   -  "), "{text}");
        // A node that was started anew has nothing in common with the one before.
        assert!(frame(Some(&now), &before, None).contains("since its start"));
    }

    #[test]
    fn it_fits_the_terminal() {
        let many: Vec<_> = (0..50).map(|number| format!("f{number}")).collect();
        let many: Vec<(&str, &[(u64, u64)])> =
            many.iter().map(|name| (name.as_str(), [(1_000, 1)].as_slice())).collect();
        let text = frame(None, &status(1, 50, &many), Some(Size { columns: 40, lines: 20 }));
        assert_eq!(text.lines().count(), 20, "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 40), "{text}");
        assert!(text.ends_with("and 38 more\n"), "{text}");
        frame(None, &Value::Null, Some(Size { columns: 1, lines: 1 }));
    }

    #[test]
    fn spans_and_rates_are_short() {
        let minute = 60_000_000_000;
        assert_eq!([up(59 * minute / 60), up(61 * minute)], ["59 s", "1 h 1 min"]);
        assert_eq!(up(3 * 1440 * minute), "3 d 0 h");
        assert_eq!([rate(5, minute), rate(1_234, 0)], ["0.0", "1234000000000.0"]);
    }
}
