//! What an outcome means: an exit status, a line for people, an object for programs.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use pilotlight::client::{Completed, LogRecord};
use pilotlight::invoke::{LogAccount, Outcome, Status, status_name};
use pilotlight::socket::answer::Room;
use serde_json::{Map, Value, json};

use super::super::report;

const DEADLINE: u8 = 124;
const NODE: u8 = 125;
const NOT_EXECUTABLE: u8 = 126;
/// What a shell reports for a process that a signal ended is this and the signal's number.
const SIGNALLED: u32 = 128;
const SIGINT: u32 = 2;
const SIGKILL: u32 = 9;
const SIGSEGV: u32 = 11;

/// What the command ends with.
pub(super) fn status(outcome: &Outcome) -> u8 {
    let low_byte = |number: u32| number.to_le_bytes()[0];
    match outcome.status {
        Status::Exited => low_byte(outcome.detail),
        Status::Signalled => low_byte(SIGNALLED + (outcome.detail & 0x7f)),
        Status::StackOverflow => low_byte(SIGNALLED + SIGSEGV),
        Status::MemoryExhausted => low_byte(SIGNALLED + SIGKILL),
        Status::Cancelled => low_byte(SIGNALLED + SIGINT),
        Status::DeadlineExceeded => DEADLINE,
        Status::NotExecutable | Status::ContractBroken => NOT_EXECUTABLE,
        Status::NoRoom => NODE,
    }
}

/// What the command ends with when an error has this code, if it is not the node's matter.
pub(super) fn status_of_code(code: &str) -> Option<u8> {
    match code {
        "deadline" => Some(DEADLINE),
        "cancelled" => Some((SIGNALLED + SIGINT).to_le_bytes()[0]),
        _ => None,
    }
}

/// The account of an invoke, for people.
pub(super) fn line(completed: &Completed) -> String {
    let outcome = &completed.outcome;
    let mut line = format!("pilotlight: {}", what(outcome));
    if !outcome.reason.is_empty() {
        line += &format!(" ({})", outcome.reason);
    }
    let pool = match completed.room {
        Room::None => "no VM".to_owned(),
        Room::Active => format!("{}, {} from the active pool", outcome.vm, container(outcome)),
        Room::Warming => format!("{}, {} from the warming pool", outcome.vm, container(outcome)),
    };
    line += &format!(
        "; ran {}, {} at most; invoke {}, {pool}; {}",
        report::nanos(outcome.run_nanos),
        report::bytes(outcome.memory_peak_bytes),
        completed.invoke,
        account(&outcome.log)
    );
    if !completed.log_reason.is_empty() {
        line += &format!(" ({})", completed.log_reason);
    }
    line
}

fn container(outcome: &Outcome) -> String {
    format!("container {}", outcome.container.0)
}

fn what(outcome: &Outcome) -> String {
    match outcome.status {
        Status::Exited => format!("exited with status {}", outcome.detail),
        Status::Signalled => format!("ended by signal {}", outcome.detail),
        Status::StackOverflow
        | Status::MemoryExhausted
        | Status::DeadlineExceeded
        | Status::Cancelled
        | Status::NotExecutable
        | Status::ContractBroken
        | Status::NoRoom => status_name(outcome.status).replace('-', " "),
    }
}

/// What became of log records, for people.
pub(in super::super) fn account(log: &LogAccount) -> String {
    if log.produced == 0 {
        return "no log".to_owned();
    }
    let mut parts = vec![format!("log: {} records", log.produced)];
    let mut count = |number: u64, what: &str| {
        if number > 0 {
            parts.push(format!("{number} {what}"));
        }
    };
    count(log.handed_over, "handed over");
    count(log.acknowledged.unwrap_or(0), "acknowledged");
    count(log.dropped, "given up");
    count(waiting(log), "not sent to a logging service");
    parts.join(", ")
}

fn waiting(log: &LogAccount) -> u64 {
    log.produced.saturating_sub(log.handed_over + log.dropped)
}

/// All of it, for programs.
pub(super) fn object(completed: &Completed) -> Value {
    let outcome = &completed.outcome;
    let (log, timings) = (&outcome.log, &outcome.timings);
    let detail = |status| (outcome.status == status).then_some(outcome.detail);
    let mut object = json!({
        "invoke": completed.invoke.to_string(),
        "vm": outcome.vm.to_string(),
        "container": outcome.container.0,
        "pool": match completed.room {
            Room::None => None,
            Room::Active => Some("active"),
            Room::Warming => Some("warming"),
        },
        "status": status_name(outcome.status),
        "exit_status": detail(Status::Exited),
        "signal": detail(Status::Signalled),
        "reason": outcome.reason,
        "exit_code": status(outcome),
        "log": completed.log.iter().map(record).collect::<Vec<_>>(),
        "log_account": {
            "produced": log.produced,
            "handed_over": log.handed_over,
            "acknowledged": log.acknowledged,
            "dropped": log.dropped,
            "waiting": waiting(log),
        },
        "log_reason": completed.log_reason,
        "run_nanos": outcome.run_nanos,
        "memory_peak_bytes": outcome.memory_peak_bytes,
        "timings_nanos": {
            "accept": timings.accept_nanos,
            "route": timings.route_nanos,
            "acquire": timings.acquire_nanos,
            "load": timings.load_nanos,
            "run": timings.run_nanos,
            "reply": timings.reply_nanos,
        },
    });
    if let Some(object) = object.as_object_mut() {
        put_bytes(object, "response", &completed.response);
    }
    object
}

fn record(record: &LogRecord) -> Value {
    let mut object = Map::new();
    object.insert("sequence".to_owned(), record.sequence.into());
    object.insert("realtime_nanos".to_owned(), record.realtime_nanos.into());
    object.insert("has_more".to_owned(), record.has_more.into());
    put_bytes(&mut object, "text", &record.text);
    Value::Object(object)
}

/// Bytes as `key` when they are text, else as `key_base64`.
fn put_bytes(object: &mut Map<String, Value>, key: &str, bytes: &[u8]) {
    match str::from_utf8(bytes) {
        Ok(text) => object.insert(key.to_owned(), text.into()),
        Err(_) => object.insert(format!("{key}_base64"), STANDARD.encode(bytes).into()),
    };
}

#[cfg(test)]
mod tests {
    use pilotlight::invoke::{ContainerId, InvokeId, Timings, VmId};

    use super::*;

    fn completed(status: Status, detail: u32) -> Completed {
        Completed {
            invoke: InvokeId(0x11),
            room: Room::Warming,
            outcome: Outcome {
                status,
                detail,
                reason: String::new(),
                vm: VmId(7),
                container: ContainerId(2),
                run_nanos: 1_500,
                memory_peak_bytes: 8_192,
                log: LogAccount { produced: 3, handed_over: 1, acknowledged: None, dropped: 1 },
                timings: Timings::default(),
            },
            log_reason: "refused".to_owned(),
            response: vec![0xff],
            log: Vec::new(),
        }
    }

    #[test]
    fn statuses_are_those_shells_know() {
        let of = |kind, detail| status(&completed(kind, detail).outcome);
        assert_eq!(of(Status::Exited, 3), 3);
        assert_eq!(of(Status::Signalled, 11), 139);
        assert_eq!(of(Status::StackOverflow, 0), 139);
        assert_eq!(of(Status::MemoryExhausted, 0), 137);
        assert_eq!(of(Status::DeadlineExceeded, 0), 124);
        assert_eq!(of(Status::Cancelled, 0), 130);
        assert_eq!(of(Status::NotExecutable, 0), 126);
        assert_eq!(of(Status::NoRoom, 0), 125);
        assert_eq!(status_of_code("deadline"), Some(124));
        assert_eq!(status_of_code("busy"), None);
    }

    #[test]
    fn the_line_names_what_ended_where_and_the_log() {
        assert_eq!(
            line(&completed(Status::Exited, 3)),
            "pilotlight: exited with status 3; ran 1.5 us, 8 KiB at most; invoke 0000000000000011, \
             vm-7, container 2 from the warming pool; log: 3 records, 1 handed over, 1 given up, \
             1 not sent to a logging service (refused)"
        );
    }

    #[test]
    fn bytes_that_are_no_text_are_encoded() {
        let object = object(&completed(Status::Signalled, 9));
        assert_eq!(object["response_base64"], "/w==");
        assert_eq!(object.get("response"), None);
        assert_eq!((&object["signal"], &object["exit_status"]), (&json!(9), &Value::Null));
        assert_eq!(
            (&object["exit_code"], &object["log_account"]["waiting"]),
            (&json!(137), &json!(1))
        );
    }
}
