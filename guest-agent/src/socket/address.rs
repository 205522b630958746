//! Addresses of sockets as programs pass them.

use abi::frame::stream::Address;

use crate::errno::Errno;

/// `AF_UNIX`.
pub const FAMILY_UNIX: u16 = 1;
/// `AF_INET`.
pub const FAMILY_V4: u16 = 2;
/// `AF_INET6`.
pub const FAMILY_V6: u16 = 10;

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

    /// As the node is asked for it.
    #[must_use]
    pub fn on_ring(self) -> Address {
        Address { ip: self.ip, port: self.port }
    }

    fn is_v4(&self) -> bool {
        self.ip[..10] == [0; 10] && self.ip[10..12] == [0xff; 2]
    }

    /// `0.0.0.0` or `::`: a listener there hears every address.
    #[must_use]
    pub fn is_unspecified(&self) -> bool {
        self.ip == [0; 16] || self.is_v4() && self.ip[12..] == [0; 4]
    }

    /// An address of the container itself: `127.0.0.0/8` or `::1`.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.is_v4() && self.ip[12] == 127 || self.ip[..15] == [0; 15] && self.ip[15] == 1
    }

    /// Whether a listener bound here hears a connection to `wanted`, or may not be beside it.
    #[must_use]
    pub fn covers(&self, wanted: &Self) -> bool {
        // `::` hears IPv4 too, `0.0.0.0` does not hear IPv6.
        let hears_all = self.is_unspecified() && (self.is_v6 || wanted.is_v4());
        self.port == wanted.port && (hears_all || self.ip == wanted.ip)
    }
}

/// An address for `getsockname` and its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// Of an IP socket.
    Ip(SocketAddress),
    /// Of a local socket, none of which has a name.
    Unix,
}

impl Name {
    /// The `struct sockaddr` and its length.
    #[must_use]
    pub fn encode(&self) -> ([u8; 28], usize) {
        match self {
            Self::Ip(address) => address.encode(),
            Self::Unix => {
                let mut bytes = [0; 28];
                bytes[..2].copy_from_slice(&FAMILY_UNIX.to_le_bytes());
                (bytes, 2)
            }
        }
    }
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

    #[test]
    fn a_listener_hears_its_address_or_all_of_its_family() {
        let v4 = |last| {
            SocketAddress::decode(&[2, 0, 0, 80, if last == 0 { 0 } else { 127 }, 0, 0, last])
        };
        let (all, first, second) = (v4(0).unwrap(), v4(1).unwrap(), v4(2).unwrap());
        let all_v6 = SocketAddress { port: 80, ..SocketAddress::unspecified(true) };
        let one_v6 =
            SocketAddress { ip: [&[0; 15][..], &[1]].concat().try_into().unwrap(), ..all_v6 };
        assert!(first.is_loopback() && one_v6.is_loopback() && !all.is_loopback());
        assert!(all.covers(&second) && first.covers(&first) && !first.covers(&second));
        assert!(all_v6.covers(&first) && all_v6.covers(&one_v6) && !all.covers(&one_v6));
        assert!(!all.covers(&SocketAddress { port: 81, ..first }));
    }
}
