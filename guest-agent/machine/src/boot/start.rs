//! The first instructions. The VMM has switched on long mode, made the kernel half, filled
//! boot-info and set RSP to the boot stack, which stays the kernel's only stack.

use abi::layout::{BootInfo, Flavour, RAM_BYTES_MAX, RAM_BYTES_MIN, boot};
use core::arch::global_asm;

use crate::descriptor;
use crate::frame::FrameTable;
use crate::physical;
use crate::port;
use crate::state::state;
use crate::user::enter;

unsafe extern "Rust" {
    /// The kernel proper; the guest's binary defines it.
    safe fn kernel_main() -> !;
}

// The outermost frame: a zero frame pointer ends backtraces, and `call` aligns the stack as the
// psABI wants it.
global_asm!(
    ".pushsection .text.start, \"ax\", @progbits",
    ".global _start",
    "_start:",
    "  xor ebp, ebp",
    "  call {start}",
    "  ud2",
    ".popsection",
    start = sym start,
);

extern "C" fn start() -> ! {
    mark_stack();
    let info = read_info();
    state().ram_bytes.set(info.ram_bytes);
    state().info.set(Some(info));
    let flavour = Flavour::from_number(info.flavour);
    let flavour = flavour.unwrap_or_else(|| port::panic("boot-info names no flavour"));
    descriptor::install(flavour);
    enter::choose(flavour);
    // SAFETY: the VMM says where RAM is free, and nothing has used any of it yet.
    let frames = unsafe { FrameTable::new(&info) };
    state().frames.replace(frames);
    kernel_main()
}

/// Lowest word of the boot stack, and what it holds as long as the stack was deep enough. Below
/// it lies boot-info, below that the kernel half's tables.
const STACK_END: u64 = boot::STACK_TOP - STACK_BYTES;
pub(super) const STACK_BYTES: u64 = 64 << 10;
const STACK_MARK: u64 = 0x6b63_6174_7320_666f;

/// Panics if the kernel has ever needed more stack than it has.
pub(crate) fn assert_stack() {
    // SAFETY: the word lies in the boot stack's RAM, which is always mapped.
    let mark = unsafe { stack_end().read_volatile() };
    assert!(mark == STACK_MARK, "the kernel's stack has overflowed");
}

fn mark_stack() {
    // SAFETY: boot has not come anywhere near the end of its stack.
    unsafe { stack_end().write_volatile(STACK_MARK) }
}

fn stack_end() -> *mut u64 {
    core::ptr::with_exposed_provenance_mut(physical::direct(STACK_END))
}

/// Copies boot-info and checks that it is one for this kernel.
fn read_info() -> BootInfo {
    let page = core::ptr::with_exposed_provenance::<BootInfo>(physical::direct(boot::INFO));
    // SAFETY: the VMM fills the page before the first instruction; any bytes are a `BootInfo`.
    let info = unsafe { page.read() };
    if info.magic != BootInfo::MAGIC || info.abi_version != abi::ABI_VERSION {
        port::panic("the VMM speaks another version of the boot interface");
    }
    let is_ram_sane = (RAM_BYTES_MIN..=RAM_BYTES_MAX).contains(&info.ram_bytes)
        && info.kernel_end < info.ram_bytes;
    if !is_ram_sane {
        port::panic("boot-info makes no sense");
    }
    info
}

const _: () = assert!(boot::INFO < STACK_END);
