//! Measures: latency histograms, arrivals and timing, and the peers a figure is held against. Knows
//! no node: what is measured comes as a closure, or is timed by the caller.
//!
//! ```text
//!   closure ─► timed ─► Latencies ─► Summary        one client, the next request after the answer
//!   Arrivals, Watch ─► Latencies ─► Summary         open loop: from when a request was to be sent
//!   Echo, Spawn ─► timed ─► Latencies ─► Baseline   in the same run, in turn with the closure
//!   Bubblewrap, Runc, Wasmtime ─► Latencies         the same, where they are there
//!   Latencies ─► Hgrm, IntervalLog, text            files that other tools read
//!   Latencies, figures ─► Page                      a report for a browser
//!   Run, Run ─► Comparison                          whether two runs differ
//! ```

pub mod page;
mod comparison;
mod hgrm;
mod interval_log;
mod encoded;
mod percentile;
mod arrivals;
mod latency;
mod machine;
pub mod peer;
mod placement;
mod process;
mod slowest;
mod dice;

pub use arrivals::Arrivals;
pub use comparison::{BATCHES_MIN, Comparison, Difference, Incomparable, Run, Verdict};
pub use dice::Dice;
pub use encoded::Unreadable;
pub use hgrm::Hgrm;
pub use interval_log::IntervalLog;
pub use latency::{Baseline, Deadline, Latencies, Summary, Watch, timed};
pub use machine::Machine;
pub use page::Page;
pub use peer::{Echo, EchoKind, Spawn};
pub use percentile::Percentile;
pub use placement::{cores, pin, spread, wake_as_usual, wake_on_time};
pub use process::{Process, available_bytes};
pub use slowest::{Slowest, Stage};
