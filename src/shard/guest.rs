//! What guests say, turned into events, responses and log records. Nothing here trusts a number a
//! guest sent: an invoke is only spoken of by the VM it was dispatched to.

use abi::frame::log;

use super::answers::Ending;
use super::clients::{ClientId, Clients};
use super::engine::Engine;
use super::vms::{Vm, VmSide};
use crate::egress;
use crate::invoke::{InvokeId, Nanos, VmId};
use crate::link::{GuestFault, GuestFrame, Scratch};
use crate::pool::{Blame, Event};
use crate::socket::answer;
use crate::socket::request::OPTION_WANT_LOG;

/// Frames for the connections of one VM per turn.
const STREAM_BURST: usize = 32;

impl Engine {
    /// Serves every VM once; returns whether anything moved.
    pub(super) fn serve_vms(
        &mut self,
        clients: &mut Clients,
        scratch: &mut Scratch,
        now: Nanos,
    ) -> bool {
        let mut moved = false;
        let output_bytes_max = self.config.requests.output_bytes_max;
        let congested: Vec<_> = clients.congested(output_bytes_max).collect();
        for place in 0..self.vms.places() {
            // Out of its place while its frames are taken: they may touch everything else.
            let Some(mut vm) = self.vms.take(place) else { continue };
            let id = vm.side.id;
            // A client does not read: its VM's rings fill, and its programs wait.
            let is_held_back = !congested.is_empty() && self.serves(id, &congested);
            let taken = match is_held_back {
                true => Ok(0),
                false => self.take_frames(&mut vm, clients, scratch, now),
            };
            let is_owed = vm.is_placing() || vm.is_resetting();
            self.vms.put_back(place, vm);
            moved |= self.drive_taken(now);
            match taken {
                Ok(count) => moved |= count > 0,
                Err(fault) => self.end_faulty(id, fault, now),
            }
            moved |= is_owed && self.take_done(id, now);
        }
        moved
    }

    /// Sends what waits for each VM and rings those that sleep.
    pub(super) fn flush_vms(&mut self, now: Nanos) -> bool {
        let mut moved = false;
        let mut faulty = None;
        for vm in self.vms.iter_mut().filter(|vm| !vm.side.is_faulty && !vm.is_resetting()) {
            let Vm { link, side } = vm;
            if link.backlog_bytes() > 0 {
                // Its rings are full: connections wait, bounded by their windows.
                if let Err(fault) = link.flush() {
                    faulty = Some((side.id, fault));
                }
                continue;
            }
            // A guest that takes nothing of its connections costs no memory here.
            let mut result = link.flush();
            if result.is_ok() && link.has_stream_room() {
                side.egress.drain(STREAM_BURST, |header, payload| {
                    moved = true;
                    result = result.and_then(|()| link.stream(header, payload));
                });
                result = result.and_then(|()| link.flush());
            }
            if let Err(fault) = result {
                faulty = Some((side.id, fault));
            }
        }
        if let Some((vm, fault)) = faulty {
            self.end_faulty(vm, fault, now);
        }
        moved
    }

    /// Takes the log records of a VM whose process has ended or which is about to be reset: what
    /// programs logged before that is delivered like any other log.
    pub(super) fn drain_log(&mut self, id: VmId, clients: &mut Clients, scratch: &mut Scratch) {
        let Some(vm) = self.vms.find(id).filter(|vm| !vm.is_resetting()) else { return };
        let mut lines = Vec::new();
        // A ring it left broken is where its log ends.
        let _ = vm.link.receive(scratch, |frame| {
            if let GuestFrame::Log { invoke, line, has_more } = frame {
                let fixed = (invoke, line.realtime_nanos, line.sequence, has_more);
                lines.push((fixed, line.text.to_vec()));
            }
            Ok(())
        });
        for ((invoke, realtime_nanos, sequence, has_more), text) in lines {
            let line = log::Line { realtime_nanos, sequence, text: &text };
            if !self.take_line((id, invoke), line, has_more, clients)
                && let Some(vm) = self.vms.find(id)
            {
                vm.side.take_late_line(invoke, line, has_more);
            }
        }
    }

    fn take_frames(
        &mut self,
        vm: &mut Vm,
        clients: &mut Clients,
        scratch: &mut Scratch,
        now: Nanos,
    ) -> Result<usize, GuestFault> {
        // What a guest said before it was reset, and nobody took by then, is dropped.
        if vm.side.is_faulty || vm.is_resetting() || vm.link.is_quiet() {
            return Ok(0);
        }
        let Vm { link, side } = vm;
        link.receive(scratch, |frame| self.take_frame(side, clients, frame, now))
    }

    /// Whether one of these clients has an invoke in a VM.
    fn serves(&self, vm: VmId, clients: &[ClientId]) -> bool {
        self.running.values().any(|it| it.vm == Some(vm) && clients.contains(&it.client))
    }

    fn take_frame(
        &mut self,
        side: &mut VmSide,
        clients: &mut Clients,
        frame: GuestFrame<'_>,
        now: Nanos,
    ) -> Result<(), GuestFault> {
        let vm = side.id;
        match frame {
            GuestFrame::Ready { generation } if generation == side.cell.generation => {
                self.taken.push(Event::Ready { vm });
                Ok(())
            }
            // Only who makes snapshots asks for the latter.
            GuestFrame::Ready { .. } | GuestFrame::Prepared { .. } => Err(GuestFault::Stranger),
            GuestFrame::Response { invoke, bytes } => {
                self.take_response((vm, InvokeId(invoke)), bytes, clients)
            }
            GuestFrame::Outcome { container, invoke, outcome } => {
                let invoke = InvokeId(invoke);
                side.worked_nanos = now;
                self.taken.push(Event::OutcomeArrived { vm, invoke, status: outcome.status });
                if self.owner_of(invoke) != Some(vm) {
                    // Answered before, or never its own; the pool knows which.
                    return Ok(());
                }
                self.finish(invoke, Ending { vm, container, outcome }, clients, now);
                Ok(())
            }
            GuestFrame::Missing { number } => {
                self.metrics.missing_call(number);
                Ok(())
            }
            GuestFrame::Log { invoke, line, has_more } => {
                if !self.take_line((vm, invoke), line, has_more, clients) {
                    side.take_late_line(invoke, line, has_more);
                }
                Ok(())
            }
            GuestFrame::Stream { header, payload } => {
                side.egress.on_frame(header, payload).map_err(|fault| match fault {
                    egress::Fault::Malformed => GuestFault::Frame,
                    egress::Fault::Stranger => GuestFault::Stranger,
                    egress::Fault::Excess => GuestFault::Excess,
                })
            }
        }
    }

    fn owner_of(&self, invoke: InvokeId) -> Option<VmId> {
        self.running.get(&invoke).and_then(|running| running.vm)
    }

    fn take_response(
        &mut self,
        (vm, invoke): (VmId, InvokeId),
        bytes: &[u8],
        clients: &mut Clients,
    ) -> Result<(), GuestFault> {
        let Some(running) = self.running.get_mut(&invoke) else { return Ok(()) };
        if running.vm != Some(vm) {
            return Err(GuestFault::Stranger);
        }
        running.response_bytes += bytes.len() as u64;
        if running.response_bytes > self.config.requests.response_bytes_max {
            if !std::mem::replace(&mut running.is_too_large, true) {
                self.taken.push(Event::Cancel { invoke });
            }
            return Ok(());
        }
        if let Some(client) = clients.find(running.client) {
            // Held back long before its buffer is full; a client that is gone reads nothing.
            let _ = client.connection.response(running.request, bytes);
        }
        Ok(())
    }

    /// Counts and delivers a record of an invoke that still runs; false when it does not.
    fn take_line(
        &mut self,
        (vm, invoke): (VmId, u64),
        line: log::Line<'_>,
        has_more: bool,
        clients: &mut Clients,
    ) -> bool {
        let running = self.running.get_mut(&InvokeId(invoke));
        let Some(running) = running.filter(|running| running.vm == Some(vm)) else { return false };
        self.metrics.log_records += 1;
        if let Some(records) = &mut running.log {
            records.record(&line, has_more);
        }
        if running.options & OPTION_WANT_LOG != 0
            && let Some(client) = clients.find(running.client)
        {
            let line = answer::Log {
                realtime_nanos: line.realtime_nanos,
                sequence: line.sequence,
                text: line.text,
            };
            // A client that does not read its log loses it; the logging service does not.
            let _ = client.connection.log(running.request, line, has_more);
        }
        true
    }

    /// Tells the pool what was taken, now that every VM is in its place.
    fn drive_taken(&mut self, now: Nanos) -> bool {
        let moved = !self.taken.is_empty();
        let mut taken = std::mem::take(&mut self.taken);
        for event in taken.drain(..) {
            self.drive(event, now, None);
        }
        self.taken = taken;
        moved
    }

    pub(super) fn end_faulty(&mut self, id: VmId, fault: GuestFault, now: Nanos) {
        tracing::warn!(vm = %id, fault = fault.to_string(), "guest broke a rule");
        if let Some(vm) = self.vms.find(id) {
            vm.side.is_faulty = true;
        }
        self.drive(Event::VmFault { vm: id, blame: Blame::Guest }, now, None);
    }
}
