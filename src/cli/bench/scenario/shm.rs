//! As `warm`, over shared memory: no system call carries a byte.

use std::time::Duration;

use serde_json::json;

use super::super::super::fault::Fault;
use super::super::lab::Lab;
use super::super::measured::Measured;
use super::super::program::Program;
use super::warm;

/// How long the client polls before it sleeps, where it has a core for that: longer than an answer
/// takes.
const POLL: Duration = Duration::from_micros(200);

/// The same requests on a connection that goes on in shared memory. A client that shares its core
/// with the node does not poll: it would be in the way of what it waits for.
pub(super) fn measure(lab: &mut Lab<'_>, program: &Program) -> Result<Measured, Fault> {
    let cores = perf::cores()?;
    let is_alone = cores.iter().any(|core| lab.subject.leaves(*core));
    let poll = if is_alone { POLL } else { Duration::ZERO };
    lab.subject.share_memory(poll)?;
    let mut measured = warm::measure(lab, program)?;
    measured.extra.insert("client_poll_micros".to_owned(), json!(poll.as_micros()));
    Ok(measured)
}
