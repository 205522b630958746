//! The first invoke for a user never seen before: from the warming pool, or with no VM there.

use std::time::Duration;

use perf::{Latencies, timed};
use pilotlight::socket::answer::Room;
use pilotlight::socket::request::Invoke;
use serde_json::json;

use super::super::super::fault::Fault;
use super::super::lab::{Lab, ask};
use super::super::measured::{Measured, checked};
use super::super::program::Program;
use super::super::subject::Subject;
use super::super::vms::Vms;

/// What deploying and looking at the status set off is over by then: a VM that has waited for its user
/// is idle.
const PAUSE: Duration = Duration::from_millis(10);
/// So often an invoke of a program the node has never seen is timed beside the others.
const UNKNOWN_EVERY: u64 = 5;

/// What the warming pool holds when the invoke comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pool {
    /// A VM, restored from the program's snapshot where the pool has room for such.
    Warm,
    /// None, and none on its way: a VMM is spawned for this invoke, and the program's snapshot restored.
    Empty,
}

/// Invokes of users never seen before, one after the other. Somebody else has deployed the same program
/// a while ago, so the node has a snapshot of it, as of any that is in use.
pub(super) fn measure(lab: &mut Lab<'_>, program: &Program, pool: Pool) -> Result<Measured, Fault> {
    let other = lab.subject.new_user();
    lab.subject.deploy(&other, program)?;
    match pool {
        Pool::Warm => lab.subject.settle()?,
        Pool::Empty => {
            drop(lab.subject.await_vms("no snapshot of the program was made", |vms| {
                is_empty(vms) && vms.snapshots_pending() == 0
            })?)
        }
    }
    let mut measured = lab.measured();
    let mut unknown = Latencies::new();
    let mut users = 0;
    lab.rounds(&mut measured, &mut |subject, count, measured| {
        for _ in 0..count {
            once(subject, program, pool, measured)?;
            users += 1;
            if users % UNKNOWN_EVERY == 0 {
                unknown.record(once_unknown(subject, program, pool)?);
            }
        }
        Ok(())
    })?;
    if unknown.count() > 0 {
        measured.extra.insert("unknown_program_nanos".to_owned(), json!(unknown.summary()));
    }
    lab.subject.forget(&other, program);
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
        Pool::Warm => drop(subject.await_prepared()?),
        Pool::Empty => await_empty(subject)?,
    }
    let invoke = Invoke { user: &user, ..Invoke::new(program.name, b"") };
    let answered = ask(subject, Some(PAUSE), &invoke, measured)?;
    if let Some((done, _)) = answered
        && done.room != Room::Warming
    {
        return Err(Fault::new("the node had a VM for a user it had never seen"));
    }
    Ok(subject.client.remove(&user, program.name)?)
}

fn await_empty(subject: &mut Subject) -> Result<(), Fault> {
    subject.await_vms("VMs are warm that should not be", is_empty).map(drop)
}

fn is_empty(vms: &Vms) -> bool {
    vms.warm() == 0 && vms.unsettled() == 0
}

/// The same with settings that no function ever had: the VM knows nothing of it.
fn once_unknown(subject: &mut Subject, program: &Program, pool: Pool) -> Result<Duration, Fault> {
    let user = subject.new_user();
    let mut package = program.package();
    package.settings.environment.push(("BENCH_USER".to_owned(), user.clone()));
    subject.client.deploy((&user, program.name), &package)?;
    match pool {
        Pool::Warm => drop(subject.await_warm()?),
        Pool::Empty => await_empty(subject)?,
    }
    let invoke = Invoke { user: &user, ..Invoke::new(program.name, b"") };
    std::thread::sleep(PAUSE);
    let (answer, took) = timed(|| Ok::<_, Fault>(subject.client.invoke(&invoke)))?;
    if let Err(code) = checked(answer, b"")? {
        return Err(Fault::new(format!("an invoke beside those measured failed: {code}")));
    }
    subject.client.remove(&user, program.name)?;
    Ok(took)
}
