//! Measures: latency histograms, closed-loop timing, and the peers a figure is held against. Knows
//! no node: what is measured comes as a closure.
//!
//! ```text
//!   closure ─► timed ─► Latencies ─► Summary        one client, the next request after the answer
//!   Echo, Spawn ─► timed ─► Latencies ─► Baseline   in the same run, in turn with the closure
//!   Bubblewrap, Runc, Wasmtime ─► Latencies         the same, where they are there
//! ```

mod latency;
mod machine;
pub mod peer;
mod placement;
mod slowest;

pub use latency::{Baseline, Deadline, Latencies, Summary, timed};
pub use machine::Machine;
pub use peer::{Echo, EchoKind, Spawn};
pub use placement::{cores, pin};
pub use slowest::{Slowest, Stage};
