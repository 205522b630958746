//! The task that empties one spool: waits for records, connects, sends, and comes back later when
//! it cannot.
//!
//! ```text
//!  wait for records ─► connect ─► session ─ idle ─► wait
//!        ▲               │ failed    │ broken
//!        └── back off ◄──┴───────────┘      (records that are too old or tried too often go)
//! ```

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::time::Duration;

use futures_lite::future::or;
use glommio::timer::sleep;

use super::account::{Dropped, Reason};
use super::backoff::Backoff;
use super::session::{Session, Stream};
use super::spool::{Record, Spool};
use super::{Destination, Limits, tcp};
use crate::invoke::User;
use crate::signal::{Errand, Signal};

/// A spool and those who wait for it to change.
pub(super) struct Queue {
    pub(super) spool: RefCell<Spool>,
    /// Something for the delivery task: records, or no more handles, or the end.
    pub(super) wake: Signal,
    /// From a call of the task until it waits for the next one.
    errand: Cell<Option<Errand>>,
    pub(super) clock: fn() -> u64,
    /// For the shard: accounts are settled.
    pub(super) news: Rc<Signal>,
    pub(super) dropped: Dropped,
    limits: Limits,
    stop: Signal,
    emptied: Rc<Signal>,
    /// Since when there is no handle any more.
    abandoned_nanos: Cell<Option<u64>>,
    is_stopped: Cell<bool>,
    trouble: RefCell<String>,
}

impl Queue {
    pub(super) fn new(
        limits: Limits,
        clock: fn() -> u64,
        (news, emptied): (Rc<Signal>, Rc<Signal>),
        dropped: Dropped,
    ) -> Self {
        Self {
            spool: RefCell::new(Spool::new(limits)),
            wake: Signal::default(),
            errand: Cell::default(),
            clock,
            news,
            dropped,
            limits,
            stop: Signal::default(),
            emptied,
            abandoned_nanos: Cell::new(None),
            is_stopped: Cell::new(false),
            trouble: RefCell::default(),
        }
    }

    pub(super) fn push(&self, record: Record) {
        let mut spool = self.spool.borrow_mut();
        spool.push(record);
        if self.is_stopped.get() {
            spool.clear(Reason::Stopped);
        }
        self.call();
    }

    /// No more records come.
    pub(super) fn abandon(&self) {
        self.abandoned_nanos.set(Some((self.clock)()));
        self.call();
    }

    fn call(&self) {
        let errand = self.errand.take().unwrap_or_else(Errand::begin);
        self.errand.set(Some(errand));
        self.wake.raise();
    }

    /// No more attempts are made.
    pub(super) fn stop(&self) {
        self.is_stopped.set(true);
        self.spool.borrow_mut().clear(Reason::Stopped);
        self.stop.raise();
        self.call();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.spool.borrow().is_empty()
    }

    /// Whether the task has nothing left to live for.
    pub(super) fn is_over(&self) -> bool {
        self.is_stopped.get() || self.abandoned_nanos.get().is_some() && self.is_empty()
    }

    pub(super) fn trouble(&self) -> String {
        self.trouble.borrow().clone()
    }

    pub(super) fn confirm(&self, count: usize) {
        let mut spool = self.spool.borrow_mut();
        // The end of the node may have given up what was under way.
        if !self.is_stopped.get() {
            spool.confirm(count);
        }
        if spool.is_empty() {
            self.emptied.raise();
        }
        self.trouble.borrow_mut().clear();
    }

    fn fail(&self, failure: &Failure, gives_up: bool) {
        let now = (self.clock)();
        let lingers_until = |since: u64| since.saturating_add(self.limits.linger_nanos);
        let is_late = self.abandoned_nanos.get().is_some_and(|since| now >= lingers_until(since));
        let mut spool = self.spool.borrow_mut();
        spool.fail(now, failure.reason);
        if gives_up || is_late {
            spool.clear(failure.reason);
        }
        if spool.is_empty() {
            self.emptied.raise();
        }
        self.trouble.replace(failure.what.clone());
    }
}

/// Why a connection is no more, or never was.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) reason: Reason,
    pub(super) what: String,
}

impl Failure {
    fn new(reason: Reason, error: &io::Error) -> Self {
        Self { reason, what: error.to_string() }
    }
}

/// Delivery to one service.
pub(super) struct Delivery {
    queue: Rc<Queue>,
    destination: Destination,
    limits: Limits,
    backoff: Backoff,
    /// Connections in a row that were refused.
    refusals: u32,
    /// The operator was told that it fails.
    is_failing: bool,
}

impl Delivery {
    pub(super) fn new(
        queue: Rc<Queue>,
        destination: Destination,
        limits: Limits,
        seed: u64,
    ) -> Self {
        let first = Duration::from_nanos(limits.backoff_first_nanos);
        let longest = Duration::from_nanos(limits.backoff_longest_nanos);
        let backoff = Backoff::new(first, longest, seed);
        Self { queue, destination, limits, backoff, refusals: 0, is_failing: false }
    }

    /// Delivers until there is nobody left who could add records.
    pub(super) async fn run(mut self) {
        loop {
            while self.queue.is_empty() && !self.queue.is_over() {
                self.queue.errand.take();
                self.queue.wake.wait().await;
            }
            if self.queue.is_over() {
                return;
            }
            if let Err(failure) = self.deliver().await {
                self.retreat(&failure).await;
            }
        }
    }

    /// One connection, from its start to its end.
    async fn deliver(&mut self) -> Result<(), Failure> {
        let clock = self.queue.clock;
        let started = clock();
        let stream = self.connect().await?;
        let handshake_nanos = clock().saturating_sub(started);
        let mut session = Session::new(stream, handshake_nanos, self.limits, clock);
        let result = session.serve(&self.queue).await;
        if session.is_trusted() {
            self.backoff.reset();
            self.refusals = 0;
            self.tell_recovered();
        }
        result
    }

    async fn connect(&self) -> Result<Stream, Failure> {
        let limit = Duration::from_nanos(self.limits.connect_nanos);
        let tcp = tcp::connect(self.destination.address, limit)
            .await
            .map_err(|error| Failure::new(Reason::Unreachable, &error))?;
        let Some(client) = &self.destination.tls else { return Ok(Stream::Tcp(tcp)) };
        let too_late = async {
            sleep(limit).await;
            Err(io::Error::new(io::ErrorKind::TimedOut, "the TLS handshake took too long"))
        };
        let tls = or(client.connect(tcp), too_late)
            .await
            .map_err(|error| Failure::new(Reason::Refused, &error))?;
        Ok(Stream::Tls(Box::new(tls)))
    }

    async fn retreat(&mut self, failure: &Failure) {
        // A service that refuses us refuses every record; one that is away may come back.
        let is_refused = failure.reason == Reason::Refused;
        self.refusals = if is_refused { self.refusals.saturating_add(1) } else { 0 };
        let gives_up = self.refusals >= self.limits.attempts_max;
        let before = self.queue.dropped.get();
        self.queue.fail(failure, gives_up);
        self.tell_failed(failure, self.queue.dropped.get() - before);
        or(sleep(self.backoff.next()), self.queue.stop.wait()).await;
    }

    /// Told once per outage, and whenever records were given up.
    fn tell_failed(&mut self, failure: &Failure, dropped: u64) {
        if !std::mem::replace(&mut self.is_failing, true) || dropped > 0 {
            let Destination { address, user, .. } = &self.destination;
            let user = user.as_ref().map(User::as_str);
            let (why, error) = (failure.reason.to_string(), failure.what.as_str());
            tracing::warn!(service = %address, user, why, error, dropped, "logging service failed");
        }
    }

    fn tell_recovered(&mut self) {
        if std::mem::take(&mut self.is_failing) {
            let Destination { address, user, .. } = &self.destination;
            let user = user.as_ref().map(User::as_str);
            tracing::info!(service = %address, user, "logging service takes records again");
        }
    }
}
