//! The VM is the user's already and the program is in it: what an invoke costs beside the work.

use pilotlight::socket::request::Invoke;

use super::super::super::fault::Fault;
use super::super::lab::{Lab, Question, serve};
use super::super::measured::Measured;
use super::super::program::{PAYLOAD_BYTES, Program, payload};

/// Invokes of one user and program, under the load that was asked for.
pub(super) fn measure(lab: &mut Lab<'_>, program: &Program) -> Result<Measured, Fault> {
    let mut measured = lab.measured();
    lab.subject.await_warm()?;
    lab.subject.deploy("", program)?;
    lab.subject.settle()?;
    let (plan, payload) = (lab.plan, payload(PAYLOAD_BYTES));
    lab.rounds(&mut measured, &mut |subject, count, measured| {
        let invoke = |_| Invoke::new(program.name, &payload);
        let mut question = Question { invoke: &invoke, seen: &mut |_, _, _| () };
        serve(subject, (plan, count), &mut question, measured)
    })?;
    lab.subject.forget("", program);
    Ok(measured)
}
