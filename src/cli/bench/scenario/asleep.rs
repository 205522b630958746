//! Invokes so far apart that shard and guest are asleep when one comes: two wake-ups and a VM exit
//! more than while they poll.

use pilotlight::socket::request::Invoke;

use super::super::super::fault::Fault;
use super::super::lab::{Lab, ask};
use super::super::measured::Measured;
use super::super::program::{PAYLOAD_BYTES, Program, payload};
use super::PAUSE_ASLEEP;

/// One invoke after each pause. Exits are asked for before the pause: a status wakes the shard.
pub(super) fn measure(lab: &mut Lab<'_>, program: &Program) -> Result<Measured, Fault> {
    let mut measured = lab.measured();
    lab.subject.await_warm()?;
    lab.subject.deploy("", program)?;
    lab.subject.settle()?;
    let payload = payload(PAYLOAD_BYTES);
    let invoke = Invoke::new(program.name, &payload);
    // The first one takes a VM.
    lab.subject.client.invoke(&invoke)?;
    lab.rounds(&mut measured, &mut |subject, count, measured| {
        (0..count).try_for_each(|_| ask(subject, Some(PAUSE_ASLEEP), &invoke, measured).map(drop))
    })?;
    lab.subject.forget("", program);
    Ok(measured)
}
