//! The open requests of one connection: their numbers, the shard's tags, and how much of their
//! bodies has come. At most [`Limits::requests_max`]; found by a linear search, which for the few that
//! are open at once beats a hash.

use crate::invoke::Limit;

use super::Limits;

/// What an open request is, as far as its body is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Its body is a request's.
    Invoke,
    /// Its body is a package.
    Deploy,
    /// It has none.
    Short,
}

impl Kind {
    /// What its body is called, and how many bytes that may have.
    pub(super) fn body_limit(self, limits: &Limits) -> (&'static str, Limit) {
        let (what, key, value) = match self {
            Self::Invoke => ("the body", "requests.body_bytes_max", limits.body_bytes_max),
            Self::Deploy => ("the package", "requests.package_bytes_max", limits.package_bytes_max),
            Self::Short => ("a request that has none", "body", 0),
        };
        (what, Limit { key, value })
    }
}

/// One open request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Open {
    pub(super) id: u64,
    pub(super) tag: u64,
    pub(super) kind: Kind,
    body_bytes: u64,
    expects_body: bool,
}

/// Why a frame of a body is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyFault {
    /// The body was complete already.
    Unexpected,
    /// More bytes than it may have.
    TooLarge,
}

impl Open {
    pub(super) fn new(id: u64, kind: Kind) -> Self {
        Self { id, tag: 0, kind, body_bytes: 0, expects_body: true }
    }

    /// Counts a frame of the body, the first one included.
    pub(super) fn add_body(
        &mut self,
        bytes: usize,
        bytes_max: u64,
        has_more: bool,
    ) -> Result<(), BodyFault> {
        if !self.expects_body {
            return Err(BodyFault::Unexpected);
        }
        let total = self.body_bytes + bytes as u64;
        if total > bytes_max {
            return Err(BodyFault::TooLarge);
        }
        self.body_bytes = total;
        self.expects_body = has_more;
        Ok(())
    }
}

/// The open requests of one connection.
#[derive(Debug, Default)]
pub(super) struct InFlight(Vec<Open>);

impl InFlight {
    pub(super) fn find(&mut self, id: u64) -> Option<&mut Open> {
        self.0.iter_mut().find(|open| open.id == id)
    }

    pub(super) fn add(&mut self, open: Open) {
        self.0.push(open);
    }

    pub(super) fn remove(&mut self, id: u64) -> Option<Open> {
        let index = self.0.iter().position(|open| open.id == id)?;
        Some(self.0.swap_remove(index))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Open> {
        self.0.iter()
    }

    pub(super) fn count(&self) -> usize {
        self.0.len()
    }
}
