//! Whether a reset VM is what its snapshot says, bit for bit: all of RAM, all registers read back
//! from KVM, the region but for what the node's request put there. Uses nothing the reset itself
//! relies on to know what changed.

use crate::capture;
use crate::gone::{Difference, Doing, Gone};
use crate::memory::{Page, filled};
use crate::restore::Restored;
use crate::snapshot::{Run, VcpuState};
use crate::vcpu::Vcpu;
use abi::layout::{PAGE_BYTES, region as layout};
use abi::ring::Memory;
use kvm_bindings::kvm_xsave;
use std::io;
use zerocopy::IntoBytes;

/// Compares everything; a difference is the end of the VM.
pub(crate) fn all(restored: &Restored, vcpu: &mut Vcpu) -> Result<(), Gone> {
    // Takes the registers along that travel with KVM_RUN, and runs nothing.
    vcpu.settle()?;
    let kept: Vec<u32> = restored.template.state.msrs.iter().map(|(index, _)| *index).collect();
    let found = capture::registers(&vcpu.shell, &kept)?;
    if let Some(name) = different_register(&restored.template.state, &found) {
        return Err(Gone::Different(Difference::Register(name)));
    }
    if let Some(number) = different_page(restored).doing("compare the guest's memory")? {
        return Err(Gone::Different(Difference::Page(number)));
    }
    match different_offset(restored).doing("compare the region")? {
        Some(offset) => Err(Gone::Different(Difference::Region(offset))),
        None => forget_what_was_read(restored).doing("give memory back"),
    }
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

fn different_page(restored: &Restored) -> io::Result<Option<u32>> {
    let pages = u32::try_from(restored.ram.bytes() / PAGE_BYTES).unwrap_or(u32::MAX);
    for number in 0..pages {
        if !restored.ram.holds(number, restored.template.page(number))? {
            return Ok(Some(number));
        }
    }
    Ok(None)
}

/// Everything in the region is zero but the words a waking guest finds.
fn different_offset(restored: &Restored) -> io::Result<Option<u32>> {
    let written = layout::SEED..layout::VM + 8;
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

/// The comparison has read pages nobody ever touched, so the host has mapped its page of zeros
/// there. It would go through all of them in every later search for private pages.
fn forget_what_was_read(restored: &Restored) -> io::Result<()> {
    let pages = u32::try_from(restored.ram.bytes() / PAGE_BYTES).unwrap_or(u32::MAX);
    // As found before anything was read: afterwards entries of the map do not tell the page of
    // zeros from one of the VM's own.
    let mut runs: Vec<Run> = restored.private.clone();
    runs.extend(restored.template.runs());
    runs.push(Run { first: pages, pages: 0 });
    runs.sort_unstable_by_key(|run| run.first);
    let mut from = 0;
    for run in runs {
        if let Some(pages) = run.first.checked_sub(from).filter(|pages| *pages > 0) {
            restored.ram.forget(Run { first: from, pages })?;
        }
        from = from.max(u32::try_from(run.end()).unwrap_or(u32::MAX));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

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
