//! One snapshot: a VM restored from the base is brought to its function's first request, captured
//! and ended. The thread drives its rings itself and waits for everything.
//!
//! ```text
//!  READY ─► ACQUIRE 1, package 1, PREPARE 1 ─► PREPARED ─► Capture ─► Captured ─► killed
//! ```

use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};

use abi::frame::code::{INLINE_BYTES_MAX, Window};
use abi::frame::outcome::Status;
use region::clock::monotonic_nanos;
use region::{Contents, Doorbell, sealed};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::cell::{Cell, Infant, Nursery, OwnReply};
use crate::config::Snapshots;
use crate::egress::{Egress, Limits};
use crate::invoke::{Function, Nanos};
use crate::link::{GuestFault, GuestFrame, Link, Scratch};
use crate::signal::Signal;
use crate::snapshot_store::{FunctionSnapshot, WindowPackage};

/// Numbers of the container and the package in a snapshot; the pools count on them.
const CONTAINER: u32 = 1;
const PACKAGE: u64 = 1;
/// Longest sleep between two looks at whether the node stops.
const LOOK_AGAIN: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
/// Frames for connections per look. There are none that may be made, so these are refusals.
const STREAM_BURST: usize = 32;

/// What is rehearsed.
pub(super) struct Piece<'a> {
    pub(super) function: &'a Function,
    /// Its package, verified and sealed.
    pub(super) package: OwnedFd,
}

/// Makes a function's snapshot.
///
/// # Errors
/// Why there is none, for the user and the operator.
pub(super) fn rehearse(
    nursery: &Nursery,
    vm: u64,
    piece: Piece<'_>,
    limits: &Snapshots,
    is_stopped: &AtomicBool,
) -> Result<FunctionSnapshot, String> {
    let bell = Doorbell::new().map_err(|error| format!("no eventfd: {error}"))?;
    let (cell, infant) = nursery.restore_to_capture(vm, &bell)?.finish()?;
    let doorbell = cell.doorbell.duplicate().map_err(|error| format!("no eventfd: {error}"))?;
    let link = Link::new(cell.region.clone(), doorbell.into());
    let timeout = limits.prepare_timeout_millis.saturating_mul(1_000_000);
    let mut rehearsal = Rehearsal {
        egress: Egress::new(Limits::default(), Rc::new(Signal::default())),
        link,
        cell,
        infant,
        bell,
        scratch: Scratch::new(),
        seen: Seen::default(),
        until: monotonic_nanos().saturating_add(timeout),
        is_stopped,
    };
    rehearsal.until("its VM does not wake", |seen| seen.is_ready.then_some(()))?;
    let package = rehearsal.load(piece.function, piece.package, nursery.window_start())?;
    let late = "it does not come to its first request";
    let prepared = rehearsal.until(late, |seen| seen.prepared.take())?;
    prepared?;
    let memfd = sealed::unsealed("pilotlight-function").map_err(|error| error.to_string())?;
    let gone = |error: std::io::Error| format!("its VM is gone: {error}");
    rehearsal.cell.capture(&memfd).map_err(gone)?;
    let bytes = rehearsal.until("its VM cannot be captured", |seen| seen.captured.take())?;
    // The VMM has sealed it; nobody changes it any more.
    let length = sealed::check_frozen(&memfd);
    if length.as_ref().ok() != Some(&bytes) {
        return Err(format!("its snapshot is not as the VMM says: {length:?}, {bytes} bytes"));
    }
    Ok(FunctionSnapshot::new(memfd, bytes, package, monotonic_nanos()))
}

/// What guest and VMM have said.
#[derive(Default)]
struct Seen {
    is_ready: bool,
    placed: Option<u64>,
    prepared: Option<Result<(), String>>,
    captured: Option<u64>,
}

/// A VM and all that is needed to lead it.
struct Rehearsal<'a> {
    link: Link,
    cell: Cell,
    infant: Infant,
    egress: Egress,
    bell: Doorbell,
    scratch: Scratch,
    seen: Seen,
    until: Nanos,
    is_stopped: &'a AtomicBool,
}

impl Drop for Rehearsal<'_> {
    fn drop(&mut self) {
        self.infant.kill();
        self.infant.reap();
    }
}

impl Rehearsal<'_> {
    /// Sends everything up to PREPARE. Gives the package if it lies in the window.
    fn load(
        &mut self,
        function: &Function,
        memfd: OwnedFd,
        offset: u64,
    ) -> Result<Option<WindowPackage>, String> {
        let digest = function.package.0;
        let contents = Contents::map(&memfd).map_err(|error| error.to_string())?;
        let bytes = contents.len() as u64;
        let is_inline = contents.len() <= INLINE_BYTES_MAX;
        if is_inline {
            self.link.load_inline(PACKAGE, &digest, &contents).map_err(told)?;
        } else {
            let gone = |error: std::io::Error| format!("its VM is gone: {error}");
            self.cell.place(&memfd, offset, bytes).map_err(gone)?;
            let placed = self.until("its package cannot be placed", |seen| seen.placed.take())?;
            let window = Window { digest, offset: placed, bytes };
            self.link.load_window(PACKAGE, window).map_err(told)?;
        }
        let acquire = function.acquire_message();
        self.link.acquire(CONTAINER, PACKAGE, &acquire).map_err(told)?;
        self.link.prepare(CONTAINER).map_err(told)?;
        Ok((!is_inline).then_some(WindowPackage { memfd, offset, bytes }))
    }

    /// Leads the VM until `look` finds something. `late` says what is wrong when it never does.
    fn until<T>(
        &mut self,
        late: &str,
        mut look: impl FnMut(&mut Seen) -> Option<T>,
    ) -> Result<T, String> {
        loop {
            self.listen()?;
            if let Some(found) = look(&mut self.seen) {
                return Ok(found);
            }
            // Relaxed: pairs with the store in `Maker::drop`, which publishes nothing else.
            if self.is_stopped.load(Ordering::Relaxed) {
                return Err("the node stops".to_owned());
            }
            if monotonic_nanos() > self.until {
                return Err(late.to_owned());
            }
            self.sleep();
        }
    }

    /// Sends what waits and takes what came.
    fn listen(&mut self) -> Result<(), String> {
        let Self { link, cell, egress, scratch, seen, .. } = self;
        while let Some(reply) = cell.reply().map_err(|_| cell.last_words().1)? {
            match reply {
                OwnReply::Placed { offset } => seen.placed = Some(offset),
                OwnReply::Captured { bytes } => seen.captured = Some(bytes),
                other @ (OwnReply::Running { .. }
                | OwnReply::Reset { .. }
                | OwnReply::Gone { .. }) => return Err(other.describe()),
            }
        }
        let generation = cell.generation;
        link.receive(scratch, |frame| hear(frame, generation, seen, egress)).map_err(told)?;
        let mut sent = Ok(());
        egress.drain(STREAM_BURST, |header, payload| {
            sent = sent.and_then(|()| link.stream(header, payload));
        });
        sent.and_then(|()| link.flush()).map_err(told)
    }

    /// Waits until guest or VMM rings, or it is time to look.
    fn sleep(&mut self) {
        self.link.set_sleeping(true);
        if self.link.is_quiet() {
            let (control, pidfd) = (self.cell.control(), self.infant.pidfd());
            let mut entries = [self.bell.as_fd(), control, pidfd]
                .map(|descriptor| PollFd::from_borrowed_fd(descriptor, PollFlags::IN));
            // An interrupted wait is a wait that ended early.
            let _ = poll(&mut entries, Some(&LOOK_AGAIN));
            drop(self.bell.drain());
        }
        self.link.set_sleeping(false);
    }
}

fn hear(
    frame: GuestFrame<'_>,
    generation: u64,
    seen: &mut Seen,
    egress: &mut Egress,
) -> Result<(), GuestFault> {
    match frame {
        GuestFrame::Ready { generation: its } if its == generation => seen.is_ready = true,
        GuestFrame::Prepared { container: CONTAINER, outcome } => {
            let reason = match outcome.reason {
                "" => format!("it ended: {:?}", outcome.status),
                reason => reason.to_owned(),
            };
            let stands = outcome.status == Status::Exited;
            seen.prepared = Some(if stands { Ok(()) } else { Err(reason) });
        }
        // There is nobody to deliver a log to.
        GuestFrame::Log { .. } | GuestFrame::Missing { .. } => {}
        GuestFrame::Stream { header, payload } => {
            egress.on_frame(header, payload).map_err(|_| GuestFault::Stranger)?;
        }
        GuestFrame::Ready { .. }
        | GuestFrame::Prepared { .. }
        | GuestFrame::Response { .. }
        | GuestFrame::Outcome { .. } => return Err(GuestFault::Stranger),
    }
    Ok(())
}

fn told(fault: GuestFault) -> String {
    fault.to_string()
}
