/* Makes COUNT system calls with random numbers and arguments drawn from SEED, and then says how
 * many were answered in which way: "COUNT calls, FAILED failed". What it asks of the kernel is
 * only that it lives; arguments that would end the program itself are left out.
 *
 *   syscall-fuzz SEED COUNT
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/time.h>
#include <unistd.h>

enum { NUMBERS = 472, DESCRIPTORS = 64, REPORT = 900, ARENA = 4 << 20, PAGE = 4096 };

static uint64_t state;
static char *arena;
static char (*paths)[4200];

static uint64_t draw(void) {
    state += 0x9e3779b97f4a7c15;
    uint64_t z = state;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

static uint64_t below(uint64_t limit) { return draw() % limit; }

static uint64_t number(void) {
    static const uint64_t edges[] = {
        0, 1, 2, 7, 8, 16, 100, 255, 256, 511, 512, 1023, 1024, 4095, 4096, 4097, 65535, 65536,
        0x7fffffff, 0x80000000, 0xffffffff, 0x100000000, 0x7fffffffffffffff, 0x8000000000000000,
        -1, -2, -100, -4096, -4097, 0x7ffffffff000, 0x800000000000, 0x7ffff000,
    };
    switch (below(4)) {
        case 0: return below(8);
        case 1: return edges[below(sizeof edges / sizeof *edges)];
        case 2: return below(70000);
        default: break;
    }
    uint64_t drawn = draw() >> below(64);
    /* Not into the program itself. */
    return drawn >> 24 ? drawn : drawn & 0x3fffff;
}

/* Somewhere a program might point: mostly memory of its own, sometimes its end or nowhere. */
static uint64_t address(void) {
    switch (below(12)) {
        case 0: return 0;
        case 1: return number();
        case 2: return (uint64_t)arena + ARENA - below(32);
        case 3: return 0xffffff8000000000 + below(1 << 20);
        case 4: return 0xffffffff80000000 + below(1 << 24);
        case 5: return 0x00007fffffffe000 + below(8192);
        case 6: return (uint64_t)paths[below(16)];
        default: return (uint64_t)arena + below(ARENA / 8) * 8;
    }
}

static uint64_t memory(void) { return (uint64_t)arena + below(ARENA / PAGE) * PAGE + (below(16) ? 0 : below(PAGE)); }

static uint64_t length(void) { return below(8) ? below(64) * PAGE : number(); }

/* Mostly one of the first, which are open. */
static uint64_t descriptor(void) { return below(16) ? below(below(4) ? 8 : DESCRIPTORS) : number() & ~(uint64_t)REPORT; }

static uint64_t any(void) {
    switch (below(6)) {
        case 0: return descriptor();
        case 1: return number();
        case 2: return below(4);
        case 3: return (uint64_t)paths[below(16)];
        default: return address();
    }
}

/* Mostly calls that exist here. */
static long call_number(void) {
    static const short ranges[][2] = {
        {0, 63}, {72, 111}, {115, 131}, {137, 138}, {157, 162}, {186, 234}, {254, 302}, {306, 309},
        {316, 319}, {324, 328}, {332, 332}, {424, 452},
    };
    if (below(64) == 0) return (long)draw();
    if (below(8) == 0) return (long)below(NUMBERS);
    const short *range = ranges[below(sizeof ranges / sizeof *ranges)];
    return range[0] + (long)below((uint64_t)(range[1] - range[0] + 1));
}

static void caught(int signal) { (void)signal; }

static void arm(void) {
    struct itimerval often = {{0, 2000}, {0, 2000}};
    uint64_t none = 0;
    syscall(SYS_rt_sigprocmask, SIG_SETMASK, &none, 0, 8);
    syscall(SYS_setitimer, ITIMER_REAL, &often, 0);
}

static void fill(void) {
    static const char *known[] = {
        "/tmp/a", "/tmp/b", "/tmp/d", "/tmp/d/e", "d", "..", ".", "", "/proc/self/fd/3", "/dev/null",
        "/tmp/l", "/proc/self/maps", "/tmp", "/var/task/x",
    };
    for (unsigned i = 0; i < 14; i++) strcpy(paths[i], known[i]);
    memset(paths[14], 'n', 300);
    memset(paths[15], '/', 4199);
    if (mmap(arena, ARENA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != arena) _exit(3);
    for (unsigned i = 0; i < 2048; i++) {
        uint64_t word = below(3) ? number() : address();
        memcpy(arena + below(ARENA / 8) * 8, &word, 8);
    }
}

static void start_over(void) {
    syscall(SYS_close_range, 0, DESCRIPTORS * 4, 0);
    chdir("/tmp");
    fill();
    int ends[2];
    open("/tmp/a", O_RDWR | O_CREAT, 0600);
    open("/tmp", O_RDONLY | O_DIRECTORY);
    if (pipe2(ends, below(2) * O_NONBLOCK) == 0) socketpair(AF_UNIX, SOCK_STREAM, 0, ends);
    epoll_create1(0);
    eventfd(0, 0);
    timerfd_create(CLOCK_MONOTONIC, 0);
    arm();
}

/* A child that ends at once, or when it is killed, or becomes no program; whether anybody asks for it is
 * left to other calls. */
static void bear(long number) {
    if (below(8)) return;
    pid_t child = number == SYS_vfork ? vfork() : fork();
    if (child == 0) {
        if (number == SYS_clone) execve((char *)address(), (char **)address(), (char **)address());
        while (number == SYS_fork && below(2)) pause();
        _exit(below(256));
    }
    if (child > 0 && below(4)) kill(child, SIGKILL);
}

/* Whether the call would end or leave the program, or hide the signals it lives by. */
static int is_left_out(long number, uint64_t *a) {
    switch (number) {
        case SYS_rt_sigreturn: case SYS_exit: case SYS_exit_group: case SYS_rt_sigsuspend:
        case SYS_execve: case SYS_execveat:
            return 1;
        case SYS_vfork: case SYS_fork: case SYS_clone:
            bear(number);
            return 1;
        case SYS_wait4: a[2] |= 1; return 0;
        case SYS_waitid: a[3] |= 1; return 0;
        case SYS_rt_sigaction: return a[0] == SIGALRM || a[0] == SIGUSR1;
        case SYS_kill: a[0] = getpid(); a[1] = below(2) ? 0 : SIGUSR1; return 0;
        case SYS_tkill: a[1] = SIGUSR1; return 0;
        case SYS_tgkill: a[2] = SIGUSR1; return 0;
        case SYS_rt_sigqueueinfo: a[1] = SIGUSR1; return 0;
        case SYS_rt_tgsigqueueinfo: a[2] = SIGUSR1; return 0;
        case SYS_timer_create: return a[1] = 0;
        case SYS_arch_prctl: return a[0] == 0x1001 || a[0] == 0x1002;
        case SYS_ppoll: return a[3] = 0;
        case SYS_pselect6: return a[5] = 0;
        case SYS_epoll_pwait: return a[4] = 0;
        case SYS_epoll_pwait2: return a[4] = 0;
        case SYS_mmap: a[0] = memory(); a[1] = length(); if (a[1] > ARENA) a[3] &= ~0x8010ul; return 0;
        case SYS_munmap: case SYS_mprotect: case SYS_madvise: case SYS_msync: case SYS_mlock:
        case SYS_mlock2: case SYS_munlock: case SYS_mincore:
            a[0] = memory(), a[1] = below(64) * PAGE;
            return 0;
        case SYS_mremap: a[0] = memory(); a[1] = below(64) * PAGE; a[2] = below(64) * PAGE; a[4] = memory(); return 0;
        case SYS_brk: a[0] = 0; return 0;
        case SYS_mlockall: return 1;
        case SYS_dup2: case SYS_dup3: a[1] = below(DESCRIPTORS); return 0;
        case SYS_close_range: a[0] = below(DESCRIPTORS); a[1] = below(DESCRIPTORS); return 0;
        case SYS_close: if (a[0] == REPORT) a[0] = 0; return 0;
        default: return 0;
    }
}

int main(int argc, char **argv) {
    state = argc > 1 ? strtoull(argv[1], 0, 0) : 1;
    uint64_t count = argc > 2 ? strtoull(argv[2], 0, 0) : 1000, failed = 0;
    int is_spoken = argc > 3;
    if (dup2(1, REPORT) != REPORT) return 2;
    int null = open("/dev/null", O_RDWR);
    for (int i = 0; i < 3; i++) dup2(null, i);
    struct sigaction action = {.sa_handler = caught};
    sigaction(SIGALRM, &action, 0);
    sigaction(SIGUSR1, &action, 0);
    signal(SIGPIPE, SIG_IGN);
    arena = mmap((void *)0x200000000, ARENA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    paths = mmap((void *)0x300000000, 20 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (arena == MAP_FAILED || paths == MAP_FAILED) return 3;
    start_over();
    for (uint64_t done = 0; done < count; done++) {
        long call = call_number();
        uint64_t a[6] = {below(4) ? below(3) ? descriptor() : (uint64_t)paths[below(16)] : any(), any(), any(), any(), any(), any()};
        if (is_left_out(call, a)) continue;
        if (is_spoken) dprintf(REPORT, "%lu: %ld(%#lx, %#lx, %#lx, %#lx, %#lx, %#lx)\n", done, call, a[0], a[1], a[2], a[3], a[4], a[5]);
        errno = 0;
        long result = syscall(call, a[0], a[1], a[2], a[3], a[4], a[5]);
        if (is_spoken) dprintf(REPORT, "  = %ld %s\n", result, result < 0 ? strerror(errno) : "");
        failed += result < 0 && errno;
        if (call == SYS_mmap && result > 0 && ((char *)result < arena || (char *)result >= arena + ARENA))
            munmap((void *)result, a[1]);
        if (call == SYS_setitimer || call == SYS_alarm || call == SYS_rt_sigprocmask) arm();
        if (done % 256 == 255) start_over();
    }
    start_over();
    dprintf(REPORT, "%lu calls, %lu failed\n", count, failed);
    return 0;
}
