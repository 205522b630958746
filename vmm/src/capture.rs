//! Capture: a VM becomes a snapshot.
//!
//! ```text
//! booted: READY ─► registers and touched pages are copied ─► the guest runs on to its first halt
//!       ─► pages that differ by now are the *warm* ones ─► head and pages go to the memfd
//! ```
//! The warm pages are what every restored VM writes before it is idle; restore makes them private
//! up front. What the guest did after READY is thrown away with this process.

use crate::flavour::read_msrs;
use crate::gone::{Doing, Gone};
use crate::machine::Shell;
use crate::memory::{Page, Ram, ZEROS};
use crate::restore::Restored;
use crate::snapshot::{RUNS_MAX, Run, Snapshot, VcpuState, join_runs};
use crate::vcpu::Vcpu;
use abi::control::Start;
use abi::layout::PAGE_BYTES;
use rustix::io::pwrite;
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;

/// Zero pages up to this many between kept ones are kept too: a mapping costs every restored VM
/// more than some zeros in the shared snapshot.
const GAP_PAGES: u32 = 8;
/// Most pages written since its restore that a captured VM's restores make private up front: half
/// of what an idle VM may cost.
const CHANGED_WARM_MAX: usize = 128;

/// The registers of a stopped vCPU, with these model-specific ones.
pub(crate) fn registers(shell: &Shell, kept: &[u32]) -> Result<VcpuState, Gone> {
    const DOING: &str = "read the vCPU's registers";
    let vcpu = &shell.vcpu;
    Ok(VcpuState {
        regs: vcpu.get_regs().doing(DOING)?,
        sregs: vcpu.get_sregs().doing(DOING)?,
        debug: vcpu.get_debug_regs().doing(DOING)?,
        events: vcpu.get_vcpu_events().doing(DOING)?,
        xcrs: vcpu.get_xcrs().doing(DOING)?,
        xsave: vcpu.get_xsave().doing(DOING)?,
        msrs: read_msrs(vcpu, kept)?,
    })
}

/// Pages of RAM by number, ascending, those of zeros left out.
#[derive(Debug)]
pub(crate) struct Image {
    numbers: Vec<u32>,
    pages: Vec<Page>,
}

impl Image {
    /// Copies every page that is not zero.
    pub(crate) fn copy(ram: &Ram) -> Result<Self, Gone> {
        let mut image = Self { numbers: Vec::new(), pages: Vec::new() };
        let mut page = ZEROS;
        for number in ram.touched().doing("find the guest's pages")? {
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

/// Writes a booted VM as it was when it was ready; returns the snapshot's length.
pub(crate) fn write_booted(
    shell: &Shell,
    state: VcpuState,
    (at_ready, at_idle): (&Image, &Image),
    start: &Start,
    memfd: impl AsFd,
) -> Result<u64, Gone> {
    let changed = at_ready.changed(at_idle);
    let snapshot = Snapshot {
        flavour: shell.cpu.flavour,
        cpu_key: shell.cpu.key,
        ram_bytes: start.ram_bytes,
        root_image_bytes: start.root_image_bytes,
        state,
        runs: at_ready.runs(),
        warm: limited(|gap| join_runs(changed.iter().copied(), gap), 0),
    };
    let write = write(&snapshot, memfd, |number, page| {
        *page = *at_ready.page(number).unwrap_or(&ZEROS);
        Ok(())
    });
    write.doing("write the snapshot")
}

/// Writes an idle VM that was restored, as it is now; returns the snapshot's length. The file
/// stands alone: it also holds the pages that are still those of the snapshot the VM came from.
pub(crate) fn write_idle(
    vcpu: &Vcpu,
    restored: &Restored,
    start: &Start,
    memfd: impl AsFd,
) -> Result<u64, Gone> {
    let (shell, ram) = (&vcpu.shell, &restored.ram);
    let kept: Vec<u32> = restored.template.state.msrs.iter().map(|(index, _)| *index).collect();
    let state = registers(shell, &kept)?;
    let pages = Pages::look(restored).doing("look through the guest's memory")?;
    let snapshot = Snapshot {
        flavour: shell.cpu.flavour,
        cpu_key: shell.cpu.key,
        ram_bytes: start.ram_bytes,
        root_image_bytes: start.root_image_bytes,
        state,
        runs: limited(|gap| join_runs(pages.filled.iter().copied(), gap), GAP_PAGES),
        warm: limited(|gap| join_runs(pages.warm.iter().copied(), gap), 0),
    };
    let write =
        write(&snapshot, memfd, |number, page| ram.read(u64::from(number) * PAGE_BYTES, page));
    write.doing("write the snapshot")
}

/// Pages of a restored VM, by number, ascending.
#[derive(Debug, Default)]
struct Pages {
    /// Those that are not zero.
    filled: Vec<u32>,
    /// Those a VM restored from here is taken to write at once.
    warm: Vec<u32>,
}

impl Pages {
    /// A VM that has been captured cannot run on to show which pages it writes first. It will
    /// attach to its region as it did when it was restored, so the warm pages are those it had
    /// itself; and what it wrote since, as long as that is little: a program waiting for its
    /// request has just written its stacks and the kernel's account of it.
    fn look(restored: &Restored) -> io::Result<Self> {
        let Restored { template, ram, pagemap, .. } = restored;
        let mut private = Vec::new();
        pagemap.private(ram, &mut private)?;
        let mut candidates: Vec<u32> =
            private.iter().copied().chain(template.runs()).flat_map(Run::numbers).collect();
        candidates.sort_unstable();
        candidates.dedup();
        let (mut pages, mut changed) = (Self::default(), Vec::new());
        for number in candidates {
            if !ram.holds(number, &ZEROS)? {
                pages.filled.push(number);
            }
            if !ram.holds(number, template.page(number))? {
                changed.push(number);
            }
        }
        pages.warm = template.warm().iter().copied().flat_map(Run::numbers).collect();
        if changed.len() <= CHANGED_WARM_MAX {
            pages.warm.extend(changed);
        }
        pages.warm.sort_unstable();
        pages.warm.dedup();
        Ok(pages)
    }
}

/// Writes and seals a snapshot; returns its length. `read` fills in each page of its runs.
fn write(
    snapshot: &Snapshot,
    memfd: impl AsFd,
    mut read: impl FnMut(u32, &mut Page) -> io::Result<()>,
) -> io::Result<u64> {
    let mut end = write_at(&memfd, &snapshot.head(), 0)?;
    let mut page = ZEROS;
    for number in snapshot.runs.iter().flat_map(|run| run.numbers()) {
        read(number, &mut page)?;
        end = write_at(&memfd, &page, end)?;
    }
    region::sealed::freeze(&memfd)?;
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
