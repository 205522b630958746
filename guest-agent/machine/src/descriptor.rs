//! GDT, TSS and IDT: which segments there are, and on which stack each fault lands.
//!
//! ```text
//! 08 kernel code   10 kernel data   18 (SYSRET base)   23 user data   2b user code   30 TSS
//! stack 1: faults and preemption   2: double fault   3: NMI   4: machine check
//! ```
//! User code is never 0x33: on a page-table hypervisor the CPU itself would execute an IRET to it.
//! Every vector has a stack of its own table entry, because there a fault taken in the kernel
//! switches stacks as well.

use abi::layout::{Flavour, VECTOR_PREEMPT};
use core::arch::asm;
use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicU16, AtomicU32, AtomicU64, Ordering};

use crate::instruction::write_msr;

pub(crate) const USER_DATA: u64 = 0x23;
pub(crate) const USER_CODE: u64 = 0x2b;
const KERNEL_CODE: u64 = 0x08;
const TASK_STATE: u16 = 0x30;
/// SYSCALL loads 08 and 10; SYSRET loads 18 + 16 and 18 + 8 (AMD64 manual volume 2, section 6.1).
const STAR: u64 = 0x0018_0008 << 32;
const MSR_STAR: u32 = 0xc000_0081;
const MSR_LSTAR: u32 = 0xc000_0082;
const MSR_SFMASK: u32 = 0xc000_0084;
/// Interrupt, direction, trap, alignment check, nested task: off in the kernel.
const SFMASK: u64 = 1 << 9 | 1 << 10 | 1 << 8 | 1 << 18 | 1 << 14;

/// Entries of the IDT: the CPU's faults and everything up to the preemption vector.
const VECTORS: usize = VECTOR_PREEMPT as usize + 1;
const FAULTS: usize = 32;
/// Bytes between the entry stubs.
const STUB_BYTES: u64 = 32;
const PRESENT_INTERRUPT_GATE: u64 = 0x8e00;
const FROM_USER: u64 = 3 << 13;
const VECTOR_BREAKPOINT: usize = 3;

const STACK_BYTES: usize = 16 << 10;

/// A stack; only the CPU and code running on it touch it.
#[repr(C, align(16))]
struct Stack(UnsafeCell<[u8; STACK_BYTES]>);

// SAFETY: never accessed as a Rust object; only its address is taken.
unsafe impl Sync for Stack {}

static STACKS: [Stack; 4] = [const { Stack(UnsafeCell::new([0; STACK_BYTES])) }; 4];

static GDT: [AtomicU64; 8] = [
    AtomicU64::new(0),
    AtomicU64::new(0x00af_9b00_0000_ffff),
    AtomicU64::new(0x00cf_9300_0000_ffff),
    AtomicU64::new(0x00cf_fb00_0000_ffff),
    AtomicU64::new(0x00cf_f300_0000_ffff),
    AtomicU64::new(0x00af_fb00_0000_ffff),
    AtomicU64::new(0),
    AtomicU64::new(0),
];

/// 64-bit TSS as 32-bit words: RSP0 at 4, IST1 at 36, base of the port bitmap at 102.
const TASK_STATE_BYTES: u32 = 104;
static TSS: [AtomicU32; 26] = [const { AtomicU32::new(0) }; 26];

static IDT: [AtomicU64; VECTORS * 2] = [const { AtomicU64::new(0) }; VECTORS * 2];

/// Operand of LGDT and LIDT.
#[repr(C)]
struct TableRegister {
    limit: AtomicU16,
    base: [AtomicU16; 4],
}

unsafe extern "C" {
    static trap_stubs: u8;
    static trap_stubs_emulated: u8;
    static syscall_entry: u8;
}

/// Makes the CPU use these tables and the system call entry. Called once, at boot.
pub(crate) fn install(flavour: Flavour) {
    fill_task_state();
    fill_gates(flavour);
    load_tables();
    // SAFETY: selectors of the GDT above.
    unsafe { write_msr(MSR_STAR, STAR) }
    // SAFETY: the entry saves the program's registers and finds the kernel's stack by itself.
    unsafe { write_msr(MSR_LSTAR, (&raw const syscall_entry).addr() as u64) }
    // SAFETY: the kernel runs with these flags off.
    unsafe { write_msr(MSR_SFMASK, SFMASK) }
}

fn fill_task_state() {
    set_word(4, stack_top(0));
    for (index, stack) in (0..STACKS.len()).enumerate() {
        set_word(36 + index * 8, stack_top(stack));
    }
    // ordering: relaxed, here and below; the CPU reads the tables after the instructions that
    // load them, which the compiler does not move them past (`asm!` without `nomem`).
    TSS[25].store(TASK_STATE_BYTES << 16, Ordering::Relaxed);
    let base = TSS.as_ptr().addr() as u64;
    let low = u64::from(TASK_STATE_BYTES - 1)
        | (base & 0xff_ffff) << 16
        | 0x89 << 40
        | (base >> 24 & 0xff) << 56;
    GDT[6].store(low, Ordering::Relaxed);
    GDT[7].store(base >> 32, Ordering::Relaxed);
}

fn set_word(offset: usize, value: u64) {
    TSS[offset / 4].store((value & 0xffff_ffff) as u32, Ordering::Relaxed);
    TSS[offset / 4 + 1].store((value >> 32) as u32, Ordering::Relaxed);
}

fn stack_top(index: usize) -> u64 {
    (STACKS[index].0.get().addr() + STACK_BYTES) as u64
}

fn fill_gates(flavour: Flavour) {
    let stubs = match flavour {
        Flavour::Stock => &raw const trap_stubs,
        Flavour::Pvm => &raw const trap_stubs_emulated,
    };
    let stubs = stubs.addr() as u64;
    for vector in 0..FAULTS {
        let stack = match vector {
            8 => 2,
            2 => 3,
            18 => 4,
            _ => 1,
        };
        let rights = if vector == VECTOR_BREAKPOINT { FROM_USER } else { 0 };
        set_gate(vector, stubs + vector as u64 * STUB_BYTES, stack, rights);
    }
    set_gate(VECTOR_PREEMPT as usize, stubs + FAULTS as u64 * STUB_BYTES, 1, 0);
}

fn set_gate(vector: usize, entry: u64, stack: u64, rights: u64) {
    let flags = PRESENT_INTERRUPT_GATE | rights | stack;
    let low = entry & 0xffff | KERNEL_CODE << 16 | flags << 32 | (entry >> 16 & 0xffff) << 48;
    IDT[vector * 2].store(low, Ordering::Relaxed);
    IDT[vector * 2 + 1].store(entry >> 32, Ordering::Relaxed);
}

fn load_tables() {
    let gdt = TableRegister::new(GDT.as_ptr().addr(), size_of_val(&GDT));
    // SAFETY: the table is a static, and holds the segments the VMM started the kernel with.
    unsafe { asm!("lgdt [{}]", in(reg) &raw const gdt, options(nostack)) }
    let idt = TableRegister::new(IDT.as_ptr().addr(), size_of_val(&IDT));
    // SAFETY: the table is a static, and its gates lead to the stubs in `user::enter`.
    unsafe { asm!("lidt [{}]", in(reg) &raw const idt, options(nostack)) }
    // SAFETY: the GDT holds a TSS there.
    unsafe { asm!("ltr {:x}", in(reg) TASK_STATE, options(nostack)) }
}

impl TableRegister {
    fn new(base: usize, bytes: usize) -> Self {
        let word = |value: usize| AtomicU16::new(u16::try_from(value).expect("16 bits"));
        let part = |shift: usize| word(base >> shift & 0xffff);
        let limit = word(bytes - 1);
        Self { limit, base: [part(0), part(16), part(32), part(48)] }
    }
}
