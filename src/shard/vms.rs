//! The VMs of a shard: for each its cell, its link, and what it was assigned.

use std::collections::HashMap;
use std::rc::Rc;

use abi::frame::code::Window;
use abi::frame::log::Line;

use crate::cell::{Cell, OwnReply, PutBack};
use crate::egress::Egress;
use crate::invoke::{Nanos, VmId};
use crate::librarian::OpenPackage;
use crate::link::{GuestFault, Link};
use crate::log::{InvokeLog, Service};
use crate::polling::Polling;
use crate::pool::{LoadId, ResetId};

/// Answered invokes of one VM whose late log records are still delivered; the oldest goes first.
const LATE_LOGS_MAX: usize = 64;

/// A package on its way into a VM's image window.
struct Placing {
    /// `None`: the VM is being reset, and nobody waits for it any more.
    load: Option<LoadId>,
    window: Window,
    /// Kept until the VMM has mapped it.
    _package: Rc<OpenPackage>,
}

/// What a VMM has done.
pub(super) enum Done {
    /// A package is in the window and its guest knows.
    Placed(LoadId),
    /// A package came for a guest that has been reset since.
    Stale,
    /// The VM is as its snapshot has it; its link is to be made anew.
    Reset { reset: ResetId, put_back: PutBack },
}

pub(super) struct Vm {
    pub(super) link: Link,
    /// What the frames of this VM are about.
    pub(super) side: VmSide,
}

/// Everything of a VM but its rings.
pub(super) struct VmSide {
    pub(super) id: VmId,
    pub(super) cell: Box<Cell>,
    pub(super) egress: Egress,
    /// Where its log goes; nowhere before it is assigned.
    pub(super) service: Service,
    /// How long its guest polls.
    pub(super) polling: Polling,
    /// When it last was sent work or had done some; 0 before.
    pub(super) worked_nanos: Nanos,
    /// It broke a rule: nothing it says is listened to any more.
    pub(super) is_faulty: bool,
    placing: Vec<Placing>,
    /// Its VMM was asked to reset it and has not answered: nobody may touch its region.
    resetting: Option<ResetId>,
    late_logs: Vec<(u64, InvokeLog)>,
}

impl VmSide {
    /// Keeps the log of an invoke that was answered before its guest was done with it.
    pub(super) fn keep_late_log(&mut self, invoke: u64, log: InvokeLog) {
        if self.late_logs.len() == LATE_LOGS_MAX {
            self.late_logs.remove(0);
        }
        self.late_logs.push((invoke, log));
    }

    /// A record of such an invoke; one of any other is nobody's.
    pub(super) fn take_late_line(&mut self, invoke: u64, line: Line<'_>, has_more: bool) {
        if let Some((_, log)) = self.late_logs.iter_mut().find(|(id, _)| *id == invoke) {
            log.record(&line, has_more);
        }
    }
}

impl Vm {
    pub(super) fn new(
        id: VmId,
        cell: Box<Cell>,
        link: Link,
        egress: Egress,
        polling: Polling,
    ) -> Self {
        let side = VmSide {
            id,
            cell,
            egress,
            service: Service::none(),
            polling,
            worked_nanos: 0,
            is_faulty: false,
            placing: Vec::new(),
            resetting: None,
            late_logs: Vec::new(),
        };
        Self { link, side }
    }

    /// Asks for a package to be mapped at `window`.
    ///
    /// # Errors
    /// The VMM is gone.
    pub(super) fn place(
        &mut self,
        load: LoadId,
        package: &Rc<OpenPackage>,
        window: Window,
    ) -> std::io::Result<()> {
        self.side.cell.place(&package.memfd, window.offset, window.bytes)?;
        let load = Some(load);
        self.side.placing.push(Placing { load, window, _package: Rc::clone(package) });
        Ok(())
    }

    /// Asks for the VM to be put back to its snapshot. What its guest logged must have been taken
    /// before: its rings are emptied. Connections end with `egress`, which is replaced.
    ///
    /// # Errors
    /// The VMM is gone.
    pub(super) fn reset(
        &mut self,
        reset: ResetId,
        verify_nanos: Nanos,
        egress: Egress,
    ) -> std::io::Result<()> {
        self.side.cell.reset(verify_nanos)?;
        self.side.placing.iter_mut().for_each(|placing| placing.load = None);
        self.side.late_logs.clear();
        self.side.egress = egress;
        self.side.resetting = Some(reset);
        Ok(())
    }

    /// Whether its region is its VMM's alone.
    pub(super) fn is_resetting(&self) -> bool {
        self.side.resetting.is_some()
    }

    /// Whether the VMM owes an answer that only polling finds. (The guest of a VM that was reset
    /// rings when it wakes, and the answer has come by then.)
    pub(super) fn is_placing(&self) -> bool {
        !self.side.placing.is_empty()
    }

    /// Takes the VMM's answers: packages that are mapped now are named to the guest. Returns one
    /// thing that is done; call again until there is none.
    ///
    /// # Errors
    /// The VMM broke the protocol or is gone (its process' end is reported by the keeper).
    pub(super) fn take_done(&mut self) -> Result<Option<Done>, VmmFault> {
        if !self.is_placing() && !self.is_resetting() {
            return Ok(None);
        }
        match self.side.cell.reply() {
            Ok(None) => Ok(None),
            Ok(Some(OwnReply::Placed { offset })) => {
                let placing = &mut self.side.placing;
                let index = placing.iter().position(|entry| entry.window.offset == offset);
                let entry = placing.remove(index.ok_or(VmmFault::Vmm)?);
                let Some(load) = entry.load else { return Ok(Some(Done::Stale)) };
                self.link.load_window(load.0, entry.window).map_err(VmmFault::Guest)?;
                Ok(Some(Done::Placed(load)))
            }
            Ok(Some(OwnReply::Reset { generation, put_back }))
                if generation == self.side.cell.generation =>
            {
                let reset = self.side.resetting.take().ok_or(VmmFault::Vmm)?;
                Ok(Some(Done::Reset { reset, put_back }))
            }
            Ok(Some(_)) | Err(_) => Err(VmmFault::Vmm),
        }
    }
}

/// Why something a VMM was asked for is not done.
pub(super) enum VmmFault {
    /// The VMM ended or answered nonsense.
    Vmm,
    /// The guest broke a ring.
    Guest(GuestFault),
}

/// All VMs of a shard, in a row for the poll loop and by number for effects.
#[derive(Default)]
pub(super) struct Vms {
    slots: Vec<Slot>,
    places: HashMap<VmId, usize>,
}

/// A place in the row. The poll loop visits each in every turn, so it must not have to look a
/// number up: hashing was 6 % of a polling shard's time with four VMs.
#[derive(Default)]
struct Slot {
    /// Whose place it is.
    owner: Option<VmId>,
    /// None while it is out to be served.
    vm: Option<Box<Vm>>,
}

impl Vms {
    pub(super) fn insert(&mut self, vm: Box<Vm>) {
        let id = vm.side.id;
        let free = self.slots.iter().position(|slot| slot.owner.is_none());
        let place = free.unwrap_or(self.slots.len());
        self.places.insert(id, place);
        let slot = Slot { owner: Some(id), vm: Some(vm) };
        match self.slots.get_mut(place) {
            Some(free) => *free = slot,
            None => self.slots.push(slot),
        }
    }

    pub(super) fn find(&mut self, id: VmId) -> Option<&mut Vm> {
        let place = *self.places.get(&id)?;
        self.slots.get_mut(place)?.vm.as_deref_mut()
    }

    pub(super) fn remove(&mut self, id: VmId) -> Option<Box<Vm>> {
        let place = self.places.remove(&id)?;
        std::mem::take(self.slots.get_mut(place)?).vm
    }

    /// Places to be served in turn; some are empty.
    pub(super) fn places(&self) -> usize {
        self.slots.len()
    }

    /// Takes a VM out while it is served, so that serving it may touch everything else.
    pub(super) fn take(&mut self, place: usize) -> Option<Box<Vm>> {
        self.slots.get_mut(place)?.vm.take()
    }

    /// Puts it back, unless it was removed meanwhile.
    pub(super) fn put_back(&mut self, place: usize, vm: Box<Vm>) {
        let slot = &mut self.slots[place];
        if slot.owner == Some(vm.side.id) {
            slot.vm = Some(vm);
        }
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Vm> {
        self.slots.iter_mut().filter_map(|slot| slot.vm.as_deref_mut())
    }
}
