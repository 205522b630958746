//! Where things are: the guest-physical map, the kernel's half of the address space, and the
//! offsets inside the shared region.
//!
//! ```text
//! guest-physical
//!   0x00_0000_0000  RAM, private to the VM (RAM_BYTES_MIN..=RAM_BYTES_MAX)
//!   0x10_0000_0000  region: control pages and rings, shared with the node (read-write)
//!   0x10_4000_0000  clock page, written by the VMM (read-only for the guest)
//!   0x10_8000_0000  image window: packages and root images (read-only, placed by the VMM)
//! guest-virtual, PML4 slot 511 of every root
//!   DIRECT_MAP + gpa     every guest-physical byte above, 2 MiB pages, never executable
//!   KERNEL_BASE + gpa    the kernel image as linked, 2 MiB pages
//! ```
//! The kernel half is built once by the VMM before the first instruction and never changes.

/// Bytes of a page; also the only granularity of mappings, snapshots and windows.
pub const PAGE_BYTES: u64 = 4096;
/// Bytes of the pages that map the kernel half.
pub const LARGE_PAGE_BYTES: u64 = 2 << 20;

/// Smallest RAM a VM may have.
pub const RAM_BYTES_MIN: u64 = 32 << 20;
/// Largest RAM a VM may have: stays below the 32-bit device hole of a PC.
pub const RAM_BYTES_MAX: u64 = 3 << 30;

/// Guest-physical address of the shared region.
pub const REGION_GPA: u64 = 0x10_0000_0000;
/// Guest-physical address of the clock page.
pub const CLOCK_GPA: u64 = 0x10_4000_0000;
/// Guest-physical address of the image window.
pub const WINDOW_GPA: u64 = 0x10_8000_0000;
/// Bytes of the image window. Shadow paging costs the host up to 4 MiB per GiB of slot.
pub const WINDOW_BYTES: u64 = 512 << 20;

/// Virtual address of guest-physical address 0 in the direct map (start of PML4 slot 511).
pub const DIRECT_MAP: u64 = 0xffff_ff80_0000_0000;
/// Virtual address of guest-physical address 0 in the kernel's linking range (top 2 GiB).
pub const KERNEL_BASE: u64 = 0xffff_ffff_8000_0000;
/// First virtual address that does not belong to user programs (the lower canonical half).
pub const USER_END: u64 = 0x0000_7fff_ffff_f000;

/// Guest-physical pages the VMM fills before the first instruction.
pub mod boot {
    /// The root page table. An odd page frame, as every root must be (bit 12 of CR3 set): with an
    /// even one a page-table hypervisor runs the kernel in its emulator.
    pub const ROOT: u64 = 0x1000;
    /// PDPT of slot 511.
    pub const PDPT: u64 = 0x2000;
    /// Page directories follow one another from here; `RAM_BYTES_MAX` needs three.
    pub const DIRECTORIES: u64 = 0x3000;
    /// The [`super::BootInfo`] page.
    pub const INFO: u64 = 0xf000;
    /// Top of the stack on which the kernel starts (grows down, 64 KiB).
    pub const STACK_TOP: u64 = 0x2_0000;
    /// First byte the kernel image may be linked at (guest-physical, 2 MiB aligned).
    pub const KERNEL: u64 = 0x20_0000;
}

/// Port of the doorbell the guest rings for the node: an ioeventfd, 4-byte `out`.
pub const PORT_DOORBELL: u16 = 0x510;
/// Port with which the guest asks the VMM to look at [`region::DEADLINE`]: an ioeventfd.
pub const PORT_TIMER: u16 = 0x514;
/// 4-byte `out` that leaves to the VMM: kernel is up and idle, no ring touched yet. The base
/// snapshot is taken behind it.
pub const PORT_READY: u16 = 0x518;
/// 4-byte `out` that leaves to the VMM: the kernel cannot go on. Its message is in
/// [`region::PANIC`].
pub const PORT_PANIC: u16 = 0x51c;
/// Vector of the interrupt by which the VMM preempts user mode, unless the guest names a
/// [`region::PREEMPT_ENTRY`].
pub const VECTOR_PREEMPT: u8 = 0x30;

/// MSR that switches a page-table hypervisor (PVM) to native kernel execution.
pub const MSR_PVM_CONTROL: u32 = 0x4b56_4d10;

/// How the host runs the guest; decided by the VMM, never probed by the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Flavour {
    /// Hardware virtualisation (Intel VMX, AMD SVM): kernel pages are supervisor-only.
    Stock = 0,
    /// Page-table hypervisor: kernel pages carry the user bit and only the VM is a wall.
    Pvm = 1,
}

impl Flavour {
    /// The flavour with this number, if it is one.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::Stock),
            1 => Some(Self::Pvm),
            _ => None,
        }
    }
}

/// The page at [`boot::INFO`]: all the guest is told about its machine.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct BootInfo {
    /// [`BootInfo::MAGIC`].
    pub magic: u64,
    /// [`crate::ABI_VERSION`] of the VMM.
    pub abi_version: u32,
    /// A [`Flavour`] by number.
    pub flavour: u32,
    /// Bytes of RAM from guest-physical 0.
    pub ram_bytes: u64,
    /// First guest-physical byte after the kernel image (page aligned): free RAM starts here.
    pub kernel_end: u64,
    /// XCR0: which parts of the extended state programs may use.
    pub xsave_mask: u64,
    /// Bytes of the XSAVE area for that mask (standard format).
    pub xsave_bytes: u64,
    /// Offset in the image window of the root image, a tar archive; page aligned.
    pub root_image_offset: u64,
    /// Bytes of the root image; 0 when there is none.
    pub root_image_bytes: u64,
}

impl BootInfo {
    /// `PILOTBI1`, little-endian.
    pub const MAGIC: u64 = u64::from_le_bytes(*b"PILOTBI1");
}

/// The clock page at [`CLOCK_GPA`]: a seqlock the VMM writes at restore and at each wake.
///
/// `monotonic = ((tsc * multiplier) >> 32) + monotonic_offset` in nanoseconds (128-bit product),
/// `realtime = monotonic + realtime_offset`. The first line never changes while a VM lives, so
/// monotonic time cannot go back; the offset to realtime is refreshed.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct ClockPage {
    /// Odd while the page is being written.
    pub sequence: u32,
    /// Reserved, 0.
    pub reserved: u32,
    /// Nanoseconds per 2^32 TSC ticks.
    pub multiplier: u64,
    /// Added to the scaled TSC (wrapping).
    pub monotonic_offset: u64,
    /// Added to monotonic time to get nanoseconds since the Unix epoch (wrapping).
    pub realtime_offset: u64,
    /// Differs between any two restores of any snapshot.
    pub generation: u64,
}

/// Offsets in the shared region.
pub mod region {
    use crate::ring::QueueLayout;

    /// Written by the guest: absolute monotonic nanoseconds (guest clock) at which it wants to
    /// run again though nothing happened; `u64::MAX` for never.
    pub const DEADLINE: u32 = 0x0;
    /// Written by the guest: bytes of the message at [`PANIC`].
    pub const PANIC_BYTES: u32 = 0x8;
    /// Written by the guest: where in its kernel it goes on when the VMM takes the CPU from a program
    /// (virtual address); 0 while that takes [`super::VECTOR_PREEMPT`]. A kernel enters programs by a
    /// jump where that saves a trap ([`super::Flavour::Pvm`]), and KVM then takes them for the kernel,
    /// which it never interrupts.
    pub const PREEMPT_ENTRY: u32 = 0x10;
    /// Written by the VMM: the program's RIP when it made the guest go on at [`PREEMPT_ENTRY`]. All
    /// other registers but RFLAGS are still the program's there.
    pub const PREEMPTED_RIP: u32 = 0x18;
    /// Written by the VMM: the program's RFLAGS, as for [`PREEMPTED_RIP`].
    pub const PREEMPTED_RFLAGS: u32 = 0x20;
    /// Written by the VMM when the guest goes on after a halt: absolute monotonic nanoseconds (guest clock)
    /// at which it looks at [`DEADLINE`] without being asked to.
    pub const LOOK_AT: u32 = 0x28;
    /// Written by the guest: what its kernel said before it gave up (UTF-8).
    pub const PANIC: u32 = 0x100;
    /// Room at [`PANIC`].
    pub const PANIC_BYTES_MAX: u32 = 0x700;

    /// Written by the node before the VM starts: 32 bytes of entropy. The guest takes them when
    /// it wakes from a snapshot and overwrites them with zeros.
    pub const SEED: u32 = 0x1000;
    /// Written by the node: number of this restore, as in [`super::ClockPage::generation`].
    pub const GENERATION: u32 = 0x1020;
    /// Written by the node at any time: nanoseconds the guest may poll before it halts (u64).
    pub const POLL_NANOS: u32 = 0x1028;
    /// Written by the node: the VM's number, shown to programs as `vm-<number>` (u64).
    pub const VM: u32 = 0x1030;
    /// Written by the VMM: 1 when it has put this VM back in place. The CPU and a page-table hypervisor
    /// then still remember page tables as they were in its former life.
    pub const IS_RESET: u32 = 0x1038;
    /// Written by the node: 1 when an invoke waits for this VM, so that its guest says at once that it
    /// is ready, and meets its pages later. Only in a VM that was never reset.
    pub const IS_AWAITED: u32 = 0x1040;

    /// Node to guest: requests ([`crate::frame::invoke`]).
    pub const INVOKE: QueueLayout = QueueLayout::first(0x2000, 64, 4096);
    /// Node to guest: programs ([`crate::frame::code`]).
    pub const CODE: QueueLayout = INVOKE.next(16, 16384);
    /// Guest to node: answers ([`crate::frame::outcome`]).
    pub const OUTCOME: QueueLayout = CODE.next(64, 4096);
    /// Guest to node: what programs logged ([`crate::frame::log`]).
    pub const LOG: QueueLayout = OUTCOME.next(128, 2048);
    /// Node to guest: bytes of connections ([`crate::frame::stream`]).
    pub const STREAM_IN: QueueLayout = LOG.next(32, 8192);
    /// Guest to node: bytes of connections ([`crate::frame::stream`]).
    pub const STREAM_OUT: QueueLayout = STREAM_IN.next(32, 8192);

    /// Bytes of the region.
    pub const BYTES: u32 = STREAM_OUT.end();
}

const _: () = {
    assert!(boot::ROOT & PAGE_BYTES != 0, "a root lies at an odd page frame");
    assert!(boot::DIRECTORIES + 7 * PAGE_BYTES <= boot::INFO);
    assert!(boot::STACK_TOP <= boot::KERNEL && boot::KERNEL.is_multiple_of(LARGE_PAGE_BYTES));
    assert!(RAM_BYTES_MAX <= REGION_GPA);
    assert!(REGION_GPA + region::BYTES as u64 <= CLOCK_GPA);
    assert!(CLOCK_GPA + PAGE_BYTES <= WINDOW_GPA);
    assert!(DIRECT_MAP as u128 + ((WINDOW_GPA + WINDOW_BYTES) as u128) < KERNEL_BASE as u128);
    assert!(size_of::<BootInfo>() as u64 <= PAGE_BYTES);
    assert!((region::BYTES as u64).is_multiple_of(PAGE_BYTES));
};
