//! VMs that are put back to their snapshot between two requests of freshness `vm`.
//!
//! ```text
//!  Effect::Reset ─► due ─► answers leave ─► log is drained ─► VMM: Reset
//!  Event::ResetDone ◄─ new link ◄─ Reset ◄────────────────────┘
//!  Event::Ready ◄─ READY, under the new generation
//! ```
//! In between nobody touches the VM's region: the VMM empties it.

use super::clients::Clients;
use super::engine::Engine;
use super::vms::{Done, VmmFault};
use crate::cell::PutBack;
use crate::egress::Egress;
use crate::invoke::{Nanos, VmId};
use crate::link::Scratch;
use crate::pool::{Blame, Event, ResetId};

impl Engine {
    /// Asks for the resets that are due, now that the answers before them have left.
    pub(super) fn begin_resets(
        &mut self,
        clients: &mut Clients,
        scratch: &mut Scratch,
        now: Nanos,
    ) -> bool {
        let moved = !self.resets_due.is_empty();
        while let Some((vm, reset)) = self.resets_due.pop() {
            self.drain_log(vm, clients, scratch);
            let verify_nanos = self.next_verify_nanos();
            let egress = self.new_egress();
            let Some(entry) = self.vms.find(vm) else { continue };
            if let Err(error) = entry.reset(reset, verify_nanos, egress) {
                tracing::warn!(%vm, error = error.to_string(), "VM cannot be reset");
                self.metrics.resets_failed += 1;
                self.drive(Event::VmFault { vm, blame: Blame::Host }, now, None);
            }
        }
        moved
    }

    /// A reset is due; what was to be brought into the VM before is not any more.
    pub(super) fn reset_due(&mut self, vm: VmId, reset: ResetId) {
        self.forget_waiting_loads(vm);
        self.resets_due.push((vm, reset));
    }

    /// How long the next reset may be verified; 0: it is not.
    fn next_verify_nanos(&mut self) -> Nanos {
        let every = u64::from(self.config.vm.verify_every);
        self.resets_begun += 1;
        let is_next = self.resets_begun.checked_rem(every) == Some(0);
        if is_next { self.config.verify_nanos_max() } else { 0 }
    }

    /// Takes what the VMM of a VM has done since.
    pub(super) fn take_done(&mut self, id: VmId, now: Nanos) -> bool {
        let mut moved = false;
        while let Some(vm) = self.vms.find(id) {
            let done = match vm.take_done() {
                Ok(None) => break,
                Ok(Some(done)) => done,
                Err(VmmFault::Guest(fault)) => {
                    self.end_faulty(id, fault, now);
                    break;
                }
                // Its end, with the reason, is the keeper's to tell.
                Err(VmmFault::Vmm) => break,
            };
            moved = true;
            match done {
                Done::Placed(load) => self.drive(Event::Loaded { vm: id, load }, now, None),
                Done::Stale => {}
                Done::Reset { reset, put_back } => {
                    let PutBack { dirty_pages, reset_nanos, verified, verify_nanos } = put_back;
                    self.metrics.reset(reset_nanos, dirty_pages);
                    self.metrics.verified(verified, verify_nanos);
                    vm.link.renew();
                    vm.link.set_poll_nanos(vm.side.polling.limit());
                    self.drive(Event::ResetDone { vm: id, reset, dirty_pages }, now, None);
                }
            }
        }
        moved
    }

    /// Connections of a VM that has none yet.
    pub(super) fn new_egress(&self) -> Egress {
        let limits = crate::egress::Limits::from(&self.config.egress);
        Egress::new(limits, std::rc::Rc::clone(&self.wake))
    }
}
