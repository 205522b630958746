//! The control thread: serves the node's messages and the guest's timer while the vCPU runs.
//!
//! It ends the process when the node asks for it or closes its end of the socket, which is also
//! what happens when the node is killed.

use crate::clock::Clock;
use crate::gone::{Doing, Gone};
use crate::lookout::Lookout;
use crate::memory::Window;
use crate::order::{Order, Orders, Reset};
use crate::vcpu::Preempt;
use abi::control::{MESSAGE_BYTES_MAX, Reply, Request};
use abi::layout::region as layout;
use abi::ring::Memory;
use region::clock::monotonic_nanos;
use region::{Doorbell, Region, message};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// Bytes of a reason in a `Gone` reply; leaves room for the message around it.
const REASON_BYTES_MAX: usize = MESSAGE_BYTES_MAX - 64;

/// How long a guest that is to be captured may go on before it halts. It has answered that it is
/// ready, so it polls for 50 us and halts.
const REST_LIMIT_NANOS: u64 = 1_000_000_000;

/// How soon a guest whose kernel ran when its program was to be interrupted is looked at again. Such a
/// kernel looks at the time itself before it goes on with a program, so that this is for the few
/// instructions in between; sooner would be an exit each time for one that is just busy.
const RETRY_NANOS: u64 = 5_000_000;

/// Sends a reply; a node that is gone does not miss it.
pub(crate) fn reply(socket: impl AsFd, reply: &Reply<'_>) {
    let mut buffer = [0; MESSAGE_BYTES_MAX];
    if let Ok(length) = reply.encode(&mut buffer) {
        let _ = message::send(socket, &buffer[..length], &[]);
    }
}

/// Tells the node why the VM is over and ends the process.
pub(crate) fn end(socket: impl AsFd, gone: &Gone) -> ! {
    let mut reason = gone.to_string();
    let mut length = reason.len().min(REASON_BYTES_MAX);
    while !reason.is_char_boundary(length) {
        length -= 1;
    }
    reason.truncate(length);
    reply(socket, &Reply::Gone { blame: gone.blame(), reason: &reason });
    std::process::exit(0)
}

/// A request with its descriptors; `None` when the node closed the socket.
pub(crate) fn receive(socket: impl AsFd) -> Result<Option<(Request, Vec<OwnedFd>)>, Gone> {
    let mut buffer = [0; MESSAGE_BYTES_MAX];
    let received = loop {
        match message::receive(&socket, &mut buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(None),
            other => break other.doing("receive a control message")?,
        }
    };
    if received.length == 0 {
        return Ok(None);
    }
    let request = Request::decode(&buffer[..received.length]);
    let request = request.map_err(|_| Gone::Request("it is malformed"))?;
    Ok(Some((request, received.descriptors)))
}

/// All the control thread works with.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) socket: OwnedFd,
    pub(crate) timer: Doorbell,
    pub(crate) lookout: Arc<Lookout>,
    pub(crate) region: Region,
    pub(crate) window: Window,
    /// First byte of the window that packages may be placed at: behind the root image.
    pub(crate) packages_from: u64,
    pub(crate) clock: Clock,
    pub(crate) preempt: Arc<Preempt>,
    pub(crate) orders: Arc<Orders>,
    /// What an idle vCPU's thread waits for.
    pub(crate) doorbell: Doorbell,
    pub(crate) is_capturable: bool,
}

/// When the control thread has to look again, in the guest's time.
#[derive(Debug, Default)]
struct Deadlines {
    /// The guest's.
    guest: Option<u64>,
    /// When a guest that is to be captured has to have come to rest.
    capture: Option<u64>,
}

/// What woke the control thread; nothing: the time it waited for.
#[derive(Clone, Copy, Debug, Default)]
struct Woken {
    has_message: bool,
    has_timer: bool,
    has_look: bool,
}

impl Deadlines {
    fn next(&self) -> Option<u64> {
        self.guest.into_iter().chain(self.capture).min()
    }
}

impl Control {
    /// Serves until the process ends.
    pub(crate) fn serve(mut self) -> ! {
        let mut deadlines = Deadlines::default();
        loop {
            if let Err(gone) = self.step(&mut deadlines) {
                end(&self.socket, &gone);
            }
        }
    }

    fn step(&mut self, deadlines: &mut Deadlines) -> Result<(), Gone> {
        let Woken { has_message, has_timer, has_look } = self.wait(deadlines.next())?;
        self.look_at_capture(&mut deadlines.capture)?;
        let deadline = &mut deadlines.guest;
        if has_timer {
            self.timer.drain().doing("read the timer's doorbell")?;
            self.preempt.arm();
        }
        // A guest that has halted meanwhile is not interrupted: its halt has disarmed that.
        if has_timer || has_look && self.lookout.has_gone_off().doing("read a timer")? {
            let wanted = self.region.load_u64(layout::DEADLINE);
            *deadline = (wanted != u64::MAX).then_some(wanted);
        }
        let now = self.clock.now();
        if deadline.is_some_and(|deadline| deadline <= now) {
            // A guest that wants it later than it asked for only says so in the region: asking
            // again would cost it more than this look costs us.
            let wanted = self.region.load_u64(layout::DEADLINE);
            *deadline = (now < wanted && wanted != u64::MAX).then_some(wanted);
            if wanted <= now && self.preempt.fire() {
                *deadline = Some(now + RETRY_NANOS);
            }
        }
        if has_message {
            self.serve_one(deadlines)?;
        }
        Ok(())
    }

    /// A guest that does not come to rest cannot be captured.
    fn look_at_capture(&self, limit: &mut Option<u64>) -> Result<(), Gone> {
        let Some(at) = *limit else { return Ok(()) };
        if !self.orders.is_pending() {
            *limit = None;
        } else if at <= self.clock.now() {
            return Err(Gone::Request("the VM to capture does not come to rest"));
        }
        Ok(())
    }

    /// Waits for a message, the timer's doorbell, the lookout or the deadline.
    fn wait(&self, deadline: Option<u64>) -> Result<Woken, Gone> {
        let limit: Option<Timespec> = deadline.and_then(|deadline| self.clock.until(deadline));
        let mut entries = [
            PollFd::new(&self.socket, PollFlags::IN),
            PollFd::new(&self.timer, PollFlags::IN),
            PollFd::new(&*self.lookout, PollFlags::IN),
        ];
        match poll(&mut entries, limit.as_ref()) {
            Err(Errno::INTR) => Ok(Woken::default()),
            Err(error) => Err(error).doing("wait for the node"),
            Ok(_) => {
                let woken = entries.map(|entry| !entry.revents().is_empty());
                let [has_message, has_timer, has_look] = woken;
                Ok(Woken { has_message, has_timer, has_look })
            }
        }
    }

    fn serve_one(&mut self, deadlines: &mut Deadlines) -> Result<(), Gone> {
        let Some((request, mut descriptors)) = receive(&self.socket)? else {
            std::process::exit(0)
        };
        match (request, descriptors.pop(), descriptors.is_empty()) {
            (Request::Stop, None, true) => Err(Gone::Asked),
            (Request::Place { offset, bytes }, Some(package), true)
                if offset >= self.packages_from =>
            {
                self.window.place(offset, bytes, package).doing("place a package")?;
                reply(&self.socket, &Reply::Placed { offset });
                Ok(())
            }
            (Request::Reset { generation, seed, verify_nanos }, None, true) => {
                // What the guest's former life asked for is not its next one's.
                deadlines.guest = None;
                let asked_nanos = monotonic_nanos();
                self.order(Order::Reset(Reset { generation, seed, verify_nanos, asked_nanos }))
            }
            (Request::Capture, Some(memfd), true) if self.is_capturable => {
                deadlines.capture = Some(self.clock.now().saturating_add(REST_LIMIT_NANOS));
                self.order(Order::Capture(memfd))
            }
            (
                Request::Place { .. }
                | Request::Stop
                | Request::Start(_)
                | Request::Reset { .. }
                | Request::Capture,
                ..,
            ) => Err(Gone::Request("not one for this running VM")),
        }
    }

    fn order(&self, order: Order) -> Result<(), Gone> {
        self.orders.give(order, || {
            // The signal first: an idle vCPU's thread then needs no second wake-up.
            self.preempt.kick();
            self.doorbell.ring().doing("ring for the vCPU's thread")
        })
    }
}
