//! What node and VMM share besides bytes: memory and ways to wake each other.
//!
//! ```text
//!  sealed    a memfd that can neither shrink nor grow, nor lose these seals
//!  mapping   such a memfd in this address space: shared (Region) or read-only (Contents)
//!  doorbell  an eventfd: rung on one side, waited for on the other
//!  clock     TSC and CLOCK_MONOTONIC, and the line through both
//!  message   one control message with its descriptors
//! ```
//! A memfd that comes from elsewhere is mapped only after its seals were checked: a mapping of
//! one that could shrink is a SIGBUS waiting to happen, and a read-only view of one that could be
//! written would change under our eyes. Everything public here is safe to call.

pub mod sealed;
#[expect(unsafe_code, reason = "ties shared memory to the life of its mapping")]
pub mod mapping;
pub mod doorbell;
#[expect(unsafe_code, reason = "reads the time-stamp counter")]
pub mod clock;
pub mod message;

pub use doorbell::Doorbell;
pub use mapping::{Contents, Region};
