//! Restore: a snapshot becomes a VM, with what its first moments need already in place.

use crate::flavour::write_msrs;
use crate::gone::{Doing, Gone};
use crate::kvm;
use crate::machine::{Shell, contents};
use crate::memory::Ram;
use crate::origin::Origin;
use crate::snapshot::{Run, Snapshot, SnapshotFault, VcpuState};
use abi::control::{Restoring, Start};
use abi::layout::PAGE_BYTES;
use std::os::fd::AsFd;

/// Free frames above everything in use that are made private and present up front. The guest
/// allocates the lowest free frame first, so a first program's pages and tables land here; each
/// saves a fault of 11 to 38 us on its way. 96 frames are 384 KiB of the 1 MiB an idle VM may cost.
const FREE_FRAMES_WARM: u64 = 96;

/// The VM's RAM as the snapshot has it, and what it came from.
pub(crate) fn load(shell: &Shell, start: &Start, memfd: impl AsFd) -> Result<(Ram, Origin), Gone> {
    let file = contents(&memfd, "map the snapshot")?;
    let (snapshot, pages_offset) = Snapshot::parse(&file).map_err(Gone::Snapshot)?;
    if (snapshot.flavour, snapshot.cpu_key) != (shell.cpu.flavour, shell.cpu.key) {
        return Err(Gone::Snapshot(SnapshotFault::OtherCpu));
    }
    let sizes = (snapshot.ram_bytes, snapshot.root_image_bytes);
    if sizes != (start.ram_bytes, start.root_image_bytes) {
        return Err(Gone::Snapshot(SnapshotFault::OtherMachine));
    }
    let mut ram = Ram::restored(start.ram_bytes, &memfd, &snapshot.runs, pages_offset)
        .doing("map the guest's memory")?;
    for run in &snapshot.runs {
        ram.populate_shared(*run).doing("map the snapshot's pages")?;
    }
    let origin = Origin::new(file, snapshot, pages_offset, start.restoring)?;
    if start.restoring == Restoring::Copy {
        for run in &origin.snapshot.warm {
            ram.uncover(*run).doing("get memory for the guest")?;
        }
    }
    warm_up(&mut ram, &origin)?;
    Ok((ram, origin))
}

/// Makes what the guest writes first private and present, with the snapshot's bytes in it.
pub(crate) fn warm_up(ram: &mut Ram, origin: &Origin) -> Result<(), Gone> {
    const DOING: &str = "warm the guest's memory";
    for run in origin.snapshot.warm.iter().copied().chain(free_frames(&origin.snapshot)) {
        ram.populate(run).doing(DOING)?;
    }
    if origin.restoring == Restoring::Map {
        // The kernel copied them.
        return Ok(());
    }
    let mut pages = origin.pages();
    for number in origin.snapshot.warm.iter().flat_map(|run| run.first..run.first + run.pages) {
        ram.write(u64::from(number) * PAGE_BYTES, pages.page(number)).doing(DOING)?;
    }
    Ok(())
}

/// The run of free frames right above all that is in use at idle.
fn free_frames(snapshot: &Snapshot) -> Option<Run> {
    let used = snapshot.runs.iter().chain(&snapshot.warm).map(|run| run.end()).max().unwrap_or(0);
    let count = (snapshot.ram_bytes / PAGE_BYTES).saturating_sub(used).min(FREE_FRAMES_WARM);
    let run = Run { first: u32::try_from(used).ok()?, pages: u32::try_from(count).ok()? };
    (run.pages != 0).then_some(run)
}

/// Puts a vCPU into a state. The order matters: setting segments puts a PVM vCPU back into its
/// emulator, and its control register, last of the list, takes it out again.
pub(crate) fn set_registers(shell: &Shell, state: &VcpuState) -> Result<(), Gone> {
    const DOING: &str = "set the vCPU's registers";
    let vcpu = &shell.vcpu;
    vcpu.set_sregs(&state.sregs).doing(DOING)?;
    vcpu.set_regs(&state.regs).doing(DOING)?;
    vcpu.set_debug_regs(&state.debug).doing(DOING)?;
    vcpu.set_xcrs(&state.xcrs).doing(DOING)?;
    write_msrs(vcpu, &state.msrs)?;
    kvm::set_xsave(vcpu, &state.xsave).doing(DOING)?;
    vcpu.set_vcpu_events(&state.events).doing(DOING)
}
