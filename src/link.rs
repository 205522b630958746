//! The node's end of one VM's rings and doorbell.
//!
//! ```text
//!  pool effects ─► Link ══ invoke, code, stream in ═► guest
//!  pool events  ◄─ Link ◄══ outcome, log, stream out ═ guest
//! ```
//! What the guest wrote is hostile: every frame is copied out of shared memory into a buffer of
//! ours and only then looked at. A guest that breaks a rule yields a [`GuestFault`]; its VM is
//! retired and nobody else notices. The node never waits for a guest: what does not fit a ring
//! waits here, in order, and [`Link::backlog_bytes`] tells senders to hold back.

use std::cell::Cell;
use std::collections::VecDeque;

use abi::frame::{self, FLAG_MORE, Header};
use abi::layout::region as offset;
use abi::ring::{Consumer, Memory, Producer, PushError, QueueLayout, RingFault};
use region::{Doorbell, Region};

/// Frames taken from one ring before the next one has its turn.
const BURST: usize = 32;
/// Largest frame of any ring.
const FRAME_BYTES_MAX: usize = offset::CODE.slot_bytes();

/// The guest broke a rule of the rings or of the frames in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum GuestFault {
    /// A virtqueue's rules.
    Ring(RingFault),
    /// A frame that does not parse, or of no known kind.
    Frame,
    /// A frame about an invoke, container or connection this VM was not given.
    Stranger,
    /// More bytes on a connection, or in a response, than it was allowed.
    Excess,
}

impl std::fmt::Display for GuestFault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ring(fault) => write!(f, "the guest broke a ring: {fault:?}"),
            Self::Frame => f.write_str("the guest sent a frame that does not parse"),
            Self::Stranger => f.write_str("the guest spoke of something it was never given"),
            Self::Excess => f.write_str("the guest sent more than it was allowed"),
        }
    }
}

/// What a guest says.
#[derive(Clone, Copy, Debug)]
pub(crate) enum GuestFrame<'a> {
    /// It woke from its snapshot.
    Ready { generation: u64 },
    /// Part of a response.
    Response { invoke: u64, bytes: &'a [u8] },
    /// A container stands where a snapshot can be taken, or says why it cannot come there.
    Prepared { container: u32, outcome: frame::outcome::Outcome<'a> },
    /// The end of an invoke.
    Outcome { container: u32, invoke: u64, outcome: frame::outcome::Outcome<'a> },
    /// A program made a system call the kernel does not have.
    Missing { number: u32 },
    /// A log record; `has_more` when the line goes on in the next one.
    Log { invoke: u64, line: frame::log::Line<'a>, has_more: bool },
    /// A frame of a connection.
    Stream { header: Header, payload: &'a [u8] },
}

/// Frames on their way to the guest in one ring: the ring, then what did not fit it.
struct Outlet {
    producer: Producer<Region>,
    payload_bytes_max: usize,
    backlog: VecDeque<Vec<u8>>,
    backlog_bytes: usize,
    has_news: bool,
}

impl Outlet {
    fn new(region: &Region, layout: QueueLayout) -> Self {
        Self {
            producer: Producer::new(region.clone(), layout),
            payload_bytes_max: layout.slot_bytes() - Header::BYTES,
            backlog: VecDeque::new(),
            backlog_bytes: 0,
            has_news: false,
        }
    }

    /// Sends one frame now or keeps it for later.
    fn send(&mut self, header: Header, payload: [&[u8]; 2]) -> Result<(), RingFault> {
        let head = header.encode();
        if self.backlog.is_empty() {
            match self.producer.push(&[&head, payload[0], payload[1]]) {
                Ok(()) => {
                    self.has_news = true;
                    return Ok(());
                }
                Err(PushError::Fault(fault)) => return Err(fault),
                Err(PushError::TooLong) => unreachable!("senders split by payload_bytes_max"),
                Err(PushError::Full) => self.producer.wait_for_room(true),
            }
        }
        let frame = [&head, payload[0], payload[1]].concat();
        self.backlog_bytes += frame.len();
        self.backlog.push_back(frame);
        Ok(())
    }

    /// Sends a message or a stream's bytes in as many frames as it takes. `ends` clears
    /// `FLAG_MORE` on the last.
    fn send_split(&mut self, header: Header, bytes: &[u8], ends: bool) -> Result<(), RingFault> {
        let mut rest = bytes;
        loop {
            let (now, later) = rest.split_at(rest.len().min(self.payload_bytes_max));
            let flags = if later.is_empty() && ends { 0 } else { FLAG_MORE };
            self.send(Header { flags, ..header }, [now, &[]])?;
            if later.is_empty() {
                return Ok(());
            }
            rest = later;
        }
    }

    /// Moves what fits from the backlog into the ring.
    fn flush(&mut self) -> Result<(), RingFault> {
        while let Some(frame) = self.backlog.front() {
            match self.producer.push(&[frame]) {
                Ok(()) => {}
                Err(PushError::Fault(fault)) => return Err(fault),
                Err(PushError::TooLong) => unreachable!("senders split by payload_bytes_max"),
                Err(PushError::Full) => return Ok(()),
            }
            self.has_news = true;
            self.backlog_bytes -= frame.len();
            self.backlog.pop_front();
            if self.backlog.is_empty() {
                self.producer.wait_for_room(false);
            }
        }
        Ok(())
    }

    /// Whether the guest has to be rung for what was sent since the last call.
    fn take_doorbell(&mut self) -> bool {
        std::mem::take(&mut self.has_news) && self.producer.needs_doorbell()
    }
}

/// The node's end of one VM.
pub(crate) struct Link {
    region: Region,
    doorbell: Doorbell,
    rings: Cell<u64>,
    invoke: Outlet,
    code: Outlet,
    stream_in: Outlet,
    outcome: Consumer<Region>,
    log: Consumer<Region>,
    stream_out: Consumer<Region>,
}

impl Link {
    /// The link of a VM whose region is still all zeros in its rings.
    pub(crate) fn new(region: Region, doorbell: Doorbell) -> Self {
        Self {
            invoke: Outlet::new(&region, offset::INVOKE),
            code: Outlet::new(&region, offset::CODE),
            stream_in: Outlet::new(&region, offset::STREAM_IN),
            outcome: Consumer::new(region.clone(), offset::OUTCOME),
            log: Consumer::new(region.clone(), offset::LOG),
            stream_out: Consumer::new(region.clone(), offset::STREAM_OUT),
            doorbell,
            rings: Cell::new(0),
            region,
        }
    }

    /// Begins anew after the VM was reset: its region is all zeros in its rings again.
    pub(crate) fn renew(&mut self) {
        let region = &self.region;
        self.invoke = Outlet::new(region, offset::INVOKE);
        self.code = Outlet::new(region, offset::CODE);
        self.stream_in = Outlet::new(region, offset::STREAM_IN);
        self.outcome = Consumer::new(region.clone(), offset::OUTCOME);
        self.log = Consumer::new(region.clone(), offset::LOG);
        self.stream_out = Consumer::new(region.clone(), offset::STREAM_OUT);
    }

    /// Gives the VM to a user: `message` is an encoded [`frame::invoke::Assign`].
    pub(crate) fn assign(&mut self, message: &[u8]) -> Result<(), GuestFault> {
        let header = Header { kind: frame::invoke::ASSIGN, flags: 0, channel: 0, id: 0 };
        self.invoke.send_split(header, message, true).map_err(GuestFault::Ring)
    }

    /// Makes a container: `message` is an encoded [`frame::invoke::Acquire`].
    pub(crate) fn acquire(
        &mut self,
        container: u32,
        package: u64,
        message: &[u8],
    ) -> Result<(), GuestFault> {
        let header =
            Header { kind: frame::invoke::ACQUIRE, flags: 0, channel: container, id: package };
        self.invoke.send_split(header, message, true).map_err(GuestFault::Ring)
    }

    /// Brings a container's program to where a snapshot can be taken.
    pub(crate) fn prepare(&mut self, container: u32) -> Result<(), GuestFault> {
        let header = Header { kind: frame::invoke::PREPARE, flags: 0, channel: container, id: 0 };
        self.invoke.send(header, [&[], &[]]).map_err(GuestFault::Ring)
    }

    /// Ends a container.
    pub(crate) fn release(&mut self, container: u32) -> Result<(), GuestFault> {
        let header = Header { kind: frame::invoke::RELEASE, flags: 0, channel: container, id: 0 };
        self.invoke.send(header, [&[], &[]]).map_err(GuestFault::Ring)
    }

    /// Drops a package.
    pub(crate) fn forget(&mut self, package: u64) -> Result<(), GuestFault> {
        let header = Header { kind: frame::invoke::FORGET, flags: 0, channel: 0, id: package };
        self.invoke.send(header, [&[], &[]]).map_err(GuestFault::Ring)
    }

    /// Sends a package that fits the code ring.
    pub(crate) fn load_inline(
        &mut self,
        package: u64,
        digest: &[u8; frame::code::DIGEST_BYTES],
        bytes: &[u8],
    ) -> Result<(), GuestFault> {
        let header = Header { kind: frame::code::INLINE, flags: 0, channel: 0, id: package };
        let message = [digest, bytes].concat();
        self.code.send_split(header, &message, true).map_err(GuestFault::Ring)
    }

    /// Names a package that has been placed in the image window.
    pub(crate) fn load_window(
        &mut self,
        package: u64,
        window: frame::code::Window,
    ) -> Result<(), GuestFault> {
        let header = Header { kind: frame::code::WINDOW, flags: 0, channel: 0, id: package };
        self.code.send(header, [&window.encode(), &[]]).map_err(GuestFault::Ring)
    }

    /// Starts a request with its body's first bytes; `ends` when there are no more.
    pub(crate) fn invoke(
        &mut self,
        container: u32,
        invoke: u64,
        deadline_nanos: u64,
        body: &[u8],
        ends: bool,
    ) -> Result<(), GuestFault> {
        let room = self.invoke.payload_bytes_max - frame::invoke::Invoke::BYTES;
        let (now, later) = body.split_at(body.len().min(room));
        let flags = if later.is_empty() && ends { 0 } else { FLAG_MORE };
        let header = Header { kind: frame::invoke::INVOKE, flags, channel: container, id: invoke };
        self.invoke.send(header, [&deadline_nanos.to_le_bytes(), now]).map_err(GuestFault::Ring)?;
        if later.is_empty() { Ok(()) } else { self.body(invoke, later, ends) }
    }

    /// Sends more of a request's body; `ends` when there are no more.
    pub(crate) fn body(&mut self, invoke: u64, bytes: &[u8], ends: bool) -> Result<(), GuestFault> {
        let header = Header { kind: frame::invoke::BODY, flags: 0, channel: 0, id: invoke };
        self.invoke.send_split(header, bytes, ends).map_err(GuestFault::Ring)
    }

    /// Ends a request.
    pub(crate) fn cancel(&mut self, invoke: u64) -> Result<(), GuestFault> {
        let header = Header { kind: frame::invoke::CANCEL, flags: 0, channel: 0, id: invoke };
        self.invoke.send(header, [&[], &[]]).map_err(GuestFault::Ring)
    }

    /// Sends a frame of a connection; its payload fits one frame.
    pub(crate) fn stream(&mut self, header: Header, payload: &[u8]) -> Result<(), GuestFault> {
        self.stream_in.send(header, [payload, &[]]).map_err(GuestFault::Ring)
    }

    /// Whether the guest has taken what was sent on connections before: what is to follow waits
    /// with its connection until then, not here.
    pub(crate) fn has_stream_room(&self) -> bool {
        self.stream_in.backlog.is_empty()
    }

    /// Bytes of bodies and messages that wait for room in the rings.
    pub(crate) fn backlog_bytes(&self) -> usize {
        self.invoke.backlog_bytes + self.code.backlog_bytes + self.stream_in.backlog_bytes
    }

    /// Fills the rings from the backlog and rings the guest if it sleeps. Called once per turn,
    /// after everything of that turn was sent: many frames cost one doorbell.
    pub(crate) fn flush(&mut self) -> Result<(), GuestFault> {
        let outlets = [&mut self.invoke, &mut self.code, &mut self.stream_in];
        let mut rings = false;
        for outlet in outlets {
            outlet.flush().map_err(GuestFault::Ring)?;
            rings |= outlet.take_doorbell();
        }
        if rings {
            self.ring();
        }
        Ok(())
    }

    /// Times the guest's doorbell was rung.
    pub(crate) fn rings(&self) -> u64 {
        self.rings.get()
    }

    fn ring(&self) {
        self.rings.set(self.rings.get() + 1);
        // An eventfd of our own takes every ring; one that does not is a broken host.
        self.doorbell.ring().expect("an eventfd takes a ring");
    }

    /// Hands what the guest said to `take`, log records before outcomes, and returns how many
    /// frames there were.
    ///
    /// # Errors
    /// A [`GuestFault`] of the rings, the frames, or of `take`; the VM is not to be used again.
    pub(crate) fn receive(
        &mut self,
        scratch: &mut Scratch,
        mut take: impl FnMut(GuestFrame<'_>) -> Result<(), GuestFault>,
    ) -> Result<usize, GuestFault> {
        let mut count = 0;
        // An outcome is pushed after the log records it counts: counting the outcomes first and
        // draining the log ring before handing on just those keeps that order.
        let outcomes = usize::from(self.outcome.ready()).min(BURST);
        count += drain(&mut self.log, scratch, usize::MAX, &mut take, parse_log)?;
        count += drain(&mut self.outcome, scratch, outcomes, &mut take, parse_outcome)?;
        count += drain(&mut self.stream_out, scratch, BURST, &mut take, parse_stream)?;
        let waits = [&self.outcome, &self.log, &self.stream_out];
        if count > 0 && waits.iter().any(|ring| ring.needs_doorbell()) {
            self.ring();
        }
        Ok(count)
    }

    /// Whether nothing of the guest's waits.
    pub(crate) fn is_quiet(&self) -> bool {
        self.outcome.is_empty() && self.log.is_empty() && self.stream_out.is_empty()
    }

    /// Whether the guest sleeps, took all that was sent and said nothing that was not taken. What it
    /// says before it sleeps is there when it is seen to sleep.
    ///
    /// # Errors
    /// A [`GuestFault`] of the rings; the VM is not to be used again.
    pub(crate) fn is_resting(&mut self) -> Result<bool, GuestFault> {
        if self.backlog_bytes() > 0 || !self.invoke.producer.needs_doorbell() {
            return Ok(false);
        }
        for outlet in [&mut self.invoke, &mut self.code, &mut self.stream_in] {
            if !outlet.producer.is_drained().map_err(GuestFault::Ring)? {
                return Ok(false);
            }
        }
        Ok(self.is_quiet())
    }

    /// Says whether the shard sleeps, so that the guest rings. After `true` the shard looks at
    /// [`Link::is_quiet`] once more.
    pub(crate) fn set_sleeping(&mut self, sleeps: bool) {
        self.outcome.set_sleeping(sleeps);
        self.log.set_sleeping(sleeps);
        self.stream_out.set_sleeping(sleeps);
    }

    /// Nanoseconds this guest may poll before it halts.
    pub(crate) fn set_poll_nanos(&self, nanos: u64) {
        self.region.store_u64(offset::POLL_NANOS, nanos);
    }
}

/// Where frames are copied before they are looked at; one per shard.
pub(crate) struct Scratch(Box<[u8; FRAME_BYTES_MAX]>);

impl Scratch {
    pub(crate) fn new() -> Self {
        Self(Box::new([0; FRAME_BYTES_MAX]))
    }
}

/// Pops at most `burst` frames and hands each to `take` as what `parse` makes of it.
fn drain(
    ring: &mut Consumer<Region>,
    scratch: &mut Scratch,
    burst: usize,
    take: &mut impl FnMut(GuestFrame<'_>) -> Result<(), GuestFault>,
    parse: impl Fn(Header, &[u8]) -> Result<GuestFrame<'_>, GuestFault>,
) -> Result<usize, GuestFault> {
    // A guest that refills as fast as we drain must not keep the shard: one ring's worth.
    let burst = burst.min(usize::from(abi::ring::SLOTS_MAX));
    for count in 0..burst {
        let Some(length) = ring.pop(&mut scratch.0[..]).map_err(GuestFault::Ring)? else {
            return Ok(count);
        };
        let (header, payload) =
            Header::decode(&scratch.0[..length]).map_err(|_| GuestFault::Frame)?;
        take(parse(header, payload)?)?;
    }
    Ok(burst)
}

fn parse_outcome(header: Header, payload: &[u8]) -> Result<GuestFrame<'_>, GuestFault> {
    use frame::outcome;
    Ok(match header.kind {
        outcome::READY => GuestFrame::Ready { generation: header.id },
        outcome::RESPONSE => GuestFrame::Response { invoke: header.id, bytes: payload },
        outcome::OUTCOME => GuestFrame::Outcome {
            container: header.channel,
            invoke: header.id,
            outcome: outcome::Outcome::decode(payload).map_err(|_| GuestFault::Frame)?,
        },
        outcome::PREPARED => GuestFrame::Prepared {
            container: header.channel,
            outcome: outcome::Outcome::decode(payload).map_err(|_| GuestFault::Frame)?,
        },
        outcome::MISSING => {
            let number = payload.try_into().map_err(|_| GuestFault::Frame)?;
            GuestFrame::Missing { number: u32::from_le_bytes(number) }
        }
        _ => return Err(GuestFault::Frame),
    })
}

fn parse_log(header: Header, payload: &[u8]) -> Result<GuestFrame<'_>, GuestFault> {
    if header.kind != frame::log::LINE {
        return Err(GuestFault::Frame);
    }
    let line = frame::log::Line::decode(payload).map_err(|_| GuestFault::Frame)?;
    Ok(GuestFrame::Log { invoke: header.id, line, has_more: header.has_more() })
}

fn parse_stream(header: Header, payload: &[u8]) -> Result<GuestFrame<'_>, GuestFault> {
    Ok(GuestFrame::Stream { header, payload })
}
