//! What carries a client's bytes: its socket, or rings agreed on over it. Blocking, as the client.

use std::io::{self, ErrorKind, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use abi::ring::RingFault;
use region::clock::monotonic_nanos;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::RecvFlags;

use crate::bridge::{End, hear, ring};
use crate::invoke::Nanos;
use crate::polling::Polling;

/// A connection's bytes.
#[derive(Debug)]
pub(super) struct Transport {
    stream: UnixStream,
    patience: Option<Duration>,
    rings: Option<Box<Rings>>,
}

/// The client's end of shared memory. The socket wakes both sides and ends with either.
struct Rings {
    end: End,
    polling: Polling,
    /// The node was told to ring.
    is_sleeping: bool,
    is_over: bool,
}

impl std::fmt::Debug for Rings {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Rings").field("polling", &self.polling).finish_non_exhaustive()
    }
}

impl Transport {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self { stream, patience: None, rings: None }
    }

    pub(super) fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// Whether it is in shared memory.
    pub(super) fn is_attached(&self) -> bool {
        self.rings.is_some()
    }

    /// Goes on in these rings; a read polls for up to `poll` before it sleeps.
    pub(super) fn attach(&mut self, end: End, poll: Duration) {
        let poll = u64::try_from(poll.as_nanos()).unwrap_or(Nanos::MAX);
        let polling = Polling::new(poll);
        self.rings = Some(Box::new(Rings { end, polling, is_sleeping: false, is_over: false }));
    }

    /// How long a read waits.
    pub(super) fn set_patience(&mut self, patience: Option<Duration>) -> io::Result<()> {
        if self.patience != patience {
            self.stream.set_read_timeout(patience)?;
            self.patience = patience;
        }
        Ok(())
    }

    /// Sends everything, waiting for room.
    pub(super) fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(rings) = &mut self.rings else { return self.stream.write_all(bytes) };
        let mut rest = bytes;
        while !rest.is_empty() {
            let sent = rings.end.send(rest).map_err(broken)?;
            rest = &rest[sent..];
            if sent > 0 && rings.end.wants_ring_for_bytes() {
                ring(&self.stream)?;
            } else if sent == 0 {
                rings.await_room(&self.stream)?;
            }
        }
        Ok(())
    }

    /// Receives something, waiting for it as long as its patience lasts; 0 at the end.
    pub(super) fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        let Some(rings) = &mut self.rings else { return self.read_socket(space) };
        let start = monotonic_nanos();
        loop {
            let count = rings.receive(space, &self.stream)?;
            if count > 0 {
                rings.polling.worked_after(monotonic_nanos().saturating_sub(start));
                return Ok(count);
            }
            if rings.is_over {
                return Ok(0);
            }
            if rings.poll(start) {
                continue;
            }
            rings.set_sleeping(true);
            if !rings.end.has_incoming() {
                rings.is_over = !hear(&self.stream, RecvFlags::empty())?;
            }
        }
    }

    /// Waiting in `poll` instead of in the receive itself saves a wake-up for nothing: when the
    /// node takes a request out of the socket, a blocked receive is woken to hear that there is
    /// room to send again (3 us on the node's side and a switch), a poll for input is not.
    fn read_socket(&self, space: &mut [u8]) -> io::Result<usize> {
        // One that cannot be said is longer than there is time.
        let limit = self.patience.and_then(|patience| Timespec::try_from(patience).ok());
        loop {
            let mut entries = [PollFd::new(&self.stream, PollFlags::IN)];
            if rustix::event::poll(&mut entries, limit.as_ref())? == 0 {
                return Err(ErrorKind::WouldBlock.into());
            }
            match self.receive(space) {
                // It was readable for a moment only.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                received => return received,
            }
        }
    }

    fn receive(&self, space: &mut [u8]) -> io::Result<usize> {
        match rustix::net::recv(&self.stream, space, RecvFlags::DONTWAIT) {
            Ok((count, _)) => Ok(count),
            Err(Errno::CONNRESET) => Ok(0),
            Err(error) => Err(error.into()),
        }
    }

    /// As [`Transport::read`], and `WouldBlock` instead of waiting. From then on the socket is
    /// readable when there is something.
    pub(super) fn try_read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        let Some(rings) = &mut self.rings else { return self.receive(space) };
        loop {
            let count = rings.receive(space, &self.stream)?;
            if count > 0 || rings.is_over {
                return Ok(count);
            }
            if rings.is_sleeping {
                rings.is_over = !hear(&self.stream, RecvFlags::DONTWAIT)?;
            }
            rings.set_sleeping(true);
        }
    }
}

impl Rings {
    /// Receives what is there, and lets the node know if it waits for room.
    fn receive(&mut self, space: &mut [u8], stream: &UnixStream) -> io::Result<usize> {
        let count = self.end.receive(space).map_err(broken)?;
        if count > 0 {
            self.set_sleeping(false);
            if self.end.wants_ring_for_room() {
                ring(stream)?;
            }
        }
        Ok(count)
    }

    /// Looks for something as long as that is worth it; returns whether there is.
    fn poll(&self, start: Nanos) -> bool {
        while !self.end.has_incoming() {
            if monotonic_nanos().saturating_sub(start) >= self.polling.limit() {
                return false;
            }
            std::hint::spin_loop();
        }
        true
    }

    fn set_sleeping(&mut self, sleeps: bool) {
        if self.is_sleeping != sleeps {
            self.end.set_sleeping(sleeps);
            self.is_sleeping = sleeps;
        }
    }

    fn await_room(&mut self, stream: &UnixStream) -> io::Result<()> {
        self.end.wait_for_room(true);
        let heard = if self.end.has_room() { Ok(true) } else { hear(stream, RecvFlags::empty()) };
        self.end.wait_for_room(false);
        match heard {
            Ok(false) => Err(ErrorKind::BrokenPipe.into()),
            // Patience is for answers.
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            heard => heard.map(drop),
        }
    }
}

fn broken(fault: RingFault) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, format!("the node broke a ring: {fault:?}"))
}
