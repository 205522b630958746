//! A way in for the checks of hostile bytes (`fuzz/checks`): the node's end of a VM's rings, with
//! the guest's memory in the caller's hand. No part of the library's interface. It is always there
//! rather than behind a feature, because the same checks are ordinary tests, and those run on the
//! build that all other tests run on.

use std::io;

use abi::layout::{REGION_GPA, region as layout};
use region::{Doorbell, Region, sealed};

use crate::link::{GuestFault, GuestFrame, Link, Scratch};

/// A VM that is nothing but its region.
pub struct Vm {
    link: Link,
    scratch: Scratch,
    region: Region,
}

impl Vm {
    /// One whose rings are still all zeros.
    ///
    /// # Errors
    /// The process is out of descriptors or memory.
    pub fn new() -> io::Result<Self> {
        let memfd = sealed::shared("fuzzing", u64::from(layout::BYTES))?;
        let region = Region::map(memfd, layout::BYTES, REGION_GPA)?;
        let link = Link::new(region.clone(), Doorbell::new()?);
        Ok(Self { link, scratch: Scratch::new(), region })
    }

    /// The guest's memory.
    #[must_use]
    pub fn memory(&self) -> &Region {
        &self.region
    }

    /// Sends more of a request's body, which goes on.
    ///
    /// # Errors
    /// What the guest broke.
    pub fn send_body(&mut self, invoke: u64, bytes: &[u8]) -> Result<(), String> {
        self.link.body(invoke, bytes, false).map_err(told)
    }

    /// Fills the rings.
    ///
    /// # Errors
    /// What the guest broke.
    pub fn flush(&mut self) -> Result<(), String> {
        self.link.flush().map_err(told)
    }

    /// Bytes that wait for room in the rings.
    #[must_use]
    pub fn backlog_bytes(&self) -> usize {
        self.link.backlog_bytes()
    }

    /// Takes what the guest says: whether it is a log record, and its bytes.
    ///
    /// # Errors
    /// What the guest broke.
    pub fn receive(&mut self) -> Result<Vec<(bool, Vec<u8>)>, String> {
        let mut said = Vec::new();
        let received = self.link.receive(&mut self.scratch, |frame| {
            said.push(match frame {
                GuestFrame::Log { line, .. } => (true, line.text.to_vec()),
                GuestFrame::Response { bytes, .. } => (false, bytes.to_vec()),
                GuestFrame::Stream { payload, .. } => (false, payload.to_vec()),
                GuestFrame::Prepared { outcome, .. } | GuestFrame::Outcome { outcome, .. } => {
                    (false, [outcome.reason.as_bytes(), outcome.response].concat())
                }
                GuestFrame::Ready { .. } | GuestFrame::Missing { .. } => (false, Vec::new()),
            });
            Ok(())
        });
        let count = received.map_err(told)?;
        assert_eq!(count, said.len(), "every frame is handed on");
        Ok(said)
    }

    /// Whether the guest sleeps and nothing is on the way.
    ///
    /// # Errors
    /// What the guest broke.
    pub fn is_resting(&mut self) -> Result<bool, String> {
        self.link.is_resting().map_err(told)
    }
}

fn told(fault: GuestFault) -> String {
    fault.to_string()
}
