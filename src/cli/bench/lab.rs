//! The order of a run: a batch of invokes, then a batch of each baseline, and again, so that
//! whatever disturbs the machine disturbs all of them.

use std::collections::BTreeSet;
use std::time::Duration;

use perf::{Arrivals, Deadline, timed};
use pilotlight::client::Completed;
use pilotlight::socket::answer::Room;
use pilotlight::socket::request::Invoke;

use super::super::fault::Fault;
use super::lines::{Landed, Take};
use super::measured::{Measured, checked};
use super::peers::{Peers, WARM_UP};
use super::plan::{Load, Plan, ROUNDS};
use super::subject::Subject;

/// After a batch the node polls on for a moment; what is next waits until that is over.
const PAUSE: Duration = Duration::from_millis(3);

/// Invokes that a batch of baselines beside an open loop stands for.
const BESIDE: u64 = 50;

/// A node, what it is held against, and how much of both is measured.
pub(super) struct Lab<'a> {
    pub(super) subject: &'a mut Subject,
    pub(super) peers: Peers<'a>,
    pub(super) plan: Plan,
    /// Each batch is kept, for files that show it.
    pub(super) has_intervals: bool,
}

/// A batch of so many invokes.
type Batch<'b> = &'b mut dyn FnMut(&mut Subject, u64, &mut Measured) -> Result<(), Fault>;

impl Lab<'_> {
    /// Nothing measured yet.
    pub(super) fn measured(&self) -> Measured {
        Measured::new(self.has_intervals)
    }

    /// Measures batches, and the baselines beside them, until count or time is reached. An open
    /// loop goes through without a pause, with baselines before and behind it: if they came in
    /// between, a node that stands still would be waited for.
    pub(super) fn rounds(
        &mut self,
        measured: &mut Measured,
        batch: Batch<'_>,
    ) -> Result<(), Fault> {
        if let Load::Open { per_second } = self.plan.load {
            let count = self.plan.arrivals(per_second).count();
            self.baselines(measured)?;
            self.batch(measured, count, batch)?;
            return self.baselines(measured);
        }
        let size = self.plan.batch();
        let deadline = Deadline::after(self.plan.limit);
        let total = self.plan.count;
        let mut left = total;
        while left > 0 && !measured.is_over && (left == total || !deadline.has_passed()) {
            let count = size.min(left);
            left -= count;
            self.round(measured, count, batch)?;
        }
        Ok(())
    }

    /// Half of the rounds of baselines that go with a run.
    fn baselines(&mut self, measured: &mut Measured) -> Result<(), Fault> {
        (0..ROUNDS / 2).try_for_each(|_| self.peers.measure(BESIDE, &mut measured.baselines))
    }

    /// Measures one batch, and the baselines beside it.
    pub(super) fn round(
        &mut self,
        measured: &mut Measured,
        count: u64,
        batch: Batch<'_>,
    ) -> Result<(), Fault> {
        self.batch(measured, count, batch)?;
        self.peers.measure(count, &mut measured.baselines)
    }

    /// Measures one batch, and what the node used for it.
    fn batch(
        &mut self,
        measured: &mut Measured,
        count: u64,
        batch: Batch<'_>,
    ) -> Result<(), Fault> {
        let before = self.subject.vms()?;
        measured.begin(self.subject.cpu_time(&before)?);
        batch(self.subject, count, measured)?;
        measured.end_batch();
        let after = self.subject.vms()?;
        measured.count_cpu(self.subject.cpu_time(&after)?);
        let usage = &mut measured.usage;
        let ((resets, pages), (all_resets, all_pages)) = (before.resets(), after.resets());
        usage.resets += all_resets - resets;
        usage.reset_pages += all_pages - pages;
        usage.idle_vm_bytes = after.warm_private_bytes().or(usage.idle_vm_bytes);
        std::thread::sleep(PAUSE);
        Ok(())
    }
}

/// What is asked, and what is to be answered.
pub(super) struct Question<'q> {
    pub(super) invoke: &'q dyn Fn(u64) -> Invoke<'q>,
    /// Its answer is its body, so what is asked says it.
    pub(super) seen: &'q mut dyn FnMut(u64, Duration, &Completed),
}

/// Sends a batch under a load, after a few untimed requests that wake the node, and counts exits.
pub(super) fn serve(
    subject: &mut Subject,
    (plan, count): (Plan, u64),
    question: &mut Question<'_>,
    measured: &mut Measured,
) -> Result<(), Fault> {
    let load = plan.load;
    let mut vms = BTreeSet::new();
    let (invoke, seen) = (question.invoke, &mut question.seen);
    let concurrency = load.concurrency().unwrap_or(1);
    let warm_up = WARM_UP.max(concurrency as u64);
    let mut wake = |subject: &mut Subject| {
        let mut note = |landed: Landed| {
            if let Ok(done) = checked(landed.answer, invoke(landed.tag.number).body)? {
                vms.insert(done.outcome.vm);
            }
            Ok(())
        };
        let mut lines = subject.lines(load.open_max())?;
        lines.closed((concurrency, warm_up, Duration::MAX), invoke, &mut note)
    };
    let mut before = subject.vms()?;
    wake(subject)?;
    if load.rate().is_some() {
        // A steady load has its VM, and the node has made another in its place: measured is from now on.
        subject.await_refill(before.warm())?;
        before = subject.vms()?;
        measured.begin(subject.cpu_time(&before)?);
        wake(subject)?;
    }
    let mut lines = subject.lines(load.open_max())?;
    // A crowd takes new VMs as it grows, and after a reset another one may be next.
    let is_steady = load.is_plain() && vms.len() == 1;
    let mut take = |landed: Landed| -> Result<(), Fault> {
        let (number, took) = (landed.tag.number, landed.took);
        let Ok(done) = measured.take(landed, invoke(number).body)? else { return Ok(()) };
        let is_another = vms.insert(done.outcome.vm) || done.room != Room::Active;
        if is_steady && is_another {
            return Err(Fault::new("the node changed the VM in the middle of a batch"));
        }
        seen(number, took, &done);
        if load.rate().is_some() {
            measured.cut_batch(plan.span());
        }
        Ok(())
    };
    let take: Take<'_> = &mut take;
    let departures = match load {
        Load::Closed { concurrency } => {
            lines.closed((concurrency, count, Duration::MAX), invoke, take)?;
            None
        }
        Load::Open { per_second } => {
            let arrivals = Arrivals::new(per_second, count);
            // Twice what they should take: a node that is much slower than its load is cut short.
            let limit = Duration::from_secs(1) + arrivals.at(count - 1).unwrap_or_default() * 2;
            let departures = lines.depart((0, arrivals, limit), invoke, take)?;
            lines.finish(take)?;
            Some(departures)
        }
    };
    departures.iter().for_each(|departures| measured.depart(departures));
    let after = subject.vms()?;
    let served = vms.iter().map(|vm| vm.to_string());
    measured.usage.exits += served.map(|vm| after.exits_since(&before, &vm)).sum::<u64>();
    measured.usage.invokes += warm_up + count;
    Ok(())
}

/// Sends one invoke, after a pause or at once, and waits for its answer; exits are counted from
/// before the pause, because asking for them wakes the node. For scenarios that prepare each.
pub(super) fn ask(
    subject: &mut Subject,
    pause: Option<Duration>,
    invoke: &Invoke<'_>,
    measured: &mut Measured,
) -> Result<Option<(Completed, Duration)>, Fault> {
    let before = subject.vms()?;
    pause.into_iter().for_each(std::thread::sleep);
    let (answer, took) = timed(|| Ok::<_, Fault>(subject.client.invoke(invoke)))?;
    let landed = Landed { tag: Default::default(), took, from_send: took, answer };
    let Ok(done) = measured.take(landed, invoke.body)? else { return Ok(None) };
    let vm = done.outcome.vm.to_string();
    measured.usage.exits += subject.vms()?.exits_since(&before, &vm);
    measured.usage.invokes += 1;
    Ok(Some((done, took)))
}
