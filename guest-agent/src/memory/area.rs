//! Which parts of an address space are in use and for what: an interval map, pure.
//!
//! Areas never overlap; neighbours that are alike in everything are one area. All addresses are
//! page aligned and below [`abi::layout::USER_END`]; callers check that first.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

/// What instructions may do with memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Access {
    /// Loads. On x86-64 every accessible page can be read.
    pub is_readable: bool,
    /// Stores.
    pub is_writable: bool,
    /// Instruction fetches.
    pub is_executable: bool,
}

impl Access {
    /// No access at all (`PROT_NONE`).
    pub const NONE: Self = Self { is_readable: false, is_writable: false, is_executable: false };
    /// Loads only.
    pub const READ: Self = Self { is_readable: true, is_writable: false, is_executable: false };
    /// Loads and stores.
    pub const READ_WRITE: Self =
        Self { is_readable: true, is_writable: true, is_executable: false };
    /// Loads and instruction fetches.
    pub const READ_EXECUTE: Self =
        Self { is_readable: true, is_writable: false, is_executable: true };

    /// From `PROT_READ`, `PROT_WRITE`, `PROT_EXEC` (1, 2, 4).
    #[must_use]
    pub const fn from_prot(prot: u64) -> Self {
        Self {
            is_readable: prot & 1 != 0,
            is_writable: prot & 2 != 0,
            is_executable: prot & 4 != 0,
        }
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_none(self) -> bool {
        !self.is_readable && !self.is_writable && !self.is_executable
    }
}

/// What an area was made for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `mmap`; also a file's private copy.
    Mapped,
    /// Shared memory without a file that nobody shares yet: a child will ([`Kind::Shared`] then).
    SharedLater,
    /// `mmap` of a file whose pages it shares, a store reaches the file; or shared memory without one.
    Shared,
    /// As [`Kind::Shared`] of a file that may not be written.
    SharedReadOnly,
    /// The program's own segments.
    Image,
    /// `brk`.
    Heap,
    /// The first thread's stack.
    Stack,
    /// Clock page and vDSO: never filled on demand, never wiped.
    Kernel,
}

/// What a copy of the process finds in an area.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtFork {
    /// The same bytes.
    Copied,
    /// Zeros (`MADV_WIPEONFORK`).
    Wiped,
    /// Nothing (`MADV_DONTFORK`).
    Left,
}

/// One area, without its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Area {
    /// What programs may do with it.
    pub access: Access,
    /// What it is for.
    pub kind: Kind,
    /// What a copy of the process finds here.
    pub at_fork: AtFork,
}

impl Kind {
    /// Whether its pages are a file's, or others'.
    #[must_use]
    pub const fn is_shared(self) -> bool {
        matches!(self, Self::Shared | Self::SharedReadOnly)
    }

    /// Whether a page that is not there is made when it is touched: others have all they ever get.
    #[must_use]
    pub const fn is_filled(self) -> bool {
        !self.is_shared() && !matches!(self, Self::Kernel)
    }
}

/// Start and end (exclusive) of a stretch of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// First address.
    pub start: u64,
    /// First address behind it.
    pub end: u64,
}

impl Range {
    /// Bytes in it.
    #[must_use]
    pub const fn bytes(self) -> u64 {
        self.end - self.start
    }

    /// What both have in common, if anything.
    #[must_use]
    pub fn intersection(self, other: Self) -> Option<Self> {
        let both = Self { start: self.start.max(other.start), end: self.end.min(other.end) };
        (both.start < both.end).then_some(both)
    }
}

/// All areas of an address space.
#[derive(Clone, Debug, Default)]
pub struct Areas {
    by_start: BTreeMap<u64, (u64, Area)>,
}

impl Areas {
    /// The area that holds `address`.
    #[must_use]
    pub fn find(&self, address: u64) -> Option<(Range, Area)> {
        let (start, (end, area)) = self.by_start.range(..=address).next_back()?;
        (address < *end).then_some((Range { start: *start, end: *end }, *area))
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.by_start.len()
    }

    /// Each area, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (Range, Area)> + '_ {
        self.by_start.iter().map(|(start, (end, area))| (Range { start: *start, end: *end }, *area))
    }

    /// The parts of `range` that are in use, ascending.
    pub fn within(&self, range: Range) -> impl Iterator<Item = (Range, Area)> + '_ {
        let first = self.find(range.start).map_or(range.start, |(found, _)| found.start);
        self.by_start.range(first..range.end).filter_map(move |(start, (end, area))| {
            let part = range.intersection(Range { start: *start, end: *end })?;
            Some((part, *area))
        })
    }

    /// Whether nothing of `range` is in use.
    #[must_use]
    pub fn is_free(&self, range: Range) -> bool {
        self.within(range).next().is_none()
    }

    /// Whether all of `range` is in use.
    #[must_use]
    pub fn is_covered(&self, range: Range) -> bool {
        let used: u64 = self.within(range).map(|(part, _)| part.bytes()).sum();
        used == range.bytes()
    }

    /// Puts an area at `range`, which must be free.
    pub fn insert(&mut self, range: Range, area: Area) {
        debug_assert!(range.start < range.end && self.is_free(range), "areas never overlap");
        let mut merged = range;
        if let Some((before, (end, same))) = self.by_start.range(..range.start).next_back()
            && *end == range.start
            && *same == area
        {
            merged.start = *before;
        }
        if let Some((end, same)) = self.by_start.get(&range.end)
            && *same == area
        {
            merged.end = *end;
            self.by_start.remove(&range.end);
        }
        self.by_start.insert(merged.start, (merged.end, area));
    }

    /// Frees `range`, cutting areas that reach over its ends.
    pub fn remove(&mut self, range: Range) {
        let touched: Vec<(Range, Area)> = self.touching(range);
        for (old, area) in touched {
            self.by_start.remove(&old.start);
            if old.start < range.start {
                self.by_start.insert(old.start, (range.start, area));
            }
            if old.end > range.end {
                self.by_start.insert(range.end, (old.end, area));
            }
        }
    }

    /// Changes every area within `range`; parts not in use stay so.
    pub fn change(&mut self, range: Range, mut change: impl FnMut(&mut Area)) {
        let parts: Vec<(Range, Area)> = self.within(range).collect();
        self.remove(range);
        for (part, mut area) in parts {
            change(&mut area);
            self.insert(part, area);
        }
    }

    /// The highest free stretch of `bytes` bytes that ends at or below `ceiling` and starts at or
    /// above `floor`.
    #[must_use]
    pub fn highest_gap(&self, bytes: u64, floor: u64, ceiling: u64) -> Option<u64> {
        let mut end = ceiling;
        for (start, (area_end, _)) in self.by_start.range(..ceiling).rev() {
            if end.checked_sub(*area_end).is_some_and(|gap| gap >= bytes) {
                break;
            }
            end = end.min(*start);
        }
        end.checked_sub(bytes).filter(|start| *start >= floor)
    }

    fn touching(&self, range: Range) -> Vec<(Range, Area)> {
        let first = self.find(range.start).map_or(range.start, |(found, _)| found.start);
        self.by_start
            .range(first..range.end)
            .map(|(start, (end, area))| (Range { start: *start, end: *end }, *area))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PAGES: usize = 24;

    fn area(tag: u64) -> Area {
        Area { access: Access::from_prot(tag), kind: Kind::Mapped, at_fork: AtFork::Copied }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Put(usize, usize, u64),
        Remove(usize, usize),
        Change(usize, usize, u64),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let place = (0..PAGES, 1..6_usize, 0..3_u64);
        let step = (0..3, place).prop_map(|(verb, (at, length, tag))| match verb {
            0 => Step::Put(at, length, tag),
            1 => Step::Remove(at, length),
            _ => Step::Change(at, length, tag),
        });
        proptest::collection::vec(step, 1..40)
    }

    fn range(at: usize, length: usize) -> Range {
        let end = (at + length).min(PAGES);
        Range { start: at as u64 * 4096, end: end as u64 * 4096 }
    }

    fn naive_gap(model: &[Option<u64>], pages: usize) -> Option<u64> {
        (0..=PAGES - pages)
            .rev()
            .find(|at| model[*at..at + pages].iter().all(Option::is_none))
            .map(|at| at as u64 * 4096)
    }

    proptest! {
        #[test]
        fn areas_behave_like_an_array_of_pages(steps in steps()) {
            let mut areas = Areas::default();
            let mut model: Vec<Option<u64>> = std::vec![None; PAGES];
            for step in steps {
                match step {
                    Step::Put(at, length, tag) => {
                        areas.remove(range(at, length));
                        areas.insert(range(at, length), area(tag));
                        model[at..(at + length).min(PAGES)].fill(Some(tag));
                    }
                    Step::Remove(at, length) => {
                        areas.remove(range(at, length));
                        model[at..(at + length).min(PAGES)].fill(None);
                    }
                    Step::Change(at, length, tag) => {
                        areas.change(range(at, length), |old| *old = area(tag));
                        for page in &mut model[at..(at + length).min(PAGES)] {
                            *page = page.map(|_| tag);
                        }
                    }
                }
                for (page, expected) in model.iter().enumerate() {
                    let found = areas.find(page as u64 * 4096 + 17).map(|(_, area)| area);
                    prop_assert_eq!(found, expected.map(area));
                }
                let parts: Vec<_> = areas.iter().collect();
                for pair in parts.windows(2) {
                    let ((left, first), (right, second)) = (pair[0], pair[1]);
                    prop_assert!(left.end < right.start || (left.end == right.start && first != second));
                }
                for pages in 1..4 {
                    let gap = areas.highest_gap(pages as u64 * 4096, 0, PAGES as u64 * 4096);
                    prop_assert_eq!(gap, naive_gap(&model, pages));
                }
            }
        }
    }
}
