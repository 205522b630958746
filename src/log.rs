//! Automatic delivery: what programs log reaches their user's logging service.
//!
//! ```text
//!  link ─ record ─► InvokeLog ─► Spool (one per service) ─► delivery task ══ TCP | TLS ══► service
//!                      ▲ account: produced = handed over + dropped + pending
//! ```
//! Off the invoke path: recording copies a line into the spool and nothing more. A delivery
//! protocol is one file here: [`syslog`] is the format, [`tcp`] and [`tls`] its transports.
//!
//! Invariants: order is kept per service, hence per container; memory is bounded by the spool's
//! limits; a record is delivered at least once or counted as dropped, and *handed over* is only
//! said of records whose connection outlived them (see [`session`]). One [`Relay`] per shard;
//! everything runs in its executor.

mod account;
mod backoff;
mod delivery;
mod rate;
mod session;
mod spool;
mod syslog;
mod tcp;
mod tls;

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::time::Duration;

use abi::frame::log::Line;
use futures_lite::future::or;

pub use self::account::{Account, Reason};
pub use self::tls::{Pem, Unusable};

use self::account::{Dropped, Ledger};
use self::delivery::{Delivery, Queue};
use self::rate::Rates;
use self::spool::Record;
use self::syslog::Head;
use crate::config;
use crate::invoke::{FunctionName, User};
use crate::signal::Signal;

/// Longest text of one syslog message. RFC 5425 section 4.3.1 wants receivers to take messages of
/// 8192 bytes; the rest is room for the header.
const TEXT_BYTES_MAX: usize = 8192 - 512;

const MILLISECOND: u64 = 1_000_000;
const SECOND: u64 = 1_000 * MILLISECOND;

/// What delivery may use, per logging service. Times in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of records that wait.
    pub spool_bytes: usize,
    /// Records that wait.
    pub spool_records: usize,
    /// Bytes of text one user's programs may log in a second, over all their services.
    pub user_bytes_per_second: u64,
    /// How long a record is kept for a service that cannot be reached.
    pub age_nanos: u64,
    /// The same once no VM of the service is left.
    pub linger_nanos: u64,
    /// How often a record, or a connection that is refused, is tried.
    pub attempts_max: u32,
    /// For a TCP connection, and again for its TLS handshake.
    pub connect_nanos: u64,
    /// For a service that does not read before its connection counts as broken.
    pub stall_nanos: u64,
    /// How long a new TLS connection has to live after its first records for these to count as
    /// handed over. A service that refuses a client certificate closes within a round trip.
    pub first_confirm_nanos: u64,
    /// The same for later records, and without TLS for all.
    pub confirm_nanos: u64,
    /// Without records, a connection is closed after this.
    pub idle_nanos: u64,
    /// First wait after a failure; it doubles each time.
    pub backoff_first_nanos: u64,
    /// Longest wait.
    pub backoff_longest_nanos: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            spool_bytes: 16 << 20,
            spool_records: 65_536,
            user_bytes_per_second: 64 << 20,
            age_nanos: 600 * SECOND,
            linger_nanos: 30 * SECOND,
            attempts_max: 8,
            connect_nanos: 5 * SECOND,
            stall_nanos: 10 * SECOND,
            first_confirm_nanos: 500 * MILLISECOND,
            confirm_nanos: 50 * MILLISECOND,
            idle_nanos: 30 * SECOND,
            backoff_first_nanos: 100 * MILLISECOND,
            backoff_longest_nanos: 30 * SECOND,
        }
    }
}

impl From<&config::Log> for Limits {
    fn from(log: &config::Log) -> Self {
        Self {
            spool_bytes: usize::try_from(log.spool_bytes_max).unwrap_or(usize::MAX),
            spool_records: log.spool_records_max as usize,
            user_bytes_per_second: log.bytes_per_second_per_user_max,
            linger_nanos: log.linger_seconds.saturating_mul(SECOND),
            connect_nanos: log.connect_timeout_millis.saturating_mul(MILLISECOND),
            backoff_first_nanos: log.retry_min_millis.saturating_mul(MILLISECOND),
            backoff_longest_nanos: log.retry_max_millis.saturating_mul(MILLISECOND),
            ..Self::default()
        }
    }
}

/// Which spool and connection to share: the keyed digest of user, logging service and credential.
pub type ServiceKey = [u8; 32];

/// Where records go and how.
#[derive(Clone, Debug)]
pub struct Destination {
    address: SocketAddr,
    tls: Option<tls::Client>,
    user: Option<User>,
}

impl Destination {
    /// Syslog over plain TCP.
    #[must_use]
    pub fn syslog_tcp(address: SocketAddr) -> Self {
        Self { address, tls: None, user: None }
    }

    /// Syslog over TLS. The service's certificate has to be for `server_name`, or for the address
    /// if that is empty.
    ///
    /// # Errors
    /// [`Unusable`] when the credential's files do not make a TLS client.
    pub fn syslog_tls(
        address: SocketAddr,
        server_name: &str,
        pem: Pem<'_>,
    ) -> Result<Self, Unusable> {
        Ok(Self { address, tls: Some(tls::Client::new(address, server_name, pem)?), user: None })
    }

    /// With whose it is, for the operator.
    #[must_use]
    pub fn of(self, user: User) -> Self {
        Self { user: Some(user), ..self }
    }
}

/// Delivery of one shard.
#[derive(Clone)]
pub struct Relay(Rc<Shared>);

struct Shared {
    limits: Limits,
    clock: fn() -> u64,
    seed: u64,
    news: Rc<Signal>,
    services: RefCell<HashMap<ServiceKey, Weak<Handle>>>,
    /// Also those without a handle, until their spool is empty.
    queues: RefCell<Vec<Weak<Queue>>>,
    dropped: Dropped,
    rates: Rc<Rates>,
    /// Raised when a spool runs empty.
    emptied: Rc<Signal>,
}

impl Relay {
    /// Delivery within `limits` for each service. `clock` gives monotonic nanoseconds, `seed`
    /// spreads retries; `news` is raised whenever an invoke's records have all been settled.
    #[must_use]
    pub fn new(limits: Limits, clock: fn() -> u64, seed: u64, news: Rc<Signal>) -> Self {
        Self(Rc::new(Shared {
            limits,
            clock,
            seed,
            news,
            services: RefCell::default(),
            queues: RefCell::default(),
            dropped: Rc::default(),
            rates: Rc::new(Rates::new(limits.user_bytes_per_second)),
            emptied: Rc::default(),
        }))
    }

    /// The service with this key; `destination` is asked if it is not known. Its connection is
    /// made when there is something to deliver, and what is spooled when the last handle goes is
    /// still delivered. Must be called inside the shard's executor.
    ///
    /// # Errors
    /// What `destination` says; [`Relay::unusable`] makes a service of it.
    pub fn service(
        &self,
        key: ServiceKey,
        destination: impl FnOnce() -> Result<Destination, Unusable>,
    ) -> Result<Service, Unusable> {
        let mut services = self.0.services.borrow_mut();
        if let Some(handle) = services.get(&key).and_then(Weak::upgrade) {
            return Ok(Service(Sink::Queue(handle)));
        }
        let destination = destination()?;
        services.retain(|_, handle| handle.strong_count() > 0);
        let (limits, clock) = (self.0.limits, self.0.clock);
        let (news, emptied) = (Rc::clone(&self.0.news), Rc::clone(&self.0.emptied));
        let queue = Rc::new(Queue::new(limits, clock, (news, emptied), Rc::clone(&self.0.dropped)));
        let mut queues = self.0.queues.borrow_mut();
        queues.retain(|queue| queue.strong_count() > 0);
        queues.push(Rc::downgrade(&queue));
        let seed = key.iter().fold(self.0.seed, |seed, byte| {
            seed.rotate_left(8).wrapping_mul(31).wrapping_add(u64::from(*byte))
        });
        let delivery = Delivery::new(Rc::clone(&queue), destination, limits, seed);
        glommio::spawn_local(delivery.run()).detach();
        let handle = Rc::new(Handle { queue, rates: Rc::clone(&self.0.rates) });
        services.insert(key, Rc::downgrade(&handle));
        Ok(Service(Sink::Queue(handle)))
    }

    /// A service whose credential cannot be used: every record is counted as dropped.
    #[must_use]
    pub fn unusable(&self, fault: Unusable) -> Service {
        Service(Sink::Unusable(Rc::new(fault), Rc::clone(&self.0.dropped)))
    }

    /// Records given up so far.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.0.dropped.get()
    }

    /// Waits until everything is delivered or given up, at most `limit`; what is left then counts
    /// as dropped and no delivery happens any more.
    pub async fn drain(&self, limit: Duration) {
        let all_empty = async {
            while self.queues().iter().any(|queue| !queue.is_empty()) {
                self.0.emptied.wait().await;
            }
        };
        or(all_empty, glommio::timer::sleep(limit)).await;
        self.queues().iter().for_each(|queue| queue.stop());
    }

    fn queues(&self) -> Vec<Rc<Queue>> {
        self.0.queues.borrow().iter().filter_map(Weak::upgrade).collect()
    }
}

/// The right to send records to one service; kept with each VM that is assigned to it.
#[derive(Clone)]
pub struct Service(Sink);

#[derive(Clone)]
enum Sink {
    Queue(Rc<Handle>),
    Nowhere,
    Unusable(Rc<Unusable>, Dropped),
}

/// The last one to go tells the delivery task that no more records come.
struct Handle {
    queue: Rc<Queue>,
    rates: Rc<Rates>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.queue.abandon();
    }
}

impl Service {
    /// No logging service: records are counted as produced and go nowhere.
    #[must_use]
    pub fn none() -> Self {
        Self(Sink::Nowhere)
    }

    /// The log of one invoke.
    #[must_use]
    pub fn begin(&self, origin: Origin) -> InvokeLog {
        InvokeLog {
            sink: self.0.clone(),
            origin,
            book: OnceCell::new(),
            unsent: Cell::new(0),
            partial: RefCell::default(),
        }
    }

    /// What went wrong last, for a person; empty if nothing did since the last success.
    #[must_use]
    pub fn trouble(&self) -> String {
        match &self.0 {
            Sink::Queue(handle) => handle.queue.trouble(),
            Sink::Nowhere => String::new(),
            Sink::Unusable(fault, _) => fault.to_string(),
        }
    }
}

/// Whose records they are.
#[derive(Clone, Copy, Debug)]
pub struct Origin {
    /// The user.
    pub user: User,
    /// The function.
    pub function: FunctionName,
    /// The VM's number.
    pub vm: u64,
    /// The invoke's number.
    pub invoke: u64,
}

/// The log of one invoke and its account. One that stays empty, or has nowhere to go, allocates
/// nothing.
pub struct InvokeLog {
    sink: Sink,
    origin: Origin,
    /// Opened with the first line for a service.
    book: OnceCell<Book>,
    /// Records without a service: counted and forgotten.
    unsent: Cell<u64>,
    partial: RefCell<Partial>,
}

/// What the lines of one invoke share on their way to a service.
struct Book {
    head: Head,
    ledger: Rc<Ledger>,
}

impl Book {
    fn open(sink: &Sink, origin: Origin) -> Self {
        let (news, dropped) = match sink {
            Sink::Queue(handle) => {
                (Rc::clone(&handle.queue.news), Rc::clone(&handle.queue.dropped))
            }
            Sink::Nowhere => Default::default(),
            Sink::Unusable(_, dropped) => (Rc::default(), Rc::clone(dropped)),
        };
        let (user, function) = (origin.user.as_str(), origin.function.as_str());
        let head = Head::new((user, function), origin.vm, origin.invoke);
        Self { head, ledger: Rc::new(Ledger::new(news, dropped)) }
    }
}

/// A line that came in several records, up to now.
#[derive(Default)]
struct Partial {
    text: Vec<u8>,
    parts: u64,
    realtime_nanos: u64,
    sequence: u64,
}

impl InvokeLog {
    /// Takes one record of the guest; with `has_more` its line goes on in the next one. Lines are
    /// put together again up to what a receiver has to take.
    pub fn record(&self, line: &Line<'_>, has_more: bool) {
        if matches!(self.sink, Sink::Nowhere) {
            self.unsent.set(self.unsent.get() + 1);
            return;
        }
        let mut partial = self.partial.borrow_mut();
        if partial.text.len() + line.text.len() > TEXT_BYTES_MAX {
            self.spool(&mut partial, true);
        }
        if partial.parts == 0 {
            (partial.realtime_nanos, partial.sequence) = (line.realtime_nanos, line.sequence);
        }
        partial.parts += 1;
        partial.text.extend_from_slice(line.text);
        if !has_more {
            self.spool(&mut partial, false);
        }
    }

    /// The invoke is over: a line without its end is a line too.
    pub fn finish(&self) {
        self.spool(&mut self.partial.borrow_mut(), false);
    }

    /// What has become of the records so far.
    #[must_use]
    pub fn account(&self) -> Account {
        let book = self.book.get();
        let mut account = book.map_or_else(Account::default, |book| book.ledger.account());
        let parts = self.partial.borrow().parts;
        account.produced += self.unsent.get() + parts;
        account.pending += parts;
        account
    }

    /// Whether nothing is pending any more.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let is_settled = self.book.get().is_none_or(|book| book.ledger.is_settled());
        is_settled && self.partial.borrow().parts == 0
    }

    fn spool(&self, partial: &mut Partial, has_more: bool) {
        let Partial { text, parts, realtime_nanos, sequence } = std::mem::take(partial);
        if parts == 0 {
            return;
        }
        let Book { head, ledger } = self.book.get_or_init(|| Book::open(&self.sink, self.origin));
        match &self.sink {
            Sink::Nowhere => {}
            Sink::Unusable(..) => {
                ledger.wait(parts);
                ledger.give_up(parts, Reason::Unusable);
            }
            Sink::Queue(handle) => {
                let now = (handle.queue.clock)();
                if !handle.rates.take(self.origin.user, text.len() as u64, now) {
                    let bytes_per_second = handle.rates.bytes_per_second();
                    ledger.wait(parts);
                    return ledger.give_up(parts, Reason::OverRate { bytes_per_second });
                }
                handle.queue.push(Record {
                    head: head.clone(),
                    ledger: Rc::clone(ledger),
                    realtime_nanos,
                    sequence,
                    has_more,
                    text,
                    parts,
                    spooled_nanos: now,
                    attempts: 0,
                });
            }
        }
    }
}

impl Drop for InvokeLog {
    fn drop(&mut self) {
        self.finish();
    }
}
