//! Invokes that another shard serves: sent there as that shard's client, answered here.
//!
//! ```text
//!  client ─► requests.rs ─ no room here, room there ─► Neighbour ══ passage ══► other shard
//!  client ◄──────────────── answers, renumbered ◄───── Neighbour ◄══════════════ its pool
//! ```
//! A shard never sends on what came through a passage, so no invoke travels more than once.

use zeroize::Zeroizing;

use super::clients::{ClientId, Clients};
use super::engine::Engine;
use super::logging::Logging;
use crate::code::Code;
use crate::invoke::{InvokeId, NodeFault};
use crate::passage::{End, Received};
use crate::pool::SnapshotRef;
use crate::socket::answer::Answer;
use crate::socket::buffer::Input;
use crate::socket::frame::{VERSION_MAX, VERSION_MIN};
use crate::socket::request::{Hello, Invoke, Request};

/// Bytes that may wait for a neighbour; with more, invokes stay here and bodies wait.
const OUTPUT_BYTES_MAX: usize = 1 << 20;

/// Another shard, as its client.
pub(super) struct Neighbour {
    end: End,
    input: Input,
    output: Vec<u8>,
    is_gone: bool,
}

/// An invoke that another shard serves.
pub(super) struct Forwarded {
    shard: u16,
    client: ClientId,
    request: u64,
}

impl Neighbour {
    pub(super) fn new(end: End) -> Self {
        let mut output = Vec::new();
        let hello = Hello { version_min: VERSION_MIN, version_max: VERSION_MAX };
        assert!(hello.append(&mut output).is_ok(), "a hello fits a frame");
        Self { end, input: Input::new(), output, is_gone: false }
    }

    /// Whether it takes more.
    pub(super) fn has_room(&self) -> bool {
        !self.is_gone && self.output.len() < OUTPUT_BYTES_MAX
    }

    /// Whether it has said something, or is gone.
    pub(super) fn has_incoming(&self) -> bool {
        !self.is_gone && self.end.has_incoming()
    }

    fn send(&mut self, request: &Request<'_>, invoke: InvokeId, has_more: bool) -> bool {
        request.append(&mut self.output, invoke.0, has_more).is_ok()
    }

    fn flush(&mut self) -> bool {
        if self.output.is_empty() {
            return false;
        }
        match self.end.send(&self.output) {
            Some(sent) => {
                self.output.drain(..sent);
                sent > 0
            }
            None => {
                self.output.clear();
                false
            }
        }
    }

    /// Receives what is there; returns whether there was something.
    fn receive(&mut self) -> bool {
        match self.end.receive(self.input.space()) {
            Received::Bytes(count) => self.input.received(count),
            Received::Nothing => return false,
            Received::Closed => self.is_gone = true,
        }
        true
    }
}

impl Engine {
    /// The shard that should rather serve an invoke of a function of this snapshot, if any.
    pub(super) fn elsewhere(
        &self,
        key: &crate::credential::ActiveKey,
        snapshot: SnapshotRef,
    ) -> Option<u16> {
        use crate::route::{Route, choose, look};
        if self.neighbours.len() < 2 {
            return None;
        }
        match choose(self.pool.sight(key, snapshot), || look(&self.index, key, self.shard)) {
            Route::Own => None,
            Route::Other(shard) => {
                let neighbour = self.neighbours.get(usize::from(shard))?.as_ref()?;
                neighbour.has_room().then_some(shard)
            }
        }
    }

    /// Sends an invoke to the shard [`Engine::elsewhere`] named; returns its number here, or
    /// nothing when it cannot be sent.
    pub(super) fn forward(
        &mut self,
        shard: u16,
        (client, request): (ClientId, u64),
        (sent, logging): (&Invoke<'_>, &Logging),
        ended: bool,
    ) -> Option<InvokeId> {
        let neighbour = self.neighbours.get_mut(usize::from(shard))?.as_mut()?;
        let invoke = InvokeId(self.next_invoke);
        let mut secrets = Zeroizing::new(Vec::new());
        let is_sent = logging.as_sent(&mut secrets, |logging| {
            let invoke_request = Request::Invoke(Invoke { logging: Some(logging), ..*sent });
            neighbour.send(&invoke_request, invoke, !ended)
        });
        if !is_sent {
            return None;
        }
        self.next_invoke += 1;
        self.metrics.forwarded += 1;
        self.forwarded.insert(invoke, Forwarded { shard, client, request });
        Some(invoke)
    }

    /// Sends more of a forwarded invoke's body; `false` when it has to wait.
    pub(super) fn forward_body(&mut self, invoke: InvokeId, bytes: &[u8], ended: bool) -> bool {
        let Some(forwarded) = self.forwarded.get(&invoke) else { return true };
        let neighbour = self.neighbours.get_mut(usize::from(forwarded.shard));
        let Some(neighbour) = neighbour.and_then(Option::as_mut) else { return true };
        // One that is gone takes everything; its invokes are answered when that is noticed.
        neighbour.is_gone
            || neighbour.has_room() && neighbour.send(&Request::Body(bytes), invoke, !ended)
    }

    /// Withdraws a forwarded invoke; its answer still comes.
    pub(super) fn cancel_forwarded(&mut self, invoke: InvokeId) {
        if let Some(forwarded) = self.forwarded.get(&invoke)
            && let Some(Some(neighbour)) = self.neighbours.get_mut(usize::from(forwarded.shard))
        {
            neighbour.send(&Request::Cancel, invoke, false);
        }
    }

    /// Withdraws everything a client that left had asked other shards for.
    pub(super) fn abandon_forwarded(&mut self, client: ClientId) {
        let its = self.forwarded.iter().filter(|(_, forwarded)| forwarded.client == client);
        let its: Vec<_> = its.map(|(invoke, _)| *invoke).collect();
        its.into_iter().for_each(|invoke| self.cancel_forwarded(invoke));
    }

    /// Hands answers from other shards to their clients and sends what waits for those shards;
    /// returns whether anything moved.
    pub(super) fn serve_neighbours(&mut self, clients: &mut Clients) -> bool {
        let mut moved = false;
        for shard in 0..self.neighbours.len() {
            let Some(mut neighbour) = self.neighbours[shard].take() else { continue };
            moved |= neighbour.flush();
            while !neighbour.is_gone && neighbour.receive() {
                moved = true;
                self.take_answers(&mut neighbour, clients);
            }
            let is_gone = neighbour.is_gone;
            self.neighbours[shard] = Some(neighbour);
            if is_gone {
                self.lose(u16::try_from(shard).unwrap_or(u16::MAX), clients);
            }
        }
        moved
    }

    fn take_answers(&mut self, neighbour: &mut Neighbour, clients: &mut Clients) {
        while let Ok(Some((header, payload))) = neighbour.input.take_frame() {
            let Ok(answer) = Answer::decode(header, payload) else {
                neighbour.is_gone = true;
                return;
            };
            let invoke = InvokeId(header.id);
            let Some(forwarded) = self.forwarded.get(&invoke) else { continue };
            let request = forwarded.request;
            let mut client = clients.find(forwarded.client);
            let connection = client.as_mut().map(|client| &mut client.connection);
            let is_last = matches!(answer, Answer::Outcome(_) | Answer::Error { .. });
            let sent = connection.map(|connection| match answer {
                Answer::Response(bytes) => connection.response(request, bytes),
                Answer::Log(log) => connection.log(request, log, header.has_more()),
                Answer::Outcome(outcome) => connection.outcome(request, &outcome),
                Answer::Error { code, message } => {
                    // A shard of this node: it has no code that this one does not know.
                    let code = Code::find(code).unwrap_or(Code::NodeFault);
                    connection.error(request, code, message)
                }
                Answer::Hello(_) | Answer::Reply(_) | Answer::Attached(_) => Ok(()),
            });
            if let (Some(Err(_)), Some(client)) = (sent, client) {
                client.connection.fail(Code::TooSlow, "answers wait and are not read");
            }
            if is_last {
                self.forwarded.remove(&invoke);
            }
        }
    }

    /// A shard ended: what it had is answered here.
    fn lose(&mut self, shard: u16, clients: &mut Clients) {
        let error = crate::invoke::InvokeError::from(NodeFault::Stopping);
        self.forwarded.retain(|_, forwarded| {
            if forwarded.shard != shard {
                return true;
            }
            if let Some(client) = clients.find(forwarded.client) {
                let message = error.to_string();
                let _ = client.connection.error(forwarded.request, error.code(), &message);
            }
            false
        });
    }
}
