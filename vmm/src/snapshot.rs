//! The snapshot format: what is captured once and restored many times. Pure: bytes in, checked
//! values out.
//!
//! ```text
//! 0   magic (u64), checksum of all that follows in the head (u64), format and ABI version (u32s)
//!     flavour (u32), CPU key, RAM bytes, root image bytes (u64s)
//!     lengths of the head, the state, the run table, the warm table (u32s)
//!     vCPU state · runs of pages that are kept · runs of pages a restored guest writes at once
//!     zeros to the next page boundary: end of the head
//!     the pages of the first run, of the second, ...
//! ```
//! Pages in no run are zero. The pages themselves carry no checksum: a snapshot lives in a sealed
//! memfd, and whoever brings one from disk verifies it while copying.

use abi::layout::{Flavour, PAGE_BYTES, RAM_BYTES_MAX, RAM_BYTES_MIN, WINDOW_BYTES};
use abi::wire::{Malformed, Reader, Writer};
use kvm_bindings::{kvm_debugregs, kvm_regs, kvm_sregs, kvm_vcpu_events, kvm_xcrs, kvm_xsave};
use std::fmt;
use zerocopy::{FromBytes, Immutable, IntoBytes};

const MAGIC: u64 = u64::from_le_bytes(*b"PILOTSN1");
const FORMAT_VERSION: u32 = 1;
/// Magic and checksum: what the checksum does not cover.
const UNCOVERED_BYTES: usize = 16;
/// Everything in front of the vCPU state.
const FIXED_BYTES: usize = UNCOVERED_BYTES + 3 * 4 + 3 * 8 + 4 * 4;
/// Most runs in a table. Each run of kept pages is a mapping of its own in every restored VM, and
/// the host allows 65,530 of those per process.
pub const RUNS_MAX: usize = 2048;
/// Most model-specific registers.
const MSRS_MAX: usize = 64;

/// Neighbouring pages of RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Number of the first page.
    pub first: u32,
    /// How many.
    pub pages: u32,
}

impl Run {
    /// Number of the first page behind the run.
    #[must_use]
    pub fn end(self) -> u64 {
        u64::from(self.first) + u64::from(self.pages)
    }

    /// Bytes of the run.
    #[must_use]
    pub fn bytes(self) -> u64 {
        u64::from(self.pages) * PAGE_BYTES
    }
}

/// Joins page numbers (ascending) into runs, also over gaps of up to `gap` pages.
#[must_use]
pub fn join_runs(pages: impl Iterator<Item = u32>, gap: u32) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    for page in pages {
        match runs.last_mut() {
            Some(run) if u64::from(page) <= run.end() + u64::from(gap) => {
                run.pages = page - run.first + 1;
            }
            Some(_) | None => runs.push(Run { first: page, pages: 1 }),
        }
    }
    runs
}

/// A vCPU's registers.
pub struct VcpuState {
    /// General registers.
    pub regs: kvm_regs,
    /// Segments, control registers, descriptor tables.
    pub sregs: kvm_sregs,
    /// Debug registers.
    pub debug: kvm_debugregs,
    /// Pending events.
    pub events: kvm_vcpu_events,
    /// XCR0.
    pub xcrs: kvm_xcrs,
    /// FPU and vector registers.
    pub xsave: kvm_xsave,
    /// Model-specific registers, in the order in which they have to be written.
    pub msrs: Vec<(u32, u64)>,
}

impl fmt::Debug for VcpuState {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rip = self.regs.rip;
        formatter.debug_struct("VcpuState").field("rip", &rip).finish_non_exhaustive()
    }
}

impl VcpuState {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend_from_slice(self.regs.as_bytes());
        bytes.extend_from_slice(self.sregs.as_bytes());
        bytes.extend_from_slice(self.debug.as_bytes());
        bytes.extend_from_slice(self.events.as_bytes());
        bytes.extend_from_slice(self.xcrs.as_bytes());
        bytes.extend_from_slice(self.xsave.as_bytes());
        for (index, value) in &self.msrs {
            bytes.extend_from_slice(&index.to_le_bytes());
            bytes.extend_from_slice(&value.to_le_bytes());
        }
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(bytes);
        let mut state = Self {
            regs: take(&mut reader)?,
            sregs: take(&mut reader)?,
            debug: take(&mut reader)?,
            events: take(&mut reader)?,
            xcrs: take(&mut reader)?,
            xsave: take(&mut reader)?,
            msrs: Vec::new(),
        };
        while !reader.rest().is_empty() {
            if state.msrs.len() == MSRS_MAX {
                return Err(Malformed);
            }
            state.msrs.push((reader.u32()?, reader.u64()?));
        }
        Ok(state)
    }
}

fn take<T: FromBytes + IntoBytes + Immutable>(reader: &mut Reader<'_>) -> Result<T, Malformed> {
    T::read_from_bytes(reader.bytes(size_of::<T>())?).map_err(|_| Malformed)
}

/// Why a snapshot cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotFault {
    /// It is no snapshot, or cut short, or its tables contradict each other.
    Malformed,
    /// The head is not what was written.
    Checksum,
    /// Another format or ABI version.
    Version,
    /// Made on another CPU or another flavour of KVM.
    OtherCpu,
    /// Made with another amount of RAM or another root image.
    OtherMachine,
}

impl fmt::Display for SnapshotFault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Malformed => "malformed",
            Self::Checksum => "wrong checksum",
            Self::Version => "another version",
            Self::OtherCpu => "made on another CPU",
            Self::OtherMachine => "made for another machine",
        })
    }
}

impl From<Malformed> for SnapshotFault {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

/// The head of a snapshot.
#[derive(Debug)]
pub struct Snapshot {
    /// Flavour of KVM it was made on.
    pub flavour: Flavour,
    /// Digest of the CPU features it was made with.
    pub cpu_key: u64,
    /// Bytes of RAM.
    pub ram_bytes: u64,
    /// Bytes of the root image it expects in the window.
    pub root_image_bytes: u64,
    /// The vCPU.
    pub state: VcpuState,
    /// Pages that are kept, ascending.
    pub runs: Vec<Run>,
    /// Pages a restored guest writes on its way to idle, ascending.
    pub warm: Vec<Run>,
}

impl Snapshot {
    /// Bytes of the head with these tables; the pages follow it.
    #[must_use]
    pub fn head(&self) -> Vec<u8> {
        let state = self.state.encode();
        let tables = 8 * (self.runs.len() + self.warm.len());
        let bytes = (FIXED_BYTES + state.len() + tables).next_multiple_of(4096);
        let mut head = vec![0; bytes];
        // The buffer was sized for exactly this, so no write can fail.
        let written = self.write_head(&mut head, &state);
        assert!(written.is_ok(), "the head has room for its parts");
        let checksum = checksum(&head[UNCOVERED_BYTES..]).to_le_bytes();
        head[8..UNCOVERED_BYTES].copy_from_slice(&checksum);
        head
    }

    fn write_head(&self, head: &mut [u8], state: &[u8]) -> Result<(), Malformed> {
        let length = |length: usize| u32::try_from(length).map_err(|_| Malformed);
        let head_bytes = length(head.len())?;
        let mut writer = Writer::new(head);
        writer.u64(MAGIC)?;
        writer.u64(0)?;
        writer.u32(FORMAT_VERSION)?;
        writer.u32(abi::ABI_VERSION)?;
        writer.u32(self.flavour as u32)?;
        writer.u64(self.cpu_key)?;
        writer.u64(self.ram_bytes)?;
        writer.u64(self.root_image_bytes)?;
        writer.u32(head_bytes)?;
        writer.u32(length(state.len())?)?;
        writer.u32(length(self.runs.len())?)?;
        writer.u32(length(self.warm.len())?)?;
        writer.bytes(state)?;
        for run in self.runs.iter().chain(&self.warm) {
            writer.u32(run.first)?;
            writer.u32(run.pages)?;
        }
        Ok(())
    }

    /// Reads a whole snapshot file; returns the head and where in the file the pages begin.
    ///
    /// # Errors
    /// See [`SnapshotFault`]; the CPU and the machine are the caller's to compare.
    pub fn parse(file: &[u8]) -> Result<(Self, u64), SnapshotFault> {
        let mut reader = Reader::new(file);
        if reader.u64()? != MAGIC {
            return Err(SnapshotFault::Malformed);
        }
        let expected = reader.u64()?;
        if (reader.u32()?, reader.u32()?) != (FORMAT_VERSION, abi::ABI_VERSION) {
            return Err(SnapshotFault::Version);
        }
        let flavour = Flavour::from_number(reader.u32()?).ok_or(SnapshotFault::Malformed)?;
        let (cpu_key, ram_bytes, root_image_bytes) = (reader.u64()?, reader.u64()?, reader.u64()?);
        let head_bytes = reader.u32()? as usize;
        let head = file.get(..head_bytes).filter(|head| head.len() >= FIXED_BYTES);
        let head = head.ok_or(SnapshotFault::Malformed)?;
        if checksum(&head[UNCOVERED_BYTES..]) != expected {
            return Err(SnapshotFault::Checksum);
        }
        let state_bytes = reader.u32()? as usize;
        let (runs, warm) = (reader.u32()? as usize, reader.u32()? as usize);
        let mut reader = Reader::new(&head[FIXED_BYTES..]);
        let state = VcpuState::decode(reader.bytes(state_bytes)?)?;
        let runs = read_runs(&mut reader, runs, ram_bytes)?;
        let warm = read_runs(&mut reader, warm, ram_bytes)?;
        let snapshot = Self { flavour, cpu_key, ram_bytes, root_image_bytes, state, runs, warm };
        snapshot.check(head_bytes as u64, file.len() as u64)?;
        Ok((snapshot, head_bytes as u64))
    }

    fn check(&self, head_bytes: u64, file_bytes: u64) -> Result<(), SnapshotFault> {
        let pages: u64 = self.runs.iter().map(|run| run.bytes()).sum();
        let is_sound = (RAM_BYTES_MIN..=RAM_BYTES_MAX).contains(&self.ram_bytes)
            && self.root_image_bytes <= WINDOW_BYTES
            && head_bytes.is_multiple_of(PAGE_BYTES)
            && head_bytes.checked_add(pages) == Some(file_bytes);
        is_sound.then_some(()).ok_or(SnapshotFault::Malformed)
    }
}

/// Reads a table of runs: ascending, apart, not empty, inside RAM.
fn read_runs(
    reader: &mut Reader<'_>,
    count: usize,
    ram_bytes: u64,
) -> Result<Vec<Run>, SnapshotFault> {
    if count > RUNS_MAX {
        return Err(SnapshotFault::Malformed);
    }
    let mut runs = Vec::with_capacity(count);
    let mut free_from = 0;
    for _ in 0..count {
        let run = Run { first: reader.u32()?, pages: reader.u32()? };
        if u64::from(run.first) < free_from || run.pages == 0 || run.end() > ram_bytes / PAGE_BYTES
        {
            return Err(SnapshotFault::Malformed);
        }
        free_from = run.end();
        runs.push(run);
    }
    Ok(runs)
}

/// FNV-1a, 64 bits (Fowler, Noll, Vo), over words: finds damage, proves nothing.
fn checksum(bytes: &[u8]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for chunk in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        hash = (hash ^ u64::from_le_bytes(word)).wrapping_mul(0x0100_0000_01b3);
    }
    hash
}
