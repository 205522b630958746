//! From idle to many users at once: each of them is new, and their first invokes come together.

use std::time::Duration;

use pilotlight::socket::request::Invoke;
use serde_json::json;

use super::super::super::fault::Fault;
use super::super::lab::Lab;
use super::super::lines::Landed;
use super::super::measured::Measured;
use super::super::program::Program;
use super::super::subject::Subject;

/// Users in one burst.
pub(super) const USERS: u64 = 200;

/// Bursts of as many users as a batch has; in between, all VMs of the one before go.
pub(super) fn measure(lab: &mut Lab<'_>, program: &Program) -> Result<Measured, Fault> {
    let mut measured = lab.measured();
    let mut spans = Vec::new();
    lab.rounds(&mut measured, &mut |subject, count, measured| {
        let span = once(subject, program, count, measured)?;
        spans.push(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX));
        Ok(())
    })?;
    measured.extra.insert("last_answer_nanos".to_owned(), json!(spans));
    Ok(measured)
}

/// One burst; returns the time until the last answer.
fn once(
    subject: &mut Subject,
    program: &Program,
    count: u64,
    measured: &mut Measured,
) -> Result<Duration, Fault> {
    let users: Vec<String> = (0..count).map(|_| subject.new_user()).collect();
    users.iter().try_for_each(|user| subject.deploy(user, program))?;
    let idle = "VMs of the burst before did not go in a minute";
    let before = subject.await_vms(idle, |vms| {
        vms.warm() > 0 && vms.unsettled() == 0 && vms.count("assigned") == 0
    })?;
    let open = usize::try_from(count).unwrap_or(usize::MAX);
    let invoke = |number: u64| {
        let user = usize::try_from(number).ok().and_then(|number| users.get(number));
        Invoke { user: user.map_or("", String::as_str), ..Invoke::new(program.name, b"") }
    };
    let mut last = Duration::ZERO;
    subject.lines(open)?.closed((open, count, Duration::MAX), &invoke, &mut |landed: Landed| {
        // They were all sent at once, so the longest is the last.
        last = last.max(landed.took);
        measured.take(landed, b"").map(drop)
    })?;
    measured.usage.exits += subject.vms()?.all_exits_since(&before);
    measured.usage.invokes += count;
    users.iter().try_for_each(|user| subject.client.remove(user, program.name))?;
    Ok(last)
}
