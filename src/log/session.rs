//! One connection to a logging service: sends batches and says what can be said of them.
//!
//! Syslog has no acknowledgement, and a TLS 1.3 server may refuse the client's certificate after
//! the client is done with its handshake and has sent records. So a batch counts as handed over
//! only when the connection was still open a while after its last byte had left: a longer while
//! for the first of a connection, which settles whether the service wants us at all. A session
//! ticket would not settle it sooner: rsyslog, for one, checks names after it. What was sent
//! within the last while of a connection that breaks is sent again on the next one.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures_lite::future::or;
use futures_lite::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use futures_rustls::client::TlsStream;
use glommio::net::TcpStream;
use glommio::timer::sleep;

use super::Limits;
use super::account::Reason;
use super::delivery::{Failure, Queue};
use crate::signal::step_aside;

/// Messages are gathered up to this before they are written.
const BATCH_BYTES: usize = 64 * 1024;
/// A slow handshake makes the first confirmation wait this many times as long: the refusal has
/// to travel the same way and be worked out by the same machine.
const HANDSHAKES_TO_CONFIRM: u64 = 8;
/// How long the other side may take to say goodbye.
const CLOSE_LIMIT: Duration = Duration::from_secs(1);

/// Bytes to and from a service.
pub(super) enum Stream {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_close(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_close(context),
            Self::Tls(stream) => Pin::new(stream).poll_close(context),
        }
    }
}

/// A batch that has left and may still be lost.
struct Unconfirmed {
    count: usize,
    due_nanos: u64,
}

/// One connection's state.
pub(super) struct Session {
    stream: Stream,
    limits: Limits,
    clock: fn() -> u64,
    first_confirm_nanos: u64,
    is_trusted: bool,
    out: Vec<u8>,
    written: usize,
    /// Records in `out`.
    batch: usize,
    unconfirmed: VecDeque<Unconfirmed>,
    /// When something last moved.
    moved_nanos: u64,
}

impl Session {
    pub(super) fn new(
        stream: Stream,
        handshake_nanos: u64,
        limits: Limits,
        clock: fn() -> u64,
    ) -> Self {
        // Only over TLS there is something to refuse once records are on their way.
        let first_confirm_nanos = match stream {
            Stream::Tcp(_) => limits.confirm_nanos,
            Stream::Tls(_) => limits.first_confirm_nanos,
        };
        Self {
            stream,
            limits,
            clock,
            first_confirm_nanos: first_confirm_nanos
                .max(handshake_nanos.saturating_mul(HANDSHAKES_TO_CONFIRM)),
            is_trusted: false,
            out: Vec::new(),
            written: 0,
            batch: 0,
            unconfirmed: VecDeque::new(),
            moved_nanos: clock(),
        }
    }

    /// Whether the service has taken records on this connection.
    pub(super) fn is_trusted(&self) -> bool {
        self.is_trusted
    }

    /// Sends what the queue has until there is nothing for a while, then says goodbye.
    ///
    /// # Errors
    /// [`Failure`] when the connection ends otherwise; what was not confirmed is to be sent again.
    pub(super) async fn serve(&mut self, queue: &Queue) -> Result<(), Failure> {
        loop {
            // A service that talks without end must not keep the executor.
            step_aside().await;
            // One moment for both: a batch that came due in between would look like a stall.
            let now = (self.clock)();
            self.confirm(queue, now);
            let due = self.due_nanos();
            if queue.is_over() || self.is_idle(queue) && now >= due {
                return self.close().await;
            }
            if !self.out.is_empty() && now >= due {
                return Err(self.failure("it takes no more data"));
            }
            let wait = Duration::from_nanos(due.saturating_sub(now));
            let tick = async {
                sleep(wait).await;
                Ok(())
            };
            or(poll_fn(|context| self.poll_move(context, queue)), tick)
                .await
                .map_err(|error| self.failure(&error.to_string()))?;
        }
    }

    fn is_idle(&self, queue: &Queue) -> bool {
        self.out.is_empty() && self.unconfirmed.is_empty() && queue.is_empty()
    }

    /// When to look again though nothing moves: a confirmation, a stall, or the end of patience.
    fn due_nanos(&self) -> u64 {
        let patience =
            if self.out.is_empty() { self.limits.idle_nanos } else { self.limits.stall_nanos };
        let moves = self.moved_nanos.saturating_add(patience);
        self.unconfirmed.front().map_or(moves, |batch| moves.min(batch.due_nanos))
    }

    /// Counts batches whose while is over as handed over.
    fn confirm(&mut self, queue: &Queue, now: u64) {
        while self.unconfirmed.front().is_some_and(|batch| batch.due_nanos <= now) {
            let Some(batch) = self.unconfirmed.pop_front() else { return };
            queue.confirm(batch.count);
            self.is_trusted = true;
            self.moved_nanos = now;
        }
    }

    /// Reads, writes or gathers; ready whenever something moved.
    fn poll_move(&mut self, context: &mut Context<'_>, queue: &Queue) -> Poll<io::Result<()>> {
        // Services say nothing that matters except that they are gone; TLS says more below.
        match Pin::new(&mut self.stream).poll_read(context, &mut [0; 512]) {
            Poll::Pending => {}
            Poll::Ready(Ok(0)) => {
                return Poll::Ready(Err(io::Error::from(io::ErrorKind::ConnectionAborted)));
            }
            Poll::Ready(result) => return Poll::Ready(result.map(drop)),
        }
        if self.out.is_empty() {
            self.batch = queue.spool.borrow_mut().take_batch(&mut self.out, BATCH_BYTES);
            self.moved_nanos = (self.clock)();
        }
        if self.out.is_empty() {
            return queue.wake.poll_wait(context).map(Ok);
        }
        self.poll_send(context)
    }

    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.written < self.out.len() {
            let rest = &self.out[self.written..];
            let written = ready!(Pin::new(&mut self.stream).poll_write(context, rest))?;
            if written == 0 {
                return Poll::Ready(Err(io::Error::from(io::ErrorKind::WriteZero)));
            }
            self.written += written;
        } else {
            ready!(Pin::new(&mut self.stream).poll_flush(context))?;
            let while_nanos =
                if self.is_trusted { self.limits.confirm_nanos } else { self.first_confirm_nanos };
            let due_nanos = (self.clock)().saturating_add(while_nanos);
            self.unconfirmed.push_back(Unconfirmed { count: self.batch, due_nanos });
            (self.written, self.batch) = (0, 0);
            self.out.clear();
        }
        self.moved_nanos = (self.clock)();
        Poll::Ready(Ok(()))
    }

    /// Tells the service that no more comes, and hears the same from it.
    async fn close(&mut self) -> Result<(), Failure> {
        let goodbye = async {
            let closed = self.stream.close().await;
            let mut rest = [0; 512];
            while self.stream.read(&mut rest).await.is_ok_and(|count| count > 0) {
                step_aside().await;
            }
            closed
        };
        let too_late = async {
            sleep(CLOSE_LIMIT).await;
            Ok(())
        };
        // Everything was confirmed before: how the goodbye goes changes nothing.
        or(goodbye, too_late).await.unwrap_or_default();
        Ok(())
    }

    /// The end of this connection: refused if it never took anything.
    fn failure(&self, what: &str) -> Failure {
        let reason = if self.is_trusted { Reason::Broken } else { Reason::Refused };
        Failure { reason, what: what.to_owned() }
    }
}
