//! A guest kernel of a hundred instructions that does what a test writes into the region.

#![expect(unsafe_code, reason = "the guest's code is assembled into this program's constants")]

use abi::layout::{KERNEL_BASE, LARGE_PAGE_BYTES, boot};
use std::os::fd::OwnedFd;

/// The node writes a command here and rings.
pub(crate) const COMMAND: u32 = 0x800;
/// Its argument.
pub(crate) const ARGUMENT: u32 = 0x808;
/// The guest answers here, not with 0.
pub(crate) const ANSWER: u32 = 0x810;
/// Times the guest woke from its halt.
pub(crate) const WAKES: u32 = 0x818;
/// What RAM held when the guest woke from its snapshot: [`MARK`] plus the number of wakes that
/// happened before, which is 0 in a true restore.
pub(crate) const FOUND: u32 = 0x820;
/// Left in RAM before the snapshot.
pub(crate) const MARK: u64 = 0x1234_5678_0000_0000;

/// Panics with the message in the region.
pub(crate) const PANIC: u64 = 1;
/// Answers with the 8 bytes at an offset in the image window.
pub(crate) const READ_WINDOW: u64 = 2;
/// Spins in user mode until the timer, set to the argument, interrupts it; answers with the
/// interrupted RIP.
pub(crate) const PREEMPT: u64 = 3;
/// Writes to a port that does not exist.
pub(crate) const BAD_PORT: u64 = 4;
/// Faults without a handler.
pub(crate) const TRIPLE_FAULT: u64 = 5;
/// Halts until the argument's deadline, then answers with its time-stamp counter.
pub(crate) const SLEEP: u64 = 6;
/// Rings the node's doorbell.
pub(crate) const RING: u64 = 7;
/// Answers with a word of the clock page, at the argument's offset.
pub(crate) const READ_CLOCK: u64 = 8;
/// Halts in user mode.
pub(crate) const USER_HALT: u64 = 9;
/// Reads guest-physical memory that does not exist.
pub(crate) const NO_MEMORY: u64 = 10;
/// Never halts and never answers.
pub(crate) const SPIN: u64 = 11;

/// Writes to as many pages as the argument says, from [`DIRTY_RAM`] on.
pub(crate) const DIRTY: u64 = 12;
/// Leaves something in vector, debug, segment-base and model-specific registers.
pub(crate) const REGISTERS: u64 = 13;
/// Answers with 1 when none of those registers holds anything, else with 2.
pub(crate) const CHECK: u64 = 14;
/// Answers with the 8 bytes at an offset in RAM, plus 1.
pub(crate) const PEEK: u64 = 15;
/// As [`PREEMPT`], but does not ask for the timer.
pub(crate) const PREEMPT_UNASKED: u64 = 16;

/// Guest-physical address of RAM that is not part of the snapshot.
pub(crate) const DIRTY_RAM: u64 = 0x80_0000;

/// User address of the code: the same bytes, mapped for user mode.
pub(crate) const USER_CODE: u64 = 0x40_0000;

// rbx: region in the direct map; rbp: data segment.
// Data: 0 GDT, 0x100 TSS, 0x1000 IDT, 0x2000 user PDPT, 0x3000 user directory, 0x8000 stack top,
// 0xa000 interrupt stack top, 0xb000 mark.
std::arch::global_asm!(
    r#"
    .pushsection .rodata.test_guest, "a", @progbits
    .balign 16
    .global test_guest_start
    .global test_guest_end
test_guest_start:
    movabs rbx, 0xffffff9000000000
    mov rbp, 0xffffffff80400000
    lea rsp, [rbp + 0x8000]
    # Descriptors: kernel code 8, data 10, user data 20, code 28, TSS 30.
    movabs rax, 0x00af9b000000ffff
    mov [rbp + 0x08], rax
    movabs rax, 0x00cf93000000ffff
    mov [rbp + 0x10], rax
    movabs rax, 0x00cff3000000ffff
    mov [rbp + 0x20], rax
    movabs rax, 0x00affb000000ffff
    mov [rbp + 0x28], rax
    movabs rax, 0x8000894001000067
    mov [rbp + 0x30], rax
    mov rax, 0xffffffff
    mov [rbp + 0x38], rax
    lea rax, [rbp + 0xa000]
    mov [rbp + 0x104], rax
    # User half: one large page over this code.
    mov rax, 0x402027
    movabs rcx, 0xffffff8000001000
    mov [rcx], rax
    mov rax, 0x403027
    mov [rbp + 0x2000], rax
    mov rax, 0x2000e7
    mov [rbp + 0x3010], rax
    # Every exception panics, vector 30 preempts.
    lea rdi, [rbp + 0x1000]
    xor ecx, ecx
2:  lea rax, [rip + test_guest_fault]
    call test_guest_gate
    inc ecx
    cmp ecx, 32
    jb 2b
    lea rdi, [rbp + 0x1300]
    lea rax, [rip + test_guest_preempt]
    call test_guest_gate
    push rbp
    sub rsp, 8
    mov word ptr [rsp + 6], 0x3f
    lgdt [rsp + 6]
    lea rax, [rbp + 0x1000]
    mov [rsp + 8], rax
    mov word ptr [rsp + 6], 0xfff
    lidt [rsp + 6]
    mov ax, 0x30
    ltr ax
    lea rsp, [rbp + 0x8000]
    movabs rax, 0x1234567800000000
    mov [rbp + 0xb000], rax
    mov dx, 0x518
    out dx, eax
    # Restored guests go on here.
    mov rax, [rbp + 0xb000]
    mov [rbx + 0x820], rax
test_guest_loop:
    lea rsp, [rbp + 0x8000]
    mov qword ptr [rbx], -1
    hlt
    inc qword ptr [rbp + 0xb000]
    inc qword ptr [rbx + 0x818]
    xor eax, eax
    xchg [rbx + 0x800], rax
    mov rcx, [rbx + 0x808]
    cmp rax, 1
    je test_guest_panic
    cmp rax, 2
    je test_guest_window
    cmp rax, 3
    je test_guest_user_spin
    cmp rax, 4
    je test_guest_bad_port
    cmp rax, 5
    je test_guest_triple
    cmp rax, 6
    je test_guest_sleep
    cmp rax, 7
    je test_guest_ring
    cmp rax, 8
    je test_guest_clock
    cmp rax, 9
    je test_guest_user_halt
    cmp rax, 10
    je test_guest_no_memory
    cmp rax, 12
    je test_guest_dirty
    cmp rax, 13
    je test_guest_registers
    cmp rax, 14
    je test_guest_check
    cmp rax, 15
    je test_guest_peek
    cmp rax, 16
    je test_guest_user_unasked
    cmp rax, 11
    jne test_guest_loop
3:  pause
    jmp 3b
test_guest_panic:
    mov dx, 0x51c
    out dx, eax
    jmp test_guest_loop
test_guest_window:
    movabs rax, 0xffffff9080000000
    mov rax, [rax + rcx]
    mov [rbx + 0x810], rax
    jmp test_guest_loop
test_guest_user_spin:
    mov [rbx], rcx
    mov dx, 0x514
    out dx, eax
    lea rax, [rip + test_guest_spin_here]
    jmp test_guest_to_user
test_guest_user_unasked:
    mov [rbx], rcx
    lea rax, [rip + test_guest_spin_here]
    jmp test_guest_to_user
test_guest_user_halt:
    lea rax, [rip + test_guest_halt_here]
test_guest_to_user:
    lea rcx, [rip + test_guest_start]
    sub rax, rcx
    add rax, 0x400000
    push 0x23
    push 0
    push 0x202
    push 0x2b
    push rax
    iretq
test_guest_spin_here:
    inc r8
    jmp test_guest_spin_here
test_guest_halt_here:
    hlt
    jmp test_guest_halt_here
test_guest_bad_port:
    mov dx, 0x777
    out dx, eax
    jmp test_guest_loop
test_guest_triple:
    push 0
    push 0
    lidt [rsp]
    ud2
test_guest_sleep:
    mov [rbx], rcx
    hlt
    rdtsc
    shl rdx, 32
    or rax, rdx
    mov [rbx + 0x810], rax
    jmp test_guest_loop
test_guest_ring:
    mov dx, 0x510
    out dx, eax
    mov qword ptr [rbx + 0x810], 1
    jmp test_guest_loop
test_guest_clock:
    movabs rax, 0xffffff9040000000
    mov rax, [rax + rcx]
    mov [rbx + 0x810], rax
    jmp test_guest_loop
test_guest_no_memory:
    movabs rax, 0xffffff90001ff000
    mov rax, [rax]
    jmp test_guest_loop
test_guest_dirty:
    movabs rax, 0xffffff8000800000
4:  test rcx, rcx
    jz test_guest_done
    mov [rax], rcx
    add rax, 4096
    dec rcx
    jmp 4b
test_guest_done:
    mov qword ptr [rbx + 0x810], 1
    jmp test_guest_loop
test_guest_registers:
    vpcmpeqb ymm0, ymm0, ymm0
    vpcmpeqb ymm15, ymm15, ymm15
    # AVX-512, where the machine has it: boot-info's XSAVE mask.
    movabs rax, 0xffffff800000f020
    mov rax, [rax]
    test al, 0x40
    jz 5f
    vpternlogd zmm31, zmm31, zmm31, 0xff
    kxnorw k1, k1, k1
5:  mov rax, 0x1230
    mov dr0, rax
    mov dr3, rax
    mov cr2, rax
    wrfsbase rax
    wrgsbase rax
    mov edx, 0xffffff80
    mov ecx, 0xc0000082
    wrmsr
    mov ecx, 0xc0000102
    wrmsr
    xor edx, edx
    mov ecx, 0xc0000084
    wrmsr
    mov ecx, 0x176
    wrmsr
    jmp test_guest_done
test_guest_check:
    vextracti128 xmm1, ymm15, 1
    vmovq r8, xmm1
    vmovq rax, xmm0
    or r8, rax
    mov rax, dr0
    or r8, rax
    mov rax, dr3
    or r8, rax
    mov rax, cr2
    or r8, rax
    rdfsbase rax
    or r8, rax
    rdgsbase rax
    or r8, rax
    mov ecx, 0xc0000082
    rdmsr
    or r8, rax
    mov ecx, 0xc0000102
    rdmsr
    or r8, rax
    mov ecx, 0xc0000084
    rdmsr
    or r8, rax
    mov ecx, 0x176
    rdmsr
    or r8, rax
    xor eax, eax
    test r8, r8
    setne al
    inc rax
    mov [rbx + 0x810], rax
    jmp test_guest_loop
test_guest_peek:
    movabs rax, 0xffffff8000000000
    mov rax, [rax + rcx]
    inc rax
    mov [rbx + 0x810], rax
    jmp test_guest_loop
test_guest_preempt:
    mov rax, [rsp]
    mov [rbx + 0x810], rax
    jmp test_guest_loop
test_guest_fault:
    mov dword ptr [rbx + 8], 5
    movabs rax, 0x746c756166
    mov [rbx + 0x100], rax
    jmp test_guest_panic
test_guest_gate:
    mov word ptr [rdi], ax
    mov word ptr [rdi + 2], 0x08
    mov word ptr [rdi + 4], 0x8e00
    shr rax, 16
    mov word ptr [rdi + 6], ax
    shr rax, 16
    mov [rdi + 8], rax
    add rdi, 16
    ret
    .balign 16
test_guest_end:
    .popsection
    "#
);

unsafe extern "C" {
    static test_guest_start: u8;
    static test_guest_end: u8;
}

fn code() -> &'static [u8] {
    let start = &raw const test_guest_start;
    let bytes = (&raw const test_guest_end).addr() - start.addr();
    // SAFETY: both symbols bound the constant assembled above.
    unsafe { std::slice::from_raw_parts(start, bytes) }
}

/// The guest as an ELF file in a sealed memfd: code at [`boot::KERNEL`], data a large page later.
pub(crate) fn kernel() -> OwnedFd {
    let code = code();
    let data = boot::KERNEL + LARGE_PAGE_BYTES;
    let mut elf = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    elf.extend([2, 0, 62, 0, 1, 0, 0, 0]);
    elf.extend((KERNEL_BASE + boot::KERNEL).to_le_bytes());
    elf.extend(64_u64.to_le_bytes());
    elf.extend([0; 14]);
    elf.extend(56_u16.to_le_bytes());
    elf.extend(2_u16.to_le_bytes());
    elf.extend([0; 6]);
    for (flags, gpa, file_bytes, bytes) in
        [(5_u32, boot::KERNEL, code.len() as u64, 1 << 16), (6, data, 0, 1 << 16)]
    {
        elf.extend(1_u32.to_le_bytes());
        elf.extend(flags.to_le_bytes());
        for word in [4096, KERNEL_BASE + gpa, gpa, file_bytes, bytes, LARGE_PAGE_BYTES] {
            elf.extend(word.to_le_bytes());
        }
    }
    elf.resize(4096, 0);
    elf.extend(code);
    region::sealed::frozen("kernel", &elf).expect("a memfd")
}
