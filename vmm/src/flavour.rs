//! How the host runs guests, and what of its CPU a guest may use.
//!
//! On stock KVM the guest's CPUID and XCR0 are ours to set. On PVM XCR0 is the host's, and so is what
//! CPUID says except on Intel CPUs: the guest is told the host's XCR0 and must save all of it.

use crate::gone::{Doing, Gone};
use crate::kvm;
use abi::layout::{Flavour, MSR_PVM_CONTROL};
use kvm_bindings::{
    CpuId, KVM_MAX_CPUID_ENTRIES, Msrs, kvm_dtable, kvm_msr_entry, kvm_segment, kvm_sregs, kvm_xcrs,
};
use kvm_ioctls::{Cap, Kvm, VcpuFd};

/// Reads as `PVM` on a page-table hypervisor and does not exist elsewhere.
const MSR_PVM_SIGNATURE: u32 = 0x4b56_4d11;
const PVM_SIGNATURE: u64 = 0x4d_5650;
/// Native kernel execution; state valid.
const PVM_CONTROL_NATIVE: u64 = 0x401;

/// XCR0: x87, SSE.
const XCR0_LEGACY: u64 = 3;
/// XCR0: AMX tiles. A process has to ask for them, and their state alone is 8 KiB.
const XCR0_AMX: u64 = 3 << 17;
/// Bytes of `kvm_xsave`.
const XSAVE_BYTES_MAX: u64 = 4096;

const CR0_PE_MP_ET_NE_WP_AM_PG: u64 = 0x8005_0033;
const CR4_PAE: u64 = 1 << 5;
const CR4_OSFXSR: u64 = 1 << 9;
const CR4_OSXMMEXCPT: u64 = 1 << 10;
const CR4_UMIP: u64 = 1 << 11;
const CR4_FSGSBASE: u64 = 1 << 16;
const CR4_OSXSAVE: u64 = 1 << 18;
const CR4_SMEP: u64 = 1 << 20;
const CR4_SMAP: u64 = 1 << 21;
const EFER_SCE_LME_LMA_NXE: u64 = 0xd01;

/// The CPU a guest gets.
#[derive(Clone, Debug)]
pub(crate) struct Cpu {
    pub(crate) flavour: Flavour,
    /// XCR0 for programs.
    pub(crate) xsave_mask: u64,
    /// Bytes of the XSAVE area for it, standard format.
    pub(crate) xsave_bytes: u64,
    /// Digest of everything a snapshot depends on.
    pub(crate) key: u64,
    cpuid: CpuId,
    cr4: u64,
    /// Model-specific registers KVM says a guest's state has.
    msrs: Vec<u32>,
}

impl Cpu {
    /// Finds out what the host offers.
    pub(crate) fn detect(kvm: &Kvm, vcpu: &VcpuFd) -> Result<Self, Gone> {
        let mut cpuid =
            kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES).doing("ask for CPU features")?;
        hide_core_number(&mut cpuid);
        let signature = read_msr(vcpu, MSR_PVM_SIGNATURE);
        let flavour = if signature == Some(PVM_SIGNATURE) { Flavour::Pvm } else { Flavour::Stock };
        let mut mask = kvm::host_xcr0() & !XCR0_AMX;
        if flavour == Flavour::Stock {
            mask &= supported_xcr0(&cpuid);
        }
        let xsave_bytes = xsave_bytes(mask);
        let is_usable = mask & XCR0_LEGACY == XCR0_LEGACY
            && xsave_bytes <= XSAVE_BYTES_MAX
            && kvm.check_extension_int(Cap::Xsave2) <= 4096
            && kvm.check_extension(Cap::ReadonlyMem)
            && kvm.check_extension(Cap::ImmediateExit)
            && kvm.check_extension(Cap::SyncRegs);
        if !is_usable {
            return Err(Gone::Request("this host's CPU or KVM lacks what a VM needs"));
        }
        let cr4 = control_bits(flavour, &cpuid);
        let key = cpu_key(flavour, mask, xsave_bytes, cr4);
        let msrs = kvm.get_msr_index_list().doing("ask for model-specific registers")?;
        let msrs = msrs.as_slice().to_vec();
        Ok(Self { flavour, xsave_mask: mask, xsave_bytes, key, cpuid, cr4, msrs })
    }

    /// What a vCPU gets before any register: its features, its XCR0, its clock.
    pub(crate) fn prepare(&self, vcpu: &VcpuFd) -> Result<(), Gone> {
        vcpu.set_cpuid2(&self.cpuid).doing("set CPU features")?;
        if self.flavour == Flavour::Stock {
            let mut xcrs = kvm_xcrs { nr_xcrs: 1, ..kvm_xcrs::default() };
            xcrs.xcrs[0].value = self.xsave_mask;
            vcpu.set_xcrs(&xcrs).doing("set XCR0")?;
            kvm::clear_tsc_offset(vcpu).doing("make the guest's TSC the host's")?;
        }
        Ok(())
    }

    /// Control registers and flat segments of a kernel in long mode, before it loads its own
    /// tables.
    pub(crate) fn first_sregs(&self, mut sregs: kvm_sregs, root: u64) -> kvm_sregs {
        let flat = kvm_segment {
            limit: u32::MAX,
            selector: 0x10,
            type_: 3,
            present: 1,
            db: 1,
            s: 1,
            g: 1,
            ..kvm_segment::default()
        };
        sregs.cs = kvm_segment { selector: 0x08, type_: 11, db: 0, l: 1, ..flat };
        (sregs.ss, sregs.ds, sregs.es, sregs.fs, sregs.gs) = (flat, flat, flat, flat, flat);
        // VMX wants a busy TSS in long mode, whatever it holds.
        sregs.tr = kvm_segment {
            limit: 0x67,
            selector: 0x30,
            type_: 11,
            present: 1,
            ..kvm_segment::default()
        };
        sregs.ldt = kvm_segment { unusable: 1, ..kvm_segment::default() };
        (sregs.gdt, sregs.idt) = (kvm_dtable::default(), kvm_dtable::default());
        sregs.cr0 = CR0_PE_MP_ET_NE_WP_AM_PG;
        sregs.cr3 = root;
        sregs.cr4 = self.cr4;
        sregs.efer = EFER_SCE_LME_LMA_NXE;
        sregs
    }

    /// Model-specific registers to write after the first `first_sregs`.
    pub(crate) fn first_msrs(&self) -> Vec<(u32, u64)> {
        match self.flavour {
            Flavour::Stock => Vec::new(),
            Flavour::Pvm => vec![(MSR_PVM_CONTROL, PVM_CONTROL_NATIVE)],
        }
    }

    /// Finds the model-specific registers this vCPU has and lets be set: all that a snapshot keeps
    /// and a reset puts back. PVM's control comes last: it only takes effect when everything else
    /// is in place.
    pub(crate) fn kept_msrs(&self, vcpu: &VcpuFd) -> Vec<u32> {
        let mut kept = self.msrs.clone();
        kept.extend(UNLISTED_MSRS);
        kept.extend(mtrrs());
        kept.retain(|index| !is_kept_elsewhere(*index));
        kept.sort_unstable();
        kept.dedup();
        kept.retain(|index| {
            read_msr(vcpu, *index).is_some_and(|value| {
                msr_list(&[(*index, value)]).is_ok_and(|list| set_msrs(vcpu, &list).is_ok())
            })
        });
        if self.flavour == Flavour::Pvm {
            kept.push(MSR_PVM_CONTROL);
        }
        kept
    }
}

/// Registers that KVM has and does not list.
const UNLISTED_MSRS: [u32; 6] = [
    0x48,        // SPEC_CTRL
    0x277,       // PAT
    0xda0,       // XSS
    0x2ff,       // MTRR_DEF_TYPE
    0xc000_0102, // KERNEL_GS_BASE
    0xc000_0103, // TSC_AUX
];
/// Memory types: of no effect in a VM, but they keep what a guest writes.
fn mtrrs() -> impl Iterator<Item = u32> {
    (0x200..0x210).chain([0x250, 0x258, 0x259]).chain(0x268..0x270)
}

/// Whether a register is part of the special registers, or a clock that runs on: on stock KVM the
/// time-stamp counter is set right by its offset to the host's.
fn is_kept_elsewhere(index: u32) -> bool {
    const APIC_BASE: u32 = 0x1b;
    const TSC: u32 = 0x10;
    const TSC_DEADLINE: u32 = 0x6e0;
    const EFER: u32 = 0xc000_0080;
    const FS_BASE: u32 = 0xc000_0100;
    const GS_BASE: u32 = 0xc000_0101;
    // Of another hypervisor's interface, among them clocks: a guest whose CPUID does not name that
    // hypervisor, and ours never does, cannot touch them.
    const HYPER_V: std::ops::RangeInclusive<u32> = 0x4000_0000..=0x4000_01ff;
    let one = [APIC_BASE, TSC, TSC_DEADLINE, EFER, FS_BASE, GS_BASE, MSR_PVM_CONTROL];
    one.contains(&index) || HYPER_V.contains(&index)
}

/// Value of a model-specific register, `None` when the vCPU has none of that number.
pub(crate) fn read_msr(vcpu: &VcpuFd, index: u32) -> Option<u64> {
    let entry = kvm_msr_entry { index, ..kvm_msr_entry::default() };
    let mut msrs = Msrs::from_entries(&[entry]).ok()?;
    match vcpu.get_msrs(&mut msrs) {
        Ok(1) => msrs.as_slice().first().map(|entry| entry.data),
        Ok(_) | Err(_) => None,
    }
}

/// Values of model-specific registers the vCPU has.
pub(crate) fn read_msrs(vcpu: &VcpuFd, indices: &[u32]) -> Result<Vec<(u32, u64)>, Gone> {
    let wanted: Vec<_> = indices.iter().map(|index| (*index, 0)).collect();
    let mut list = msr_list(&wanted)?;
    let read = vcpu.get_msrs(&mut list).doing("read model-specific registers")?;
    if read != indices.len() {
        return Err(Gone::Request("a model-specific register cannot be read"));
    }
    Ok(list.as_slice().iter().map(|entry| (entry.index, entry.data)).collect())
}

/// Model-specific registers as KVM takes them.
pub(crate) fn msr_list(msrs: &[(u32, u64)]) -> Result<Msrs, Gone> {
    let entries: Vec<_> = msrs
        .iter()
        .map(|(index, data)| kvm_msr_entry { index: *index, data: *data, reserved: 0 })
        .collect();
    Msrs::from_entries(&entries).map_err(|_| Gone::Request("too many registers"))
}

/// Writes model-specific registers, in order.
pub(crate) fn set_msrs(vcpu: &VcpuFd, msrs: &Msrs) -> Result<(), Gone> {
    if msrs.as_slice().is_empty() {
        return Ok(());
    }
    let written = vcpu.set_msrs(msrs).doing("set model-specific registers")?;
    if written == msrs.as_slice().len() {
        Ok(())
    } else {
        Err(Gone::Request("a model-specific register was refused"))
    }
}

/// The supported features name the core they were asked on; every VM gets number 0.
fn hide_core_number(cpuid: &mut CpuId) {
    for entry in cpuid.as_mut_slice() {
        match entry.function {
            1 => entry.ebx &= 0x00ff_ffff,
            0xb | 0x1f => entry.edx = 0,
            _ => {}
        }
    }
}

fn feature_word(
    cpuid: &CpuId,
    leaf: u32,
    word: impl Fn(&kvm_bindings::kvm_cpuid_entry2) -> u32,
) -> u32 {
    cpuid.as_slice().iter().find(|it| it.function == leaf && it.index == 0).map_or(0, word)
}

fn supported_xcr0(cpuid: &CpuId) -> u64 {
    let low = feature_word(cpuid, 0xd, |entry| entry.eax);
    let high = feature_word(cpuid, 0xd, |entry| entry.edx);
    u64::from(low) | u64::from(high) << 32
}

/// Bytes of the standard-format XSAVE area (Intel SDM volume 1, section 13.4.3).
fn xsave_bytes(mask: u64) -> u64 {
    const LEGACY_AND_HEADER: u64 = 512 + 64;
    let ends = (2..63).filter(|component| mask & (1 << component) != 0).map(|component| {
        let place = kvm::cpuid(0xd, component);
        u64::from(place.eax) + u64::from(place.ebx)
    });
    ends.fold(LEGACY_AND_HEADER, u64::max)
}

fn control_bits(flavour: Flavour, cpuid: &CpuId) -> u64 {
    let base = CR4_PAE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_FSGSBASE | CR4_OSXSAVE;
    if flavour == Flavour::Pvm {
        // Kernel pages carry the user bit there, so the walls between the two do not apply.
        return base;
    }
    // The kernel neither executes nor touches user pages, so the walls cost nothing.
    let (ebx, ecx) = (feature_word(cpuid, 7, |it| it.ebx), feature_word(cpuid, 7, |it| it.ecx));
    let wall = |is_there: bool, bit: u64| if is_there { bit } else { 0 };
    base | wall(ebx & (1 << 7) != 0, CR4_SMEP)
        | wall(ebx & (1 << 20) != 0, CR4_SMAP)
        | wall(ecx & (1 << 2) != 0, CR4_UMIP)
}

/// FNV-1a (Fowler, Noll, Vo) over what a snapshot depends on.
fn cpu_key(flavour: Flavour, mask: u64, xsave_bytes: u64, cr4: u64) -> u64 {
    let (vendor, basic) = (kvm::cpuid(0, 0), kvm::cpuid(1, 0));
    let (extended, amd) = (kvm::cpuid(7, 0), kvm::cpuid(0x8000_0001, 0));
    let words = [vendor.ebx, vendor.ecx, vendor.edx, basic.eax, basic.ecx, basic.edx, extended.ebx];
    let more = [extended.ecx, extended.edx, amd.ecx, amd.edx, flavour as u32];
    let words = words.iter().chain(&more).map(|word| u64::from(*word));
    words
        .chain([mask, xsave_bytes, cr4])
        .fold(0xcbf2_9ce4_8422_2325, |hash, word| (hash ^ word).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xsave_area_holds_its_components() {
        assert_eq!(xsave_bytes(XCR0_LEGACY), 576);
        let all = xsave_bytes(kvm::host_xcr0() & !XCR0_AMX);
        assert!((576..=XSAVE_BYTES_MAX).contains(&all), "{all}");
    }

    #[test]
    fn key_follows_what_a_snapshot_depends_on() {
        let key = cpu_key(Flavour::Pvm, 7, 832, 0x20);
        assert_eq!(key, cpu_key(Flavour::Pvm, 7, 832, 0x20));
        assert_ne!(key, cpu_key(Flavour::Stock, 7, 832, 0x20));
        assert_ne!(key, cpu_key(Flavour::Pvm, 3, 832, 0x20));
    }
}
