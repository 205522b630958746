//! Socket options: kept and shown; timeouts act.

use alloc::vec::Vec;

use abi::frame::stream::WINDOW_BYTES;

use super::Family;
use super::address::{FAMILY_UNIX, FAMILY_V4, FAMILY_V6};
use crate::errno::Errno;
use crate::time::{NEVER, decode_timeval, encode_timeval};

/// `SOL_SOCKET`.
pub const LEVEL_SOCKET: u32 = 1;
/// `SO_ERROR`.
pub const ERROR: u32 = 4;
const TYPE: u32 = 3;
const SEND_BYTES: u32 = 7;
const RECEIVE_BYTES: u32 = 8;
const LINGER: u32 = 13;
const RECEIVE_TIMEOUT: u32 = 20;
const SEND_TIMEOUT: u32 = 21;
/// `SO_ACCEPTCONN`.
pub const ACCEPTS: u32 = 30;
const PROTOCOL: u32 = 38;
const DOMAIN: u32 = 39;

/// Options that are numbers a program may set: level and name. The node sends without delay and
/// keeps connections for as long as the container lives, whatever these say.
const SETTABLE: [(u32, u32); 14] = [
    // SO_REUSEADDR, SO_DONTROUTE, SO_BROADCAST, SO_KEEPALIVE, SO_PRIORITY, SO_REUSEPORT.
    (1, 2),
    (1, 5),
    (1, 6),
    (1, 9),
    (1, 12),
    (1, 15),
    // TCP_NODELAY, TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT, TCP_QUICKACK, TCP_USER_TIMEOUT.
    (6, 1),
    (6, 4),
    (6, 5),
    (6, 6),
    (6, 12),
    (6, 18),
    // IP_TOS.
    (0, 1),
    // IPV6_V6ONLY.
    (41, 26),
];

/// The options of one socket.
#[derive(Debug)]
pub struct Options {
    family: Family,
    numbers: [i32; SETTABLE.len()],
    linger: [u8; 8],
    receive_nanos: u64,
    send_nanos: u64,
}

impl Options {
    /// What a socket starts with.
    #[must_use]
    pub fn new(family: Family) -> Self {
        let numbers = [0; SETTABLE.len()];
        Self { family, numbers, linger: [0; 8], receive_nanos: NEVER, send_nanos: NEVER }
    }

    /// How long a read and a write may wait.
    #[must_use]
    pub fn timeouts_nanos(&self) -> (u64, u64) {
        (self.receive_nanos, self.send_nanos)
    }

    /// An option's value.
    ///
    /// # Errors
    /// [`Errno::NOPROTOOPT`] for one that is not known.
    pub fn get(&self, level: u32, name: u32) -> Result<Vec<u8>, Errno> {
        let window = WINDOW_BYTES.cast_signed();
        let number = match (level, name) {
            (LEVEL_SOCKET, TYPE) => 1,
            (LEVEL_SOCKET, SEND_BYTES | RECEIVE_BYTES) => window,
            (LEVEL_SOCKET, PROTOCOL) if self.family == Family::Unix => 0,
            (LEVEL_SOCKET, PROTOCOL) => 6,
            (LEVEL_SOCKET, DOMAIN) => match self.family {
                Family::Unix => i32::from(FAMILY_UNIX),
                Family::V4 => i32::from(FAMILY_V4),
                Family::V6 => i32::from(FAMILY_V6),
            },
            (LEVEL_SOCKET, LINGER) => return Ok(self.linger.to_vec()),
            (LEVEL_SOCKET, RECEIVE_TIMEOUT) => return Ok(timeout(self.receive_nanos)),
            (LEVEL_SOCKET, SEND_TIMEOUT) => return Ok(timeout(self.send_nanos)),
            _ => self.numbers[place(level, name)?],
        };
        Ok(number.to_le_bytes().to_vec())
    }

    /// Sets an option.
    ///
    /// # Errors
    /// [`Errno::NOPROTOOPT`] for one that is not known, [`Errno::INVAL`] for a bad value.
    pub fn set(&mut self, level: u32, name: u32, value: &[u8]) -> Result<(), Errno> {
        match (level, name) {
            (LEVEL_SOCKET, RECEIVE_TIMEOUT) => self.receive_nanos = nanos(value)?,
            (LEVEL_SOCKET, SEND_TIMEOUT) => self.send_nanos = nanos(value)?,
            (LEVEL_SOCKET, LINGER) => {
                let value = value.get(..8).ok_or(Errno::INVAL)?;
                self.linger.copy_from_slice(value);
            }
            // Windows are the rings'; a request for others is a hint, as on Linux.
            (LEVEL_SOCKET, SEND_BYTES | RECEIVE_BYTES) => {}
            _ => {
                let number = value.first_chunk().ok_or(Errno::INVAL)?;
                self.numbers[place(level, name)?] = i32::from_le_bytes(*number);
            }
        }
        Ok(())
    }
}

fn place(level: u32, name: u32) -> Result<usize, Errno> {
    SETTABLE.iter().position(|known| *known == (level, name)).ok_or(Errno::NOPROTOOPT)
}

/// A `struct timeval`; 0 means for ever.
fn nanos(value: &[u8]) -> Result<u64, Errno> {
    match decode_timeval(value.first_chunk().ok_or(Errno::INVAL)?)? {
        0 => Ok(NEVER),
        nanos => Ok(nanos),
    }
}

fn timeout(nanos: u64) -> Vec<u8> {
    encode_timeval(if nanos == NEVER { 0 } else { nanos }).to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_kept_and_unknown_ones_refused() {
        let mut options = Options::new(Family::V4);
        options.set(6, 1, &1_i32.to_le_bytes()).unwrap();
        assert_eq!(options.get(6, 1), Ok(1_i32.to_le_bytes().to_vec()));
        assert_eq!(options.set(6, 99, &[0; 4]), Err(Errno::NOPROTOOPT));
        assert_eq!(options.set(6, 1, &[0; 3]), Err(Errno::INVAL));
        options.set(1, 20, &encode_timeval(1_500_000_000)).unwrap();
        assert_eq!(options.timeouts_nanos(), (1_500_000_000, NEVER));
        options.set(1, 20, &encode_timeval(0)).unwrap();
        assert_eq!(options.timeouts_nanos(), (NEVER, NEVER));
    }
}
