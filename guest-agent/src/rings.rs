//! The guest's ends of its six rings (`abi::layout::region`), made after a restore.
//!
//! The node is trusted: a ring it breaks, or a frame it sends that does not parse, ends this
//! kernel with a message instead of being worked around.

use alloc::vec;
use alloc::vec::Vec;

use abi::frame::Header;
use abi::layout::region;
use abi::ring::{Consumer, Memory, Producer, PushError, QueueLayout, SharedMemory};

/// Pages of the ring of requests that are met.
const MET_PAGES: u32 = 3;
const PAGE_BYTES: u32 = 4096;
const _: () = assert!(PAGE_BYTES as u64 == abi::layout::PAGE_BYTES);

type In = Consumer<&'static SharedMemory>;
type Out = Producer<&'static SharedMemory>;

/// A ring frames go out through, and whether the node has not been rung for some of them.
#[derive(Debug)]
pub struct Outlet {
    producer: Out,
    has_news: bool,
    /// The node was asked to ring when there is room.
    waits: bool,
}

impl Outlet {
    fn new(layout: QueueLayout) -> Self {
        let producer = Producer::new(machine::region::memory(), layout);
        Self { producer, has_news: false, waits: false }
    }

    /// Whether a frame fits now. Where none does, the node will ring when one does.
    pub fn has_room(&mut self) -> bool {
        let mut has_room = self.room() > 0;
        if !has_room && !self.waits {
            self.wait(true);
            // The node may have made room just before it could see that we wait.
            has_room = self.room() > 0;
        }
        if has_room && self.waits {
            self.wait(false);
        }
        has_room
    }

    fn wait(&mut self, waits: bool) {
        self.producer.wait_for_room(waits);
        self.waits = waits;
    }

    /// Sends a frame there is room for.
    ///
    /// # Panics
    /// When there is none, or the frame is too long: [`Outlet::has_room`] was not asked.
    pub fn push(&mut self, header: Header, payload: &[&[u8]]) {
        let header = header.encode();
        let result = match payload {
            [] => self.producer.push(&[&header]),
            [only] => self.producer.push(&[&header, only]),
            [first, second] => self.producer.push(&[&header, first, second]),
            [first, second, third, ..] => self.producer.push(&[&header, first, second, third]),
        };
        assert!(payload.len() <= 3, "frames have at most three parts");
        assert!(result.is_ok(), "a frame that fits: {:?}", result.err().map(name));
        self.has_news = true;
    }

    fn room(&mut self) -> u16 {
        match self.producer.room() {
            Ok(room) => room,
            Err(fault) => panic!("the node broke a ring: {fault:?}"),
        }
    }

    fn take_doorbell(&mut self) -> bool {
        core::mem::take(&mut self.has_news) && self.producer.needs_doorbell()
    }
}

fn name(error: PushError) -> &'static str {
    match error {
        PushError::Full => "full",
        PushError::TooLong => "too long",
        PushError::Fault(_) => "the node broke a ring",
    }
}

/// A ring frames come in through, with room for one of them.
#[derive(Debug)]
pub struct Inlet {
    consumer: In,
    frame: Vec<u8>,
    has_taken: bool,
}

impl Inlet {
    fn new(layout: QueueLayout) -> Self {
        let consumer = Consumer::new(machine::region::memory(), layout);
        Self { consumer, frame: vec![0; layout.slot_bytes()], has_taken: false }
    }

    /// Shows the next frame to `take`; `false` when there is none.
    pub fn pop(&mut self, take: impl FnOnce(Header, &[u8])) -> bool {
        let length = match self.consumer.pop(&mut self.frame) {
            Ok(Some(length)) => length,
            Ok(None) => return false,
            Err(fault) => panic!("the node broke a ring: {fault:?}"),
        };
        self.has_taken = true;
        let Ok((header, payload)) = Header::decode(&self.frame[..length]) else {
            panic!("the node sent a frame that is none");
        };
        take(header, payload);
        true
    }

    fn take_doorbell(&mut self) -> bool {
        core::mem::take(&mut self.has_taken) && self.consumer.needs_doorbell()
    }
}

/// All rings.
#[derive(Debug)]
pub struct Rings {
    /// Requests.
    pub invoke: Inlet,
    /// Packages.
    pub code: Inlet,
    /// Connections, from the node.
    pub stream_in: Inlet,
    /// Answers.
    pub outcome: Outlet,
    /// Log records.
    pub log: Outlet,
    /// Connections, to the node.
    pub stream_out: Outlet,
}

impl Rings {
    /// The ends of rings that are still all zeros.
    #[must_use]
    pub fn new() -> Self {
        // Where the first requests will be: the host knows no page before it is touched.
        for page in 0..MET_PAGES {
            let _ = machine::region::memory().load_u64(region::INVOKE.data() + page * PAGE_BYTES);
        }
        Self {
            invoke: Inlet::new(region::INVOKE),
            code: Inlet::new(region::CODE),
            stream_in: Inlet::new(region::STREAM_IN),
            outcome: Outlet::new(region::OUTCOME),
            log: Outlet::new(region::LOG),
            stream_out: Outlet::new(region::STREAM_OUT),
        }
    }

    /// Whether the node has sent something.
    #[must_use]
    pub fn has_input(&self) -> bool {
        let rings = [&self.invoke, &self.code, &self.stream_in];
        rings.into_iter().any(|inlet| !inlet.consumer.is_empty())
    }

    /// Says whether the kernel sleeps; after `true` look at [`Rings::has_input`] once more.
    pub fn set_sleeping(&mut self, sleeps: bool) {
        for inlet in [&mut self.invoke, &mut self.code, &mut self.stream_in] {
            inlet.consumer.set_sleeping(sleeps);
        }
    }

    /// Rings the node if it sleeps and frames were sent, or waits for room and frames were taken:
    /// once for everything since the last time.
    pub fn ring_node(&mut self) {
        let outlets = [&mut self.outcome, &mut self.log, &mut self.stream_out];
        let mut rings = outlets.map(Outlet::take_doorbell).contains(&true);
        let inlets = [&mut self.invoke, &mut self.code, &mut self.stream_in];
        rings |= inlets.map(Inlet::take_doorbell).contains(&true);
        if rings {
            machine::port::ring_node();
        }
    }
}

impl Default for Rings {
    fn default() -> Self {
        Self::new()
    }
}
