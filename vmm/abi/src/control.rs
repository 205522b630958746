//! Control messages between the node and one VMM process: one message per packet of a
//! `SOCK_SEQPACKET` Unix socket that is the VMM's standard input. Descriptors ride along
//! (`SCM_RIGHTS`) in the order each message names them.
//!
//! ```text
//! node ── Start ──► VMM     boot or restore
//!      ◄─ Captured ─        boot only: the snapshot is in its memfd; the VMM ends
//!      ◄─ Running ──        restore only: the vCPU runs, its READY frame is on its way
//!      ── Place ──► ◄─ Placed
//!      ── Reset ──► ◄─ Reset      back to the snapshot it was restored from, and on
//!      ── Capture ► ◄─ Captured   the idle VM as a snapshot; it stays stopped
//!      ── Stop ───► ◄─ Gone
//! ```

use crate::wire::{Malformed, Reader, Writer};

/// Bytes of the largest message.
pub const MESSAGE_BYTES_MAX: usize = 2048;
/// Most descriptors in one message.
pub const DESCRIPTORS_MAX: usize = 8;

/// Node to VMM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Make the VM. Descriptors: `/dev/kvm`, region memfd, status memfd, doorbell eventfd (node to
    /// guest), node doorbell eventfd (guest to node), then for a boot the kernel's ELF memfd and
    /// an empty memfd for the snapshot, for a restore the snapshot's memfd; then, if
    /// `root_image_bytes` is not 0, the root image's memfd; last, if `package_bytes` is not 0, the
    /// memfd of the package the snapshot's guest has in its window.
    Start(Start),
    /// Map a package into the image window. Descriptor: its memfd.
    Place {
        /// Offset in the window; page aligned.
        offset: u64,
        /// Its length.
        bytes: u64,
    },
    /// Put the VM back to the snapshot it was restored from, zero its region, leave it the new
    /// generation and seed there, and run it: its READY frame is on its way. Packages stay placed.
    Reset {
        /// Number of this restore, unlike any other's.
        generation: u64,
        /// Entropy for the guest.
        seed: [u8; SEED_BYTES],
        /// Compare the VM with its snapshot before it runs, for so long at most; what is left over
        /// is where the next time begins. 0: not at all.
        verify_nanos: u64,
    },
    /// Write the VM into a snapshot as soon as it is idle, which has to be soon. Descriptor: an
    /// empty memfd. The VM stays stopped; the node ends it.
    Capture,
    /// End the VM and the process.
    Stop,
}

/// Bytes of a seed.
pub const SEED_BYTES: usize = 32;

/// How a restored VM gets its memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Restoring {
    /// The snapshot is mapped; pages become private as they are written.
    Map = 1,
    /// The pages a restored guest writes are copied up front, the rest is mapped.
    Copy = 2,
}

impl Restoring {
    /// The way with this number.
    ///
    /// # Errors
    /// [`Malformed`] when there is none.
    pub fn from_number(number: u8) -> Result<Self, Malformed> {
        match number {
            1 => Ok(Self::Map),
            2 => Ok(Self::Copy),
            _ => Err(Malformed),
        }
    }
}

/// How much of a VM that was reset was compared with its snapshot. Registers and region always are,
/// unless nothing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Verified {
    /// Nothing.
    Nothing = 0,
    /// As many pages of RAM as there was time for.
    Part = 1,
    /// Everything.
    Whole = 2,
}

impl Verified {
    /// The extent with this number.
    ///
    /// # Errors
    /// [`Malformed`] when there is none.
    pub fn from_number(number: u8) -> Result<Self, Malformed> {
        match number {
            0 => Ok(Self::Nothing),
            1 => Ok(Self::Part),
            2 => Ok(Self::Whole),
            _ => Err(Malformed),
        }
    }
}

/// How to make a VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Start {
    /// [`crate::ABI_VERSION`] of the node.
    pub abi_version: u32,
    /// Restore a snapshot; otherwise boot the kernel and capture one.
    pub is_restore: bool,
    /// Bytes of RAM.
    pub ram_bytes: u64,
    /// Bytes of the root image at window offset 0; 0 for none.
    pub root_image_bytes: u64,
    /// Of a restore: how memory comes.
    pub restoring: Restoring,
    /// Offset in the window of the package the snapshot's guest has loaded.
    pub package_offset: u64,
    /// Its length; 0 for none.
    pub package_bytes: u64,
    /// Number of this restore, unlike any other's.
    pub generation: u64,
    /// Core the vCPU is bound to; `u32::MAX` for any.
    pub core: u32,
    /// Scaled-TSC clock shared by all VMs of a node; see [`crate::layout::ClockPage`].
    pub clock_multiplier: u64,
    /// Added to the scaled TSC.
    pub clock_offset: u64,
    /// User id to become, when the VMM starts as root; 0 to stay.
    pub user: u32,
    /// Of a restore: whether [`Request::Capture`] will be asked of it. A VMM that may write a
    /// snapshot is confined a little less.
    pub is_capturable: bool,
}

/// VMM to node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply<'a> {
    /// The snapshot is complete in its memfd.
    Captured {
        /// Its length.
        bytes: u64,
    },
    /// The vCPU runs.
    Running {
        /// From `Start` to here.
        restore_nanos: u64,
    },
    /// A package is in the window.
    Placed {
        /// As in the request.
        offset: u64,
    },
    /// The VM is as its snapshot has it, and runs.
    Reset {
        /// As in the request.
        generation: u64,
        /// Pages that were put back.
        dirty_pages: u32,
        /// From the request to a VM that may run, but for the verification.
        reset_nanos: u64,
        /// How much of it was compared with the snapshot, and is the same.
        verified: Verified,
        /// How long that took.
        verify_nanos: u64,
    },
    /// The VM is over and so is this process.
    Gone {
        /// Whose fault it is.
        blame: Blame,
        /// What happened, for a person.
        reason: &'a str,
    },
}

/// Whose fault the end of a VM is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Blame {
    /// Nobody's: the node asked for it.
    Nobody = 0,
    /// The guest broke a rule or its kernel gave up.
    Guest = 1,
    /// The host or the VMM could not do what it should.
    Host = 2,
}

impl Request {
    /// Writes the message and returns its length.
    ///
    /// # Errors
    /// [`Malformed`] when `buffer` is shorter than the message.
    pub fn encode(&self, buffer: &mut [u8]) -> Result<usize, Malformed> {
        let mut writer = Writer::new(buffer);
        match self {
            Self::Start(start) => {
                writer.u8(1)?;
                writer.u32(start.abi_version)?;
                writer.u8(u8::from(start.is_restore))?;
                writer.u64(start.ram_bytes)?;
                writer.u64(start.root_image_bytes)?;
                writer.u8(start.restoring as u8)?;
                writer.u64(start.package_offset)?;
                writer.u64(start.package_bytes)?;
                writer.u64(start.generation)?;
                writer.u32(start.core)?;
                writer.u64(start.clock_multiplier)?;
                writer.u64(start.clock_offset)?;
                writer.u32(start.user)?;
                writer.u8(u8::from(start.is_capturable))?;
            }
            Self::Place { offset, bytes } => {
                writer.u8(2)?;
                writer.u64(*offset)?;
                writer.u64(*bytes)?;
            }
            Self::Stop => writer.u8(3)?,
            Self::Reset { generation, seed, verify_nanos } => {
                writer.u8(4)?;
                writer.u64(*generation)?;
                writer.bytes(seed)?;
                writer.u64(*verify_nanos)?;
            }
            Self::Capture => writer.u8(5)?,
        }
        Ok(writer.length())
    }

    /// Reads a message.
    ///
    /// # Errors
    /// [`Malformed`] when it is not one.
    pub fn decode(message: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(message);
        Ok(match reader.u8()? {
            1 => Self::Start(Start {
                abi_version: reader.u32()?,
                is_restore: reader.u8()? != 0,
                ram_bytes: reader.u64()?,
                root_image_bytes: reader.u64()?,
                restoring: Restoring::from_number(reader.u8()?)?,
                package_offset: reader.u64()?,
                package_bytes: reader.u64()?,
                generation: reader.u64()?,
                core: reader.u32()?,
                clock_multiplier: reader.u64()?,
                clock_offset: reader.u64()?,
                user: reader.u32()?,
                is_capturable: reader.u8()? != 0,
            }),
            2 => Self::Place { offset: reader.u64()?, bytes: reader.u64()? },
            3 => Self::Stop,
            4 => Self::Reset {
                generation: reader.u64()?,
                seed: reader.array()?,
                verify_nanos: reader.u64()?,
            },
            5 => Self::Capture,
            _ => return Err(Malformed),
        })
    }
}

impl<'a> Reply<'a> {
    /// Writes the message and returns its length.
    ///
    /// # Errors
    /// [`Malformed`] when `buffer` is shorter than the message.
    pub fn encode(&self, buffer: &mut [u8]) -> Result<usize, Malformed> {
        let mut writer = Writer::new(buffer);
        match self {
            Self::Captured { bytes } => {
                writer.u8(1)?;
                writer.u64(*bytes)?;
            }
            Self::Running { restore_nanos } => {
                writer.u8(2)?;
                writer.u64(*restore_nanos)?;
            }
            Self::Placed { offset } => {
                writer.u8(3)?;
                writer.u64(*offset)?;
            }
            Self::Reset { generation, dirty_pages, reset_nanos, verified, verify_nanos } => {
                writer.u8(5)?;
                writer.u64(*generation)?;
                writer.u32(*dirty_pages)?;
                writer.u64(*reset_nanos)?;
                writer.u8(*verified as u8)?;
                writer.u64(*verify_nanos)?;
            }
            Self::Gone { blame, reason } => {
                writer.u8(4)?;
                writer.u8(*blame as u8)?;
                writer.blob(reason.as_bytes())?;
            }
        }
        Ok(writer.length())
    }

    /// Reads a message.
    ///
    /// # Errors
    /// [`Malformed`] when it is not one.
    pub fn decode(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(message);
        Ok(match reader.u8()? {
            1 => Self::Captured { bytes: reader.u64()? },
            2 => Self::Running { restore_nanos: reader.u64()? },
            3 => Self::Placed { offset: reader.u64()? },
            5 => Self::Reset {
                generation: reader.u64()?,
                dirty_pages: reader.u32()?,
                reset_nanos: reader.u64()?,
                verified: Verified::from_number(reader.u8()?)?,
                verify_nanos: reader.u64()?,
            },
            4 => {
                let blame = match reader.u8()? {
                    0 => Blame::Nobody,
                    1 => Blame::Guest,
                    2 => Blame::Host,
                    _ => return Err(Malformed),
                };
                Self::Gone { blame, reason: reader.text()? }
            }
            _ => return Err(Malformed),
        })
    }
}

/// How a VMM finds the pages of RAM that may differ from the snapshot's: the best its host has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum PageFinder {
    /// The host's scan of its page tables (Linux 6.7): tens of microseconds.
    Scan = 1,
    /// An entry of the page map for each page of RAM: a millisecond for 128 MiB.
    Entries = 2,
    /// The host shows no page map: every page is compared.
    Everything = 3,
}

impl PageFinder {
    /// The finder with this number, if it is one.
    #[must_use]
    pub fn from_number(number: u64) -> Option<Self> {
        match number {
            1 => Some(Self::Scan),
            2 => Some(Self::Entries),
            3 => Some(Self::Everything),
            _ => None,
        }
    }
}

/// The status memfd: page 0 is the [`crate::layout::ClockPage`] the guest reads; page 1 holds
/// counters (u64 each) the VMM writes and the node reads, out of the guest's sight.
pub mod status {
    /// Bytes of the memfd.
    pub const BYTES: u64 = 2 * crate::layout::PAGE_BYTES;
    /// Returns of `KVM_RUN` to the VMM, for any reason.
    pub const EXITS: u32 = 0x1000;
    /// Of those, halts.
    pub const EXITS_HALT: u32 = 0x1008;
    /// Of those, signals.
    pub const EXITS_SIGNAL: u32 = 0x1010;
    /// Interrupts injected.
    pub const INTERRUPTS: u32 = 0x1018;
    /// Flavour of KVM, as [`crate::layout::Flavour`].
    pub const FLAVOUR: u32 = 0x1020;
    /// Resets carried out.
    pub const RESETS: u32 = 0x1028;
    /// Pages of RAM they put back.
    pub const PAGES_PUT_BACK: u32 = 0x1030;
    /// How the pages to put back are found, as [`super::PageFinder`].
    pub const PAGE_FINDER: u32 = 0x1038;
    /// Nanoseconds of all resets from the request until the vCPU stood still.
    pub const RESET_STOP_NANOS: u32 = 0x1040;
    /// Nanoseconds of all resets spent on pages.
    pub const RESET_PAGES_NANOS: u32 = 0x1048;
    /// Nanoseconds of all resets spent on registers.
    pub const RESET_REGISTERS_NANOS: u32 = 0x1050;
}
