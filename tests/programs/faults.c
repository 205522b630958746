/* Goes wrong the way its argument says. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static volatile int zero;

static int deeper(int depth) {
    volatile char room[4096];
    room[depth % 4096] = (char)depth;
    return deeper(depth + 1) + room[0];
}

int main(int argc, char **argv) {
    const char *fault = argc > 1 ? argv[1] : "";
    fprintf(stderr, "about to %s\n", fault);
    if (!strcmp(fault, "segv")) *(volatile int *)8 = 1;
    if (!strcmp(fault, "kernel")) *(volatile int *)0xffffffff80200000 = 1;
    if (!strcmp(fault, "jump")) ((void (*)(void))0x1000)();
    if (!strcmp(fault, "ill")) __asm__ volatile("ud2");
    if (!strcmp(fault, "privileged")) __asm__ volatile("hlt");
    /* What only a kernel may do. */
    if (!strcmp(fault, "cli")) __asm__ volatile("cli\n1: jmp 1b");
    if (!strcmp(fault, "out")) __asm__ volatile("outl %%eax, %%dx" : : "a"(1), "d"(argc > 2 ? atoi(argv[2]) : 0x510));
    if (!strcmp(fault, "in")) __asm__ volatile("inb $0x60, %%al" : : : "rax");
    if (!strcmp(fault, "wrmsr")) __asm__ volatile("wrmsr" : : "a"(0), "d"(0), "c"(0xc0000082));
    if (!strcmp(fault, "rdmsr")) __asm__ volatile("rdmsr" : : "c"(0x10) : "rax", "rdx");
    if (!strcmp(fault, "cr3")) __asm__ volatile("mov %0, %%cr3" : : "r"(0ul));
    if (!strcmp(fault, "lidt")) __asm__ volatile("lidt (%0)" : : "r"("0123456789"));
    if (!strcmp(fault, "int80")) __asm__ volatile("int $0x80" : : "a"(1));
    if (!strcmp(fault, "int48")) __asm__ volatile("int $0x30");
    if (!strcmp(fault, "int8")) __asm__ volatile("int $8");
    if (!strcmp(fault, "int3")) __asm__ volatile("int3");
    if (!strcmp(fault, "vmcall")) __asm__ volatile("vmcall");
    if (!strcmp(fault, "vmmcall")) __asm__ volatile("vmmcall");
    if (!strcmp(fault, "sysenter")) __asm__ volatile("sysenter");
    if (!strcmp(fault, "trap")) __asm__ volatile("pushfq; orq $0x100, (%rsp); popfq; nop");
    if (!strcmp(fault, "align")) __asm__ volatile("pushfq; orq $0x40000, (%%rsp); popfq; movl 1(%0), %%eax; pushfq; andq $~0x40000, (%%rsp); popfq" : : "r"(argv) : "rax");
    if (!strcmp(fault, "swapgs")) __asm__ volatile("swapgs");
    if (!strcmp(fault, "iretq")) __asm__ volatile("pushq $0; pushq $0; pushq $0x202; pushq $8; pushq $0; iretq");
    if (!strcmp(fault, "sysret")) __asm__ volatile("sysretq" : : "c"(0));
    if (!strcmp(fault, "invlpg")) __asm__ volatile("invlpg (%0)" : : "r"(argv));
    if (!strcmp(fault, "read-kernel")) return *(volatile unsigned char *)0xffffffff80200000;
    if (!strcmp(fault, "write-kernel")) for (volatile char *at = (char *)0xffffffff80200000;; at += 4096) *at = 0;
    if (!strcmp(fault, "direct-map")) for (volatile char *at = (char *)0xffffff8000000000;; at += 64) *at = 0x5a;
    if (!strcmp(fault, "jump-kernel")) ((void (*)(void))0xffffffff80200000)();
    if (!strcmp(fault, "wrgsbase")) __asm__ volatile("wrgsbase %0" : : "r"(0x1234ul));
    if (!strcmp(fault, "stack-kernel")) __asm__ volatile("mov $0xffffffff80200000, %rsp; push %rax; mov $39, %eax; syscall; push %rax; ud2");
    if (!strcmp(fault, "div")) return 12345 / zero;
    if (!strcmp(fault, "stack")) return deeper(0);
    if (!strcmp(fault, "memory")) {
        for (;;) {
            char *more = malloc(1 << 20);
            if (!more) {
                fputs("malloc said no\n", stderr);
                return 9;
            }
            memset(more, 1, 1 << 20);
        }
    }
    if (!strcmp(fault, "loop")) for (;;) __asm__ volatile("");
    if (!strcmp(fault, "sleep")) for (;;) pause();
    if (!strcmp(fault, "abort")) abort();
    if (!strcmp(fault, "exit")) return argc > 2 ? atoi(argv[2]) : 1;
    return 0;
}
