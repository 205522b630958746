//! One KVM machine in one process; knows no client, pool or runtime. The node talks to it over
//! one socket ([`abi::control`]); the data path is none of its business: rings lie in memory that
//! node and guest both map.
//!
//! ```text
//!  main ─► cell ─► machine ─► boot ───► vcpu ─► capture ─► snapshot     once
//!                     └─────► restore ► vcpu (main thread) ─► reset      many times
//!                                       control (second thread)
//! ```
//! Modules in reading order; each uses only those below it and the errors of [`gone`].

pub mod cell;
#[doc(hidden)]
pub mod fuzzing;
mod reset;
mod control;
mod verify;
mod capture;
mod restore;
mod boot;
#[expect(unsafe_code, reason = "signal handler, and the signal to the vCPU's thread")]
mod vcpu;
mod order;
mod template;
mod lookout;
mod machine;
#[expect(unsafe_code, reason = "closes inherited descriptors, leaves namespaces")]
mod jail;
mod flavour;
#[expect(unsafe_code, reason = "ioctls over memory, adopted descriptors, two CPU instructions")]
mod kvm;
#[expect(unsafe_code, reason = "maps, copies and advises guest memory")]
mod memory;
#[expect(unsafe_code, reason = "asks the host which pages are private")]
mod pagemap;
mod clock;
pub mod snapshot;
pub mod gone;
