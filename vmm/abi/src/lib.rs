//! What the node, the VMM and the guest kernel agree on, and the only thing all three share.
//!
//! ```text
//!  node ══ invoke ═► ══ code ═► ══ stream in ═► guest      rings in one shared region per VM
//!  node ◄═ outcome ══ ◄═ log ══ ◄═ stream out ══ guest
//!  node ── control (SOCK_SEQPACKET, descriptors) ──► VMM   start, place, stop
//! ```
//!
//! Everything here is `no_std`, allocates nothing and depends on nothing. Bytes from the other
//! side are copied first and checked afterwards; no number read from shared memory is used as an
//! index before it was compared with a limit.

#![cfg_attr(not(test), no_std)]

pub mod layout;
pub mod wire;
pub mod frame;
#[expect(unsafe_code, reason = "shared memory is read and written through raw pointers here")]
pub mod ring;
pub mod control;

/// Version of every structure in this crate. A snapshot, a VMM and a guest kernel only work
/// together when theirs are equal.
pub const ABI_VERSION: u32 = 6;
