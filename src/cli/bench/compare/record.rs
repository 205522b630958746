//! A run as `pilotlight bench --json` wrote it, as far as a comparison needs it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use perf::{Latencies, Run, Summary};
use serde::Deserialize;
use serde_json::Value;

use super::super::super::fault::Fault;

/// What two runs should have in common to be compared, as JSON pointers.
const SETTINGS: [&str; 6] =
    ["/rate", "/concurrency", "/payload_bytes", "/profile", "/machine", "/layout"];
/// The baseline runs are held against.
const ECHO: &str = "/baselines/uds_echo_blocking/batches_p50_nanos";

/// One object.
#[derive(Debug)]
pub(super) struct Record {
    run: Run,
    latencies: Option<Latencies>,
    object: Value,
}

/// The keys without which it is none.
#[derive(Debug, Deserialize)]
struct Keys {
    scenario: String,
    batches_p50_nanos: Vec<u64>,
}

/// All runs of a file, by scenario.
pub(super) fn read(path: &Path) -> Result<BTreeMap<String, Vec<Record>>, Fault> {
    let name = path.display();
    let text = fs::read_to_string(path)
        .map_err(|error| Fault::new(format!("{name} cannot be read: {error}")))?;
    let mut records: BTreeMap<String, Vec<Record>> = BTreeMap::new();
    for object in serde_json::Deserializer::from_str(&text).into_iter() {
        let record = object.map_err(|error| error.to_string()).and_then(Record::new);
        let record = record.map_err(|reason| {
            Fault::new(format!("{name} is not what `pilotlight bench --json` writes: {reason}"))
        })?;
        records.entry(record.run.scenario.clone()).or_default().push(record);
    }
    match records.is_empty() {
        false => Ok(records),
        true => Err(Fault::new(format!(
            "{name} holds no run: make one with `pilotlight bench SCENARIO --json > {name}`"
        ))),
    }
}

impl Record {
    fn new(object: Value) -> Result<Self, String> {
        let keys = Keys::deserialize(&object).map_err(|error| error.to_string())?;
        let echo = match object.pointer(ECHO) {
            None | Some(Value::Null) => Vec::new(),
            Some(batches) => {
                Vec::deserialize(batches).map_err(|error| format!("{ECHO}: {error}"))?
            }
        };
        let latencies = match object.get("histogram") {
            None | Some(Value::Null) => None,
            Some(word) => {
                let word = word.as_str().unwrap_or_default();
                Some(Latencies::decode(word).map_err(|error| format!("histogram: {error}"))?)
            }
        };
        let run = Run {
            scenario: keys.scenario,
            batches_p50_nanos: keys.batches_p50_nanos,
            echo_batches_p50_nanos: echo,
        };
        Ok(Self { run, latencies, object })
    }

    pub(super) fn run(&self) -> Run {
        self.run.clone()
    }

    fn setting(&self, pointer: &str) -> &Value {
        self.object.pointer(pointer).unwrap_or(&Value::Null)
    }
}

/// Those of all invokes of either side.
pub(super) fn percentiles(sides: [&[Record]; 2]) -> Option<[Summary; 2]> {
    let summary = |records: &[Record]| {
        let mut all = Latencies::new();
        for record in records {
            all.merge(record.latencies.as_ref()?);
        }
        Some(all.summary())
    };
    let [a, b] = sides.map(summary);
    Some([a?, b?])
}

/// What not all runs have in common, with the values of the first that differ.
pub(super) fn differing(sides: [&[Record]; 2]) -> Vec<String> {
    let mut records = sides.into_iter().flatten();
    let Some(first) = records.next() else { return Vec::new() };
    let others: Vec<&Record> = records.collect();
    let differs = |pointer: &&str| {
        let value = first.setting(pointer);
        let other = others.iter().map(|other| other.setting(pointer)).find(|other| *other != value);
        other.map(|other| format!("{} {value} and {other}", &pointer[1..]))
    };
    SETTINGS.iter().filter_map(differs).collect()
}
