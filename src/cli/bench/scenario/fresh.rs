//! Requests that find nothing of those before them, from a program that leaves 64 pages written:
//! in a VM put back to its snapshot, or in a copy of the process.

use super::super::super::fault::Fault;
use super::super::lab::Lab;
use super::super::measured::Measured;
use super::super::program::Program;
use super::warm;

/// The same requests. What a reset took, which is off the way of the answer, goes with them; and
/// how many VMs ended instead of being put back, because room was needed.
pub(super) fn measure(lab: &mut Lab<'_>, program: &Program) -> Result<Measured, Fault> {
    let mut measured = warm::measure(lab, program)?;
    let mut status = lab.subject.client.status()?;
    let resets = status["latency_nanos"]["reset"].take();
    if resets["count"].as_u64().is_some_and(|count| count > 0) {
        measured.extra.insert("reset_nanos".to_owned(), resets);
        let failed = status["counters"]["resets_failed"].take();
        measured.extra.insert("resets_failed".to_owned(), failed);
    }
    Ok(measured)
}
