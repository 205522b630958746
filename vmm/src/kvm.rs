//! What `kvm-ioctls` has no safe function for: adopted descriptors, memory slots over our own
//! mappings, injected interrupts, the TSC offset, XSAVE; and two CPU instructions.

use kvm_bindings::{
    KVM_VCPU_TSC_CTRL, KVM_VCPU_TSC_OFFSET, KVMIO, kvm_debugregs, kvm_device_attr, kvm_interrupt,
    kvm_msrs, kvm_regs, kvm_sregs, kvm_userspace_memory_region, kvm_vcpu_events, kvm_xcrs,
    kvm_xsave,
};
use kvm_ioctls::{IoEventAddress, Kvm, NoDatamatch, VcpuFd, VmFd};
use region::Doorbell;
use std::arch::x86_64::{__cpuid_count, CpuidResult};
use std::io;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use vmm_sys_util::eventfd::EventFd;
use vmm_sys_util::ioctl::ioctl_with_ref;
use vmm_sys_util::{ioctl_io_nr, ioctl_ior_nr, ioctl_iow_nr, ioctl_iowr_nr};

ioctl_io_nr!(KVM_RUN, KVMIO, 0x80);
ioctl_ior_nr!(KVM_GET_REGS, KVMIO, 0x81, kvm_regs);
ioctl_ior_nr!(KVM_GET_SREGS, KVMIO, 0x83, kvm_sregs);
ioctl_iow_nr!(KVM_INTERRUPT, KVMIO, 0x86, kvm_interrupt);
ioctl_iowr_nr!(KVM_GET_MSRS, KVMIO, 0x88, kvm_msrs);
ioctl_ior_nr!(KVM_GET_VCPU_EVENTS, KVMIO, 0x9f, kvm_vcpu_events);
ioctl_ior_nr!(KVM_GET_DEBUGREGS, KVMIO, 0xa1, kvm_debugregs);
ioctl_ior_nr!(KVM_GET_XSAVE, KVMIO, 0xa4, kvm_xsave);
ioctl_ior_nr!(KVM_GET_XCRS, KVMIO, 0xa6, kvm_xcrs);
ioctl_iow_nr!(KVM_SET_SREGS, KVMIO, 0x84, kvm_sregs);
ioctl_iow_nr!(KVM_SET_MSRS, KVMIO, 0x89, kvm_msrs);
ioctl_iow_nr!(KVM_SET_DEBUGREGS, KVMIO, 0xa2, kvm_debugregs);
ioctl_iow_nr!(KVM_SET_XSAVE, KVMIO, 0xa5, kvm_xsave);
ioctl_iow_nr!(KVM_SET_XCRS, KVMIO, 0xa7, kvm_xcrs);
ioctl_iow_nr!(KVM_SET_DEVICE_ATTR, KVMIO, 0xe1, kvm_device_attr);

/// Request numbers, for the system-call filter.
pub(crate) mod number {
    use std::ffi::c_ulong;

    /// What a running VM needs.
    pub(crate) const RUN: [fn() -> c_ulong; 2] = [super::KVM_RUN, super::KVM_INTERRUPT];
    /// What putting a vCPU back needs.
    pub(crate) const RESET: [fn() -> c_ulong; 6] = [
        super::KVM_SET_SREGS,
        super::KVM_SET_MSRS,
        super::KVM_SET_DEBUGREGS,
        super::KVM_SET_XSAVE,
        super::KVM_SET_XCRS,
        super::KVM_SET_DEVICE_ATTR,
    ];
    /// What reading a stopped vCPU needs.
    pub(crate) const CAPTURE: [fn() -> c_ulong; 7] = [
        super::KVM_GET_REGS,
        super::KVM_GET_SREGS,
        super::KVM_GET_MSRS,
        super::KVM_GET_VCPU_EVENTS,
        super::KVM_GET_DEBUGREGS,
        super::KVM_GET_XSAVE,
        super::KVM_GET_XCRS,
    ];
}

/// `/dev/kvm`, opened by the node.
pub(crate) fn open(device: OwnedFd) -> Kvm {
    // SAFETY: the descriptor is owned and given away here; one that is not /dev/kvm makes every
    // later ioctl fail, nothing more.
    unsafe { Kvm::from_raw_fd(device.into_raw_fd()) }
}

/// Guest-physical memory: `bytes` at `gpa`, backed by this process' memory at `address`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slot {
    pub(crate) gpa: u64,
    pub(crate) address: u64,
    pub(crate) bytes: u64,
    pub(crate) is_writable: bool,
}

/// Gives the VM a memory slot. The caller keeps the memory mapped while the VM lives.
pub(crate) fn add_slot(vm: &VmFd, number: u32, slot: Slot) -> io::Result<()> {
    let slot = kvm_userspace_memory_region {
        slot: number,
        flags: if slot.is_writable { 0 } else { kvm_bindings::KVM_MEM_READONLY },
        guest_phys_addr: slot.gpa,
        memory_size: slot.bytes,
        userspace_addr: slot.address,
    };
    // SAFETY: the memory belongs to a mapping of `memory` or `region` that is never unmapped
    // before the process ends and to which this process makes no reference.
    Ok(unsafe { vm.set_user_memory_region(slot) }?)
}

/// Rings `doorbell` whenever the guest writes to `port`, without an exit to this process. The VM
/// keeps it; the descriptor is closed.
pub(crate) fn add_doorbell(vm: &VmFd, port: u16, doorbell: Doorbell) -> io::Result<()> {
    let descriptor = OwnedFd::from(doorbell).into_raw_fd();
    // SAFETY: the descriptor was owned and is given away here.
    let eventfd = unsafe { EventFd::from_raw_fd(descriptor) };
    Ok(vm.register_ioevent(&eventfd, &IoEventAddress::Pio(u64::from(port)), NoDatamatch)?)
}

/// Queues an external interrupt; the vCPU must have said that it can take one.
pub(crate) fn interrupt(vcpu: &VcpuFd, vector: u8) -> io::Result<()> {
    let interrupt = kvm_interrupt { irq: u32::from(vector) };
    // SAFETY: a vCPU descriptor and the structure this ioctl reads.
    let result = unsafe { ioctl_with_ref(vcpu, KVM_INTERRUPT(), &interrupt) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes the guest's time-stamp counter the host's.
pub(crate) fn clear_tsc_offset(vcpu: &VcpuFd) -> io::Result<()> {
    let offset = 0_u64;
    let attribute = kvm_device_attr {
        flags: 0,
        group: KVM_VCPU_TSC_CTRL,
        attr: u64::from(KVM_VCPU_TSC_OFFSET),
        addr: (&raw const offset).addr() as u64,
    };
    // SAFETY: a vCPU descriptor; the attribute points to eight bytes that outlive the call.
    let result = unsafe { ioctl_with_ref(vcpu, KVM_SET_DEVICE_ATTR(), &attribute) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Sets FPU and vector registers.
pub(crate) fn set_xsave(vcpu: &VcpuFd, xsave: &kvm_xsave) -> io::Result<()> {
    // SAFETY: the kernel reads as much as the guest's features need: 4096 bytes, because
    // `flavour` refuses machines that need more.
    Ok(unsafe { vcpu.set_xsave(xsave) }?)
}

/// CPUID as this process sees it.
pub(crate) fn cpuid(leaf: u32, subleaf: u32) -> CpuidResult {
    __cpuid_count(leaf, subleaf)
}

/// XCR0 of the host, 0 when it does not use XSAVE.
pub(crate) fn host_xcr0() -> u64 {
    const OSXSAVE: u32 = 1 << 27;
    if cpuid(1, 0).ecx & OSXSAVE == 0 {
        return 0;
    }
    // SAFETY: CPUID just said that the operating system enabled XGETBV.
    unsafe { xgetbv() }
}

#[target_feature(enable = "xsave")]
fn xgetbv() -> u64 {
    // SAFETY: register 0 exists wherever XGETBV does.
    unsafe { std::arch::x86_64::_xgetbv(0) }
}
