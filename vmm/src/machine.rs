//! One KVM machine: VM, vCPU, memory slots, doorbells. The same for boot and restore, which only
//! differ in what RAM and registers hold.
//!
//! There is no interrupt controller and no device: RAM, the shared region, a clock page, the image
//! window and two write-only ports.

use crate::flavour::Cpu;
use crate::gone::{Doing, Gone};
use crate::kvm::{self, Slot};
use crate::lookout::Lookout;
use crate::memory::{Ram, Window};
use abi::control::{Start, status};
use abi::layout::{
    CLOCK_GPA, Flavour, LARGE_PAGE_BYTES, PAGE_BYTES, PORT_DOORBELL, PORT_TIMER, RAM_BYTES_MAX,
    RAM_BYTES_MIN, REGION_GPA, WINDOW_BYTES, WINDOW_GPA, region as layout,
};
use kvm_ioctls::{SyncReg, VcpuFd, VmFd};
use region::{Doorbell, Region};
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

/// Where Intel's CPUs without real-mode support keep three pages; between RAM and 4 GiB.
const TSS_ADDRESS: usize = 0xfffb_d000;

/// The descriptors of a `Start` message.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) kvm: OwnedFd,
    pub(crate) shared: Shared,
    /// Of a boot: the kernel's ELF file.
    pub(crate) kernel: Option<OwnedFd>,
    /// Of a boot: where the snapshot goes. Of a restore: the snapshot.
    pub(crate) snapshot: OwnedFd,
}

/// What a VM shares with the node.
#[derive(Debug)]
pub(crate) struct Shared {
    region: OwnedFd,
    status: OwnedFd,
    /// Node to guest.
    doorbell: OwnedFd,
    /// Guest to node.
    node_doorbell: OwnedFd,
    root_image: Option<OwnedFd>,
    package: Option<OwnedFd>,
}

impl Parts {
    /// Sorts descriptors by the order in which the message names them.
    pub(crate) fn sort(start: &Start, descriptors: Vec<OwnedFd>) -> Result<Self, Gone> {
        let mut descriptors = descriptors.into_iter();
        let mut next = || descriptors.next().ok_or(Gone::Request("a descriptor is missing"));
        let kvm = next()?;
        let (region, status, doorbell, node_doorbell) = (next()?, next()?, next()?, next()?);
        let kernel = if start.is_restore { None } else { Some(next()?) };
        let snapshot = next()?;
        let root_image = if start.root_image_bytes == 0 { None } else { Some(next()?) };
        let package = if start.package_bytes == 0 { None } else { Some(next()?) };
        if descriptors.next().is_some() {
            return Err(Gone::Request("too many descriptors"));
        }
        let shared = Shared { region, status, doorbell, node_doorbell, root_image, package };
        Ok(Self { kvm, shared, kernel, snapshot })
    }
}

/// Checks the numbers of a `Start` message.
pub(crate) fn check(start: &Start) -> Result<(), Gone> {
    if start.abi_version != abi::ABI_VERSION {
        return Err(Gone::Request("the node speaks another ABI version"));
    }
    let is_size = (RAM_BYTES_MIN..=RAM_BYTES_MAX).contains(&start.ram_bytes)
        && start.ram_bytes.is_multiple_of(LARGE_PAGE_BYTES);
    if !is_size || start.root_image_bytes > WINDOW_BYTES {
        return Err(Gone::Request("sizes are out of range"));
    }
    if start.package_bytes != 0 && start.package_offset < packages_from(start) {
        return Err(Gone::Request("the package lies over the root image"));
    }
    Ok(())
}

/// First byte of the window that packages may be placed at: behind the root image.
pub(crate) fn packages_from(start: &Start) -> u64 {
    start.root_image_bytes.next_multiple_of(PAGE_BYTES)
}

/// A VM without memory: enough to find out what the host offers.
#[derive(Debug)]
pub(crate) struct Shell {
    vm: VmFd,
    pub(crate) vcpu: VcpuFd,
    pub(crate) cpu: Cpu,
}

impl Shell {
    /// Creates VM and vCPU.
    pub(crate) fn create(device: OwnedFd) -> Result<Self, Gone> {
        let kvm = kvm::open(device);
        let vm = loop {
            // The kernel gives up on a signal here, which is none of ours.
            match kvm.create_vm() {
                Err(error) if error.errno() == libc::EINTR => {}
                other => break other.doing("create a VM")?,
            }
        };
        let mut vcpu = vm.create_vcpu(0).doing("create a vCPU")?;
        let cpu = Cpu::detect(&kvm, &vcpu)?;
        cpu.prepare(&vcpu)?;
        if cpu.flavour == Flavour::Stock {
            vm.set_tss_address(TSS_ADDRESS).doing("reserve the TSS pages")?;
        }
        vcpu.set_sync_valid_reg(SyncReg::Register);
        vcpu.set_sync_valid_reg(SyncReg::VcpuEvents);
        Ok(Self { vm, vcpu, cpu })
    }

    /// Gives the VM its memory and its doorbells.
    pub(crate) fn connect(&self, wiring: Wiring) -> Result<(), Gone> {
        for (number, slot) in (0..).zip(wiring.slots) {
            kvm::add_slot(&self.vm, number, slot).doing("give the VM memory")?;
        }
        // Doorbells last: connecting one starts an ordinary grace period, which a slot that is
        // added behind it waits for (4 to 15 ms), while slots alone take expedited ones.
        let Wiring { node_doorbell, timer, .. } = wiring;
        kvm::add_doorbell(&self.vm, PORT_DOORBELL, node_doorbell).doing("connect a doorbell")?;
        kvm::add_doorbell(&self.vm, PORT_TIMER, timer).doing("connect the timer")
    }
}

/// What a VM has beside its KVM machine, mapped and open in this process; there may be no such
/// machine yet.
#[derive(Debug)]
pub(crate) struct Fittings {
    pub(crate) ram: Ram,
    pub(crate) window: Window,
    pub(crate) region: Region,
    pub(crate) region_memfd: OwnedFd,
    /// Clock page and counters.
    pub(crate) status: Region,
    /// The node rings it, the vCPU waits for it.
    pub(crate) doorbell: Doorbell,
    /// The guest rings it to have its deadline looked at.
    pub(crate) timer: Doorbell,
    /// Looks at it without being asked to.
    pub(crate) lookout: Arc<Lookout>,
}

/// Where the KVM machine finds its fittings.
#[derive(Debug)]
pub(crate) struct Wiring {
    slots: [Slot; 4],
    node_doorbell: Doorbell,
    timer: Doorbell,
}

impl Fittings {
    /// Maps everything that is not RAM.
    pub(crate) fn new(ram: Ram, start: &Start, shared: Shared) -> Result<(Self, Wiring), Gone> {
        let region =
            Region::map(&shared.region, layout::BYTES, REGION_GPA).doing("map the region")?;
        let status_bytes = u32::try_from(status::BYTES).unwrap_or(u32::MAX);
        let status =
            Region::map(&shared.status, status_bytes, CLOCK_GPA).doing("map the status")?;
        let mut window = Window::reserve(WINDOW_BYTES).doing("reserve the image window")?;
        if let Some(image) = &shared.root_image {
            let bytes = start.root_image_bytes;
            window.place(0, bytes, image).doing("place the root image")?;
        }
        if let Some(package) = &shared.package {
            let (offset, bytes) = (start.package_offset, start.package_bytes);
            window.place(offset, bytes, package).doing("place the package")?;
        }
        let timer = Doorbell::new().doing("create the timer's doorbell")?;
        let lookout = Arc::new(Lookout::new().doing("create a timer")?);
        let doorbell = shared.doorbell.into();
        let region_memfd = shared.region;
        let fittings = Self { ram, window, region, region_memfd, status, doorbell, timer, lookout };
        let wiring = Wiring {
            slots: fittings.slots(),
            node_doorbell: shared.node_doorbell.into(),
            timer: fittings.timer.duplicate().doing("connect the timer")?.into(),
        };
        Ok((fittings, wiring))
    }

    fn slots(&self) -> [Slot; 4] {
        let slots = [
            (0, self.ram.address(), self.ram.bytes(), true),
            (REGION_GPA, self.region.address(), u64::from(layout::BYTES), true),
            (CLOCK_GPA, self.status.address(), PAGE_BYTES, false),
            (WINDOW_GPA, self.window.address(), WINDOW_BYTES, false),
        ];
        slots.map(|(gpa, address, bytes, is_writable)| Slot { gpa, address, bytes, is_writable })
    }
}

/// The bytes of a memfd, mapped for as long as they are needed.
pub(crate) fn contents(memfd: impl AsFd, doing: &'static str) -> Result<region::Contents, Gone> {
    let mapped = region::Contents::map(memfd);
    match mapped {
        Err(error) if error.kind() == ErrorKind::InvalidInput => {
            Err(Gone::Request("a memfd is no memfd"))
        }
        other => other.doing(doing),
    }
}
