//! A client of the invoke socket: blocking, for one thread at a time. The command line, the
//! benchmarks and the tests speak to a node through it.
//!
//! ```no_run
//! use pilotlight::client::Client;
//! use pilotlight::socket::request::Invoke;
//!
//! let mut client = Client::connect("/run/pilotlight/node.sock".as_ref())?;
//! let completed = client.invoke(&Invoke::new("greet", b"Ada"))?;
//! println!("{}", String::from_utf8_lossy(&completed.response));
//! # Ok::<(), pilotlight::client::ClientError>(())
//! ```
//! Requests are pipelined with [`Client::submit`] and [`Client::receive`]. A client that submits
//! many large bodies has to receive in between: a node stops taking requests from a connection
//! that does not read its answers.

pub mod package;
mod error;
mod completed;
mod listing;
mod transport;

use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::bridge::End;
use crate::code::Code;
use crate::invoke::Function;
use crate::socket::answer::Answer;
use crate::socket::buffer::Input;
use crate::socket::frame::{CHUNK_BYTES, Header, VERSION_ATTACH, VERSION_MAX, VERSION_MIN};
use crate::socket::logging::Logging;
use crate::socket::request::{Deploy, Hello, Invoke, Request};

use transport::Transport;

pub use completed::{Collector, Completed, LogRecord};
pub use error::ClientError;
pub use listing::{Finishing, Listing, SnapshotListing};
pub use package::{Package, PackageError};

/// A connection to a node.
#[derive(Debug)]
pub struct Client {
    transport: Transport,
    input: Input,
    output: Vec<u8>,
    last_id: u64,
    version: u16,
    login: String,
    body_bytes_max: u64,
    patience: Option<Duration>,
}

/// One frame of an answer.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    /// The request it answers.
    pub id: u64,
    /// More of the same response, record or JSON follows.
    pub has_more: bool,
    /// What it is.
    pub answer: Answer<'a>,
}

impl Client {
    /// Connects to the node at `socket` and exchanges hellos.
    ///
    /// # Errors
    /// [`ClientError::NoNode`] when nobody listens there; see [`ClientError`] for the rest.
    pub fn connect(socket: &Path) -> Result<Self, ClientError> {
        let stream =
            UnixStream::connect(socket).map_err(|source| ClientError::no_node(socket, source))?;
        Self::over(stream)
    }

    /// Exchanges hellos over a connected socket.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn over(stream: UnixStream) -> Result<Self, ClientError> {
        let mut client = Self {
            transport: Transport::new(stream),
            input: Input::new(),
            output: Vec::new(),
            last_id: 0,
            version: 0,
            login: String::new(),
            body_bytes_max: 0,
            patience: None,
        };
        let hello = Hello { version_min: VERSION_MIN, version_max: VERSION_MAX };
        hello.append(&mut client.output)?;
        client.flush()?;
        let received = client.receive()?;
        let Answer::Hello(hello) = received.answer else {
            return Err(ClientError::Protocol("its first frame is no hello"));
        };
        let (login, body_bytes_max) = (hello.login.to_owned(), hello.payload_bytes_max);
        client.version = hello.version;
        (client.login, client.body_bytes_max) = (login, body_bytes_max);
        Ok(client)
    }

    /// As [`Client::connect`], and goes on in shared memory: no system call carries a byte, and
    /// none is made while both sides poll. See [`Client::attach`].
    ///
    /// # Errors
    /// As for [`Client::connect`] and [`Client::attach`].
    pub fn connect_shared(socket: &Path, poll: Duration) -> Result<Self, ClientError> {
        let mut client = Self::connect(socket)?;
        client.attach(poll)?;
        Ok(client)
    }

    /// Goes on in shared memory; no request may be open. A wait for an answer polls for up to `poll`
    /// before it sleeps: less where that rarely helps, and not at all with [`Duration::ZERO`],
    /// which is right where no core is left for it.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when the node has none to give or is too old for it; the client goes
    /// on over its socket then.
    pub fn attach(&mut self, poll: Duration) -> Result<(), ClientError> {
        if self.version < VERSION_ATTACH {
            let message = "the node is too old for shared memory; the socket serves too";
            return Err(ClientError::refused(Code::UnsupportedVersion.as_str(), message));
        }
        if self.transport.is_attached() {
            return Err(ClientError::refused(
                Code::BadRequest.as_str(),
                "it is in shared memory already",
            ));
        }
        let id = self.send(&Request::Attach)?;
        self.transport.set_patience(None)?;
        let mut descriptors = Vec::new();
        while !self.has_frame()? {
            let stream = self.transport.stream();
            let received = region::message::receive(stream, self.input.space())?;
            if received.length == 0 {
                return Err(ClientError::Closed);
            }
            self.input.received(received.length);
            descriptors.extend(received.descriptors);
        }
        let received = self.take()?;
        let attached = match received.answer {
            Answer::Attached(attached) if received.id == id => attached,
            Answer::Error { code, message } => return Err(ClientError::refused(code, message)),
            Answer::Hello(_)
            | Answer::Response(_)
            | Answer::Log(_)
            | Answer::Outcome(_)
            | Answer::Reply(_)
            | Answer::Attached(_) => {
                return Err(ClientError::Protocol("its answer is no shared memory"));
            }
        };
        let memfd = descriptors.pop().ok_or(ClientError::Protocol("no memory came along"))?;
        self.transport.attach(End::open(memfd, attached)?, poll);
        // The node may have rung already.
        self.input = Input::new();
        Ok(())
    }

    /// Who the node takes this client for: the user of requests that name none.
    #[must_use]
    pub fn login(&self) -> &str {
        &self.login
    }

    /// Runs a function and collects its answer.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when the node did not run it.
    pub fn invoke(&mut self, invoke: &Invoke<'_>) -> Result<Completed, ClientError> {
        let id = self.submit(invoke)?;
        self.complete(id)
    }

    /// Sends an invoke with its whole body and returns its request number.
    ///
    /// # Errors
    /// [`ClientError::BodyTooLarge`] when the node would refuse it; nothing is sent then.
    pub fn submit(&mut self, invoke: &Invoke<'_>) -> Result<u64, ClientError> {
        if invoke.body.len() as u64 > self.body_bytes_max {
            return Err(ClientError::BodyTooLarge { bytes_max: self.body_bytes_max });
        }
        let id = self.next_id();
        let (first, mut rest) = invoke.body.split_at(invoke.body.len().min(CHUNK_BYTES));
        let request = Request::Invoke(Invoke { body: first, ..*invoke });
        request.append(&mut self.output, id, !rest.is_empty())?;
        while !rest.is_empty() {
            let (chunk, later) = rest.split_at(rest.len().min(CHUNK_BYTES));
            Request::Body(chunk).append(&mut self.output, id, !later.is_empty())?;
            rest = later;
        }
        self.flush()?;
        Ok(id)
    }

    /// Sends an invoke whose body goes on with [`Client::send_body`].
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn submit_open(&mut self, invoke: &Invoke<'_>) -> Result<u64, ClientError> {
        let id = self.next_id();
        Request::Invoke(*invoke).append(&mut self.output, id, true)?;
        self.flush()?;
        Ok(id)
    }

    /// Sends more of the body of an invoke begun with [`Client::submit_open`].
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn send_body(&mut self, id: u64, bytes: &[u8], has_more: bool) -> Result<(), ClientError> {
        let (mut chunk, mut rest) = bytes.split_at(bytes.len().min(CHUNK_BYTES));
        loop {
            let more = has_more || !rest.is_empty();
            Request::Body(chunk).append(&mut self.output, id, more)?;
            if rest.is_empty() {
                return self.flush();
            }
            (chunk, rest) = rest.split_at(rest.len().min(CHUNK_BYTES));
        }
    }

    /// Asks for the end of an invoke; its answer still comes: status `cancelled`, an error of that
    /// code when it had not begun to run, or what it had become before.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn cancel(&mut self, id: u64) -> Result<(), ClientError> {
        Request::Cancel.append(&mut self.output, id, false)?;
        self.flush()
    }

    /// Sets the logging service of this connection's later invokes that name none.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when the node cannot use it.
    pub fn set_logging(&mut self, logging: &Logging<'_>) -> Result<(), ClientError> {
        let id = self.send(&Request::SetLogging(*logging))?;
        self.reply(id).map(|_| ())
    }

    /// Stores a function.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when the node does not take it.
    pub fn deploy(
        &mut self,
        (user, function): (&str, &str),
        package: &Package,
    ) -> Result<Function, ClientError> {
        let settings = serde_json::to_string(&package.settings)
            .map_err(|_| ClientError::Protocol("the settings have no JSON"))?;
        let id = self.next_id();
        let mut chunks = package.bytes.chunks(CHUNK_BYTES);
        let first = chunks.next().unwrap_or_default();
        let deploy = Deploy { user, function, settings: &settings, package: first };
        let has_more = package.bytes.len() > first.len();
        Request::Deploy(deploy).append(&mut self.output, id, has_more)?;
        self.flush()?;
        let mut sent = first.len();
        for chunk in chunks {
            sent += chunk.len();
            let has_more = sent < package.bytes.len();
            Request::Package(chunk).append(&mut self.output, id, has_more)?;
            self.flush()?;
        }
        self.reply_as(id)
    }

    /// The functions of a user; empty: of this client's login.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when it may not see them.
    pub fn list(&mut self, user: &str) -> Result<Vec<Function>, ClientError> {
        self.listing(user).map(|listing| listing.functions)
    }

    /// The same, with what there is to know of each one's snapshot, in the same order.
    ///
    /// # Errors
    /// As for [`Client::list`].
    pub fn listing(&mut self, user: &str) -> Result<Listing, ClientError> {
        let id = self.send(&Request::List(user))?;
        self.reply_as(id)
    }

    /// Forgets a function.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when there is none.
    pub fn remove(&mut self, user: &str, function: &str) -> Result<(), ClientError> {
        let id = self.send(&Request::Remove { user, function })?;
        self.reply(id).map(|_| ())
    }

    /// The node's counters and pools, as `docs/protocol.md` describes them.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub fn status(&mut self) -> Result<serde_json::Value, ClientError> {
        let id = self.send(&Request::Status)?;
        self.reply_as(id)
    }

    /// How long to wait for the next bytes of an answer from now on; without end at first. When it is
    /// over there is an error of kind `WouldBlock`, and the client is of no more use.
    pub fn set_patience(&mut self, patience: Option<Duration>) {
        self.patience = patience;
    }

    /// The next frame from the node, whichever request it answers.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when the node ends the connection.
    pub fn receive(&mut self) -> Result<Received<'_>, ClientError> {
        self.transport.set_patience(self.patience)?;
        while !self.has_frame()? {
            self.fill()?;
        }
        self.take()
    }

    /// As [`Client::receive`], but nothing when no frame came for `patience`.
    ///
    /// # Errors
    /// As for [`Client::receive`].
    pub fn receive_within(
        &mut self,
        patience: Duration,
    ) -> Result<Option<Received<'_>>, ClientError> {
        self.transport.set_patience(Some(patience))?;
        while !self.has_frame()? {
            match self.fill() {
                Err(ClientError::Io(error))
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    return Ok(None);
                }
                filled => filled?,
            }
        }
        self.take().map(Some)
    }

    /// As [`Client::receive`], but nothing when no whole frame is there yet: never waits. For
    /// callers that wait for other things too, on the client's descriptor ([`AsFd`]).
    ///
    /// # Errors
    /// As for [`Client::receive`].
    pub fn try_receive(&mut self) -> Result<Option<Received<'_>>, ClientError> {
        while !self.has_frame()? {
            match self.transport.try_read(self.input.space()) {
                Ok(0) => return Err(ClientError::Closed),
                Ok(count) => self.input.received(count),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.take().map(Some)
    }

    /// Collects the answer of an invoke. Frames about other requests are dropped: for a client
    /// that has one request open at a time.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when the node did not run it.
    pub fn complete(&mut self, id: u64) -> Result<Completed, ClientError> {
        let mut collector = Collector::default();
        loop {
            let received = self.receive()?;
            if received.id == id
                && let Some(completed) = collector.take(&received)?
            {
                return Ok(completed);
            }
        }
    }

    fn send(&mut self, request: &Request<'_>) -> Result<u64, ClientError> {
        let id = self.next_id();
        request.append(&mut self.output, id, false)?;
        self.flush()?;
        Ok(id)
    }

    fn reply(&mut self, id: u64) -> Result<Vec<u8>, ClientError> {
        let mut json = Vec::new();
        loop {
            let received = self.receive()?;
            if received.id != id {
                continue;
            }
            match received.answer {
                Answer::Reply(bytes) => json.extend_from_slice(bytes),
                Answer::Error { code, message } => return Err(ClientError::refused(code, message)),
                Answer::Hello(_)
                | Answer::Response(_)
                | Answer::Log(_)
                | Answer::Outcome(_)
                | Answer::Attached(_) => {
                    return Err(ClientError::Protocol("its answer is none to this request"));
                }
            }
            if !received.has_more {
                return Ok(json);
            }
        }
    }

    fn reply_as<T: serde::de::DeserializeOwned>(&mut self, id: u64) -> Result<T, ClientError> {
        serde_json::from_slice(&self.reply(id)?)
            .map_err(|_| ClientError::Protocol("its JSON is not what this version expects"))
    }

    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    fn flush(&mut self) -> Result<(), ClientError> {
        let sent = self.transport.write_all(&self.output);
        self.output.clear();
        match sent {
            // The node closed the connection; it may have said why before.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                while let Ok(received) = self.receive() {
                    if let (0, Answer::Error { code, message }) = (received.id, received.answer) {
                        return Err(ClientError::refused(code, message));
                    }
                }
                Err(ClientError::Closed)
            }
            sent => Ok(sent?),
        }
    }

    fn has_frame(&self) -> Result<bool, ClientError> {
        let received = self.input.bytes();
        let header = Header::decode(received)?;
        Ok(header.is_some_and(|header| received.len() >= Header::BYTES + header.length))
    }

    fn fill(&mut self) -> Result<(), ClientError> {
        match self.transport.read(self.input.space()) {
            Ok(0) => Err(ClientError::Closed),
            Ok(count) => {
                self.input.received(count);
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(()),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => Err(ClientError::Closed),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes the frame at the front, which is all there.
    fn take(&mut self) -> Result<Received<'_>, ClientError> {
        let (header, payload) = self.input.take_frame()?.ok_or(ClientError::Closed)?;
        let answer = Answer::decode(header, payload)?;
        if let (Answer::Error { code, message }, 0) = (answer, header.id) {
            return Err(ClientError::refused(code, message));
        }
        Ok(Received { id: header.id, has_more: header.has_more(), answer })
    }
}

/// Readable when the node has sent something since [`Client::try_receive`] found nothing.
impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.transport.stream().as_fd()
    }
}
