//! Connections that never leave the container: socket pairs, and loopback TCP.
//!
//! ```text
//!  connect ─► Ports ─► Listener ─ waiting ends ─► accept
//!                 End ◄═ a queue of bytes each way ═► End
//! ```
//! A connection is made at once when somebody listens: both ends exist before either program side
//! sees one.

use alloc::collections::VecDeque;
use alloc::rc::{Rc, Weak};
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use super::address::SocketAddress;
use crate::errno::Errno;
use crate::file::Notifier;
use crate::file::byte_queue::ByteQueue;
use crate::file::flags::ready;
use crate::memory::Account;
use crate::memory::transfer::{Sink, Source};
use crate::world::World;

/// Bytes one way of a connection holds.
const QUEUE_BYTES: usize = 64 * 1024;
/// Connections a listener keeps at least, whatever its backlog says, and at most.
const WAITING_MIN: usize = 128;
const WAITING_MAX: usize = 1024;
/// Ports given to sockets that ask for none (`ip_local_port_range`).
const PORTS_FREE: core::ops::RangeInclusive<u16> = 32_768..=60_999;

/// What one end shows the other.
#[derive(Debug)]
struct Side {
    address: SocketAddress,
    /// Bytes on the way to this end.
    incoming: RefCell<ByteQueue>,
    /// It sends no more.
    has_ended: Cell<bool>,
    is_closed: Cell<bool>,
    /// The other end went away with bytes of ours unread.
    is_reset: Cell<bool>,
    /// Raised when this end may have become ready.
    notifier: Notifier,
}

/// One end of a connection; dropping it closes it.
#[derive(Debug)]
pub struct End {
    own: Rc<Side>,
    other: Rc<Side>,
}

impl End {
    /// Two ends of a new connection with these addresses, whose bytes `account` pays for.
    #[must_use]
    pub fn pair(world: &World, account: &Rc<Account>, addresses: [SocketAddress; 2]) -> [Self; 2] {
        let [first, second] = addresses.map(|address| {
            Rc::new(Side {
                address,
                incoming: RefCell::new(ByteQueue::charged(QUEUE_BYTES, account)),
                has_ended: Cell::new(false),
                is_closed: Cell::new(false),
                is_reset: Cell::new(false),
                notifier: Notifier::new(world),
            })
        });
        let end = |own: &Rc<Side>, other: &Rc<Side>| Self {
            own: Rc::clone(own),
            other: Rc::clone(other),
        };
        [end(&first, &second), end(&second, &first)]
    }

    /// Own address.
    #[must_use]
    pub fn local(&self) -> SocketAddress {
        self.own.address
    }

    /// The other end's address.
    #[must_use]
    pub fn peer(&self) -> SocketAddress {
        self.other.address
    }

    /// Raised when its readiness may have grown.
    #[must_use]
    pub fn notifier(&self) -> &Notifier {
        &self.own.notifier
    }

    /// Bytes that can be received now.
    #[must_use]
    pub fn readable_bytes(&self) -> usize {
        self.own.incoming.borrow().length()
    }

    /// Takes received bytes, or a copy of them.
    ///
    /// # Errors
    /// [`Errno::AGAIN`] when there are none yet, [`Errno::CONNRESET`] once when the other end left
    /// without reading what was sent.
    pub fn receive(&self, sink: &mut Sink<'_>, is_peek: bool) -> Result<usize, Errno> {
        let mut incoming = self.own.incoming.borrow_mut();
        if incoming.is_empty() {
            let is_over = self.other.has_ended.get() || self.other.is_closed.get();
            return match (self.own.is_reset.take(), is_over) {
                (true, _) => Err(Errno::CONNRESET),
                (false, true) => Ok(0),
                (false, false) => Err(Errno::AGAIN),
            };
        }
        if is_peek {
            return incoming.peek_into(sink);
        }
        let count = incoming.drain_into(sink)?;
        drop(incoming);
        self.other.notifier.raise();
        Ok(count)
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// [`Errno::AGAIN`] when there is no room, [`Errno::PIPE`] when nobody will read them.
    pub fn send(&self, source: &mut Source<'_>) -> Result<usize, Errno> {
        if self.own.is_reset.take() {
            return Err(Errno::CONNRESET);
        }
        if self.own.has_ended.get() || self.other.is_closed.get() {
            return Err(Errno::PIPE);
        }
        if source.remaining() == 0 {
            return Ok(0);
        }
        let mut queue = self.other.incoming.borrow_mut();
        if queue.room() == 0 {
            return Err(Errno::AGAIN);
        }
        let count = queue.fill_from(source)?;
        drop(queue);
        self.other.notifier.raise();
        Ok(count)
    }

    /// Sends no more.
    pub fn end(&self) {
        self.own.has_ended.set(true);
        self.other.notifier.raise();
    }

    /// `SO_ERROR`, told once.
    #[must_use]
    pub fn take_error(&self) -> Option<Errno> {
        self.own.is_reset.take().then_some(Errno::CONNRESET)
    }

    /// `POLL*` bits.
    #[must_use]
    pub fn readiness(&self) -> u32 {
        let bit = |holds: bool, bit: u32| if holds { bit } else { 0 };
        let (own, other) = (&self.own, &self.other);
        let has_gone = other.is_closed.get();
        let is_over = has_gone || other.has_ended.get();
        let has_room = has_gone || own.has_ended.get() || other.incoming.borrow().room() > 0;
        bit(is_over || !own.incoming.borrow().is_empty(), ready::IN)
            | bit(has_room, ready::OUT)
            | bit(is_over, ready::RDHUP)
            | bit(has_gone || is_over && own.has_ended.get(), ready::HUP)
            | bit(own.is_reset.get(), ready::ERR)
    }
}

impl Drop for End {
    fn drop(&mut self) {
        let mut incoming = self.own.incoming.borrow_mut();
        self.other.is_reset.set(!incoming.is_empty());
        incoming.clear();
        self.own.is_closed.set(true);
        self.other.notifier.raise();
    }
}

/// A socket that takes connections.
#[derive(Debug)]
pub struct Listener {
    address: SocketAddress,
    waiting: RefCell<VecDeque<End>>,
    waiting_max: Cell<usize>,
    notifier: Notifier,
}

impl Listener {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddress {
        self.address
    }

    /// Raised when a connection comes.
    #[must_use]
    pub fn notifier(&self) -> &Notifier {
        &self.notifier
    }

    /// Sets how many connections may wait.
    pub fn set_backlog(&self, backlog: u32) {
        let wanted = usize::try_from(backlog).unwrap_or(WAITING_MAX);
        self.waiting_max.set(wanted.clamp(WAITING_MIN, WAITING_MAX));
    }

    /// Whether a connection waits.
    #[must_use]
    pub fn has_waiting(&self) -> bool {
        !self.waiting.borrow().is_empty()
    }

    /// Takes the connection that waits longest.
    ///
    /// # Errors
    /// [`Errno::AGAIN`] when there is none.
    pub fn accept(&self) -> Result<End, Errno> {
        self.waiting.borrow_mut().pop_front().ok_or(Errno::AGAIN)
    }
}

/// The caller's end of a new connection, and the port it holds for that if it held none.
pub type Connected = (End, Option<Rc<Bound>>);

/// A port a socket holds.
#[derive(Debug)]
pub struct Bound {
    address: SocketAddress,
}

impl Bound {
    /// Which.
    #[must_use]
    pub fn address(&self) -> SocketAddress {
        self.address
    }
}

/// The ports of a container: who holds and who listens at which.
#[derive(Debug, Default)]
pub struct Ports {
    bound: RefCell<Vec<Weak<Bound>>>,
    listeners: RefCell<Vec<Weak<Listener>>>,
    last: Cell<u16>,
}

impl Ports {
    /// Gives a socket an address; port 0 becomes a free one.
    ///
    /// # Errors
    /// [`Errno::ADDRINUSE`] when another holds it or no port is free.
    pub fn bind(&self, wanted: SocketAddress) -> Result<Rc<Bound>, Errno> {
        let mut bound = self.bound.borrow_mut();
        bound.retain(|held| held.strong_count() > 0);
        let is_held = |address: &SocketAddress| {
            let mut held = bound.iter().filter_map(Weak::upgrade);
            held.any(|held| held.address.covers(address) || address.covers(&held.address))
        };
        let address = if wanted.port == 0 {
            let free = |port| Some(SocketAddress { port, ..wanted }).filter(|it| !is_held(it));
            let next = self.last.get().saturating_add(1).max(*PORTS_FREE.start());
            let mut ports = (next..=*PORTS_FREE.end()).chain(*PORTS_FREE.start()..next);
            ports.find_map(free).ok_or(Errno::ADDRINUSE)?
        } else if is_held(&wanted) {
            return Err(Errno::ADDRINUSE);
        } else {
            wanted
        };
        if wanted.port == 0 {
            self.last.set(address.port);
        }
        let given = Rc::new(Bound { address });
        bound.push(Rc::downgrade(&given));
        Ok(given)
    }

    /// Lets a socket take connections at the address it holds.
    #[must_use]
    pub fn listen(&self, world: &World, bound: &Bound) -> Rc<Listener> {
        let listener = Rc::new(Listener {
            address: bound.address,
            waiting: RefCell::new(VecDeque::new()),
            waiting_max: Cell::new(WAITING_MIN),
            notifier: Notifier::new(world),
        });
        let mut listeners = self.listeners.borrow_mut();
        listeners.retain(|listener| listener.strong_count() > 0);
        listeners.push(Rc::downgrade(&listener));
        listener
    }

    /// Connects to whoever listens at `wanted`; `None` when nobody does. `from` is the address
    /// the caller holds, if any.
    ///
    /// # Errors
    /// [`Errno::CONNREFUSED`] when too many wait there already, [`Errno::ADDRINUSE`] without a
    /// free port.
    pub fn connect(
        &self,
        world: &World,
        account: &Rc<Account>,
        from: Option<&Bound>,
        wanted: SocketAddress,
    ) -> Result<Option<Connected>, Errno> {
        let listeners = self.listeners.borrow();
        let mut alive = listeners.iter().filter_map(Weak::upgrade);
        let Some(listener) = alive.find(|listener| listener.address.covers(&wanted)) else {
            return Ok(None);
        };
        if listener.waiting.borrow().len() >= listener.waiting_max.get() {
            return Err(Errno::CONNREFUSED);
        }
        let held = match from {
            Some(_) => None,
            None => Some(self.bind(SocketAddress { port: 0, ..wanted })?),
        };
        let port = held.as_deref().or(from).map_or(0, |bound| bound.address.port);
        let addresses = [SocketAddress { port, ..wanted }, wanted];
        let [near, far] = End::pair(world, account, addresses);
        listener.waiting.borrow_mut().push_back(far);
        listener.notifier.raise();
        Ok(Some((near, held)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddress {
        let [high, low] = port.to_be_bytes();
        SocketAddress::decode(&[2, 0, high, low, 127, 0, 0, 1]).unwrap()
    }

    fn receive(end: &End) -> Result<Vec<u8>, Errno> {
        let mut bytes = [0; 64];
        let count = end.receive(&mut Sink::kernel(&mut bytes), false)?;
        Ok(bytes[..count].to_vec())
    }

    fn pair() -> [End; 2] {
        End::pair(&World::new(), &Account::new(1 << 20), [address(1), address(2)])
    }

    #[test]
    fn bytes_go_both_ways_until_an_end_ends() {
        let [near, far] = pair();
        assert_eq!((receive(&far), far.readiness()), (Err(Errno::AGAIN), ready::OUT));
        assert_eq!(near.send(&mut Source::kernel(b"hello")), Ok(5));
        near.end();
        assert_eq!(near.send(&mut Source::kernel(b"x")), Err(Errno::PIPE));
        assert_eq!(receive(&far), Ok(b"hello".to_vec()));
        assert_eq!(receive(&far), Ok(Vec::new()));
        assert_eq!(far.send(&mut Source::kernel(b"answer")), Ok(6));
        drop(far);
        assert_eq!(receive(&near), Ok(b"answer".to_vec()));
        assert_eq!(receive(&near), Ok(Vec::new()));
    }

    #[test]
    fn unread_bytes_are_a_reset() {
        let [near, far] = pair();
        near.send(&mut Source::kernel(b"hello")).unwrap();
        drop(far);
        assert_ne!(near.readiness() & ready::ERR, 0);
        assert_eq!(receive(&near), Err(Errno::CONNRESET));
        assert_eq!(receive(&near), Ok(Vec::new()));
        assert_eq!(near.send(&mut Source::kernel(b"x")), Err(Errno::PIPE));
    }

    #[test]
    fn ports_are_held_while_their_socket_lives() {
        let (world, account, ports) = (World::new(), Account::new(1 << 20), Ports::default());
        let bound = ports.bind(address(0)).unwrap();
        let place = bound.address();
        assert!(PORTS_FREE.contains(&place.port));
        assert_eq!(ports.bind(place).err(), Some(Errno::ADDRINUSE));
        assert_ne!(ports.bind(address(0)).unwrap().address().port, place.port);
        assert!(ports.connect(&world, &account, None, place).unwrap().is_none());
        let listener = ports.listen(&world, &bound);
        let (near, held) = ports.connect(&world, &account, None, place).unwrap().unwrap();
        let far = listener.accept().unwrap();
        assert_eq!((near.peer(), far.local()), (place, place));
        assert_eq!(far.peer().port, held.unwrap().address().port);
        assert_eq!(listener.accept().err(), Some(Errno::AGAIN));
        drop((listener, bound));
        assert!(ports.connect(&world, &account, None, place).unwrap().is_none());
        assert!(ports.bind(place).is_ok());
    }

    #[test]
    fn a_listener_keeps_a_bounded_number_waiting() {
        let (world, account, ports) = (World::new(), Account::new(64 << 20), Ports::default());
        let bound = ports.bind(address(80)).unwrap();
        let listener = ports.listen(&world, &bound);
        listener.set_backlog(0);
        let connect = || ports.connect(&world, &account, Some(&bound), address(80));
        let ends: Vec<_> = (0..WAITING_MIN).map(|_| connect().unwrap().unwrap()).collect();
        assert_eq!(connect().err(), Some(Errno::CONNREFUSED));
        drop(listener);
        assert_eq!(receive(&ends[0].0), Ok(Vec::new()));
    }
}
