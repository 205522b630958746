//! How much memory a VM takes as there are more and more of them, each of another user, used once
//! and idle.

use pilotlight::socket::request::Invoke;
use serde_json::json;

use super::super::super::fault::Fault;
use super::super::lab::{Lab, ask};
use super::super::measured::Measured;
use super::super::program::{PAYLOAD_BYTES, Program, payload};

/// VMs at most.
pub(super) const VMS_MAX: u32 = 1_000;
/// The machine is full when less than a quarter of what was available at the start is left.
const LEFT_MIN: u64 = 4;

/// Adds VMs until there are as many as were asked for, time is over, or the machine is full.
pub(super) fn measure(lab: &mut Lab<'_>, program: &Program) -> Result<Measured, Fault> {
    let mut measured = lab.measured();
    let payload = payload(PAYLOAD_BYTES);
    lab.subject.await_warm()?;
    let available = perf::available_bytes()?;
    let count = lab.plan.count.min(u64::from(VMS_MAX));
    lab.plan.count = count;
    let (mut points, mut added, mut end) = (Vec::new(), 0, None);
    lab.rounds(&mut measured, &mut |subject, count, measured| {
        for _ in 0..count {
            let user = subject.new_user();
            subject.deploy(&user, program)?;
            subject.await_warm()?;
            let invoke = Invoke { user: &user, ..Invoke::new(program.name, &payload) };
            match ask(subject, None, &invoke, measured)? {
                Some(_) => added += 1,
                None => end = Some("an invoke failed"),
            }
        }
        let vms = subject.vms()?;
        let left = perf::available_bytes()?;
        points.push(json!({
            "vms": vms.processes().count(),
            "private_bytes_per_vm": vms.private_bytes(),
            "available_bytes_per_added_vm": available.saturating_sub(left) / added.max(1),
        }));
        if left < available / LEFT_MIN {
            end = Some("the machine is full");
        }
        measured.is_over = end.is_some();
        Ok(())
    })?;
    let end = end.unwrap_or(if added < count { "time is over" } else { "as many as asked for" });
    measured.extra.insert("density".to_owned(), points.into());
    measured.extra.insert("end".to_owned(), json!(end));
    Ok(measured)
}
