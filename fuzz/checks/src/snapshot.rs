//! Snapshots: whatever a file says, its runs lie apart and in order, their pages are exactly what
//! lies behind the head, and what was read is written again as it was.

use abi::layout::{PAGE_BYTES, RAM_BYTES_MAX, RAM_BYTES_MIN, WINDOW_BYTES};
use vmm::snapshot::{RUNS_MAX, Run, Snapshot};

/// Magic and checksum.
const UNCOVERED_BYTES: usize = 16;
/// Where a head says how long it is.
const HEAD_BYTES_AT: usize = 52;
/// Everything in front of the vCPU's state.
const FIXED_BYTES: usize = 68;
/// Where a head says how many runs are kept.
const RUNS_AT: usize = 60;
/// Most bytes of pages that are added to a head.
const PAGES_BYTES_MAX: u64 = 1 << 20;

/// `data` is a file; and then one that was mended, because no mutation finds a checksum.
pub fn check(data: &[u8]) -> bool {
    let is_sound = parse(data);
    is_sound | mended(data).is_some_and(|file| parse(&file))
}

fn parse(file: &[u8]) -> bool {
    let Ok((snapshot, pages_offset)) = Snapshot::parse(file) else { return false };
    assert!((RAM_BYTES_MIN..=RAM_BYTES_MAX).contains(&snapshot.ram_bytes));
    assert!(snapshot.root_image_bytes <= WINDOW_BYTES);
    assert!(pages_offset.is_multiple_of(PAGE_BYTES));
    let mut offset = pages_offset;
    for run in &snapshot.runs {
        offset += run.bytes();
        assert!(offset <= file.len() as u64, "a run's pages lie in the file");
    }
    assert_eq!(offset, file.len() as u64, "and nothing else does");
    table(&snapshot.runs, snapshot.ram_bytes);
    table(&snapshot.warm, snapshot.ram_bytes);
    again(&snapshot, &file[..usize::try_from(pages_offset).unwrap_or(usize::MAX)]);
    true
}

/// Ascending, apart, not empty, inside RAM, and not more than a VM may have mappings.
fn table(runs: &[Run], ram_bytes: u64) {
    assert!(runs.len() <= RUNS_MAX);
    let mut free_from = 0;
    for run in runs {
        assert!(u64::from(run.first) >= free_from && run.pages > 0);
        free_from = run.end();
        assert!(free_from * PAGE_BYTES <= ram_bytes);
        assert_eq!(run.numbers().next(), Some(run.first));
        assert_eq!(run.numbers().last().map(u64::from), Some(free_from - 1));
    }
}

/// Only padding may differ: how much of it there is, and what is in it.
fn again(snapshot: &Snapshot, head: &[u8]) {
    let written = snapshot.head();
    assert!(written.len() <= head.len(), "a head is not longer than it was");
    let used = FIXED_BYTES + number(&written, HEAD_BYTES_AT + 4) as usize;
    let used = used + 8 * (snapshot.runs.len() + snapshot.warm.len());
    let is_same = |from: usize, to: usize| written[from..to] == head[from..to];
    assert!(is_same(0, 8) && is_same(UNCOVERED_BYTES, HEAD_BYTES_AT));
    assert!(is_same(HEAD_BYTES_AT + 4, used), "tables and state are what they were");
    let mut file = written;
    let pages: u64 = snapshot.runs.iter().map(|run| run.bytes()).sum();
    if pages <= PAGES_BYTES_MAX {
        file.resize(file.len() + usize::try_from(pages).unwrap_or(0), 0);
        let read = Snapshot::parse(&file).map(|(read, _)| (read.runs, read.warm));
        assert!(read.is_ok_and(|read| read.0 == snapshot.runs && read.1 == snapshot.warm));
    }
}

/// The file with this build's version, its head filled to the page it says it ends on, the right
/// checksum, and as many pages as its runs have.
fn mended(data: &[u8]) -> Option<Vec<u8>> {
    let said = data.get(HEAD_BYTES_AT..FIXED_BYTES).map(|_| number(data, HEAD_BYTES_AT))?;
    let head_bytes = usize::try_from(said).ok().filter(|bytes| *bytes <= 1 << 20)?;
    let mut file = data[..data.len().min(head_bytes)].to_vec();
    file.resize(head_bytes.max(FIXED_BYTES), 0);
    let state = number(&file, HEAD_BYTES_AT + 4) as usize;
    let runs = (number(&file, RUNS_AT) as usize).min(RUNS_MAX);
    let table = file.get((FIXED_BYTES + state).min(file.len())..).unwrap_or_default();
    let pages = table.chunks_exact(8).take(runs).map(|run| u64::from(number(run, 4)));
    let pages = pages.sum::<u64>() * PAGE_BYTES;
    file[20..24].copy_from_slice(&abi::ABI_VERSION.to_le_bytes());
    let sum = checksum(&file[UNCOVERED_BYTES..]).to_le_bytes();
    file[8..UNCOVERED_BYTES].copy_from_slice(&sum);
    let pages = usize::try_from(pages.min(PAGES_BYTES_MAX)).unwrap_or(0);
    file.resize(file.len() + pages, 0xab);
    Some(file)
}

fn number(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |field| {
        field.iter().rev().fold(0, |number, byte| number << 8 | u32::from(*byte))
    })
}

/// FNV-1a over little-endian words, as `vmm/src/snapshot.rs` describes it.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(0xcbf2_9ce4_8422_2325, |hash: u64, chunk| {
        let word = chunk.iter().rev().fold(0_u64, |word, byte| word << 8 | u64::from(*byte));
        (hash ^ word).wrapping_mul(0x0100_0000_01b3)
    })
}
