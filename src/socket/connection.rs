//! One client's connection as a state machine: received bytes in, requests out; answers in, bytes
//! to send out. It does no I/O and reads no clock.
//!
//! ```text
//!            receive_space, received            next_request
//!  recv() ─────────────────────────► Connection ────────────► Incoming ─► shard
//!  send() ◄───────────────────────── Connection ◄──────────── response, log, outcome, error, reply
//!            pending_output, consume
//! ```
//! Invariants: a request is open from the frame that starts it until its outcome, error or reply;
//! no two open requests have the same number; what arrives for a request that is not open is
//! dropped, because an answer and a frame of its body may cross. A client that breaks the
//! protocol gets one error about request 0, and then the connection is closed.

use crate::code::Code;

use super::Limits;
use super::answer::{Answer, Attached, Log, OUTCOME_RESPONSE_BYTES_MAX, Outcome};
pub use super::buffer::Full;
use super::buffer::{Input, Output};
use super::frame::{CHUNK_BYTES, FRAME_BYTES_MAX, Header};
pub use super::gate::Incoming;
use super::gate::{CONGESTED_BYTES, Gate, Phase, Undo};
use super::inflight::InFlight;
use super::peer::Peer;
use crate::config::Config;

/// Bytes in front of a log record's text.
const LOG_FIXED_BYTES: usize = 16;

/// One client's connection.
#[derive(Debug)]
pub struct Connection {
    peer: Peer,
    limits: Limits,
    phase: Phase,
    input: Input,
    output: Output,
    open: InFlight,
    undo: Option<Undo>,
}

impl Connection {
    /// A connection just accepted from `peer`.
    #[must_use]
    pub fn new(peer: Peer, limits: Limits) -> Self {
        Self {
            peer,
            limits,
            phase: Phase::Greeting,
            input: Input::new(),
            output: Output::default(),
            open: InFlight::default(),
            undo: None,
        }
    }

    /// One whose client is another shard of the node: it acts for whom its clients may act, and
    /// as many requests may be open as the shard holds.
    pub(crate) fn between_shards(config: &Config) -> Self {
        let limits =
            Limits { requests_max: config.pools.inflight_max, ..Limits::from(&config.requests) };
        Self::new(Peer::node("node".to_owned()), limits)
    }

    /// Where to receive to. Empty when requests have to be taken first, or the connection closes.
    pub fn receive_space(&mut self) -> &mut [u8] {
        self.undo = None;
        if self.phase == Phase::Closing {
            return &mut [];
        }
        self.input.space()
    }

    /// `count` bytes were received into [`Connection::receive_space`].
    pub fn received(&mut self, count: usize) {
        self.input.received(count);
    }

    /// Bytes to send next.
    #[must_use]
    pub fn pending_output(&self) -> &[u8] {
        self.output.pending()
    }

    /// `count` bytes of [`Connection::pending_output`] were sent.
    pub fn consume(&mut self, count: usize) {
        self.output.consume(count);
    }

    /// Bytes of answers that may still wait for the client.
    #[must_use]
    pub fn output_room(&self) -> usize {
        self.output.room()
    }

    /// Bytes of memory held by answers that wait for the client.
    #[must_use]
    pub fn output_memory(&self) -> usize {
        self.output.memory()
    }

    /// Whether so much waits for the client that nothing more of it is taken.
    #[must_use]
    pub fn is_congested(&self) -> bool {
        self.output.pending().len() > CONGESTED_BYTES
    }

    /// Whether the connection is to be closed once [`Connection::pending_output`] is sent.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.phase == Phase::Closing
    }

    /// Who is at its other end.
    #[must_use]
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Number and tag of each open request: what to cancel when the client is gone.
    pub fn open_requests(&self) -> impl Iterator<Item = (u64, u64)> {
        self.open.iter().map(|open| (open.id, open.tag))
    }

    /// How many requests are open.
    #[must_use]
    pub fn open_count(&self) -> usize {
        self.open.count()
    }

    /// Gives an open request a tag that later frames of it carry.
    pub fn set_tag(&mut self, id: u64, tag: u64) {
        if let Some(open) = self.open.find(id) {
            open.tag = tag;
        }
    }

    /// The next request, or part of one, if all of its frame has arrived. Hellos are answered,
    /// refused requests get their error, and bytes that are no frame end the connection, all
    /// without the caller.
    pub fn next_request(&mut self) -> Option<Incoming<'_>> {
        let Self { peer, limits, phase, input, output, open, undo } = self;
        let (received, start) = input.split();
        let mut gate = Gate { peer, limits, phase, output, open, undo };
        *gate.undo = None;
        loop {
            let (header, payload) = gate.frame(&received[*start..])?;
            let position = *start;
            *start += Header::BYTES + header.length;
            if let Some(incoming) = gate.admit(header, payload, position) {
                return Some(incoming);
            }
        }
    }

    /// Takes back what [`Connection::next_request`] gave last: it will be given again. For a
    /// caller that has no room for it now; to be called before anything else on this connection.
    /// The connection's later frames wait behind it.
    pub fn put_back(&mut self) {
        let Some(undo) = self.undo.take() else { return };
        self.input.seek(undo.position);
        self.open.remove(undo.id);
        if let Some(open) = undo.before {
            self.open.add(open);
        }
    }

    /// Sends part of a response.
    ///
    /// # Errors
    /// [`Full`]: nothing was sent; close the connection or try again later.
    pub fn response(&mut self, id: u64, bytes: &[u8]) -> Result<(), Full> {
        if self.open.find(id).is_none() {
            return Ok(());
        }
        self.output.reserve(bytes.len() + Header::BYTES * (1 + bytes.len() / CHUNK_BYTES))?;
        for chunk in bytes.chunks(CHUNK_BYTES) {
            self.output.put(&Answer::Response(chunk), id, true)?;
        }
        Ok(())
    }

    /// Sends a log record; `has_more` when its line goes on in the next one.
    ///
    /// # Errors
    /// [`Full`]: nothing was sent.
    pub fn log(&mut self, id: u64, log: Log<'_>, has_more: bool) -> Result<(), Full> {
        if self.open.find(id).is_none() {
            return Ok(());
        }
        let text = &log.text[..log.text.len().min(FRAME_BYTES_MAX - LOG_FIXED_BYTES)];
        self.output.put(&Answer::Log(Log { text, ..log }), id, has_more)
    }

    /// Ends a request with its outcome.
    ///
    /// # Errors
    /// [`Full`]: the request is still open.
    pub fn outcome(&mut self, id: u64, outcome: &Outcome<'_>) -> Result<(), Full> {
        if self.open.find(id).is_none() {
            return Ok(());
        }
        let mut outcome = *outcome;
        if outcome.response.len() > OUTCOME_RESPONSE_BYTES_MAX {
            self.output.reserve(outcome.response.len() + 2 * FRAME_BYTES_MAX)?;
            self.response(id, outcome.response)?;
            outcome.response = &[];
        }
        self.output.put(&Answer::Outcome(outcome), id, false)?;
        self.open.remove(id);
        Ok(())
    }

    /// Ends a request that was not done. `code` is stable and at most 255 bytes; `message` says
    /// what to do.
    ///
    /// # Errors
    /// [`Full`]: the request is still open.
    pub fn error(&mut self, id: u64, code: Code, message: &str) -> Result<(), Full> {
        if self.open.find(id).is_none() {
            return Ok(());
        }
        self.output.put(&Answer::Error { code: code.as_str(), message }, id, false)?;
        self.open.remove(id);
        Ok(())
    }

    /// Ends a request that is no invoke with its JSON.
    ///
    /// # Errors
    /// [`Full`]: the request is still open.
    pub fn reply(&mut self, id: u64, json: &[u8]) -> Result<(), Full> {
        if self.open.find(id).is_none() {
            return Ok(());
        }
        self.output.reserve(json.len() + Header::BYTES * (1 + json.len() / CHUNK_BYTES))?;
        let mut rest = json;
        loop {
            let (chunk, later) = rest.split_at(rest.len().min(CHUNK_BYTES));
            self.output.put(&Answer::Reply(chunk), id, !later.is_empty())?;
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        self.open.remove(id);
        Ok(())
    }

    /// Ends a request for shared memory with what the caller made. To be sent with the descriptor
    /// before anything else is.
    ///
    /// # Errors
    /// [`Full`]: the request is still open.
    pub fn attached(&mut self, id: u64, attached: Attached) -> Result<(), Full> {
        self.output.put(&Answer::Attached(attached), id, false)?;
        self.open.remove(id);
        Ok(())
    }

    /// Whether bytes were received that are not taken yet.
    #[must_use]
    pub fn has_input(&self) -> bool {
        !self.input.bytes().is_empty()
    }

    /// Tells the client why, and takes nothing more of it.
    pub fn fail(&mut self, code: Code, message: &str) {
        // A client that has read nothing for so long that this does not fit never reads it.
        let _ = self.output.put(&Answer::Error { code: code.as_str(), message }, 0, false);
        self.phase = Phase::Closing;
    }
}
