//! Whether a reset VM is what its snapshot says, bit for bit: RAM, all registers read back from
//! KVM, the region but for what the node's request put there. Uses nothing the reset itself relies
//! on to know what changed.
//!
//! ```text
//!  RAM   pages that exist, whatever they are ┐
//!        pages the snapshot keeps            ┴─ compared, from where the last time ended, until done
//!                                               or out of time
//!        the rest: nobody made them anything ── some of them read each time, others the next
//! ```
//! A page without an entry in the page tables reads as zeros because there is nothing else it could
//! read as; reading all of those, a fault each, took 400 ms for 512 MiB. The vCPU's thread does
//! this before the VM runs again, so the node says how long it may take, and other VMs on the core
//! get it after every slice.

use crate::capture;
use crate::gone::{Difference, Doing, Gone};
use crate::memory::{Page, Ram, filled};
use crate::pagemap::Pagemap;
use crate::restore::Restored;
use crate::snapshot::{Run, VcpuState};
use crate::template::Template;
use crate::vcpu::Vcpu;
use abi::control::Verified;
use abi::layout::{PAGE_BYTES, region as layout};
use abi::ring::Memory;
use kvm_bindings::kvm_xsave;
use region::clock::monotonic_nanos;
use std::io;
use zerocopy::IntoBytes;

/// Pages compared before others may have the core and the clock is looked at: about 20 us.
const SLICE_PAGES: usize = 64;
/// Pages read each time of those that do not exist; each is a fault of 5 us.
const ABSENT_READ: u32 = 32;

/// What a verification needs to know of those before it.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// The page the next one begins with.
    from: u32,
}

/// Compares until everything is or the time is over, whatever comes first, but registers and region
/// always; a difference is the end of the VM.
pub(crate) fn verify(
    restored: &mut Restored,
    vcpu: &mut Vcpu,
    (generation, limit_nanos): (u64, u64),
) -> Result<Verified, Gone> {
    let until = monotonic_nanos().saturating_add(limit_nanos);
    // Takes the registers along that travel with KVM_RUN, and runs nothing.
    vcpu.settle()?;
    let kept: Vec<u32> = restored.template.state.msrs.iter().map(|(index, _)| *index).collect();
    let found = capture::registers(&vcpu.shell, &kept)?;
    if let Some(name) = different_register(&restored.template.state, &found) {
        return Err(Gone::Different(Difference::Register(name)));
    }
    if let Some(offset) = different_offset(restored).doing("compare the region")? {
        return Err(Gone::Different(Difference::Region(offset)));
    }
    let Restored { template, ram, pagemap, verified, .. } = restored;
    let existing = Existing::find(template, ram, pagemap).doing("compare the guest's memory")?;
    existing.read_absent(generation)?;
    existing.compare(verified, until)
}

/// Pages to be compared.
struct Existing<'a> {
    template: &'a Template,
    ram: &'a Ram,
    /// Runs of them, ascending, apart.
    runs: Vec<Run>,
}

impl<'a> Existing<'a> {
    fn find(template: &'a Template, ram: &'a Ram, pagemap: &Pagemap) -> io::Result<Self> {
        // Before anything is read: whatever is read exists from then on.
        let mut runs = Vec::new();
        pagemap.existing(ram, &mut runs)?;
        runs.extend(template.runs());
        Ok(Self { template, ram, runs: united(runs) })
    }

    /// Compares from where the last verification ended, all the way round.
    fn compare(&self, progress: &mut Progress, until: u64) -> Result<Verified, Gone> {
        let numbers = || self.runs.iter().copied().flat_map(Run::numbers);
        let from = progress.from;
        let ahead = numbers().filter(|number| *number >= from);
        let behind = numbers().filter(|number| *number < from);
        for (count, number) in (1..).zip(ahead.chain(behind)) {
            self.compare_page(number)?;
            if count % SLICE_PAGES == 0 {
                std::thread::yield_now();
                if until <= monotonic_nanos() {
                    progress.from = number.saturating_add(1);
                    return Ok(Verified::Part);
                }
            }
        }
        Ok(Verified::Whole)
    }

    /// Some of the pages that do not exist, evenly spread, in case the host's tables or the laying
    /// out of RAM are not what they are taken for.
    fn read_absent(&self, generation: u64) -> Result<(), Gone> {
        let pages = u32::try_from(self.ram.bytes() / PAGE_BYTES).unwrap_or(u32::MAX);
        let distance = (pages / ABSENT_READ).max(1);
        // Neighbouring generations begin far apart (Knuth's multiplicative hash).
        let scattered = generation.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let first = u32::try_from(scattered % u64::from(distance)).unwrap_or(0);
        for number in (first..pages).step_by(distance as usize) {
            let page = Run { first: number, pages: 1 };
            if !self.is_absent(page) {
                continue;
            }
            // Reading it has the host map its page of zeros there, which later searches would meet. They
            // would also walk the page table that is made for it. A host that is told to forget all of a
            // table's pages takes that away too (Linux 6.14); none of them may have been something, that is
            // in memory: one that was swapped out unknown to the map would be forgotten.
            let neighbours = self.ram.neighbours(number);
            let left = if self.is_absent(neighbours) { neighbours } else { page };
            let resident = self.ram.first_resident(left).doing("ask for the guest's memory")?;
            if let Some(unknown) = resident {
                return Err(Gone::Different(Difference::Page(unknown)));
            }
            self.compare_page(number)?;
            self.ram.forget(left).doing("give memory back")?;
        }
        Ok(())
    }

    /// Whether none of these pages existed, and the snapshot has none of them.
    fn is_absent(&self, pages: Run) -> bool {
        let after = self.runs.partition_point(|run| run.end() <= u64::from(pages.first));
        self.runs.get(after).is_none_or(|run| u64::from(run.first) >= pages.end())
    }

    fn compare_page(&self, number: u32) -> Result<(), Gone> {
        let holds = self.ram.holds(number, self.template.page(number));
        if holds.doing("compare the guest's memory")? {
            Ok(())
        } else {
            Err(Gone::Different(Difference::Page(number)))
        }
    }
}

/// Runs in any order and over each other, as runs that are ascending and apart.
fn united(mut runs: Vec<Run>) -> Vec<Run> {
    runs.sort_unstable_by_key(|run| run.first);
    let mut united: Vec<Run> = Vec::with_capacity(runs.len());
    for run in runs {
        match united.last_mut() {
            Some(last) if u64::from(run.first) <= last.end() => {
                let end = last.end().max(run.end());
                last.pages = u32::try_from(end - u64::from(last.first)).unwrap_or(u32::MAX);
            }
            Some(_) | None => united.push(run),
        }
    }
    united
}

fn different_register(wanted: &VcpuState, found: &VcpuState) -> Option<String> {
    let kinds = [
        ("general registers", wanted.regs.as_bytes(), found.regs.as_bytes()),
        ("special registers", wanted.sregs.as_bytes(), found.sregs.as_bytes()),
        ("debug registers", wanted.debug.as_bytes(), found.debug.as_bytes()),
        ("events", wanted.events.as_bytes(), found.events.as_bytes()),
        ("XCR0", wanted.xcrs.as_bytes(), found.xcrs.as_bytes()),
        ("XSAVE area", &extended(wanted), &extended(found)),
    ];
    for (name, wanted, found) in kinds {
        if let Some(at) = wanted.iter().zip(found).position(|(a, b)| a != b) {
            return Some(format!("{name}, byte {at:#x}"));
        }
    }
    let mut msrs = wanted.msrs.iter().zip(&found.msrs);
    msrs.find(|(a, b)| a != b).map(|((index, _), _)| format!("model-specific register {index:#x}"))
}

/// The XSAVE area without its note of which components are in their initial state (Intel SDM volume
/// 1, section 13.4.2): a CPU may or may not notice that one is. KVM fills initial values in where
/// the note says so; the values are compared.
fn extended(state: &VcpuState) -> [u8; size_of::<kvm_xsave>()] {
    const XSTATE_BV: std::ops::Range<usize> = 512..520;
    let mut bytes = [0; size_of::<kvm_xsave>()];
    bytes.copy_from_slice(state.xsave.as_bytes());
    bytes[XSTATE_BV].fill(0);
    bytes
}

/// Everything in the region is zero but the words a waking guest finds.
fn different_offset(restored: &Restored) -> io::Result<Option<u32>> {
    let written = layout::SEED..layout::IS_RESET + 8;
    let mut page: Page = [0; 4096];
    for (start, end) in filled(&restored.region_memfd)? {
        for at in (start..end).step_by(page.len()) {
            let at = u32::try_from(at).unwrap_or(u32::MAX);
            restored.region.read(at, &mut page);
            let other = (at..).zip(page).find(|(at, byte)| *byte != 0 && !written.contains(at));
            if let Some((offset, _)) = other {
                return Ok(Some(offset));
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::template::tests::template;

    #[test]
    fn united_runs_hold_each_page_once() {
        let run = |first, pages| Run { first, pages };
        let runs = vec![run(9, 3), run(0, 2), run(2, 1), run(10, 1), run(11, 5), run(40, 1)];
        assert_eq!(united(runs), [run(0, 3), run(9, 7), run(40, 1)]);
    }

    /// RAM of 8192 pages laid out from a template that keeps 200 of them.
    fn laid_out() -> (Template, Ram, Pagemap) {
        let template = template(&[Run { first: 1000, pages: 200 }]);
        let mut ram = Ram::reserved(32 << 20).unwrap();
        template.lay_out(&mut ram).unwrap();
        let pagemap = Pagemap::open(&ram);
        (template, ram, pagemap)
    }

    fn compared((template, ram, pagemap): &(Template, Ram, Pagemap)) -> Result<Verified, Gone> {
        let existing = Existing::find(template, ram, pagemap).unwrap();
        existing.compare(&mut Progress::default(), u64::MAX)
    }

    #[test]
    fn a_page_that_differs_is_found_wherever_it_lies() {
        for number in [0, 999, 1000, 1100, 1199, 1200, 5000, 8191] {
            let mut found = laid_out();
            assert!(matches!(compared(&found), Ok(Verified::Whole)));
            found.1.write(u64::from(number) * PAGE_BYTES + 4095, &[1]).unwrap();
            let difference = Difference::Page(number);
            assert!(matches!(compared(&found), Err(Gone::Different(it)) if it == difference));
        }
    }

    #[test]
    fn pages_mapped_from_another_place_are_found() {
        let mut found = laid_out();
        let other = region::sealed::frozen("test", &[9; 4096]).unwrap();
        found.1.overlay(Run { first: 1005, pages: 1 }, &other, 0).unwrap();
        assert!(matches!(compared(&found), Err(Gone::Different(Difference::Page(1005)))));
    }

    #[test]
    fn what_one_verification_leaves_over_the_next_ones_compare() {
        let (template, mut ram, pagemap) = laid_out();
        ram.write(1190 * PAGE_BYTES, &[1]).unwrap();
        let mut progress = Progress::default();
        let existing = Existing::find(&template, &ram, &pagemap).unwrap();
        let parts = (0..100).map(|_| existing.compare(&mut progress, 0));
        let parts: Vec<_> = parts.take_while(|part| matches!(part, Ok(Verified::Part))).collect();
        assert!((2..100).contains(&parts.len()), "{} parts without a difference", parts.len());
    }

    #[test]
    fn pages_that_do_not_exist_are_read_in_turn_and_forgotten() {
        let (template, mut ram, pagemap) = laid_out();
        let before = Existing::find(&template, &ram, &pagemap).unwrap().runs;
        for generation in 0..50 {
            let existing = Existing::find(&template, &ram, &pagemap).unwrap();
            existing.read_absent(generation).unwrap();
        }
        assert_eq!(Existing::find(&template, &ram, &pagemap).unwrap().runs, before);
        // As if the host had not told of it.
        ram.write(5000 * PAGE_BYTES, &[1]).unwrap();
        let existing = Existing { template: &template, ram: &ram, runs: before };
        let found = (0..20_000).find_map(|generation| existing.read_absent(generation).err());
        assert!(matches!(found, Some(Gone::Different(Difference::Page(5000)))));
    }

    fn state() -> VcpuState {
        VcpuState { msrs: vec![(0x277, 8)], ..VcpuState::blank() }
    }

    #[test]
    fn any_register_that_differs_is_named() {
        let wanted = state();
        assert_eq!(different_register(&wanted, &state()), None);
        type Change = (&'static str, fn(&mut VcpuState));
        let changes: [Change; 8] = [
            ("general registers, byte 0x8", |state| state.regs.rbx = 1),
            ("special registers", |state| state.sregs.cr3 = 0x1000),
            ("debug registers, byte 0x8", |state| state.debug.db[1] = 1),
            ("events", |state| state.events.interrupt.injected = 1),
            ("XCR0", |state| state.xcrs.nr_xcrs = 1),
            ("XSAVE area, byte 0x208", |state| state.xsave.region[130] = 1),
            ("XSAVE area, byte 0xffc", |state| state.xsave.region[1023] = 1),
            ("model-specific register 0x277", |state| state.msrs[0].1 = 9),
        ];
        for (name, change) in changes {
            let mut found = state();
            change(&mut found);
            let found = different_register(&wanted, &found).unwrap();
            assert!(found.starts_with(name), "{found} is not {name}");
        }
    }
}
