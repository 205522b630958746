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
