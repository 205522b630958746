//! All that this crate remembers, in one place: the kernel has one of it, on the host every
//! thread has its own.

use abi::layout::BootInfo;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use crate::frame::FrameTable;
use crate::paging::{SPARE_MAX, Skeleton};
use crate::user::Area;

/// The machine's variables. Borrows end inside the function that takes them.
pub(crate) struct State {
    /// What the VMM said about the machine.
    pub(crate) info: Cell<Option<BootInfo>>,
    /// Bytes of RAM from guest-physical 0.
    pub(crate) ram_bytes: Cell<u64>,
    /// Which frames are in use.
    pub(crate) frames: RefCell<FrameTable>,
    /// Root page table in CR3.
    pub(crate) loaded_root: Cell<u64>,
    /// Root page tables that there are, those of spares too.
    pub(crate) roots: RefCell<Vec<u64>>,
    /// Page of the fault the last program to run stopped at, if something was mapped there: the
    /// CPU has forgotten that page. `u64::MAX` for none.
    pub(crate) faulted_page: Cell<u64>,
    /// Empty address spaces kept for the next processes.
    pub(crate) spares: RefCell<[Option<Skeleton>; SPARE_MAX]>,
    /// Frames in their tables.
    pub(crate) spare_frames: Cell<usize>,
    /// Gives the spares' frames back; set once there are spares.
    pub(crate) reclaim: Cell<Option<fn()>>,
    /// Whose extended state the CPU's registers hold.
    pub(crate) live: RefCell<Option<Rc<RefCell<Area>>>>,
}

impl State {
    pub(crate) const fn new() -> Self {
        Self {
            info: Cell::new(None),
            ram_bytes: Cell::new(0),
            frames: RefCell::new(FrameTable::empty()),
            loaded_root: Cell::new(abi::layout::boot::ROOT),
            roots: RefCell::new(Vec::new()),
            faulted_page: Cell::new(u64::MAX),
            spares: RefCell::new([const { None }; SPARE_MAX]),
            spare_frames: Cell::new(0),
            reclaim: Cell::new(None),
            live: RefCell::new(None),
        }
    }
}

#[cfg(target_os = "none")]
struct Single(State);

// SAFETY: the kernel runs on one virtual CPU and is never interrupted (IF is 0 in ring 0, faults
// in the kernel do not return), so there is only ever one thread of execution; upheld by
// `descriptor` and `user::enter`.
#[cfg(target_os = "none")]
unsafe impl Sync for Single {}

#[cfg(target_os = "none")]
static STATE: Single = Single(State::new());

/// The machine's variables.
#[cfg(target_os = "none")]
pub(crate) fn state() -> &'static State {
    &STATE.0
}

/// This thread's machine.
#[cfg(not(target_os = "none"))]
pub(crate) fn state() -> &'static State {
    thread_local! {
        static STATE: &'static State = Box::leak(Box::new(State::new()));
    }
    STATE.with(|state| *state)
}
