//! What must hold for any bytes from outside: each module takes bytes to a parser of this
//! repository and asserts what its callers rely on. A check that fails panics.
//!
//! ```text
//!  scripts/fuzz ─► fuzz/fuzz_targets/NAME.rs ─┐
//!                                             ├─► checks::NAME::check(bytes)
//!  cargo nextest ─► tests/corpora.rs ─────────┘
//!                      └ every file of fuzz/corpus/NAME
//! ```
//! One module per target and corpus, of the same name. They are pure: the same bytes give the same
//! verdict, so a file is all that is needed to see a finding again.

pub mod request;
pub mod answer;
pub mod link;
pub mod stream;
pub mod ring;
pub mod frame;
pub mod snapshot;
pub mod elf;
pub mod package;
pub mod config;
mod peer;

/// A check, and the name of its target and its corpus. It says whether anything was accepted: a
/// corpus of which nothing is has outlived its format.
pub type Check = (&'static str, fn(&[u8]) -> bool);

/// All of them.
pub const ALL: [Check; 10] = [
    ("answer", answer::check),
    ("config", config::check),
    ("elf", elf::check),
    ("frame", frame::check),
    ("link", link::check),
    ("package", package::check),
    ("request", request::check),
    ("ring", ring::check),
    ("snapshot", snapshot::check),
    ("stream", stream::check),
];
