//! Connections out of a VM: which are allowed, and the bytes of those that are.
//!
//! ```text
//!  program ─ socket ─ agent ══ stream rings ══ link ─► Egress ─► connection task ══ TCP ══► service
//!                                              link ◄─ drain ◄─────┘
//! ```
//! The guest opens, numbers and closes connections (frames of [`abi::frame::stream`]); here is
//! decided whether it may. It is hostile: every frame is checked against what it was granted, and
//! what it does not fetch stays in its connection's buffer, so memory is bounded by
//! [`Limits`] whatever it does. One [`Egress`] per VM; dropping it ends every connection.

mod connection;

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::rc::Rc;

use abi::frame::Header;
use abi::frame::stream::{self, Address};
use abi::layout::region;
use glommio::Task;

use self::connection::State;
use crate::config;
use crate::signal::{Errand, Signal};

/// Most bytes of a frame's payload on the way to the guest.
const PAYLOAD_BYTES_MAX: usize = region::STREAM_IN.slot_bytes() - Header::BYTES;

/// Linux error numbers that a guest's `connect` returns.
const EACCES: u32 = 13;
const ENOBUFS: u32 = 105;

/// What one VM's connections may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Connections at one time, those included whose last bytes are still being sent. Each may
    /// hold two windows of bytes.
    pub connections: usize,
    /// Numbers the guest may have in use at one time, for connections that failed too. More is no
    /// accident.
    pub numbers_max: usize,
    /// For a connection to come about, nanoseconds.
    pub connect_nanos: u64,
    /// For a connection the guest has closed to send its last bytes and hear the other side's
    /// end, nanoseconds.
    pub linger_nanos: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 64,
            numbers_max: 1024,
            connect_nanos: 5_000_000_000,
            linger_nanos: 5_000_000_000,
        }
    }
}

impl From<&config::Egress> for Limits {
    fn from(egress: &config::Egress) -> Self {
        Self {
            connections: egress.connections_per_vm as usize,
            connect_nanos: egress.connect_timeout_millis.saturating_mul(1_000_000),
            ..Self::default()
        }
    }
}

/// Where a VM may connect to.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Its logging service.
    pub assigned: Option<SocketAddr>,
    /// What the operator allows every VM besides.
    pub allowed: Rc<[SocketAddr]>,
}

impl Policy {
    /// Whether a connection to `address` may be made: only to exactly one that is named.
    #[must_use]
    pub fn permits(&self, address: SocketAddr) -> bool {
        let wanted = canonical(address);
        self.assigned.iter().chain(self.allowed.iter()).any(|known| canonical(*known) == wanted)
    }
}

/// IPv4 however it is written. Flow and scope of IPv6 do not reach us from a guest.
fn canonical(address: SocketAddr) -> (IpAddr, u16) {
    (address.ip().to_canonical(), address.port())
}

/// The guest broke a rule of the stream rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// A frame that does not parse, of no kind a guest sends, or out of turn.
    Malformed,
    /// A number that is not, or already, in use.
    Stranger,
    /// More bytes, credit or numbers than it was granted.
    Excess,
}

/// What a VM's connections came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Made.
    pub opened: u64,
    /// Refused by the policy.
    pub refused: u64,
    /// Not made for another reason, or broken.
    pub failed: u64,
}

/// What connection tasks and their VM share.
struct Shared {
    limits: Limits,
    counts: Cell<Counts>,
    /// Numbers that have something for the guest.
    ready: RefCell<VecDeque<u32>>,
    news: Rc<Signal>,
}

impl Shared {
    fn count(&self, change: impl FnOnce(&mut Counts)) {
        let mut counts = self.counts.get();
        change(&mut counts);
        self.counts.set(counts);
    }
}

struct Connection {
    state: Rc<State>,
    task: Option<Task<()>>,
}

/// The connections of one VM.
pub struct Egress {
    shared: Rc<Shared>,
    policy: Policy,
    connections: HashMap<u32, Connection>,
    /// Closed by the guest, with bytes still to send.
    lingering: Vec<Connection>,
}

impl Egress {
    /// A VM that belongs to nobody yet and may connect nowhere. `news` is raised whenever there
    /// is something to [`Egress::drain`].
    #[must_use]
    pub fn new(limits: Limits, news: Rc<Signal>) -> Self {
        let (counts, ready) = (Cell::default(), RefCell::default());
        Self {
            shared: Rc::new(Shared { limits, counts, ready, news }),
            policy: Policy::default(),
            connections: HashMap::new(),
            lingering: Vec::new(),
        }
    }

    /// The VM was given to a user.
    pub fn assign(&mut self, policy: Policy) {
        self.policy = policy;
    }

    /// What became of the connections so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.shared.counts.get()
    }

    /// Connections there are now.
    #[must_use]
    pub fn live(&self) -> usize {
        let all = self.connections.values().chain(&self.lingering);
        all.filter(|connection| !connection.state.is_over()).count()
    }

    /// Takes one frame of the guest. Must be called inside the shard's executor.
    ///
    /// # Errors
    /// [`Fault`] when the guest breaks a rule; its VM is not to be used again.
    pub fn on_frame(&mut self, header: Header, payload: &[u8]) -> Result<(), Fault> {
        if header.flags != 0 {
            return Err(Fault::Malformed);
        }
        if header.kind == stream::OPEN {
            return self.open(header.channel, payload);
        }
        let connection = self.connections.get(&header.channel).ok_or(Fault::Stranger)?;
        match (header.kind, payload) {
            (stream::DATA, bytes) => connection.state.take_data(bytes),
            (stream::FIN, []) => connection.state.take_end(),
            (stream::CREDIT, bytes) => {
                let bytes = bytes.try_into().map_err(|_| Fault::Malformed)?;
                connection.state.take_credit(u32::from_le_bytes(bytes))
            }
            (stream::CLOSE, []) => connection.state.take_close(),
            _ => Err(Fault::Malformed),
        }
    }

    fn open(&mut self, number: u32, payload: &[u8]) -> Result<(), Fault> {
        if payload.len() != Address::BYTES {
            return Err(Fault::Malformed);
        }
        let address = Address::decode(payload).map_err(|_| Fault::Malformed)?;
        let address = SocketAddr::new(Ipv6Addr::from(address.ip).to_canonical(), address.port);
        if self.connections.contains_key(&number) {
            return Err(Fault::Stranger);
        }
        if self.connections.len() >= self.shared.limits.numbers_max {
            return Err(Fault::Excess);
        }
        let state = Rc::new(State::new(number, Rc::clone(&self.shared)));
        let task = if !self.policy.permits(address) {
            self.shared.count(|counts| counts.refused += 1);
            state.refuse(EACCES);
            None
        } else if self.live() >= self.shared.limits.connections {
            state.fail(ENOBUFS);
            None
        } else {
            let (errand, state) = (Errand::begin(), Rc::clone(&state));
            Some(glommio::spawn_local(async move {
                connection::run(state, address).await;
                drop(errand);
            }))
        };
        self.connections.insert(number, Connection { state, task });
        Ok(())
    }

    /// Hands at most `frames_max` frames for the guest to `send` and says whether there are more.
    /// What is not handed over stays within the connections' windows: call it only while the ring
    /// takes it.
    pub fn drain(&mut self, frames_max: usize, mut send: impl FnMut(Header, &[u8])) -> bool {
        if self.shared.ready.borrow().is_empty() {
            // As good as always, and once per turn for every VM: not worth clearing a buffer.
            return false;
        }
        let mut scratch = [0; PAYLOAD_BYTES_MAX];
        for _ in 0..frames_max {
            let Some(number) = self.shared.ready.borrow_mut().pop_front() else { return false };
            let Some(connection) = self.connections.get(&number) else { continue };
            let Some((kind, length)) = connection.state.next_frame(&mut scratch) else { continue };
            send(Header { kind, flags: 0, channel: number, id: 0 }, &scratch[..length]);
            if kind == stream::CLOSE {
                self.forget(number);
            }
        }
        !self.shared.ready.borrow().is_empty()
    }

    /// The guest may use the number again; the connection's last bytes go on their own.
    fn forget(&mut self, number: u32) {
        self.lingering.retain(|connection| !connection.state.is_over());
        let Some(connection) = self.connections.remove(&number) else { return };
        if connection.task.is_some() && !connection.state.is_over() {
            self.lingering.push(connection);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(assigned: Option<&str>, allowed: &[&str]) -> Policy {
        Policy {
            assigned: assigned.map(|address| address.parse().unwrap()),
            allowed: allowed.iter().map(|address| address.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn only_named_addresses_are_permitted() {
        let policy = policy(Some("10.0.0.1:6514"), &["[2001:db8::1]:443", "127.0.0.1:80"]);
        let permits = |address: &str| policy.permits(address.parse().unwrap());
        for address in
            ["10.0.0.1:6514", "[::ffff:10.0.0.1]:6514", "[2001:db8::1]:443", "127.0.0.1:80"]
        {
            assert!(permits(address), "{address}");
        }
        for address in [
            "10.0.0.1:6515",
            "10.0.0.2:6514",
            "127.0.0.1:6514",
            "[::1]:80",
            "[2001:db8::1]:80",
            "[::10.0.0.1]:6514",
            "0.0.0.0:6514",
        ] {
            assert!(!permits(address), "{address}");
        }
    }

    #[test]
    fn a_vm_of_nobody_may_connect_nowhere() {
        assert!(!policy(None, &[]).permits("127.0.0.1:80".parse().unwrap()));
    }

    fn header(kind: u8, channel: u32) -> Header {
        Header { kind, flags: 0, channel, id: 0 }
    }

    fn frames(egress: &mut Egress) -> Vec<(u8, u32, Vec<u8>)> {
        let mut frames = Vec::new();
        egress.drain(usize::MAX, |header, payload| {
            frames.push((header.kind, header.channel, payload.to_vec()));
        });
        frames
    }

    const ANYWHERE: [u8; Address::BYTES] = [7; Address::BYTES];

    #[test]
    fn a_refused_address_is_no_connection_but_has_a_number() {
        let mut egress = Egress::new(Limits::default(), Rc::default());
        egress.on_frame(header(stream::OPEN, 5), &ANYWHERE).unwrap();
        assert_eq!(frames(&mut egress), [(stream::FAILED, 5, EACCES.to_le_bytes().to_vec())]);
        assert_eq!(egress.on_frame(header(stream::OPEN, 5), &ANYWHERE), Err(Fault::Stranger));
        egress.on_frame(header(stream::CLOSE, 5), &[]).unwrap();
        assert_eq!(frames(&mut egress), [(stream::CLOSE, 5, vec![])]);
        assert_eq!(egress.on_frame(header(stream::CLOSE, 5), &[]), Err(Fault::Stranger));
        egress.on_frame(header(stream::OPEN, 5), &ANYWHERE).unwrap();
        assert_eq!((egress.counts().refused, egress.live()), (2, 0));
    }

    #[test]
    fn a_guest_that_breaks_a_rule_is_told_apart() {
        let fault = |frames: &[(u8, u8, &[u8])]| {
            let mut egress = Egress::new(Limits::default(), Rc::default());
            egress.on_frame(header(stream::OPEN, 1), &ANYWHERE).unwrap();
            let mut results = frames.iter().map(|(kind, flags, payload)| {
                egress.on_frame(Header { flags: *flags, ..header(*kind, 1) }, payload)
            });
            results.find_map(Result::err)
        };
        let whole = vec![0; stream::WINDOW_BYTES as usize];
        assert_eq!(fault(&[(stream::OPEN, 0, &[7; 17])]), Some(Fault::Malformed));
        assert_eq!(fault(&[(stream::OPENED, 0, &[])]), Some(Fault::Malformed));
        assert_eq!(fault(&[(stream::FAILED, 0, &[0; 4])]), Some(Fault::Malformed));
        assert_eq!(fault(&[(0, 0, &[])]), Some(Fault::Malformed));
        assert_eq!(fault(&[(99, 0, &[])]), Some(Fault::Malformed));
        assert_eq!(fault(&[(stream::DATA, 1, b"x")]), Some(Fault::Malformed));
        assert_eq!(fault(&[(stream::CREDIT, 0, &[1])]), Some(Fault::Malformed));
        assert_eq!(fault(&[(stream::CREDIT, 0, &[1, 0, 0, 0])]), Some(Fault::Excess));
        assert_eq!(fault(&[(stream::CREDIT, 0, &[0xff; 4])]), Some(Fault::Excess));
        assert_eq!(fault(&[(stream::DATA, 0, &whole)]), None);
        let over: [(u8, u8, &[u8]); 2] = [(stream::DATA, 0, &whole), (stream::DATA, 0, b"x")];
        assert_eq!(fault(&over), Some(Fault::Excess));
        let data_behind_end: [(u8, u8, &[u8]); 2] =
            [(stream::FIN, 0, &[]), (stream::DATA, 0, b"x")];
        assert_eq!(fault(&data_behind_end), Some(Fault::Malformed));
        assert_eq!(fault(&[(stream::FIN, 0, &[]), (stream::FIN, 0, &[])]), Some(Fault::Malformed));
        assert_eq!(fault(&[(stream::CLOSE, 0, &[]), (stream::FIN, 0, &[])]), Some(Fault::Stranger));
    }

    #[test]
    fn numbers_are_bounded() {
        let limits = Limits { numbers_max: 3, ..Limits::default() };
        let mut egress = Egress::new(limits, Rc::default());
        for number in 0..3 {
            egress.on_frame(header(stream::OPEN, number), &ANYWHERE).unwrap();
        }
        assert_eq!(egress.on_frame(header(stream::OPEN, 3), &ANYWHERE), Err(Fault::Excess));
    }
}
