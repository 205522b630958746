//! What became of the log records of one invoke. Invariant: `produced = handed_over + dropped +
//! pending`, and every record leaves `pending` exactly once.

use std::cell::Cell;
use std::rc::Rc;

use crate::signal::Signal;

/// Why records were given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// More records waited for the service than its spool holds; the oldest went.
    SpoolFull,
    /// The service closed the connection, or refused the handshake, before it had taken anything.
    Refused,
    /// No connection to the service for as long as records are kept.
    Unreachable,
    /// The connection broke each time the record was sent.
    Broken,
    /// The node stopped before the service took them.
    Stopped,
    /// The credential cannot be used for delivery.
    Unusable,
    /// The user's programs log more than they may.
    OverRate {
        /// How much that is.
        bytes_per_second: u64,
    },
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::OverRate { bytes_per_second } => {
                return write!(
                    f,
                    "the user logs more than they may (log.bytes_per_second_per_user_max = \
                     {bytes_per_second})"
                );
            }
            Self::SpoolFull => "more records waited than the spool holds (log.spool_bytes_max, log.spool_records_max)",
            Self::Refused => "the logging service refused the connection or its certificate",
            Self::Unreachable => "the logging service could not be reached",
            Self::Broken => "the logging service broke the connection",
            Self::Stopped => "the node stopped before the logging service took them",
            Self::Unusable => "the credential cannot be used to deliver records",
        })
    }
}

/// Counts of one invoke's records at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Account {
    /// Records the guest gave the node.
    pub produced: u64,
    /// Written to a connection that the logging service kept open afterwards.
    pub handed_over: u64,
    /// Confirmed by the logging service; `None` when its protocol cannot, as syslog.
    pub acknowledged: Option<u64>,
    /// Given up.
    pub dropped: u64,
    /// Neither yet.
    pub pending: u64,
    /// Why the last of the dropped were dropped.
    pub reason: Option<Reason>,
}

/// Records given up by all invokes of a shard.
pub(super) type Dropped = Rc<Cell<u64>>;

/// The running account of one invoke, shared by its records.
#[derive(Debug)]
pub(super) struct Ledger {
    account: Cell<Account>,
    news: Rc<Signal>,
    dropped: Dropped,
}

impl Ledger {
    pub(super) fn new(news: Rc<Signal>, dropped: Dropped) -> Self {
        Self { account: Cell::default(), news, dropped }
    }

    pub(super) fn account(&self) -> Account {
        self.account.get()
    }

    pub(super) fn is_settled(&self) -> bool {
        self.account.get().pending == 0
    }

    /// Records exist and wait.
    pub(super) fn wait(&self, records: u64) {
        let account = self.account.get();
        let (produced, pending) = (account.produced + records, account.pending + records);
        self.account.set(Account { produced, pending, ..account });
    }

    pub(super) fn hand_over(&self, records: u64) {
        let account = self.account.get();
        self.settle(Account { handed_over: account.handed_over + records, ..account }, records);
    }

    pub(super) fn give_up(&self, records: u64, reason: Reason) {
        let account = self.account.get();
        let dropped = account.dropped + records;
        self.dropped.set(self.dropped.get() + records);
        self.settle(Account { dropped, reason: Some(reason), ..account }, records);
    }

    fn settle(&self, mut account: Account, records: u64) {
        account.pending = account.pending.checked_sub(records).expect("a record settles once");
        self.account.set(account);
        if account.pending == 0 {
            self.news.raise();
        }
    }
}
