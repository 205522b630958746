//! Restore: a snapshot becomes a VM, with what its first moments need already in place.
//!
//! Most of the time the host makes us wait, for memory it clears and readers it lets go by, so two
//! threads share the work; somebody may be waiting for this VM:
//! ```text
//! main     snapshot read ─ memory laid out ─┬─ jail entered ─────────────────┬─► runs the vCPU
//! maker    VM ─ vCPU ───────────────────────┴─ slots ─ registers ─ filter ───┘
//! ```

use crate::flavour::set_msrs;
use crate::gone::{Doing, Gone};
use crate::jail::{self, Filter, Needs};
use crate::kvm;
use crate::machine::{Fittings, Parts, Shared, Shell, Wiring};
use crate::memory::Ram;
use crate::pagemap::Pagemap;
use crate::snapshot::Run;
use crate::template::Template;
use crate::verify;
use abi::control::Start;
use region::Region;
use std::os::fd::OwnedFd;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;

/// The maker's frames are shallow, as the control thread's are.
const MAKER_STACK_BYTES: usize = 128 << 10;

/// A VM in its snapshot's state that may not run yet, in a process that has given up all else.
#[derive(Debug)]
pub(crate) struct Made {
    pub(crate) shell: Shell,
    pub(crate) fittings: Fittings,
    pub(crate) template: Arc<Template>,
    pub(crate) pagemap: Pagemap,
    pub(crate) filter: Filter,
}

/// What the maker gets once memory is laid out.
struct Plan {
    template: Arc<Template>,
    wiring: Wiring,
    needs: Needs,
}

/// Restores the snapshot and enters the jail.
pub(crate) fn make(start: &Start, parts: Parts) -> Result<Made, Gone> {
    let Parts { kvm, shared, snapshot, .. } = parts;
    thread::scope(|scope| {
        let (hand_over, plans) = sync_channel(1);
        let maker = thread::Builder::new().name("maker".into()).stack_size(MAKER_STACK_BYTES);
        let maker = maker.spawn_scoped(scope, move || build(kvm, &plans));
        let maker = maker.doing("start a thread")?;
        let finish = || maker.join().unwrap_or_else(|panic| resume_unwind(panic));
        let template = Arc::new(Template::read(start, snapshot)?);
        let (fittings, wiring) = lay_out(start, shared, &template)?;
        let pagemap = Pagemap::open(&fittings.ram);
        let needs =
            Needs { writes_snapshot: start.is_capturable, pagemap: Some(pagemap.question()) };
        // A maker that has given up already says why when it is asked for its VM.
        let _ = hand_over.send(Plan { template: Arc::clone(&template), wiring, needs });
        let file_bytes = start.is_capturable.then_some(start.ram_bytes);
        let (shell, filter) = if jail::is_for_one_thread() {
            let made = finish()?;
            jail::enter(start.user, file_bytes)?;
            made
        } else {
            jail::enter(start.user, file_bytes)?;
            finish()?
        };
        Ok(Made { shell, fittings, template, pagemap, filter })
    })
}

/// The maker's part. Without a plan there will be no VM, and the other thread says why.
fn build(kvm: OwnedFd, plans: &Receiver<Plan>) -> Result<(Shell, Filter), Gone> {
    let shell = Shell::create(kvm)?;
    let Ok(Plan { template, wiring, needs }) = plans.recv() else { return Err(Gone::Asked) };
    template.check(&shell.cpu)?;
    shell.connect(wiring)?;
    set_registers(&shell, &template)?;
    Ok((shell, Filter::new(&needs)?))
}

fn lay_out(start: &Start, shared: Shared, template: &Template) -> Result<(Fittings, Wiring), Gone> {
    const DOING: &str = "map the guest's memory";
    let mut ram = Ram::reserved(start.ram_bytes).doing(DOING)?;
    template.lay_out(&mut ram).doing(DOING)?;
    Fittings::new(ram, start, shared)
}

/// A VM that runs, with what it came from.
#[derive(Debug)]
pub(crate) struct Restored {
    pub(crate) template: Arc<Template>,
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

/// Puts a new vCPU into the snapshot's state.
fn set_registers(shell: &Shell, template: &Template) -> Result<(), Gone> {
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
