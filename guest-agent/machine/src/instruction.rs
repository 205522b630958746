//! Single instructions as functions. On the host those that would leave the machine do nothing,
//! and the extended state is a stand-in.

#[cfg(target_os = "none")]
mod native {
    use core::arch::asm;

    /// Time stamp counter.
    pub(crate) fn tsc() -> u64 {
        // SAFETY: RDTSC reads a counter and touches nothing else.
        unsafe { core::arch::x86_64::_rdtsc() }
    }

    /// Writes to a port; what that does is the VMM's answer.
    pub(crate) fn out(port: u16, value: u32) {
        // SAFETY: no port of this machine changes the kernel's memory or registers.
        unsafe { asm!("out dx, eax", in("dx") port, in("eax") value, options(nostack)) }
    }

    /// Stops until the VMM goes on.
    pub(crate) fn halt() {
        // SAFETY: leaves to the VMM, which resumes behind it; rings are shared memory and may
        // have changed, which the lack of `nomem` says.
        unsafe { asm!("hlt", options(nostack)) }
    }

    /// Loads a root page table into CR3.
    pub(crate) fn load_root(root: u64) {
        // SAFETY: every root holds the kernel half (upheld by `paging`), so code, stack and
        // direct map stay where they are.
        unsafe { asm!("mov cr3, {}", in(reg) root, options(nostack)) }
    }

    /// Makes the CPU forget what it knows about a page.
    pub(crate) fn invalidate_page(page: u64) {
        // SAFETY: only drops cached translations.
        unsafe { asm!("invlpg [{}]", in(reg) page, options(nostack)) }
    }

    /// The address of the last page fault.
    pub(crate) fn fault_address() -> u64 {
        let address;
        // SAFETY: reads a register.
        unsafe { asm!("mov {}, cr2", out(reg) address, options(nomem, nostack)) }
        address
    }

    /// Writes a model-specific register.
    ///
    /// # Safety
    /// The caller knows what the register does to the kernel.
    pub(crate) unsafe fn write_msr(register: u32, value: u64) {
        let (low, high) = (value & 0xffff_ffff, value >> 32);
        // SAFETY: the caller's duty.
        unsafe {
            asm!("wrmsr", in("ecx") register, in("rax") low, in("rdx") high, options(nostack))
        }
    }

    /// Sets the bases of FS and GS, which the kernel itself does not use.
    pub(crate) fn set_segment_bases(fs: u64, gs: u64) {
        // SAFETY: both are canonical (upheld by `Context`), and the VMM set CR4.FSGSBASE.
        unsafe {
            asm!("wrfsbase {}", "wrgsbase {}", in(reg) fs, in(reg) gs, options(nomem, nostack));
        }
    }

    /// The bases of FS and GS: programs may have changed them.
    pub(crate) fn segment_bases() -> (u64, u64) {
        let (fs, gs);
        // SAFETY: reads registers; the VMM set CR4.FSGSBASE.
        unsafe {
            asm!("rdfsbase {}", "rdgsbase {}", out(reg) fs, out(reg) gs, options(nomem, nostack));
        }
        (fs, gs)
    }

    /// Saves the extended state.
    pub(crate) fn xsave(area: *mut u8, mask: u64) {
        let (low, high) = (mask & 0xffff_ffff, mask >> 32);
        // SAFETY: `Area` is aligned and as long as the VMM says this mask needs.
        unsafe {
            asm!("xsave64 [{}]", in(reg) area, in("rax") low, in("rdx") high, options(nostack));
        }
    }

    /// Restores the extended state.
    pub(crate) fn xrstor(area: *const u8, mask: u64) {
        let (low, high) = (mask & 0xffff_ffff, mask >> 32);
        // SAFETY: `Area` is aligned, long enough and free of reserved bits; the kernel itself
        // uses none of the registers this changes.
        unsafe {
            asm!("xrstor64 [{}]", in(reg) area, in("rax") low, in("rdx") high, options(nostack));
        }
    }
}

#[cfg(not(target_os = "none"))]
pub(crate) use crate::host::instruction::*;
#[cfg(target_os = "none")]
pub(crate) use native::*;
