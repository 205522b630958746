//! A peer that is not on this machine.

use std::fmt;

/// Says what to do about a peer that is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Absent {
    peer: &'static str,
    remedy: Remedy,
}

/// Where a peer comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Remedy {
    /// A package of Debian.
    Package(&'static str),
    /// Built from this repository; what went wrong instead.
    Build(String),
}

impl Absent {
    pub(super) fn new(peer: &'static str, remedy: Remedy) -> Self {
        Self { peer, remedy }
    }

    /// The peer's name.
    #[must_use]
    pub fn peer(&self) -> &'static str {
        self.peer
    }
}

impl fmt::Display for Absent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let peer = self.peer;
        match &self.remedy {
            Remedy::Package(package) => {
                write!(formatter, "peer {peer} is not there: install the Debian package {package}")?
            }
            Remedy::Build(why) => write!(
                formatter,
                "peer {peer} is not there ({why}): run scripts/bench, which builds it"
            )?,
        }
        write!(formatter, ", or leave it out with --without {peer}")
    }
}

impl std::error::Error for Absent {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_is_named() {
        assert_eq!(
            Absent::new("runc", Remedy::Package("runc")).to_string(),
            "peer runc is not there: install the Debian package runc, or leave it out with \
             --without runc"
        );
    }
}
