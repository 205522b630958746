//! Sockets: TCP out of the VM, carried by the node, and what stays inside a container.
//!
//! ```text
//!  program ─► Socket ─┬► Connection ══ stream ring ══► node ─► policy, TCP
//!                     └► End ◄═ local ═► End ◄─ Listener, socketpair
//! ```
//! A VM has no network of its own: every connection out is opened, checked and relayed by the
//! node. A connection to a loopback address stays inside when somebody listens there, unless it
//! is the logging service's: that one is always the node's. What nobody here listens for the node
//! decides about.

pub mod address;
pub mod connection;
pub mod local;
pub mod option;

use alloc::format;
use alloc::rc::Rc;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

use abi::frame::stream::Address;

use crate::errno::Errno;
use crate::file::flags::{self, ready};
use crate::file::stat::{Stat, kind};
use crate::file::{Notifier, Object, OpenFile};
use crate::memory::Account;
use crate::memory::transfer::{Sink, Source};
use crate::time::NEVER;
use crate::world::World;
use address::{FAMILY_UNIX, FAMILY_V4, FAMILY_V6};
use connection::{Connection, Connections, Phase};
use local::{Bound, End, Listener, Ports};
use option::Options;

pub use address::{Name, SocketAddress};

const KIND_STREAM: u32 = 1;
const KIND_MASK: u32 = 0xf;
const PROTOCOL_TCP: u32 = 6;
const SHUTDOWN_READ: u32 = 0;
const SHUTDOWN_WRITE: u32 = 1;
const SHUTDOWN_BOTH: u32 = 2;
/// `MSG_PEEK`.
pub const PEEK: u32 = 2;

/// A container's network.
#[derive(Debug)]
pub struct Network {
    container: u32,
    connections: Rc<Connections>,
    account: Rc<Account>,
    /// The logging service.
    service: Option<Address>,
    ports: Ports,
}

/// What addresses a socket speaks of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6, and IPv4 mapped into it.
    V6,
    /// Sockets of one machine.
    Unix,
}

impl Network {
    /// The network of a container; local connections are charged to `account`.
    #[must_use]
    pub fn new(
        container: u32,
        connections: &Rc<Connections>,
        account: &Rc<Account>,
        service: Option<Address>,
    ) -> Rc<Self> {
        let (connections, account) = (Rc::clone(connections), Rc::clone(account));
        Rc::new(Self { container, connections, account, service, ports: Ports::default() })
    }

    /// `socket`; of `kind` the low bits are the kind, the others status flags.
    ///
    /// # Errors
    /// [`Errno::AFNOSUPPORT`], [`Errno::PROTONOSUPPORT`] for anything but TCP.
    pub fn socket(
        self: &Rc<Self>,
        domain: u32,
        kind: u32,
        protocol: u32,
    ) -> Result<Rc<OpenFile>, Errno> {
        let family = match u16::try_from(domain) {
            Ok(FAMILY_V4) => Family::V4,
            Ok(FAMILY_V6) => Family::V6,
            _ => return Err(Errno::AFNOSUPPORT),
        };
        if kind & KIND_MASK != KIND_STREAM || (protocol != 0 && protocol != PROTOCOL_TCP) {
            return Err(Errno::PROTONOSUPPORT);
        }
        Ok(self.file(family, State::Idle(None), kind))
    }

    /// `socketpair`: two connected local sockets.
    ///
    /// # Errors
    /// As [`Network::socket`]; [`Errno::OPNOTSUPP`] for a pair of another family.
    pub fn socket_pair(
        self: &Rc<Self>,
        domain: u32,
        kind: u32,
        protocol: u32,
    ) -> Result<[Rc<OpenFile>; 2], Errno> {
        match u16::try_from(domain) {
            Ok(FAMILY_UNIX) => {}
            Ok(FAMILY_V4 | FAMILY_V6) => return Err(Errno::OPNOTSUPP),
            _ => return Err(Errno::AFNOSUPPORT),
        }
        if kind & KIND_MASK != KIND_STREAM || protocol != 0 {
            return Err(Errno::PROTONOSUPPORT);
        }
        let nameless = SocketAddress::unspecified(false);
        let ends = End::pair(self.world(), &self.account, [nameless; 2]);
        Ok(ends.map(|end| self.file(Family::Unix, State::Local(Rc::new(end), None), kind)))
    }

    fn world(&self) -> &World {
        self.connections.world()
    }

    fn file(self: &Rc<Self>, family: Family, state: State, kind: u32) -> Rc<OpenFile> {
        let socket = Socket {
            network: Rc::clone(self),
            family,
            state: RefCell::new(state),
            changes: Notifier::new(self.world()),
            options: RefCell::new(Options::new(family)),
            is_read_shut: Cell::new(false),
        };
        OpenFile::new(Rc::new(socket), kind & flags::NONBLOCK | flags::READ_WRITE)
    }
}

/// What a socket has come to.
#[derive(Debug)]
enum State {
    /// Nothing yet, maybe with an address.
    Idle(Option<Rc<Bound>>),
    /// It takes connections.
    Listening(Rc<Listener>, Rc<Bound>),
    /// Connected out of the VM, or about to be.
    Remote(Rc<Connection>),
    /// Connected inside the container, and the port it holds for that.
    Local(
        Rc<End>,
        #[expect(dead_code, reason = "holding it keeps the port from others")] Option<Rc<Bound>>,
    ),
}

/// What bytes go through.
enum Link {
    Remote(Rc<Connection>),
    Local(Rc<End>),
}

/// A socket.
pub struct Socket {
    network: Rc<Network>,
    family: Family,
    state: RefCell<State>,
    /// Raised when the state becomes another.
    changes: Notifier,
    options: RefCell<Options>,
    is_read_shut: Cell<bool>,
}

impl OpenFile {
    /// The socket it is, if it is one.
    #[must_use]
    pub fn socket(&self) -> Option<&Socket> {
        self.object()
    }
}

impl Socket {
    /// `bind`: takes an address of the container.
    ///
    /// # Errors
    /// [`Errno::INVAL`] when it has one, [`Errno::ADDRNOTAVAIL`] for one of elsewhere,
    /// [`Errno::ADDRINUSE`].
    pub fn bind(&self, address: &SocketAddress) -> Result<(), Errno> {
        self.check_family(address)?;
        let mut state = self.state.borrow_mut();
        let State::Idle(None) = &*state else { return Err(Errno::INVAL) };
        if !address.is_unspecified() && !address.is_loopback() {
            return Err(Errno::ADDRNOTAVAIL);
        }
        let address = SocketAddress { is_v6: self.family == Family::V6, ..*address };
        *state = State::Idle(Some(self.network.ports.bind(address)?));
        Ok(())
    }

    /// `listen`.
    ///
    /// # Errors
    /// [`Errno::INVAL`] for a connected socket, [`Errno::ADDRINUSE`] when no port is free.
    pub fn listen(&self, backlog: u32) -> Result<(), Errno> {
        let mut state = self.state.borrow_mut();
        let bound = match &*state {
            State::Idle(Some(bound)) => Rc::clone(bound),
            State::Idle(None) => {
                self.network.ports.bind(SocketAddress::unspecified(self.family == Family::V6))?
            }
            State::Listening(listener, _) => {
                listener.set_backlog(backlog);
                return Ok(());
            }
            State::Remote(_) | State::Local(..) => return Err(Errno::INVAL),
        };
        let listener = self.network.ports.listen(self.network.world(), &bound);
        listener.set_backlog(backlog);
        *state = State::Listening(listener, bound);
        drop(state);
        self.changes.raise();
        Ok(())
    }

    /// `accept`: a connection somebody made, as a socket with these status flags, and who made it.
    ///
    /// # Errors
    /// [`Errno::AGAIN`] while there is none, [`Errno::INVAL`] when it does not listen.
    pub fn accept(&self, accept_flags: u32) -> Result<(Rc<OpenFile>, Name), Errno> {
        let State::Listening(listener, _) = &*self.state.borrow() else {
            return Err(Errno::INVAL);
        };
        let end = listener.accept()?;
        let peer = self.shown(end.peer());
        Ok((self.network.file(self.family, State::Local(Rc::new(end), None), accept_flags), peer))
    }

    /// Starts a connection.
    ///
    /// # Errors
    /// [`Errno::INPROGRESS`] when it has been started; then [`Socket::connect_result`] tells.
    /// [`Errno::ALREADY`] and [`Errno::ISCONN`] when there is one.
    pub fn connect(&self, address: &SocketAddress) -> Result<(), Errno> {
        self.check_family(address)?;
        let mut state = self.state.borrow_mut();
        let bound = match &*state {
            State::Idle(bound) => bound.clone(),
            State::Listening(..) | State::Local(..) => return Err(Errno::ISCONN),
            State::Remote(connection) => match connection.phase() {
                Phase::Opening => return Err(Errno::ALREADY),
                Phase::Open => return Err(Errno::ISCONN),
                Phase::Failed => None,
            },
        };
        let network = &*self.network;
        let address = if address.is_unspecified() { loopback(address) } else { *address };
        let is_inside = address.is_loopback() && network.service != Some(address.on_ring());
        let inside = if is_inside {
            network.ports.connect(network.world(), &network.account, bound.as_deref(), address)?
        } else {
            None
        };
        let result = if let Some((end, held)) = inside {
            *state = State::Local(Rc::new(end), held.or(bound));
            Ok(())
        } else {
            let connection = network.connections.open(network.container, address.on_ring())?;
            *state = State::Remote(connection);
            Err(Errno::INPROGRESS)
        };
        drop(state);
        self.changes.raise();
        result
    }

    /// What became of the connection that was started.
    ///
    /// # Errors
    /// [`Errno::AGAIN`] while it is under way; else why there is none.
    pub fn connect_result(&self) -> Result<(), Errno> {
        let Link::Remote(connection) = self.link()? else { return Ok(()) };
        match connection.phase() {
            Phase::Opening => Err(Errno::AGAIN),
            Phase::Open => Ok(()),
            Phase::Failed => Err(connection.take_error().unwrap_or(Errno::CONNABORTED)),
        }
    }

    /// Takes bytes; with [`PEEK`] they stay.
    ///
    /// # Errors
    /// [`Errno::NOTCONN`], [`Errno::AGAIN`], or why the connection broke.
    pub fn receive(&self, sink: &mut Sink<'_>, receive_flags: u32) -> Result<usize, Errno> {
        let link = self.link()?;
        if self.is_read_shut.get() {
            return Ok(0);
        }
        let is_peek = receive_flags & PEEK != 0;
        match link {
            Link::Remote(connection) => connection.receive(sink, is_peek),
            Link::Local(end) => end.receive(sink, is_peek),
        }
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// [`Errno::AGAIN`], [`Errno::PIPE`] behind the end or without a connection.
    pub fn send(&self, source: &mut Source<'_>) -> Result<usize, Errno> {
        match self.link().map_err(|_| Errno::PIPE)? {
            Link::Remote(connection) => connection.send(source),
            Link::Local(end) => end.send(source),
        }
    }

    /// `shutdown`.
    ///
    /// # Errors
    /// [`Errno::NOTCONN`] when there is no connection.
    pub fn shutdown(&self, how: u32) -> Result<(), Errno> {
        if how > SHUTDOWN_BOTH {
            return Err(Errno::INVAL);
        }
        if self.stop_listening(how) {
            return Ok(());
        }
        let link = self.link()?;
        if how != SHUTDOWN_WRITE {
            self.is_read_shut.set(true);
        }
        if how != SHUTDOWN_READ {
            match &link {
                Link::Remote(connection) => connection.end(),
                Link::Local(end) => end.end(),
            }
        }
        match link {
            Link::Remote(connection) => connection.raise(),
            Link::Local(end) => end.notifier().raise(),
        }
        Ok(())
    }

    /// A listener that is shut down takes no more connections; whoever waits for one is told.
    fn stop_listening(&self, how: u32) -> bool {
        let mut state = self.state.borrow_mut();
        let State::Listening(listener, bound) = &*state else { return false };
        if how != SHUTDOWN_WRITE {
            listener.notifier().raise();
            *state = State::Idle(Some(Rc::clone(bound)));
        }
        true
    }

    /// Own address.
    #[must_use]
    pub fn local_address(&self) -> Name {
        let unspecified = SocketAddress::unspecified(self.family == Family::V6);
        let address = match &*self.state.borrow() {
            State::Idle(bound) => bound.as_ref().map_or(unspecified, |bound| bound.address()),
            State::Listening(listener, _) => listener.address(),
            State::Remote(connection) => connection.local().map_or(unspecified, from_ring),
            State::Local(end, _) => end.local(),
        };
        self.shown(address)
    }

    /// The other side's address.
    ///
    /// # Errors
    /// [`Errno::NOTCONN`] when there is none.
    pub fn peer_address(&self) -> Result<Name, Errno> {
        match self.link()? {
            Link::Remote(connection) if connection.phase() == Phase::Open => {
                Ok(self.shown(from_ring(connection.remote())))
            }
            Link::Remote(_) => Err(Errno::NOTCONN),
            Link::Local(end) => Ok(self.shown(end.peer())),
        }
    }

    /// An option's value; 4 bytes for most.
    ///
    /// # Errors
    /// [`Errno::NOPROTOOPT`] for one that is not known.
    pub fn option(&self, level: u32, name: u32) -> Result<Vec<u8>, Errno> {
        if level == option::LEVEL_SOCKET && name == option::ERROR {
            let error = match self.link() {
                Ok(Link::Remote(connection)) => connection.take_error(),
                Ok(Link::Local(end)) => end.take_error(),
                Err(_) => None,
            };
            return Ok(error.map_or(0, Errno::number).to_le_bytes().to_vec());
        }
        if level == option::LEVEL_SOCKET && name == option::ACCEPTS {
            let listens = matches!(&*self.state.borrow(), State::Listening(..));
            return Ok(i32::from(listens).to_le_bytes().to_vec());
        }
        self.options.borrow().get(level, name)
    }

    /// Sets an option.
    ///
    /// # Errors
    /// [`Errno::NOPROTOOPT`] for one that is not known, [`Errno::INVAL`] for a bad value.
    pub fn set_option(&self, level: u32, name: u32, value: &[u8]) -> Result<(), Errno> {
        self.options.borrow_mut().set(level, name, value)
    }

    /// How long a read and a write may wait.
    #[must_use]
    pub fn timeouts_nanos(&self) -> (u64, u64) {
        self.options.borrow().timeouts_nanos()
    }

    fn check_family(&self, address: &SocketAddress) -> Result<(), Errno> {
        let fits = self.family == Family::V6 || self.family == Family::V4 && !address.is_v6;
        if fits { Ok(()) } else { Err(Errno::AFNOSUPPORT) }
    }

    fn link(&self) -> Result<Link, Errno> {
        match &*self.state.borrow() {
            State::Idle(_) | State::Listening(..) => Err(Errno::NOTCONN),
            State::Remote(connection) => Ok(Link::Remote(Rc::clone(connection))),
            State::Local(end, _) => Ok(Link::Local(Rc::clone(end))),
        }
    }

    fn shown(&self, address: SocketAddress) -> Name {
        match self.family {
            Family::Unix => Name::Unix,
            Family::V4 | Family::V6 => {
                Name::Ip(SocketAddress { is_v6: self.family == Family::V6, ..address })
            }
        }
    }
}

fn from_ring(address: Address) -> SocketAddress {
    SocketAddress { ip: address.ip, port: address.port, is_v6: false }
}

/// What a connection to "no address" means.
fn loopback(address: &SocketAddress) -> SocketAddress {
    let mut loopback = *address;
    loopback.ip[15] = 1;
    if address.ip[10..12] == [0xff; 2] {
        loopback.ip[12] = 127;
    }
    loopback
}

impl Object for Socket {
    fn read(&self, sink: &mut Sink<'_>) -> Result<usize, Errno> {
        self.receive(sink, 0)
    }

    fn write(&self, source: &mut Source<'_>) -> Result<usize, Errno> {
        self.send(source)
    }

    fn readiness(&self) -> u32 {
        let shut = if self.is_read_shut.get() { ready::IN | ready::RDHUP } else { 0 };
        match &*self.state.borrow() {
            State::Idle(_) => ready::OUT | ready::HUP,
            State::Listening(listener, _) if listener.has_waiting() => ready::IN,
            State::Listening(..) => 0,
            State::Remote(connection) => connection.readiness() | shut,
            State::Local(end, _) => end.readiness() | shut,
        }
    }

    fn notifiers(&self, visit: &mut dyn FnMut(&Notifier)) {
        visit(&self.changes);
        match &*self.state.borrow() {
            State::Idle(_) => {}
            State::Listening(listener, _) => visit(listener.notifier()),
            State::Remote(connection) => visit(connection.notifier()),
            State::Local(end, _) => visit(end.notifier()),
        }
    }

    fn readable_bytes(&self) -> Result<usize, Errno> {
        match self.link() {
            Ok(Link::Remote(connection)) => Ok(connection.readable_bytes()),
            Ok(Link::Local(end)) => Ok(end.readable_bytes()),
            Err(_) => Ok(0),
        }
    }

    fn stat(&self) -> Result<Stat, Errno> {
        Ok(Stat::plain(kind::SOCKET, 0o777, self.changes.id().number()))
    }

    fn path(&self) -> Vec<u8> {
        format!("socket:[{}]", self.changes.id().number()).into_bytes()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let State::Remote(connection) = self.state.get_mut() {
            connection.close();
        }
    }
}

/// What `SO_RCVTIMEO` unset means.
const _: () = assert!(NEVER == u64::MAX);

/// A table of connections nobody drains: for containers without a node.
#[must_use]
pub fn unconnected(world: &World) -> Rc<Connections> {
    Rc::new(Connections::new(world))
}
