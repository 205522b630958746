//! The whole answer of one invoke, put together from its frames.

use crate::invoke::{ContainerId, InvokeId, Outcome, VmId};
use crate::socket::answer::{self, Answer, Room};

use super::{ClientError, Received};

/// One line of a program's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRecord {
    /// Nanoseconds since the Unix epoch by the guest's clock.
    pub realtime_nanos: u64,
    /// Position among the records of this invoke, from 0.
    pub sequence: u64,
    /// The bytes, any encoding, without the line end.
    pub text: Vec<u8>,
    /// The line goes on in the next record.
    pub has_more: bool,
}

/// The answer of an invoke that ran.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completed {
    /// Its number; no other invoke of this node has it.
    pub invoke: InvokeId,
    /// Where its VM came from.
    pub room: Room,
    /// How it ended.
    pub outcome: Outcome,
    /// Why log records were not delivered; may be empty.
    pub log_reason: String,
    /// The response.
    pub response: Vec<u8>,
    /// Its log, when the invoke asked for it.
    pub log: Vec<LogRecord>,
}

impl Completed {
    /// An outcome without its response.
    #[must_use]
    pub fn of(outcome: &answer::Outcome<'_>) -> Self {
        Self {
            invoke: InvokeId(outcome.invoke),
            room: outcome.room,
            outcome: Outcome {
                status: outcome.status,
                detail: outcome.detail,
                reason: outcome.reason.to_owned(),
                vm: VmId(outcome.vm),
                container: ContainerId(outcome.container),
                run_nanos: outcome.run_nanos,
                memory_peak_bytes: outcome.memory_peak_bytes,
                log: outcome.log,
                timings: outcome.timings,
            },
            log_reason: outcome.log_reason.to_owned(),
            response: outcome.response.to_owned(),
            log: Vec::new(),
        }
    }
}

/// Collects the frames of one invoke: for clients that have several open, one for each.
#[derive(Debug, Default)]
pub struct Collector {
    response: Vec<u8>,
    log: Vec<LogRecord>,
}

impl Collector {
    /// Takes a frame of its invoke; the last one completes the answer.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when the node did not run it.
    pub fn take(&mut self, received: &Received<'_>) -> Result<Option<Completed>, ClientError> {
        match received.answer {
            Answer::Response(bytes) => self.response.extend_from_slice(bytes),
            Answer::Log(log) => self.log.push(LogRecord {
                realtime_nanos: log.realtime_nanos,
                sequence: log.sequence,
                text: log.text.to_owned(),
                has_more: received.has_more,
            }),
            Answer::Outcome(outcome) => {
                let mut completed = Completed::of(&outcome);
                let mut response = std::mem::take(&mut self.response);
                response.append(&mut completed.response);
                let log = std::mem::take(&mut self.log);
                return Ok(Some(Completed { response, log, ..completed }));
            }
            Answer::Error { code, message } => return Err(ClientError::refused(code, message)),
            Answer::Hello(_) | Answer::Reply(_) | Answer::Attached(_) => {
                return Err(ClientError::Protocol("its answer is none to an invoke"));
            }
        }
        Ok(None)
    }
}
