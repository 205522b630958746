//! The first invoke for a user never seen before: from the warming pool, or with no VM there.

use pilotlight::socket::answer::Room;
use pilotlight::socket::request::Invoke;

use super::super::super::fault::Fault;
use super::super::lab::{Lab, ask};
use super::super::measured::Measured;
use super::super::program::Program;
use super::super::subject::Subject;

/// What the warming pool holds when the invoke comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pool {
    /// A VM.
    Warm,
    /// None, and none on its way: a VMM is spawned and a snapshot restored for this invoke.
    Empty,
}

/// Invokes of users never seen before, one after the other.
pub(super) fn measure(lab: &mut Lab<'_>, program: &Program, pool: Pool) -> Result<Measured, Fault> {
    let mut measured = lab.measured();
    lab.rounds(&mut measured, &mut |subject, count, measured| {
        (0..count).try_for_each(|_| once(subject, program, pool, measured))
    })?;
    Ok(measured)
}

fn once(
    subject: &mut Subject,
    program: &Program,
    pool: Pool,
    measured: &mut Measured,
) -> Result<(), Fault> {
    let user = subject.new_user();
    subject.deploy(&user, program)?;
    match pool {
        Pool::Warm => subject.await_warm()?,
        Pool::Empty => subject.await_vms("VMs are warm that should not be", |vms| {
            vms.warm() == 0 && vms.unsettled() == 0
        })?,
    };
    let invoke = Invoke { user: &user, ..Invoke::new(program.name, b"") };
    let answered = ask(subject, None, &invoke, measured)?;
    if let Some((done, _)) = answered
        && done.room != Room::Warming
    {
        return Err(Fault::new("the node had a VM for a user it had never seen"));
    }
    Ok(subject.client.remove(&user, program.name)?)
}
