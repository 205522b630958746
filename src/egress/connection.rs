//! One connection of a VM: the state both sides look at, and the task that moves its bytes.
//!
//! ```text
//!  guest ─ DATA, FIN ─► to_remote ─► TCP        CREDIT back as TCP takes them
//!  guest ◄─ DATA, FIN ─ to_guest ◄── TCP        read only while the guest has credit left
//! ```
//! Nothing is queued as frames: what the guest is owed is state, at most a window of bytes and a
//! few facts, and becomes frames when the ring takes them.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use abi::frame::stream::{self, Address, WINDOW_BYTES};
use futures_lite::future::or;
use futures_lite::{AsyncRead, AsyncReadExt, AsyncWrite};
use glommio::net::TcpStream;
use glommio::timer::sleep;

use super::{Fault, Shared};
use crate::signal::{Signal, step_aside};

/// Credit is given back in lots of this, or whenever nothing is left to send.
const CREDIT_LOT_BYTES: u32 = WINDOW_BYTES / 4;
/// Read from a connection at once.
const READ_BYTES: usize = 16 * 1024;

const EIO: i32 = 5;
const ETIMEDOUT: i32 = 110;

/// One connection as guest and task see it.
pub(super) struct State {
    number: u32,
    shared: Rc<Shared>,
    /// For the task: bytes, credit or the end came from the guest.
    wake: Signal,
    inner: RefCell<Inner>,
}

#[derive(Default)]
struct Inner {
    /// From the guest, not yet taken by TCP.
    to_remote: VecDeque<u8>,
    /// Bytes the guest sent and has no credit for yet.
    owed: u32,
    /// Of those, taken by TCP.
    taken: u32,
    /// The guest sends no more.
    has_guest_ended: bool,
    /// The guest has forgotten the connection.
    is_closed: bool,
    /// Bytes the guest still takes, those in `to_guest` included.
    credit: u32,
    to_guest: VecDeque<u8>,
    /// Facts for the guest, each told once.
    opened: Option<Address>,
    failed: Option<u32>,
    has_end: bool,
    has_close: bool,
    /// Listed in `Shared::ready`.
    is_listed: bool,
    /// No task moves bytes any more.
    is_over: bool,
}

impl Inner {
    fn has_news(&self) -> bool {
        let has_facts = self.opened.is_some() || self.failed.is_some() || self.has_end;
        let has_credit =
            self.taken > 0 && (self.taken >= CREDIT_LOT_BYTES || self.to_remote.is_empty());
        self.has_close || has_facts || has_credit || !self.to_guest.is_empty()
    }
}

impl State {
    pub(super) fn new(number: u32, shared: Rc<Shared>) -> Self {
        let inner = RefCell::new(Inner { credit: WINDOW_BYTES, ..Inner::default() });
        Self { number, shared, wake: Signal::default(), inner }
    }

    pub(super) fn is_over(&self) -> bool {
        self.inner.borrow().is_over
    }

    /// Bytes from the guest. After a failure they are counted and go nowhere: the guest may not
    /// know yet.
    pub(super) fn take_data(&self, bytes: &[u8]) -> Result<(), Fault> {
        let mut inner = self.inner.borrow_mut();
        if inner.is_closed {
            return Err(Fault::Stranger);
        }
        if inner.has_guest_ended {
            return Err(Fault::Malformed);
        }
        let length = u32::try_from(bytes.len()).map_err(|_| Fault::Excess)?;
        inner.owed = inner.owed.checked_add(length).ok_or(Fault::Excess)?;
        if inner.owed > WINDOW_BYTES {
            return Err(Fault::Excess);
        }
        if !inner.is_over {
            inner.to_remote.extend(bytes);
            self.wake.raise();
        }
        Ok(())
    }

    /// The guest sends no more.
    pub(super) fn take_end(&self) -> Result<(), Fault> {
        let mut inner = self.inner.borrow_mut();
        if inner.is_closed {
            return Err(Fault::Stranger);
        }
        if std::mem::replace(&mut inner.has_guest_ended, true) {
            return Err(Fault::Malformed);
        }
        self.wake.raise();
        Ok(())
    }

    /// The guest takes that many bytes more.
    pub(super) fn take_credit(&self, bytes: u32) -> Result<(), Fault> {
        let mut inner = self.inner.borrow_mut();
        if inner.is_closed {
            return Err(Fault::Stranger);
        }
        let credit = inner.credit.checked_add(bytes).ok_or(Fault::Excess)?;
        if credit > WINDOW_BYTES {
            return Err(Fault::Excess);
        }
        inner.credit = credit;
        self.wake.raise();
        Ok(())
    }

    /// The guest has forgotten the connection; what it sent before still goes out.
    pub(super) fn take_close(&self) -> Result<(), Fault> {
        let mut inner = self.inner.borrow_mut();
        if std::mem::replace(&mut inner.is_closed, true) {
            return Err(Fault::Stranger);
        }
        inner.to_guest = VecDeque::new();
        inner.has_close = true;
        self.wake.raise();
        drop(inner);
        self.list();
        Ok(())
    }

    /// The policy does not permit it.
    pub(super) fn refuse(&self, error: u32) {
        {
            let mut inner = self.inner.borrow_mut();
            inner.is_over = true;
            inner.failed = Some(error);
            inner.to_remote = VecDeque::new();
        }
        self.list();
    }

    /// It did not come about, or broke.
    pub(super) fn fail(&self, error: u32) {
        self.shared.count(|counts| counts.failed += 1);
        self.refuse(error);
    }

    /// The next thing the guest is to know: a frame's kind, and its payload's length in `payload`.
    pub(super) fn next_frame(&self, payload: &mut [u8]) -> Option<(u8, usize)> {
        let mut inner = self.inner.borrow_mut();
        inner.is_listed = false;
        let frame = next_frame(&mut inner, payload);
        drop(inner);
        self.list();
        frame
    }

    /// Puts itself on the list of those with something for the guest, if it has and is not.
    fn list(&self) {
        let mut inner = self.inner.borrow_mut();
        if inner.is_listed || !inner.has_news() {
            return;
        }
        inner.is_listed = true;
        self.shared.ready.borrow_mut().push_back(self.number);
        self.shared.news.raise();
    }

    /// Changes the state for the guest.
    fn tell(&self, change: impl FnOnce(&mut Inner)) {
        change(&mut self.inner.borrow_mut());
        self.list();
    }
}

fn next_frame(inner: &mut Inner, payload: &mut [u8]) -> Option<(u8, usize)> {
    if std::mem::take(&mut inner.has_close) {
        return Some((stream::CLOSE, 0));
    }
    if inner.is_closed {
        return None;
    }
    if let Some(address) = inner.opened.take() {
        payload[..Address::BYTES].copy_from_slice(&address.encode());
        return Some((stream::OPENED, Address::BYTES));
    }
    if inner.taken > 0 {
        let taken = std::mem::take(&mut inner.taken);
        inner.owed -= taken;
        payload[..4].copy_from_slice(&taken.to_le_bytes());
        return Some((stream::CREDIT, 4));
    }
    if !inner.to_guest.is_empty() {
        let length = inner.to_guest.len().min(payload.len());
        for (slot, byte) in payload.iter_mut().zip(inner.to_guest.drain(..length)) {
            *slot = byte;
        }
        inner.credit -= u32::try_from(length).expect("at most a window was read");
        return Some((stream::DATA, length));
    }
    if let Some(error) = inner.failed.take() {
        payload[..4].copy_from_slice(&error.to_le_bytes());
        return Some((stream::FAILED, 4));
    }
    std::mem::take(&mut inner.has_end).then_some((stream::FIN, 0))
}

/// Connects and moves bytes until both sides have ended, or one is gone.
pub(super) async fn run(state: Rc<State>, address: SocketAddr) {
    if let Err(error) = connect_and_move(&state, address).await {
        let is_timeout = error.kind() == io::ErrorKind::TimedOut;
        let number = if is_timeout { ETIMEDOUT } else { error.raw_os_error().unwrap_or(EIO) };
        state.fail(number.unsigned_abs());
    }
    state.inner.borrow_mut().is_over = true;
}

async fn connect_and_move(state: &State, address: SocketAddr) -> io::Result<()> {
    let limits = state.shared.limits;
    let connect = TcpStream::connect_timeout(address, Duration::from_nanos(limits.connect_nanos));
    let closed = async {
        while !state.inner.borrow().is_closed {
            state.wake.wait().await;
        }
        None
    };
    let Some(stream) = or(async { Some(connect.await) }, closed).await else { return Ok(()) };
    let stream = stream?;
    // When to send what is the guest's to decide, and it has.
    stream.set_nodelay(true)?;
    let local = guest_address(stream.local_addr()?);
    state.shared.count(|counts| counts.opened += 1);
    state.tell(|inner| inner.opened = Some(local));
    let mut pump = Pump { stream, has_remote_ended: false, is_shut: false };
    loop {
        // Busy connections take turns with everything else of this core.
        step_aside().await;
        if state.inner.borrow().is_closed {
            return pump.linger(state, Duration::from_nanos(limits.linger_nanos)).await;
        }
        if pump.has_remote_ended && pump.is_shut {
            return Ok(());
        }
        poll_fn(|context| pump.poll_move(context, state)).await?;
    }
}

fn guest_address(address: SocketAddr) -> Address {
    let ip = match address {
        SocketAddr::V4(address) => address.ip().to_ipv6_mapped(),
        SocketAddr::V6(address) => *address.ip(),
    };
    Address { ip: ip.octets(), port: address.port() }
}

/// Moves bytes between a connection's state and TCP.
struct Pump {
    stream: TcpStream,
    has_remote_ended: bool,
    /// Our end is told.
    is_shut: bool,
}

impl Pump {
    /// Ready whenever something moved or the guest said something.
    fn poll_move(&mut self, context: &mut Context<'_>, state: &State) -> Poll<io::Result<()>> {
        if let Poll::Ready(result) = self.poll_send(context, state) {
            return Poll::Ready(result);
        }
        if let Poll::Ready(result) = self.poll_receive(context, state) {
            return Poll::Ready(result);
        }
        state.wake.poll_wait(context).map(Ok)
    }

    fn poll_send(&mut self, context: &mut Context<'_>, state: &State) -> Poll<io::Result<()>> {
        let mut inner = state.inner.borrow_mut();
        if !inner.to_remote.is_empty() {
            let bytes = inner.to_remote.as_slices().0;
            let sent = ready!(Pin::new(&mut self.stream).poll_write(context, bytes))?;
            inner.to_remote.drain(..sent);
            inner.taken += u32::try_from(sent).expect("at most a window was owed");
            drop(inner);
            state.list();
            return Poll::Ready(Ok(()));
        }
        if inner.has_guest_ended && !self.is_shut {
            self.is_shut = true;
            return Pin::new(&mut self.stream).poll_close(context);
        }
        Poll::Pending
    }

    fn poll_receive(&mut self, context: &mut Context<'_>, state: &State) -> Poll<io::Result<()>> {
        let inner = state.inner.borrow();
        let room = (inner.credit as usize).saturating_sub(inner.to_guest.len()).min(READ_BYTES);
        drop(inner);
        if self.has_remote_ended || room == 0 {
            return Poll::Pending;
        }
        let mut buffer = [0; READ_BYTES];
        let length = ready!(Pin::new(&mut self.stream).poll_read(context, &mut buffer[..room]))?;
        self.has_remote_ended = length == 0;
        state.tell(|inner| {
            inner.to_guest.extend(&buffer[..length]);
            inner.has_end = length == 0;
        });
        Poll::Ready(Ok(()))
    }

    /// The guest is gone: sends what it left, and waits for the other side's end as well as it
    /// can, since a close with bytes unread would make TCP take back what was sent.
    async fn linger(&mut self, state: &State, limit: Duration) -> io::Result<()> {
        state.inner.borrow_mut().has_guest_ended = true;
        let flush = async {
            while !self.is_shut {
                poll_fn(|context| self.poll_send(context, state)).await?;
            }
            let mut rest = [0; 512];
            while !self.has_remote_ended {
                self.has_remote_ended = self.stream.read(&mut rest).await? == 0;
                step_aside().await;
            }
            Ok(())
        };
        let too_late = async {
            sleep(limit).await;
            Ok(())
        };
        or(flush, too_late).await
    }
}
