//! The programs that are deployed and invoked, and started on this machine beside it. Each answers
//! with the bytes of its request.

use pilotlight::client::Package;
use pilotlight::invoke::{Contract, Freshness};

use super::super::programs;

/// Bytes of each request and of its answer, where sizes are not what is measured.
pub(super) const PAYLOAD_BYTES: usize = 1024;

/// How long one invoke may take, milliseconds: a scenario with a crowd waits for VMs.
const TIMEOUT_MILLIS: u64 = 60_000;

/// An ordinary program, and how it is to run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Program {
    pub(super) name: &'static str,
    pub(super) bytes: &'static [u8],
    contract: Contract,
    freshness: Freshness,
}

impl Program {
    /// Resident, echoes.
    pub(super) const ECHO_STREAM: Self =
        Self::new("bench-echo-stream", programs::ECHO_STREAM, Contract::Stream);
    /// Started for each request, echoes.
    pub(super) const ECHO: Self = Self::new("bench-echo", programs::ECHO, Contract::Program);
    /// Started for each request, does nothing.
    pub(super) const NOOP: Self = Self::new("bench-noop", programs::NOOP, Contract::Program);
    /// Resident, echoes, and writes to 64 pages.
    pub(super) const SCRIBBLE: Self =
        Self::new("bench-scribble", programs::SCRIBBLE, Contract::Stream);
    /// Resident, logs as many lines as its request says.
    pub(super) const CHATTER: Self =
        Self::new("bench-chatter", programs::CHATTER, Contract::Stream);

    const fn new(name: &'static str, bytes: &'static [u8], contract: Contract) -> Self {
        Self { name, bytes, contract, freshness: Freshness::Reuse }
    }

    /// The same, with what a request finds of those before it.
    pub(super) const fn fresh(self, freshness: Freshness) -> Self {
        Self { freshness, ..self }
    }

    /// What is deployed.
    pub(super) fn package(&self) -> Package {
        let mut package = Package::of_elf(self.name, self.bytes);
        package.settings.contract = self.contract;
        package.settings.freshness = self.freshness;
        package.settings.timeout_millis = TIMEOUT_MILLIS;
        package
    }

    /// A request as the program reads it when it is started by hand.
    pub(super) fn framed(&self, request: &[u8]) -> Vec<u8> {
        match self.contract {
            Contract::Program => request.to_vec(),
            Contract::Stream => {
                let length = u32::try_from(request.len()).unwrap_or(u32::MAX).to_le_bytes();
                [&length, request].concat()
            }
        }
    }
}

/// Bytes of a request.
pub(super) fn payload(length: usize) -> Vec<u8> {
    (0..251).cycle().take(length).collect()
}
