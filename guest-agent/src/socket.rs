//! Sockets: outbound TCP, carried by the node.
//!
//! ```text
//!  program ─► Socket ─► Connection ══ stream ring ══► node ─► policy, TCP
//! ```
//! A VM has no network of its own: every connection is opened, checked and relayed by the node.
//! Nothing listens in a container yet, so a socket is a TCP client or nothing.

pub mod connection;
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
use crate::memory::transfer::{Sink, Source};
use crate::time::NEVER;
use crate::world::World;
use connection::{Connection, Connections, Phase};
use option::Options;

/// `AF_INET`.
pub const FAMILY_V4: u16 = 2;
/// `AF_INET6`.
pub const FAMILY_V6: u16 = 10;
const KIND_STREAM: u32 = 1;
const KIND_MASK: u32 = 0xf;
const PROTOCOL_TCP: u32 = 6;
const SHUTDOWN_READ: u32 = 0;
const SHUTDOWN_WRITE: u32 = 1;
const SHUTDOWN_BOTH: u32 = 2;
/// `MSG_PEEK`.
pub const PEEK: u32 = 2;

/// An IP address and port as programs pass them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketAddress {
    /// IPv6, or IPv4 mapped into it.
    pub ip: [u8; 16],
    /// Port.
    pub port: u16,
    /// The program speaks of it as IPv6.
    pub is_v6: bool,
}

impl SocketAddress {
    /// No address, no port.
    #[must_use]
    pub fn unspecified(is_v6: bool) -> Self {
        let mut ip = [0; 16];
        if !is_v6 {
            ip[10..12].fill(0xff);
        }
        Self { ip, port: 0, is_v6 }
    }

    /// Reads a `struct sockaddr_in` or `sockaddr_in6`.
    ///
    /// # Errors
    /// [`Errno::AFNOSUPPORT`] for another family, [`Errno::INVAL`] when it is cut short.
    pub fn decode(bytes: &[u8]) -> Result<Self, Errno> {
        let [low, high, port_high, port_low, ..] = *bytes else { return Err(Errno::INVAL) };
        let port = u16::from_be_bytes([port_high, port_low]);
        match u16::from_le_bytes([low, high]) {
            FAMILY_V4 => {
                let mut address = Self { port, ..Self::unspecified(false) };
                address.ip[12..].copy_from_slice(bytes.get(4..8).ok_or(Errno::INVAL)?);
                Ok(address)
            }
            FAMILY_V6 => {
                let ip = bytes.get(8..24).ok_or(Errno::INVAL)?;
                let ip = ip.try_into().map_err(|_| Errno::INVAL)?;
                Ok(Self { ip, port, is_v6: true })
            }
            _ => Err(Errno::AFNOSUPPORT),
        }
    }

    /// The `struct sockaddr`, 16 or 28 bytes of the array, and how many.
    #[must_use]
    pub fn encode(&self) -> ([u8; 28], usize) {
        let mut bytes = [0; 28];
        bytes[2..4].copy_from_slice(&self.port.to_be_bytes());
        if self.is_v6 {
            bytes[..2].copy_from_slice(&FAMILY_V6.to_le_bytes());
            bytes[8..24].copy_from_slice(&self.ip);
            (bytes, 28)
        } else {
            bytes[..2].copy_from_slice(&FAMILY_V4.to_le_bytes());
            bytes[4..8].copy_from_slice(&self.ip[12..]);
            (bytes, 16)
        }
    }

    fn on_ring(self) -> Address {
        Address { ip: self.ip, port: self.port }
    }
}

/// A container's way out.
#[derive(Debug)]
pub struct Network {
    container: u32,
    connections: Rc<Connections>,
}

impl Network {
    /// The network of a container.
    #[must_use]
    pub fn new(container: u32, connections: &Rc<Connections>) -> Rc<Self> {
        Rc::new(Self { container, connections: Rc::clone(connections) })
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
        let is_v6 = match u16::try_from(domain) {
            Ok(FAMILY_V4) => false,
            Ok(FAMILY_V6) => true,
            _ => return Err(Errno::AFNOSUPPORT),
        };
        if kind & KIND_MASK != KIND_STREAM || (protocol != 0 && protocol != PROTOCOL_TCP) {
            return Err(Errno::PROTONOSUPPORT);
        }
        let socket = Socket {
            network: Rc::clone(self),
            is_v6,
            connection: RefCell::new(None),
            idle: Notifier::new(self.connections.world()),
            options: RefCell::new(Options::new(is_v6)),
            is_read_shut: Cell::new(false),
        };
        Ok(OpenFile::new(Rc::new(socket), kind & flags::NONBLOCK | flags::READ_WRITE))
    }
}

/// A TCP socket.
pub struct Socket {
    network: Rc<Network>,
    is_v6: bool,
    connection: RefCell<Option<Rc<Connection>>>,
    /// Raised when a connection takes the place of none.
    idle: Notifier,
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
    /// Starts a connection.
    ///
    /// # Errors
    /// [`Errno::INPROGRESS`] when it has been started; then [`Socket::connect_result`] tells.
    /// [`Errno::ALREADY`] and [`Errno::ISCONN`] when there is one.
    pub fn connect(&self, address: &SocketAddress) -> Result<(), Errno> {
        if address.is_v6 && !self.is_v6 {
            return Err(Errno::AFNOSUPPORT);
        }
        let mut place = self.connection.borrow_mut();
        match place.as_ref().map(|connection| connection.phase()) {
            Some(Phase::Opening) => return Err(Errno::ALREADY),
            Some(Phase::Open) => return Err(Errno::ISCONN),
            Some(Phase::Failed) | None => {}
        }
        let Network { container, connections } = &*self.network;
        *place = Some(connections.open(*container, address.on_ring())?);
        drop(place);
        self.idle.raise();
        Err(Errno::INPROGRESS)
    }

    /// What became of the connection that was started.
    ///
    /// # Errors
    /// [`Errno::AGAIN`] while it is under way; else why there is none.
    pub fn connect_result(&self) -> Result<(), Errno> {
        let connection = self.connected()?;
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
        let connection = self.connected()?;
        if self.is_read_shut.get() {
            return Ok(0);
        }
        connection.receive(sink, receive_flags & PEEK != 0)
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// [`Errno::NOTCONN`], [`Errno::AGAIN`], [`Errno::PIPE`] behind the end.
    pub fn send(&self, source: &mut Source<'_>) -> Result<usize, Errno> {
        self.connected().map_err(|_| Errno::PIPE)?.send(source)
    }

    /// `shutdown`.
    ///
    /// # Errors
    /// [`Errno::NOTCONN`] when there is no connection.
    pub fn shutdown(&self, how: u32) -> Result<(), Errno> {
        let connection = self.connected()?;
        match how {
            SHUTDOWN_READ => self.is_read_shut.set(true),
            SHUTDOWN_WRITE => connection.end(),
            SHUTDOWN_BOTH => {
                self.is_read_shut.set(true);
                connection.end();
            }
            _ => return Err(Errno::INVAL),
        }
        connection.raise();
        Ok(())
    }

    /// Own address.
    #[must_use]
    pub fn local_address(&self) -> SocketAddress {
        let connection = self.connection.borrow();
        let local = connection.as_ref().and_then(|connection| connection.local());
        local.map_or(SocketAddress::unspecified(self.is_v6), |local| self.shown(local))
    }

    /// The other side's address.
    ///
    /// # Errors
    /// [`Errno::NOTCONN`] when there is none.
    pub fn peer_address(&self) -> Result<SocketAddress, Errno> {
        let connection = self.connected()?;
        if connection.phase() != Phase::Open {
            return Err(Errno::NOTCONN);
        }
        Ok(self.shown(connection.remote()))
    }

    /// An option's value; 4 bytes for most.
    ///
    /// # Errors
    /// [`Errno::NOPROTOOPT`] for one that is not known.
    pub fn option(&self, level: u32, name: u32) -> Result<Vec<u8>, Errno> {
        if (level, name) == (option::LEVEL_SOCKET, option::ERROR) {
            let connection = self.connection.borrow();
            let error = connection.as_ref().and_then(|connection| connection.take_error());
            return Ok(error.map_or(0, Errno::number).to_le_bytes().to_vec());
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

    fn connected(&self) -> Result<Rc<Connection>, Errno> {
        self.connection.borrow().clone().ok_or(Errno::NOTCONN)
    }

    fn shown(&self, address: Address) -> SocketAddress {
        SocketAddress { ip: address.ip, port: address.port, is_v6: self.is_v6 }
    }
}

impl Object for Socket {
    fn read(&self, sink: &mut Sink<'_>) -> Result<usize, Errno> {
        self.receive(sink, 0)
    }

    fn write(&self, source: &mut Source<'_>) -> Result<usize, Errno> {
        self.send(source)
    }

    fn readiness(&self) -> u32 {
        match &*self.connection.borrow() {
            None => ready::OUT | ready::HUP,
            Some(connection) => {
                let shut = if self.is_read_shut.get() { ready::IN | ready::RDHUP } else { 0 };
                connection.readiness() | shut
            }
        }
    }

    fn notifiers(&self, visit: &mut dyn FnMut(&Notifier)) {
        visit(&self.idle);
        if let Some(connection) = &*self.connection.borrow() {
            visit(connection.notifier());
        }
    }

    fn readable_bytes(&self) -> Result<usize, Errno> {
        Ok(self.connection.borrow().as_ref().map_or(0, |connection| connection.readable_bytes()))
    }

    fn stat(&self) -> Result<Stat, Errno> {
        Ok(Stat::plain(kind::SOCKET, 0o777, self.idle.id().number()))
    }

    fn path(&self) -> Vec<u8> {
        format!("socket:[{}]", self.idle.id().number()).into_bytes()
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.get_mut() {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_their_encoding() {
        let v4 = [2, 0, 0x19, 0x72, 10, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
        let address = SocketAddress::decode(&v4).unwrap();
        assert_eq!((address.port, address.ip[10..] == [0xff, 0xff, 10, 0, 0, 1]), (6514, true));
        assert_eq!(address.encode().0[..16], v4);
        let mut v6 = [0; 28];
        (v6[0], v6[3], v6[23]) = (10, 80, 1);
        let address = SocketAddress::decode(&v6).unwrap();
        assert_eq!((address.port, address.is_v6, address.encode()), (80, true, (v6, 28)));
        assert_eq!(SocketAddress::decode(&[1, 0, b'/', b'd']), Err(Errno::AFNOSUPPORT));
        assert_eq!(SocketAddress::decode(&[2, 0, 1, 1, 1]), Err(Errno::INVAL));
    }
}
