//! Answers: each invoke gets exactly one, an outcome or an error, and its log is accounted for.

use abi::frame::outcome::{Outcome as GuestOutcome, Status};

use super::clients::{ClientId, Clients};
use super::engine::{Engine, Running};
use super::trace;
use crate::code::Code;
use crate::invoke::{
    BusyReason, ClientFault, GuestFault, InvokeError, InvokeId, Limit, LogAccount, Nanos,
    NodeFault, Timings, VmId,
};
use crate::log::InvokeLog;
use crate::pool::{Answer, Blame};
use crate::socket::answer::{Outcome, Room};
use crate::socket::request::OPTION_SETTLE_LOGS;

/// What a guest said about the end of an invoke.
pub(super) struct Ending<'a> {
    pub(super) vm: VmId,
    pub(super) container: u32,
    pub(super) outcome: GuestOutcome<'a>,
}

/// An outcome that waits for its log to be delivered.
pub(super) struct Held {
    client: ClientId,
    request: u64,
    until: Nanos,
    log: InvokeLog,
    status: Status,
    detail: u32,
    room: Room,
    container: u32,
    vm: u64,
    invoke: u64,
    run_nanos: u64,
    memory_peak_bytes: u64,
    timings: Timings,
    reason: String,
    response: Vec<u8>,
}

impl Engine {
    /// Answers an invoke with what its guest said.
    pub(super) fn finish(
        &mut self,
        invoke: InvokeId,
        ending: Ending<'_>,
        clients: &mut Clients,
        now: Nanos,
    ) {
        let Some(mut running) = self.take_running(invoke) else { return };
        let Ending { vm, container, outcome } = ending;
        let total_nanos = now.saturating_sub(running.marks.arrived);
        self.metrics.finished(outcome.status, total_nanos);
        let has_failed = (outcome.status, outcome.detail) != (Status::Exited, 0);
        let entry = &running.entry;
        let function = (entry.facts.function.0, &entry.function);
        self.functions.finished(&entry.measured, function, now, (total_nanos, has_failed));
        let mut log = running.log.take();
        if let Some(log) = &log {
            log.finish();
        }
        // Its last bytes ride with the outcome and count like any others.
        let response_bytes = running.response_bytes + outcome.response.len() as u64;
        if running.is_too_large || response_bytes > self.config.requests.response_bytes_max {
            return self.refuse(invoke, &running, &too_large(self), clients);
        }
        if running.is_overfull {
            let error = self.busy(BusyReason::BodiesFull);
            return self.refuse(invoke, &running, &error, clients);
        }
        let timings = stages(&running, now);
        self.metrics.staged(&timings);
        let settles = running.options & OPTION_SETTLE_LOGS != 0;
        if let Some(log) = log.take_if(|log| settles && !log.is_settled()) {
            self.held.push(Held {
                client: running.client,
                request: running.request,
                until: now.saturating_add(self.config.account_wait_nanos()),
                log,
                status: outcome.status,
                detail: outcome.detail,
                room: running.room,
                container,
                vm: vm.0,
                invoke: invoke.0,
                run_nanos: outcome.run_nanos,
                memory_peak_bytes: outcome.memory_peak_bytes,
                timings,
                reason: outcome.reason.to_owned(),
                response: outcome.response.to_vec(),
            });
            return;
        }
        let (account, log_reason) = account(log.as_ref());
        let Some(client) = clients.find(running.client) else { return };
        let full = client.connection.outcome(
            running.request,
            &Outcome {
                status: outcome.status,
                detail: outcome.detail,
                room: running.room,
                container,
                vm: vm.0,
                invoke: invoke.0,
                log: account,
                run_nanos: outcome.run_nanos,
                memory_peak_bytes: outcome.memory_peak_bytes,
                timings,
                reason: outcome.reason,
                log_reason: &log_reason,
                response: outcome.response,
            },
        );
        if full.is_err() {
            client.connection.fail(SLOW.0, SLOW.1);
        }
    }

    /// Sends outcomes whose logs are settled, or have been waited for long enough.
    pub(super) fn settle(&mut self, clients: &mut Clients, now: Nanos) -> bool {
        let mut moved = false;
        let mut index = 0;
        while let Some(held) = self.held.get(index) {
            if !held.log.is_settled() && now < held.until {
                index += 1;
                continue;
            }
            moved = true;
            let held = self.held.swap_remove(index);
            let (account, log_reason) = account(Some(&held.log));
            let Some(client) = clients.find(held.client) else { continue };
            let full = client.connection.outcome(
                held.request,
                &Outcome {
                    status: held.status,
                    detail: held.detail,
                    room: held.room,
                    container: held.container,
                    vm: held.vm,
                    invoke: held.invoke,
                    log: account,
                    run_nanos: held.run_nanos,
                    memory_peak_bytes: held.memory_peak_bytes,
                    timings: held.timings,
                    reason: &held.reason,
                    log_reason: &log_reason,
                    response: &held.response,
                },
            );
            if full.is_err() {
                client.connection.fail(SLOW.0, SLOW.1);
            }
        }
        moved
    }

    /// When the next held outcome is sent whatever happens.
    pub(super) fn next_settle(&self) -> Option<Nanos> {
        self.held.iter().map(|held| held.until).min()
    }

    /// Gives the pool's answers that are not a guest's outcome.
    pub(super) fn deliver_answers(&mut self, clients: &mut Clients) -> bool {
        let moved = !self.answers.is_empty();
        let mut answers = std::mem::take(&mut self.answers);
        for (invoke, answer) in answers.drain(..) {
            let Some(mut running) = self.take_running(invoke) else { continue };
            if let (Some(log), Some(vm)) = (running.log.take(), running.vm) {
                // Its VM may go on logging until it hears of the end.
                if let Some(vm) = self.vms.find(vm) {
                    vm.side.keep_late_log(invoke.0, log);
                }
            }
            let error = self.error_of(&running, answer);
            self.metrics.refused(error.code());
            trace::lost(invoke, &running, &error);
            self.refuse(invoke, &running, &error, clients);
        }
        self.answers = answers;
        moved
    }

    fn refuse(
        &self,
        invoke: InvokeId,
        running: &Running,
        error: &InvokeError,
        clients: &mut Clients,
    ) {
        let Some(client) = clients.find(running.client) else { return };
        let message = format!("{error} (invoke {invoke})");
        if client.connection.error(running.request, error.code(), &message).is_err() {
            client.connection.fail(SLOW.0, SLOW.1);
        }
    }

    fn busy(&self, reason: BusyReason) -> InvokeError {
        NodeFault::Busy { reason, limit: self.config.limit_met(reason) }.into()
    }

    fn error_of(&self, running: &Running, answer: Answer) -> InvokeError {
        match answer {
            // The pool heard of an outcome that `finish` did not: its VM spoke out of turn.
            Answer::Outcome => match running.vm {
                Some(vm) => GuestFault::VmGone { vm }.into(),
                None => NodeFault::Stopping.into(),
            },
            // Whoever waited may have waited for themselves.
            Answer::Busy(waited @ (BusyReason::WaitedTooLong | BusyReason::WouldWaitTooLong)) => {
                let own = self.pool.held_back(&running.entry.function.user);
                self.busy(own.unwrap_or(waited))
            }
            Answer::Busy(reason) => self.busy(reason),
            Answer::DeadlineInQueue => NodeFault::DeadlineInQueue.into(),
            Answer::DeadlineInVm { vm } => GuestFault::Unresponsive { vm }.into(),
            Answer::Cancelled if running.is_too_large => too_large(self),
            Answer::Cancelled if running.is_overfull => self.busy(BusyReason::BodiesFull),
            Answer::Cancelled => ClientFault::Cancelled.into(),
            Answer::VmGone { vm, blame: Blame::Guest } => GuestFault::VmGone { vm }.into(),
            Answer::VmGone { vm, .. } => NodeFault::VmLost { vm }.into(),
            Answer::NotLoaded => NodeFault::PackageUnavailable {
                what: "it could not be read, verified or placed".to_owned(),
            }
            .into(),
            Answer::TooLarge => ClientFault::TooMuchMemory {
                memory_mib: running.entry.function.memory_mib,
                memory_mib_max: self.config.memory_mib_max(),
            }
            .into(),
            Answer::Stopping => NodeFault::Stopping.into(),
        }
    }
}

const SLOW: (Code, &str) =
    (Code::TooSlow, "answers wait for this client and it does not read them");

fn too_large(engine: &Engine) -> InvokeError {
    let value = engine.config.requests.response_bytes_max;
    let limit = Limit { key: "requests.response_bytes_max", value };
    ClientFault::TooLarge { what: "the response".to_owned(), limit }.into()
}

/// What became of the log, and why records were dropped if some were.
fn account(log: Option<&InvokeLog>) -> (LogAccount, String) {
    let Some(log) = log else { return Default::default() };
    let account = log.account();
    let reason = account.reason.map(|reason| reason.to_string()).unwrap_or_default();
    let account = LogAccount {
        produced: account.produced,
        handed_over: account.handed_over,
        acknowledged: account.acknowledged,
        dropped: account.dropped,
    };
    (account, reason)
}

/// Where the time of an invoke went; `now` is when the turn that found its answer began.
fn stages(running: &Running, now: Nanos) -> Timings {
    let marks = &running.marks;
    let admitted = marks.admitted.max(marks.arrived);
    // One that went to a VM that had its package was placed when it was sent.
    let loaded = marks.loaded.max(admitted);
    let placed = if marks.placed == 0 { loaded } else { marks.placed.clamp(admitted, loaded) };
    let dispatched = marks.dispatched.max(loaded);
    let answered = now.max(dispatched);
    Timings {
        accept_nanos: admitted - marks.arrived,
        route_nanos: placed - admitted,
        acquire_nanos: dispatched - loaded,
        load_nanos: loaded - placed,
        run_nanos: answered - dispatched,
        reply_nanos: super::moment().saturating_sub(answered),
    }
}
