//! The way into ring 3 and back.
//!
//! The kernel keeps two words while a program runs: where its own stack is, and whose context it
//! entered. The second is 0 while the kernel itself runs, which is how a fault of the kernel is
//! told from a program's: on a page-table hypervisor the CPU's privilege level says nothing.
//! ```text
//! enter_program(context)         syscall_entry, trap stubs
//!   push callee-saved              registers ─► context
//!   RUNNING = context              RUNNING = 0
//!   registers ◄─ context           RSP = KERNEL_STACK, pop callee-saved
//!   sysretq | iretq | jmp          ret  (to whoever called enter_program)
//! ```
//! On a page-table hypervisor both run at the CPU's one privilege level, and SYSRET and IRET are
//! traps to the host, each as dear as a system call. There programs are entered by a jump
//! (`docs/decisions/0115-programs-entered-by-a-jump.md`). The host then takes a program for the kernel and
//! sends it no interrupt, so the VMM makes it go on at `preempted` instead.

use core::arch::global_asm;
use core::mem::offset_of;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use abi::layout::{DIRECT_MAP, Flavour, REGION_GPA, VECTOR_PREEMPT, region};

use super::{Context, Trap};
use crate::boot;
use crate::descriptor::{USER_CODE, USER_DATA};
use crate::instruction;

/// The region in the direct map.
const REGION: u64 = DIRECT_MAP + REGION_GPA;

/// The kernel's RSP while a program runs.
static KERNEL_STACK: AtomicU64 = AtomicU64::new(0);
/// The context that runs; 0 while the kernel does.
static RUNNING: AtomicU64 = AtomicU64::new(0);
/// The way in.
static IS_ENTERED_BY_JUMP: AtomicBool = AtomicBool::new(false);
/// The program's RSP for the few instructions that have no other place for it.
static SCRATCH: AtomicU64 = AtomicU64::new(0);

unsafe extern "C" {
    /// Enters the program. Returns 0 behind a system call, 1 behind any other trap.
    fn enter_program(context: *mut Context) -> u64;
    /// The same without a trap. No flag of the context may be one that takes effect before the
    /// program is there.
    fn jump_to_program(context: *mut Context) -> u64;
    static preempted: u8;
}

/// Runs a program until it traps.
pub(super) fn enter(context: &mut Context) -> Trap {
    boot::assert_stack();
    context.sanitise();
    instruction::set_segment_bases(context.fs_base, context.gs_base);
    // ordering: relaxed; see `choose`.
    let is_jump = IS_ENTERED_BY_JUMP.load(Ordering::Relaxed) && !context.is_traced();
    let enter = if is_jump { jump_to_program } else { enter_program };
    // SAFETY: the context's RIP is in the user half and its flags are a program's (checked by
    // the caller and just above), the loaded root holds the kernel half, and the stubs fill the
    // context and return here on the same stack.
    let is_trap = unsafe { enter(&raw mut *context) } != 0;
    (context.fs_base, context.gs_base) = instruction::segment_bases();
    context.is_in_syscall = u64::from(!is_trap);
    if is_trap {
        let vector = u8::try_from(context.vector).expect("a vector of the IDT");
        Trap::from_vector(vector, context.code, instruction::fault_address)
    } else {
        Trap::Syscall
    }
}

/// Chooses the way in. Called once, at boot.
pub(crate) fn choose(flavour: Flavour) {
    // ordering: relaxed, here and elsewhere; the kernel has one thread of execution.
    IS_ENTERED_BY_JUMP.store(flavour == Flavour::Pvm, Ordering::Relaxed);
}

/// Where the kernel goes on when the VMM takes the CPU from a program; 0 for an interrupt.
pub(super) fn preempt_entry() -> u64 {
    if IS_ENTERED_BY_JUMP.load(Ordering::Relaxed) {
        (&raw const preempted).addr() as u64
    } else {
        0
    }
}

/// A fault in the kernel itself; it does not return.
extern "C" fn kernel_fault(frame: &[u64; 7]) -> ! {
    let [vector, code, rip, cs, rflags, rsp, _] = *frame;
    let address = instruction::fault_address();
    panic!(
        "the kernel faulted: vector {vector}, code {code:#x}, rip {rip:#x}, cr2 {address:#x}, \
         cs {cs:#x}, rflags {rflags:#x}, rsp {rsp:#x}"
    );
}

global_asm!(
    ".pushsection .text.enter, \"ax\", @progbits",
    // The program's registers, without RAX, RCX, R11 and RSP, which have their own ways.
    ".macro for_most_registers what",
    "  \\what rdx, 16",
    "  \\what rbx, 24",
    "  \\what rbp, 40",
    "  \\what rsi, 48",
    "  \\what r8, 64",
    "  \\what r9, 72",
    "  \\what r10, 80",
    "  \\what r12, 96",
    "  \\what r13, 104",
    "  \\what r14, 112",
    "  \\what r15, 120",
    ".endm",
    ".macro load_from_rdi register, offset",
    "  mov \\register, [rdi + \\offset]",
    ".endm",
    ".macro store_to_rsp register, offset",
    "  mov [rsp + \\offset], \\register",
    ".endm",
    ".macro store_to_rax register, offset",
    "  mov [rax + \\offset], \\register",
    ".endm",
    // Leaves all but RAX, RCX, R11, RSP and RDI to be loaded, from the context at RDI.
    ".macro leave_kernel",
    "  push rbp",
    "  push rbx",
    "  push r12",
    "  push r13",
    "  push r14",
    "  push r15",
    "  mov [rip + {kernel_stack}], rsp",
    "  mov [rip + {running}], rdi",
    "  for_most_registers load_from_rdi",
    ".endm",
    // All but RIP and RFLAGS, to the context that runs, which RSP then points to. Changes no flag,
    // and of the registers only RAX.
    ".macro store_program",
    "  mov [rip + {scratch}], rsp",
    "  mov rsp, [rip + {running}]",
    "  for_most_registers store_to_rsp",
    "  mov [rsp], rax",
    "  mov [rsp + 8], rcx",
    "  mov [rsp + 56], rdi",
    "  mov [rsp + 88], r11",
    "  mov rax, [rip + {scratch}]",
    "  mov [rsp + 32], rax",
    ".endm",
    ".global enter_program",
    ".balign 64",
    "enter_program:",
    "  leave_kernel",
    "  cmp qword ptr [rdi + {is_in_syscall}], 0",
    "  je 2f",
    // SYSRET: RIP from RCX, flags from R11. The stack is the program's from here on, which no
    // trap touches: interrupts are off and every vector has a stack of its own.
    "  mov rcx, [rdi + {rip}]",
    "  mov r11, [rdi + {rflags}]",
    "  mov rax, [rdi]",
    "  mov rsp, [rdi + 32]",
    "  mov rdi, [rdi + 56]",
    "  sysretq",
    "2:",
    "  push {user_data}",
    "  push [rdi + 32]",
    "  push [rdi + {rflags}]",
    "  push {user_code}",
    "  push [rdi + {rip}]",
    "  mov rcx, [rdi + 8]",
    "  mov r11, [rdi + 88]",
    "  mov rax, [rdi]",
    "  mov rdi, [rdi + 56]",
    "  iretq",
    ".global jump_to_program",
    ".balign 64",
    "jump_to_program:",
    "  leave_kernel",
    "  push [rdi + {rflags}]",
    "  popfq",
    // No instruction from here on changes flags.
    "  mov rcx, [rdi + {rip}]",
    "  mov [rip + {scratch}], rcx",
    "  mov rcx, [rdi + 8]",
    "  mov r11, [rdi + 88]",
    "  mov rax, [rdi]",
    "  mov rsp, [rdi + 32]",
    "  mov rdi, [rdi + 56]",
    "  jmp [rip + {scratch}]",
    // Where the VMM makes a program's CPU go on: all registers but RIP and RFLAGS are the program's.
    ".global preempted",
    ".balign 64",
    "preempted:",
    "  store_program",
    "  movabs rax, [{preempted_rip}]",
    "  mov [rsp + {rip}], rax",
    "  movabs rax, [{preempted_rflags}]",
    "  mov [rsp + {rflags}], rax",
    "  mov qword ptr [rsp + {vector}], {vector_preempt}",
    "  mov qword ptr [rsp + {code}], 0",
    "  mov eax, 1",
    "  jmp 3f",
    ".global syscall_entry",
    ".balign 64",
    "syscall_entry:",
    "  store_program",
    "  mov [rsp + {rip}], rcx",
    "  mov [rsp + {rflags}], r11",
    "  xor eax, eax",
    "  jmp 3f",
    // What the stubs below join at: [rsp] = vector, error code, then what the CPU pushed.
    ".global trap_entry",
    "trap_entry:",
    "  cmp qword ptr [rip + {running}], 0",
    "  je 4f",
    // A program's RIP is in the lower half. Selectors say nothing: see `jump_to_program`.
    "  cmp qword ptr [rsp + 16], 0",
    "  jl 4f",
    "  push rax",
    "  mov rax, [rip + {running}]",
    "  for_most_registers store_to_rax",
    "  mov [rax + 8], rcx",
    "  mov [rax + 56], rdi",
    "  mov [rax + 88], r11",
    "  pop [rax]",
    "  pop [rax + {vector}]",
    "  pop [rax + {code}]",
    "  pop [rax + {rip}]",
    "  pop rcx",
    "  pop [rax + {rflags}]",
    "  pop [rax + 32]",
    "  mov eax, 1",
    "3:",
    "  mov rsp, [rip + {kernel_stack}]",
    "  mov qword ptr [rip + {running}], 0",
    // Faults leave the direction and alignment check flags as the program had them.
    "  push 2",
    "  popfq",
    "  pop r15",
    "  pop r14",
    "  pop r13",
    "  pop r12",
    "  pop rbx",
    "  pop rbp",
    "  ret",
    "4:",
    "  mov rdi, rsp",
    "  and rsp, -16",
    "  push 2",
    "  popfq",
    "  call {kernel_fault}",
    "  ud2",
    ".popsection",
    kernel_stack = sym KERNEL_STACK,
    running = sym RUNNING,
    scratch = sym SCRATCH,
    kernel_fault = sym kernel_fault,
    rip = const offset_of!(Context, rip),
    rflags = const offset_of!(Context, rflags),
    vector = const offset_of!(Context, vector),
    code = const offset_of!(Context, code),
    is_in_syscall = const offset_of!(Context, is_in_syscall),
    user_data = const USER_DATA,
    user_code = const USER_CODE,
    preempted_rip = const REGION + region::PREEMPTED_RIP as u64,
    preempted_rflags = const REGION + region::PREEMPTED_RFLAGS as u64,
    vector_preempt = const VECTOR_PREEMPT,
);

// A stub per vector: 32 faults, then the preemption. AT&T syntax, as only that can push the
// address of a label.
global_asm!(
    ".pushsection .text.enter, \"ax\", @progbits",
    ".macro join_trap_entry number",
    "  .if (\\number == 8) || ((\\number >= 10) && (\\number <= 14)) || (\\number == 17) || \
     (\\number == 21) || (\\number == 29) || (\\number == 30)",
    "  .else",
    "  push $0",
    "  .endif",
    "  push $\\number",
    "  jmp trap_entry",
    ".endm",
    ".global trap_stubs",
    ".balign 32",
    "trap_stubs:",
    ".set number, 0",
    ".rept 33",
    "  .balign 32",
    "  join_trap_entry number",
    "  .set number, number + 1",
    ".endr",
    // On a page-table hypervisor a fault starts the kernel in the emulator, at a microsecond per
    // instruction and without XSAVE. An IRET as if to a program ends that, here one to the next
    // instruction with interrupts off; it leaves one word on the stack.
    ".global trap_stubs_emulated",
    ".balign 32",
    "trap_stubs_emulated:",
    ".set number, 0",
    ".rept 33",
    "  .balign 32",
    "  push ${user_data}",
    "  push %rsp",
    "  push $2",
    "  push ${user_code}",
    "  push $5f",
    "  iretq",
    "5:",
    "  lea 8(%rsp), %rsp",
    "  join_trap_entry number",
    "  .set number, number + 1",
    ".endr",
    ".popsection",
    user_data = const USER_DATA,
    user_code = const USER_CODE,
    options(att_syntax),
);

const _: () = assert!(offset_of!(Context, registers) == 0, "the assembly's offsets");
