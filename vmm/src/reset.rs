//! Reset: a used VM becomes what it was right after its restore, in the same process.
//!
//! ```text
//! stop ─► pages that are this VM's own, put back where they differ ─► registers
//!      ─► region emptied, new seed and generation ─► (verified) ─► run
//! ```
//! Pages are copied, never mapped anew or protected: on a page-table hypervisor a page that was
//! taken away costs the next run far more (11 us and up) than a copy (0.1 us). Only a VM that made
//! very many pages its own gives them back.
//!
//! Which pages those are the kernel says; it sees the guest's writes and ours alike, so there is
//! no log that could miss one.

use crate::capture;
use crate::gone::{Doing, Gone};
use crate::machine::Shell;
use crate::memory::pagemap::Pages;
use crate::memory::{PAGE, Ram, ZEROS};
use crate::origin::Origin;
use crate::restore;
use abi::layout::{PAGE_BYTES, region as layout};
use abi::ring::Memory;
use region::Region;
use std::ops::Range;

/// Pages of its own beyond which a VM gives all of them back: 16 MiB. To copy more takes longer
/// than to fault in again what the next run needs of it, and an idle VM is to be small.
const OWN_PAGES_MAX: usize = 4096;

/// Puts RAM back; returns how many pages differed.
pub(crate) fn put_back(origin: &mut Origin, ram: &mut Ram) -> Result<u32, Gone> {
    const DOING: &str = "put the guest's memory back";
    let own = origin.take_own(ram)?;
    let mut pages = origin.pages();
    let mut count = 0;
    let mut page = ZEROS;
    for number in &own {
        let at = u64::from(*number) * PAGE_BYTES;
        let wanted = pages.page(*number);
        ram.read(at, &mut page).doing(DOING)?;
        if page == *wanted {
            continue;
        }
        count += 1;
        // The planted defect: pages that were free stay as the last request left them.
        if !(cfg!(feature = "planted-reset-bug") && *wanted == ZEROS) {
            ram.write(at, wanted).doing(DOING)?;
        }
    }
    if own.len() > OWN_PAGES_MAX {
        ram.give_back().doing(DOING)?;
        restore::warm_up(ram, origin)?;
    }
    origin.keep(own);
    Ok(count)
}

/// Compares the whole VM with its snapshot, bit for bit: what is its own, what is still mapped
/// from the snapshot (which is the snapshot, and looked at all the same), and the registers.
pub(crate) fn verify(origin: &mut Origin, shell: &Shell, ram: &Ram) -> Result<(), Gone> {
    let own = origin.take_own(ram)?;
    let mut pages = origin.pages();
    own.iter().try_for_each(|number| compare(ram, *number, pages.page(*number)))?;
    let mut pages = origin.pages();
    let mut kept = origin.snapshot.runs.iter().flat_map(|run| run.first..run.first + run.pages);
    kept.try_for_each(|number| compare(ram, number, pages.page(number)))?;
    origin.keep(own);
    let difference = capture::registers(shell)?.difference(origin.state());
    difference.map_or(Ok(()), |what| Err(Gone::NotReset(format!("its {what} are"))))
}

fn compare(ram: &Ram, number: u32, wanted: &[u8; PAGE]) -> Result<(), Gone> {
    let mut page = ZEROS;
    let at = u64::from(number) * PAGE_BYTES;
    ram.read(at, &mut page).doing("compare the guest's memory")?;
    if page == *wanted { Ok(()) } else { Err(Gone::NotReset(format!("page {at:#x} is"))) }
}

/// Empties the region but for what the node says there of the VM, and leaves it a new seed and
/// generation.
pub(crate) fn empty(
    origin: &mut Origin,
    region: &Region,
    generation: u64,
    seed: &[u8],
) -> Result<(), Gone> {
    let kept = [layout::VM, layout::POLL_NANOS];
    let values = kept.map(|offset| region.load_u64(offset));
    let start = region.address();
    // The guest reaches the region through this process' page tables: where they have no page it
    // wrote none, and what the node wrote there nobody has read.
    let mut page = ZEROS;
    let show = |found: Range<u64>| {
        for at in found.step_by(PAGE) {
            let offset = u32::try_from(at - start).unwrap_or(0);
            region.read(offset, &mut page);
            if page != ZEROS {
                region.write(offset, &ZEROS);
            }
        }
    };
    let all = start..start + u64::from(layout::BYTES);
    origin.pagemap.each(all, Pages::Present, show).doing("empty the region")?;
    for (offset, value) in kept.into_iter().zip(values) {
        region.store_u64(offset, value);
    }
    region.store_u64(layout::GENERATION, generation);
    region.write(layout::SEED, seed);
    region.fence();
    Ok(())
}
