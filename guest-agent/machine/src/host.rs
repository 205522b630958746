//! The machine's stand-in on the host, for tests: RAM, region, clock page and window are buffers,
//! and a program is a closure. Each thread has a machine of its own.

use abi::layout::{
    BootInfo, CLOCK_GPA, ClockPage, Flavour, PAGE_BYTES, REGION_GPA, WINDOW_BYTES, WINDOW_GPA,
    boot, region,
};
use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use std::cell::{Cell, RefCell};

use crate::frame::FrameTable;
use crate::paging::AddressSpace;
use crate::physical::PAGE;
use crate::state::state;
use crate::user::{Context, Trap};

type Program = Box<dyn FnMut(&mut Context, &AddressSpace) -> Trap>;

/// First free byte behind the kernel image, which the host does not have.
const KERNEL_END: u64 = boot::KERNEL;
/// Bytes of the window that can be placed.
const PLACED_BYTES_MAX: u64 = 16 << 20;

#[derive(Clone, Copy)]
struct Memory {
    ram: *mut u8,
    region: *mut u8,
    clock: *mut u8,
    window: *mut u8,
}

thread_local! {
    static MEMORY: Cell<Option<Memory>> = const { Cell::new(None) };
    static PROGRAM: RefCell<Option<Program>> = const { RefCell::new(None) };
    static TSC: Cell<u64> = const { Cell::new(0) };
    static VECTOR_REGISTER: Cell<u64> = const { Cell::new(0) };
    static OUTS: RefCell<Vec<u16>> = const { RefCell::new(Vec::new()) };
    static HALTS: Cell<u64> = const { Cell::new(0) };
    static ASLEEP: RefCell<Option<Box<dyn FnOnce()>>> = const { RefCell::new(None) };
}

/// Gives this thread a new machine with `ram_bytes` of RAM; the old one's memory leaks.
///
/// # Panics
/// When `ram_bytes` is no multiple of a page or too small for the frame table.
pub fn init(ram_bytes: u64) {
    assert!(ram_bytes.is_multiple_of(PAGE_BYTES) && ram_bytes > KERNEL_END);
    let memory = Memory {
        ram: pages(ram_bytes),
        region: pages(u64::from(region::BYTES)),
        clock: pages(PAGE_BYTES),
        window: pages(PLACED_BYTES_MAX),
    };
    MEMORY.set(Some(memory));
    PROGRAM.take();
    OUTS.take();
    TSC.set(0);
    HALTS.set(0);
    let info = BootInfo {
        magic: BootInfo::MAGIC,
        abi_version: abi::ABI_VERSION,
        flavour: Flavour::Stock as u32,
        ram_bytes,
        kernel_end: KERNEL_END,
        xsave_mask: 7,
        xsave_bytes: 832,
        root_image_offset: 0,
        root_image_bytes: 0,
    };
    state().live.take();
    for spare in state().spares.take() {
        // Its frames belonged to the old machine.
        std::mem::forget(spare);
    }
    state().spare_frames.set(0);
    state().loaded_root.set(boot::ROOT);
    state().ram_bytes.set(ram_bytes);
    state().info.set(Some(info));
    // SAFETY: the buffers were just made and nobody else has them.
    let frames = unsafe { FrameTable::new(&info) };
    state().frames.replace(frames);
    set_clock(0, 0, 1);
}

/// Says where the root image lies, as boot-info does.
pub fn set_root_image(bytes: &[u8]) {
    place(0, bytes);
    let info =
        state().info.get().map(|info| BootInfo { root_image_bytes: bytes.len() as u64, ..info });
    state().info.set(info);
}

/// Puts bytes into the image window, as the VMM does with packages.
///
/// # Panics
/// When they lie outside the window's placeable part.
pub fn place(offset: u64, bytes: &[u8]) {
    assert!(offset + bytes.len() as u64 <= PLACED_BYTES_MAX, "inside the window");
    let to = translate(WINDOW_GPA + offset);
    // SAFETY: the range was just checked; nothing reads the window meanwhile on this thread.
    unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) }
}

/// Sets the clock: one TSC tick is one nanosecond from here on.
pub fn set_clock(monotonic_nanos: u64, realtime_nanos: u64, generation: u64) {
    TSC.set(monotonic_nanos);
    let page = ClockPage {
        sequence: 2,
        reserved: 0,
        multiplier: 1 << 32,
        monotonic_offset: 0,
        realtime_offset: realtime_nanos.wrapping_sub(monotonic_nanos),
        generation,
    };
    set_clock_page(&page);
}

/// Writes the clock page itself.
pub fn set_clock_page(page: &ClockPage) {
    let to = translate(CLOCK_GPA).cast::<ClockPage>();
    // SAFETY: the clock page is a page-aligned buffer of this thread.
    unsafe { to.write(*page) }
}

/// Lets time pass.
pub fn advance(nanos: u64) {
    TSC.set(TSC.get() + nanos);
}

/// What [`crate::user::run`] does: called instead of entering ring 3.
pub fn set_program(program: impl FnMut(&mut Context, &AddressSpace) -> Trap + 'static) {
    PROGRAM.set(Some(Box::new(program)));
}

/// Ports written since the last call.
#[must_use]
pub fn take_outs() -> Vec<u16> {
    OUTS.take()
}

/// How often the kernel halted.
#[must_use]
pub fn halt_count() -> u64 {
    HALTS.get()
}

/// What happens during the next halt, before it ends.
pub fn during_halt(happens: impl FnOnce() + 'static) {
    ASLEEP.set(Some(Box::new(happens)));
}

/// Sets the one register the stand-in for extended state has.
pub fn set_vector_register(value: u64) {
    VECTOR_REGISTER.set(value);
}

/// The one register of the stand-in for extended state.
#[must_use]
pub fn vector_register() -> u64 {
    VECTOR_REGISTER.get()
}

pub(crate) fn run_program(context: &mut Context, space: &AddressSpace) -> Trap {
    let mut program = PROGRAM.take().expect("a program; see `set_program`");
    let trap = program(context, space);
    PROGRAM.set(Some(program));
    trap
}

pub(crate) fn translate(gpa: u64) -> *mut u8 {
    let memory = MEMORY.get().expect("a machine; see `init`");
    let (start, offset) = match gpa {
        WINDOW_GPA.. => (memory.window, gpa - WINDOW_GPA),
        CLOCK_GPA.. => (memory.clock, gpa - CLOCK_GPA),
        REGION_GPA.. => (memory.region, gpa - REGION_GPA),
        _ => (memory.ram, gpa),
    };
    let is_placeable = gpa < WINDOW_GPA || offset < PLACED_BYTES_MAX;
    assert!(is_placeable && gpa < WINDOW_GPA + WINDOW_BYTES, "inside the machine's memory");
    start.wrapping_add(usize::try_from(offset).expect("a 64-bit host"))
}

fn pages(bytes: u64) -> *mut u8 {
    let bytes = usize::try_from(bytes).expect("a 64-bit host");
    let layout = Layout::from_size_align(bytes, PAGE).expect("some pages");
    // SAFETY: the layout is not empty.
    let start = unsafe { alloc_zeroed(layout) };
    if start.is_null() {
        handle_alloc_error(layout);
    }
    start
}

/// Instructions the host cannot execute for us.
pub(crate) mod instruction {
    use super::{ASLEEP, HALTS, OUTS, TSC, VECTOR_REGISTER};

    pub(crate) fn tsc() -> u64 {
        TSC.get()
    }

    pub(crate) fn out(port: u16, _value: u32) {
        OUTS.with_borrow_mut(|outs| outs.push(port));
    }

    pub(crate) fn halt() {
        HALTS.set(HALTS.get() + 1);
        if let Some(happens) = ASLEEP.take() {
            happens();
        }
    }

    pub(crate) fn load_root(_root: u64) {}

    pub(crate) fn invalidate_page(_page: u64) {}

    /// Where the stand-in keeps its register in an area: the first vector register.
    const REGISTER_OFFSET: usize = 160;

    pub(crate) fn xsave(area: *mut u8, _mask: u64) {
        let register = area.wrapping_add(REGISTER_OFFSET).cast::<u64>();
        // SAFETY: every area is at least 576 bytes long and aligned to 64.
        unsafe { register.write(VECTOR_REGISTER.get()) }
    }

    pub(crate) fn xrstor(area: *const u8, _mask: u64) {
        let register = area.wrapping_add(REGISTER_OFFSET).cast::<u64>();
        // SAFETY: every area is at least 576 bytes long and aligned to 64.
        VECTOR_REGISTER.set(unsafe { register.read() });
    }
}
