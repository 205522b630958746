//! The rules a client's frame has to pass before the shard sees it: hello first, open requests
//! only, bodies within their limits, users the peer may act for. [`super::Connection`] is the only
//! caller; whatever breaks a rule has its error in the output when [`Gate`] returns.

use crate::code::Code;
use crate::invoke::{ClientFault, Limit};

use super::Limits;
use super::answer::{self, Answer};
use super::buffer::{Full, Output};
use super::frame::{FRAME_BYTES_MAX, Header, VERSION_ATTACH, VERSION_MAX, VERSION_MIN, kind};
use super::inflight::{BodyFault, InFlight, Kind, Open};
use super::peer::Peer;
use super::request::{Deploy, Hello, Invoke, Request};

/// Bytes waiting for the client from which on nothing more of it is taken. More than a response
/// may have: a client that sends one whole body before it reads is never stuck.
pub(super) const CONGESTED_BYTES: usize = 8 * 1024 * 1024;
/// One request, or more of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Incoming<'a> {
    /// The request's number, chosen by the client.
    pub id: u64,
    /// What the shard gave it with [`super::Connection::set_tag`]; 0 before.
    pub tag: u64,
    /// More of its body follows.
    pub has_more: bool,
    /// What is asked. Users are filled in and permitted.
    pub request: Request<'a>,
}

/// Where a connection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    Greeting,
    Serving {
        /// The protocol version both speak.
        version: u16,
    },
    Closing,
}

/// How to take back the frame given out last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Undo {
    pub(super) position: usize,
    pub(super) before: Option<Open>,
    pub(super) id: u64,
}

/// The rules a frame has to pass, over all of a connection but its input.
pub(super) struct Gate<'a, 'b> {
    pub(super) peer: &'a Peer,
    pub(super) limits: &'a Limits,
    pub(super) phase: &'b mut Phase,
    pub(super) output: &'b mut Output,
    pub(super) open: &'b mut InFlight,
    pub(super) undo: &'b mut Option<Undo>,
}

impl<'a> Gate<'a, '_> {
    /// The frame at the front, if it is all there and may be looked at now.
    pub(super) fn frame(&mut self, received: &'a [u8]) -> Option<(Header, &'a [u8])> {
        if *self.phase == Phase::Closing || self.output.pending().len() > CONGESTED_BYTES {
            return None;
        }
        let Ok(header) = Header::decode(received) else {
            self.fail(Code::MalformedFrame, "no frame starts like this");
            return None;
        };
        let header = header?;
        let payload = received.get(Header::BYTES..Header::BYTES + header.length)?;
        Some((header, payload))
    }

    /// The request a frame makes, if it is one and may be made.
    pub(super) fn admit(
        &mut self,
        header: Header,
        payload: &'a [u8],
        position: usize,
    ) -> Option<Incoming<'a>> {
        if *self.phase == Phase::Greeting {
            self.greet(header, payload);
            return None;
        }
        let Ok(request) = Request::decode(header, payload) else {
            self.fail(Code::MalformedFrame, &format!("frame of kind {:#04x}", header.kind));
            return None;
        };
        match request {
            Request::Body(bytes) | Request::Package(bytes) => self.body(header, bytes, position),
            Request::Cancel => {
                let open = *self.open.find(header.id)?;
                *self.undo = Some(Undo { position, before: Some(open), id: header.id });
                Some(Incoming { id: open.id, tag: open.tag, has_more: false, request })
            }
            Request::Invoke(Invoke { body: bytes, .. })
            | Request::Deploy(Deploy { package: bytes, .. }) => {
                self.begin(header, request, bytes.len(), position)
            }
            Request::Attach if !self.speaks(VERSION_ATTACH) => {
                self.fail(Code::MalformedFrame, "attach is part of version 2");
                None
            }
            Request::Attach if self.open.count() > 0 => {
                self.refuse(header.id, Code::BadRequest, "attach while other requests are open")
            }
            Request::SetLogging(_)
            | Request::List(_)
            | Request::Remove { .. }
            | Request::Attach
            | Request::Status => self.begin(header, request, 0, position),
        }
    }

    fn speaks(&self, wanted: u16) -> bool {
        matches!(*self.phase, Phase::Serving { version } if version >= wanted)
    }

    fn greet(&mut self, header: Header, payload: &[u8]) {
        let hello = Hello::decode(payload);
        let (Ok(hello), kind::HELLO) = (hello, header.kind) else {
            self.fail(Code::MalformedFrame, "the first frame is no hello of this protocol");
            return;
        };
        if hello.version_max < VERSION_MIN || hello.version_min > VERSION_MAX {
            let spoken = format!("this node speaks versions {VERSION_MIN} to {VERSION_MAX}");
            self.fail(Code::UnsupportedVersion, &spoken);
            return;
        }
        let version = hello.version_max.min(VERSION_MAX);
        let answer = Answer::Hello(answer::Hello {
            version,
            version_min: VERSION_MIN,
            version_max: VERSION_MAX,
            frame_bytes_max: u32::try_from(FRAME_BYTES_MAX).unwrap_or(u32::MAX),
            payload_bytes_max: self.limits.body_bytes_max,
            requests_max: self.limits.requests_max,
            login: self.peer.login(),
        });
        match self.output.put(&answer, 0, false) {
            Ok(()) => *self.phase = Phase::Serving { version },
            Err(Full) => *self.phase = Phase::Closing,
        }
    }

    fn begin(
        &mut self,
        header: Header,
        request: Request<'a>,
        body_bytes: usize,
        position: usize,
    ) -> Option<Incoming<'a>> {
        let id = header.id;
        if id == 0 || self.open.find(id).is_some() {
            // An error about this number would be taken for the other request's.
            self.fail(Code::DuplicateRequest, &format!("request {id} is open, or 0"));
            return None;
        }
        if self.open.count() >= self.limits.requests_max as usize {
            let limit =
                Limit { key: "requests.pipeline_max", value: self.limits.requests_max.into() };
            let message =
                format!("as many requests of this connection are open as may be ({limit})");
            return self.refuse(id, Code::TooManyRequests, &message);
        }
        let Some(request) = self.permit(request) else {
            let message = format!(
                "{} may not act for another user; ask the operator, or name no user",
                self.peer.login()
            );
            return self.refuse(id, Code::NotAllowed, &message);
        };
        let mut open = Open::new(id, kind_of(&request));
        let (what, limit) = open.kind.body_limit(self.limits);
        if open.add_body(body_bytes, limit.value, header.has_more()).is_err() {
            return self.refuse(id, Code::TooLarge, &too_large(what, limit));
        }
        self.open.add(open);
        *self.undo = Some(Undo { position, before: None, id });
        Some(Incoming { id, tag: 0, has_more: header.has_more(), request })
    }

    fn body(&mut self, header: Header, bytes: &'a [u8], position: usize) -> Option<Incoming<'a>> {
        let open = self.open.find(header.id)?;
        let before = *open;
        let request = if before.kind == Kind::Deploy {
            Request::Package(bytes)
        } else {
            Request::Body(bytes)
        };
        let (id, tag, has_more) = (header.id, before.tag, header.has_more());
        let (what, limit) = before.kind.body_limit(self.limits);
        match open.add_body(bytes.len(), limit.value, has_more) {
            Ok(()) => {
                *self.undo = Some(Undo { position, before: Some(before), id });
                Some(Incoming { id, tag, has_more, request })
            }
            Err(BodyFault::Unexpected) => {
                self.fail(Code::MalformedFrame, "a body went on after its end");
                None
            }
            Err(BodyFault::TooLarge) => {
                self.open.remove(id);
                self.refuse(id, Code::TooLarge, &too_large(what, limit));
                Some(Incoming { id, tag, has_more: false, request: Request::Cancel })
            }
        }
    }

    /// Fills in the user, if the peer may act for it.
    fn permit(&self, request: Request<'a>) -> Option<Request<'a>> {
        Some(match request {
            Request::Invoke(it) => Request::Invoke(Invoke { user: self.user(it.user)?, ..it }),
            Request::Deploy(it) => Request::Deploy(Deploy { user: self.user(it.user)?, ..it }),
            Request::List(user) => Request::List(self.user(user)?),
            Request::Remove { user, function } => {
                Request::Remove { user: self.user(user)?, function }
            }
            Request::SetLogging(_)
            | Request::Body(_)
            | Request::Package(_)
            | Request::Cancel
            | Request::Attach
            | Request::Status => request,
        })
    }

    fn user(&self, named: &'a str) -> Option<&'a str> {
        let user = if named.is_empty() { self.peer.login() } else { named };
        self.peer.may_act_for(user).then_some(user)
    }

    fn refuse(&mut self, id: u64, code: Code, message: &str) -> Option<Incoming<'a>> {
        if self.output.put(&Answer::Error { code: code.as_str(), message }, id, false).is_err() {
            *self.phase = Phase::Closing;
        }
        None
    }

    fn fail(&mut self, code: Code, message: &str) {
        self.refuse(0, code, message);
        *self.phase = Phase::Closing;
    }
}

fn kind_of(request: &Request<'_>) -> Kind {
    match request {
        Request::Invoke(_) => Kind::Invoke,
        Request::Deploy(_) => Kind::Deploy,
        Request::Body(_)
        | Request::Package(_)
        | Request::Cancel
        | Request::SetLogging(_)
        | Request::List(_)
        | Request::Remove { .. }
        | Request::Attach
        | Request::Status => Kind::Short,
    }
}

fn too_large(what: &str, limit: Limit) -> String {
    ClientFault::TooLarge { what: what.to_owned(), limit }.to_string()
}
