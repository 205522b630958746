//! Capture: a booted VM becomes a snapshot.
//!
//! ```text
//! READY ─► registers and touched pages are copied ─► the guest runs on to its first halt
//!       ─► pages that differ by now are the *warm* ones ─► head and pages go to the memfd
//! ```
//! A restored VM is captured where it halted, for as long as it lives only stopped.
//!
//! The warm pages are what every restored VM writes before it is idle; restore makes them private
//! up front. What the guest did after READY is thrown away with this process.

use crate::flavour::read_msr;
use crate::gone::{Doing, Gone};
use crate::machine::Shell;
use crate::memory::{Page, Ram, ZEROS};
use crate::origin::Origin;
use crate::snapshot::{RUNS_MAX, Run, Snapshot, VcpuState, join_runs};
use abi::layout::PAGE_BYTES;
use rustix::io::pwrite;
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;

/// Zero pages up to this many between kept ones are kept too: a mapping costs every restored VM
/// more than some zeros in the shared snapshot.
const GAP_PAGES: u32 = 8;

/// The registers of a stopped vCPU.
pub(crate) fn registers(shell: &Shell) -> Result<VcpuState, Gone> {
    const DOING: &str = "read the vCPU's registers";
    let vcpu = &shell.vcpu;
    let kept = shell.cpu.kept_msrs();
    Ok(VcpuState {
        regs: vcpu.get_regs().doing(DOING)?,
        sregs: vcpu.get_sregs().doing(DOING)?,
        debug: vcpu.get_debug_regs().doing(DOING)?,
        events: vcpu.get_vcpu_events().doing(DOING)?,
        xcrs: vcpu.get_xcrs().doing(DOING)?,
        xsave: vcpu.get_xsave().doing(DOING)?,
        msrs: kept.iter().filter_map(|it| Some((*it, read_msr(vcpu, *it)?))).collect(),
    })
}

/// Most pages a restored VM gets up front: 512 KiB of the 1 MiB an idle VM may cost.
const WARM_PAGES_MAX: usize = 128;

/// Pages of RAM by number, ascending, those of zeros left out.
#[derive(Debug)]
pub(crate) struct Image {
    numbers: Vec<u32>,
    pages: Vec<Page>,
}

impl Image {
    /// Copies every page that is not zero, of a first boot.
    pub(crate) fn copy(ram: &Ram) -> Result<Self, Gone> {
        Self::of(ram, ram.touched().doing("find the guest's pages")?.into_iter())
    }

    /// Copies those of these pages, ascending, that are not zero.
    fn of(ram: &Ram, numbers: impl Iterator<Item = u32>) -> Result<Self, Gone> {
        let mut image = Self { numbers: Vec::new(), pages: Vec::new() };
        let mut page = ZEROS;
        for number in numbers {
            ram.read(u64::from(number) * PAGE_BYTES, &mut page).doing("read the guest's pages")?;
            if page.iter().any(|byte| *byte != 0) {
                image.numbers.push(number);
                image.pages.push(page);
            }
        }
        Ok(image)
    }

    fn page(&self, number: u32) -> Option<&Page> {
        self.numbers.binary_search(&number).ok().map(|index| &self.pages[index])
    }

    /// Numbers of the pages that differ between two images, ascending.
    fn changed(&self, later: &Self) -> Vec<u32> {
        let mut numbers: Vec<u32> = self.numbers.iter().chain(&later.numbers).copied().collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers.retain(|number| self.page(*number) != later.page(*number));
        numbers
    }

    /// Runs of kept pages; few enough for a table.
    fn runs(&self) -> Vec<Run> {
        limited(|gap| join_runs(self.numbers.iter().copied(), gap), GAP_PAGES)
    }
}

/// Joins over ever larger gaps until the table has room.
fn limited(join: impl Fn(u32) -> Vec<Run>, mut gap: u32) -> Vec<Run> {
    loop {
        let runs = join(gap);
        if runs.len() <= RUNS_MAX {
            return runs;
        }
        gap = gap.saturating_mul(2).max(1);
    }
}

/// Writes and seals the snapshot of a boot; returns its length.
pub(crate) fn write(
    shell: &Shell,
    state: VcpuState,
    (at_ready, at_idle): (&Image, &Image),
    (ram_bytes, root_image_bytes): (u64, u64),
    memfd: impl AsFd,
) -> Result<u64, Gone> {
    let changed = at_ready.changed(at_idle);
    let snapshot = Snapshot {
        flavour: shell.cpu.flavour,
        cpu_key: shell.cpu.key,
        ram_bytes,
        root_image_bytes,
        state,
        runs: at_ready.runs(),
        warm: limited(|gap| join_runs(changed.iter().copied(), gap), 0),
    };
    put(&snapshot, at_ready, memfd)
}

/// Writes and seals the snapshot of a restored VM that halted; it stands alone. What the VM
/// changed since its restore is what a VM restored from here is likely to change again, so that,
/// within a limit, is warm.
pub(crate) fn running(
    shell: &Shell,
    ram: &Ram,
    origin: &mut Origin,
    memfd: impl AsFd,
) -> Result<u64, Gone> {
    let own = origin.take_own(ram)?;
    let before = &origin.snapshot;
    let mut numbers: Vec<u32> =
        before.runs.iter().flat_map(|run| run.first..run.first + run.pages).chain(own).collect();
    numbers.sort_unstable();
    numbers.dedup();
    let image = Image::of(ram, numbers.into_iter())?;
    let is_warm = |number: &u32| before.warm.iter().any(|run| run.holds(*number));
    let mut pages = origin.pages();
    let changed = image
        .numbers
        .iter()
        .zip(&image.pages)
        .filter(|(number, page)| is_warm(number) || pages.page(**number) != *page);
    let warm: Vec<u32> = changed.map(|(number, _)| *number).take(WARM_PAGES_MAX).collect();
    let snapshot = Snapshot {
        flavour: before.flavour,
        cpu_key: before.cpu_key,
        ram_bytes: before.ram_bytes,
        root_image_bytes: before.root_image_bytes,
        state: registers(shell)?,
        runs: image.runs(),
        warm: limited(|gap| join_runs(warm.iter().copied(), gap), 0),
    };
    put(&snapshot, &image, memfd)
}

fn put(snapshot: &Snapshot, image: &Image, memfd: impl AsFd) -> Result<u64, Gone> {
    let head = snapshot.head();
    let mut end = write_at(&memfd, &head, 0).doing("write the snapshot")?;

    for run in &snapshot.runs {
        for number in run.first..run.first + run.pages {
            let page = image.page(number).unwrap_or(&ZEROS);
            end = write_at(&memfd, page, end).doing("write the snapshot")?;
        }
    }
    region::sealed::freeze(&memfd).doing("seal the snapshot")?;
    Ok(end)
}

fn write_at(memfd: impl AsFd, mut bytes: &[u8], mut offset: u64) -> io::Result<u64> {
    while !bytes.is_empty() {
        let written = pwrite(&memfd, bytes, offset)?;
        if written == 0 {
            return Err(ErrorKind::WriteZero.into());
        }
        bytes = &bytes[written..];
        offset += written as u64;
    }
    Ok(offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(pages: &[(u32, u8)]) -> Image {
        let numbers = pages.iter().map(|(number, _)| *number).collect();
        Image { numbers, pages: pages.iter().map(|(_, byte)| [*byte; 4096]).collect() }
    }

    #[test]
    fn changed_pages_are_those_written_or_new_or_gone() {
        let before = image(&[(1, 1), (2, 2), (5, 5)]);
        let after = image(&[(1, 1), (2, 3), (9, 9)]);
        assert_eq!(before.changed(&after), [2, 5, 9]);
    }

    #[test]
    fn zeros_are_left_out_and_small_gaps_kept() {
        let mut ram = Ram::blank(32 << 20).unwrap();
        ram.write(4096, &[1]).unwrap();
        ram.write(2 * 4096, &[0]).unwrap();
        ram.write(4 * 4096, &[1]).unwrap();
        ram.write(1000 * 4096, &[1]).unwrap();
        let image = Image::copy(&ram).unwrap();
        assert_eq!(image.numbers, [1, 4, 1000]);
        assert_eq!(image.runs(), [Run { first: 1, pages: 4 }, Run { first: 1000, pages: 1 }]);
    }

    #[test]
    fn a_table_never_grows_past_its_limit() {
        let pages = || (0..3 * u32::try_from(RUNS_MAX).unwrap()).map(|index| index * 4);
        let runs = limited(|gap| join_runs(pages(), gap), 0);
        assert!(runs.len() <= RUNS_MAX);
        assert_eq!(runs.last().unwrap().end(), u64::from(pages().next_back().unwrap()) + 1);
    }
}
