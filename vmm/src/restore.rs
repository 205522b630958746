//! Restore: a snapshot becomes a VM, with what its first moments need already in place.

use crate::flavour::set_msrs;
use crate::gone::{Doing, Gone};
use crate::kvm;
use crate::machine::Shell;
use crate::memory::Ram;
use crate::pagemap::Pagemap;
use crate::snapshot::Run;
use crate::template::Template;
use crate::verify;
use region::Region;
use std::os::fd::OwnedFd;

/// A VM that runs, with what it came from.
#[derive(Debug)]
pub(crate) struct Restored {
    pub(crate) template: Box<Template>,
    pub(crate) ram: Ram,
    pub(crate) pagemap: Pagemap,
    pub(crate) region: Region,
    pub(crate) region_memfd: OwnedFd,
    /// The VM's number, as the node left it in the region before the guest could write there.
    pub(crate) number: u64,
    /// Runs of private pages, as last found.
    pub(crate) private: Vec<Run>,
    /// How far verifications have come.
    pub(crate) verified: verify::Progress,
}

/// The VM's RAM as the snapshot has it.
pub(crate) fn ram(template: &Template, bytes: u64) -> Result<Ram, Gone> {
    const DOING: &str = "map the guest's memory";
    let mut ram = Ram::reserved(bytes).doing(DOING)?;
    template.lay_out(&mut ram).doing(DOING)?;
    Ok(ram)
}

/// Puts a new vCPU into the snapshot's state.
pub(crate) fn set_registers(shell: &Shell, template: &Template) -> Result<(), Gone> {
    const DOING: &str = "set the vCPU's registers";
    set_special_registers(shell, template)?;
    shell.vcpu.set_regs(&template.state.regs).doing(DOING)?;
    shell.vcpu.set_vcpu_events(&template.state.events).doing(DOING)
}

/// All but the general registers and pending events, which `KVM_RUN` itself can take along. The
/// order matters: setting segments puts a PVM vCPU back into its emulator, and its control
/// register, last of the list, takes it out again.
pub(crate) fn set_special_registers(shell: &Shell, template: &Template) -> Result<(), Gone> {
    const DOING: &str = "set the vCPU's registers";
    let (vcpu, state) = (&shell.vcpu, &template.state);
    vcpu.set_sregs(&state.sregs).doing(DOING)?;
    vcpu.set_debug_regs(&state.debug).doing(DOING)?;
    vcpu.set_xcrs(&state.xcrs).doing(DOING)?;
    set_msrs(vcpu, &template.msrs)?;
    kvm::set_xsave(vcpu, &state.xsave).doing(DOING)
}
