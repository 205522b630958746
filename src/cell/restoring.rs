//! Which way of getting a VM's memory is the faster one here: the snapshot mapped, and what the
//! guest writes at once taken from it page by page; or that part copied into memory of its own.
//! Hosts differ in what a fault and a mapping cost, so a node tries both before it serves.

use std::fmt;

use abi::control::Restoring;
use abi::layout::region as layout;
use abi::ring::Consumer;
use region::Doorbell;
use region::clock::monotonic_nanos;

use super::Nursery;

/// VMs restored each way. The fastest counts: what else the host does only ever adds.
const ROUNDS: u32 = 2;
/// How long a guest may take to answer: far more than one that works needs.
const PATIENCE_NANOS: u64 = 10_000_000_000;

/// The way that was chosen, and why.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Measured {
    map_nanos: u64,
    copy_nanos: u64,
}

impl Default for Measured {
    /// Nothing measured yet: the snapshot is mapped.
    fn default() -> Self {
        Self { map_nanos: u64::MAX, copy_nanos: u64::MAX }
    }
}

impl Measured {
    /// The faster way: to copy has to be faster by a tenth, which is what two measurements of the
    /// same thing differ by.
    pub(crate) fn way(self) -> Restoring {
        let is_faster = self.copy_nanos < self.map_nanos / 10 * 9;
        if is_faster { Restoring::Copy } else { Restoring::Map }
    }

    fn add(&mut self, way: Restoring, nanos: u64) {
        let best = match way {
            Restoring::Map => &mut self.map_nanos,
            Restoring::Copy => &mut self.copy_nanos,
        };
        *best = nanos.min(*best);
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (map, copy) = (millis(self.map_nanos), millis(self.copy_nanos));
        match self.way() {
            Restoring::Map => write!(formatter, "map ({map} ms; copy took {copy} ms)"),
            Restoring::Copy => write!(formatter, "copy ({copy} ms; map took {map} ms)"),
        }
    }
}

/// Milliseconds to a tenth.
fn millis(nanos: u64) -> String {
    let tenths = nanos.saturating_add(50_000) / 100_000;
    format!("{}.{}", tenths / 10, tenths % 10)
}

impl Nursery {
    /// Tries both ways. Takes about as long as the clock's calibration waits anyway.
    ///
    /// # Errors
    /// Why no VM can be restored, for the operator.
    pub(super) fn measure_restoring(&self) -> Result<Measured, String> {
        let mut measured = Measured::default();
        for _ in 0..ROUNDS {
            for way in [Restoring::Map, Restoring::Copy] {
                measured.add(way, self.time_restore(way)?);
            }
        }
        Ok(measured)
    }

    /// Nanoseconds from the request to the guest's first word.
    fn time_restore(&self, way: Restoring) -> Result<u64, String> {
        let bell = Doorbell::new().map_err(|error| format!("no eventfd: {error}"))?;
        let mut start = self.start(true, self.generations.next(), u32::MAX);
        start.restoring = way;
        let (cell, mut infant) = self.launch(start, (0, true), &bell, None)?.finish()?;
        let running = monotonic_nanos();
        let outcome = Consumer::new(cell.region.clone(), layout::OUTCOME);
        while outcome.is_empty() && monotonic_nanos() < running + PATIENCE_NANOS {
            std::thread::yield_now();
        }
        let nanos = cell.restore_nanos + (monotonic_nanos() - running);
        infant.kill();
        infant.reap();
        Ok(nanos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_faster_way_is_chosen_and_says_why() {
        let mut measured = Measured::default();
        assert_eq!(measured.way(), Restoring::Map);
        measured.add(Restoring::Map, 3_000_000);
        measured.add(Restoring::Copy, 3_449_999);
        measured.add(Restoring::Map, 2_949_999);
        assert_eq!(measured.way(), Restoring::Map);
        assert_eq!(measured.to_string(), "map (2.9 ms; copy took 3.4 ms)");
        measured.add(Restoring::Copy, 2_800_000);
        assert_eq!(measured.way(), Restoring::Map, "that may be chance");
        measured.add(Restoring::Copy, 1_960_000);
        assert_eq!(measured.way(), Restoring::Copy);
        assert_eq!(measured.to_string(), "copy (2.0 ms; map took 2.9 ms)");
    }
}
