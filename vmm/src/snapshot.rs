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
const MSRS_MAX: usize = 256;

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

    /// Numbers of its pages.
    pub fn numbers(self) -> impl Iterator<Item = u32> {
        (0..self.pages).map(move |index| self.first.saturating_add(index))
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
    let mut runs = Vec::new();
    pages.for_each(|page| join_page(&mut runs, page, gap));
    runs
}

/// Joins one more page, behind all others, to the last run or begins one with it.
pub(crate) fn join_page(runs: &mut Vec<Run>, page: u32, gap: u32) {
    match runs.last_mut() {
        Some(run) if u64::from(page) <= run.end() + u64::from(gap) => {
            run.pages = page - run.first + 1;
        }
        Some(_) | None => runs.push(Run { first: page, pages: 1 }),
    }
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
    /// All zeros, to be told from others.
    #[cfg(test)]
    pub(crate) fn blank() -> Self {
        Self {
            regs: kvm_regs::default(),
            sregs: kvm_sregs::default(),
            debug: kvm_debugregs::default(),
            events: kvm_vcpu_events::default(),
            xcrs: kvm_xcrs::default(),
            xsave: kvm_xsave::default(),
            msrs: Vec::new(),
        }
    }

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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn state(rip: u64) -> VcpuState {
        VcpuState {
            regs: kvm_regs { rip, ..kvm_regs::default() },
            msrs: vec![(0xc000_0082, 7), (0x277, 8)],
            ..VcpuState::blank()
        }
    }

    fn snapshot(runs: Vec<Run>, warm: Vec<Run>) -> Snapshot {
        Snapshot {
            flavour: Flavour::Pvm,
            cpu_key: 5,
            ram_bytes: RAM_BYTES_MIN,
            root_image_bytes: 4097,
            state: state(0xffff_ffff_8020_0000),
            runs,
            warm,
        }
    }

    fn file(snapshot: &Snapshot) -> Vec<u8> {
        let mut file = snapshot.head();
        let pages: u64 = snapshot.runs.iter().map(|run| run.bytes()).sum();
        file.resize(file.len() + usize::try_from(pages).unwrap(), 0xab);
        file
    }

    #[test]
    fn what_is_written_is_read() {
        let runs = vec![Run { first: 1, pages: 2 }, Run { first: 8191, pages: 1 }];
        let written = snapshot(runs.clone(), vec![Run { first: 0, pages: 3 }]);
        let file = file(&written);
        let (read, pages_offset) = Snapshot::parse(&file).unwrap();
        assert_eq!((&read.runs, &read.warm), (&runs, &written.warm));
        assert_eq!(read.state.regs.rip, written.state.regs.rip);
        assert_eq!(read.state.msrs, written.state.msrs);
        assert_eq!((read.cpu_key, read.root_image_bytes), (5, 4097));
        assert_eq!(pages_offset, written.head().len() as u64);
    }

    #[test]
    fn tables_that_contradict_themselves_are_refused() {
        let good = Run { first: 4, pages: 4 };
        for bad in [
            vec![good, Run { first: 7, pages: 1 }],
            vec![good, Run { first: 2, pages: 1 }],
            vec![good, Run { first: 9, pages: 0 }],
            vec![good, Run { first: 8191, pages: 2 }],
            vec![good, Run { first: u32::MAX, pages: u32::MAX }],
        ] {
            let in_warm = snapshot(vec![good], bad.clone());
            let fault = Snapshot::parse(&file(&in_warm)).map(|_| ()).unwrap_err();
            assert_eq!(fault, SnapshotFault::Malformed, "{bad:?}");
            let head = snapshot(bad, Vec::new()).head();
            assert!(Snapshot::parse(&head).is_err());
        }
    }

    #[test]
    fn damage_and_other_versions_are_told_apart() {
        let good = file(&snapshot(vec![Run { first: 1, pages: 1 }], Vec::new()));
        let fault = |at: usize| {
            let mut bad = good.clone();
            bad[at] ^= 1;
            Snapshot::parse(&bad).map(|_| ()).unwrap_err()
        };
        assert_eq!(fault(0), SnapshotFault::Malformed);
        assert_eq!(fault(8), SnapshotFault::Checksum);
        assert_eq!(fault(16), SnapshotFault::Version);
        assert_eq!(fault(FIXED_BYTES), SnapshotFault::Checksum);
        assert_eq!(fault(4095), SnapshotFault::Checksum);
        let short = &good[..good.len() - 1];
        assert_eq!(Snapshot::parse(short).map(|_| ()).unwrap_err(), SnapshotFault::Malformed);
    }

    #[test]
    fn runs_join_over_small_gaps_only() {
        let runs = join_runs([1, 2, 4, 8].into_iter(), 1);
        assert_eq!(runs, [Run { first: 1, pages: 4 }, Run { first: 8, pages: 1 }]);
        assert_eq!(join_runs([1, 2, 4].into_iter(), 0).len(), 2);
    }

    /// A head whose checksum is right, whatever it says.
    fn with_checksum(mut file: Vec<u8>, head_bytes: usize) -> Vec<u8> {
        if let Some(head) = file.get(UNCOVERED_BYTES..head_bytes) {
            let sum = checksum(head).to_le_bytes();
            file[8..UNCOVERED_BYTES].copy_from_slice(&sum);
        }
        file
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let mut file = MAGIC.to_le_bytes().to_vec();
            file.extend(bytes);
            let _ = Snapshot::parse(&file);
        }

        #[test]
        fn accepted_damage_keeps_every_promise(
            damage in proptest::collection::vec((16_usize..12_288, any::<u8>()), 1..6),
        ) {
            let original = snapshot(vec![Run { first: 1, pages: 2 }], vec![Run { first: 5, pages: 1 }]);
            let mut bytes = file(&original);
            for (at, value) in damage {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = value;
                }
            }
            let bytes = with_checksum(bytes, original.head().len());
            if let Ok((read, offset)) = Snapshot::parse(&bytes) {
                let pages = read.ram_bytes / PAGE_BYTES;
                prop_assert!(read.runs.iter().chain(&read.warm).all(|run| run.end() <= pages));
                let kept: u64 = read.runs.iter().map(|run| run.bytes()).sum();
                prop_assert_eq!(offset + kept, bytes.len() as u64);
            }
        }
    }
}
