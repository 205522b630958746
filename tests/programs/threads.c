/* Threads of C programs under stress, each step checked and named: prints "ok NAME" per step and
 * "all ok". With an argument it misbehaves instead, the way the argument says. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <immintrin.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

enum { THREADS = 64 };

static const char *step = "";

#define CHECK(is)                                                                           \
    do {                                                                                    \
        if (!(is)) {                                                                        \
            printf("FAILED %s, line %d: %s (errno %d)\n", step, __LINE__, #is, errno);       \
            exit(1);                                                                        \
        }                                                                                   \
    } while (0)

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t turn = PTHREAD_COND_INITIALIZER;
static pthread_barrier_t gate;
static long counter;
static atomic_long atomic_counter;
static _Thread_local long own;

static void start(pthread_t *threads, int count, void *(*run)(void *)) {
    for (long i = 0; i < count; i++) CHECK(pthread_create(threads + i, 0, run, (void *)i) == 0);
}

static void join(pthread_t *threads, int count) {
    for (int i = 0; i < count; i++) CHECK(pthread_join(threads[i], 0) == 0);
}

static void *increment(void *number) {
    pthread_barrier_wait(&gate);
    for (int i = 0; i < 1000; i++) {
        pthread_mutex_lock(&lock);
        long seen = counter;
        if (i % 100 == 0) sched_yield();
        counter = seen + 1;
        pthread_mutex_unlock(&lock);
        atomic_fetch_add(&atomic_counter, 1);
        own += (long)number;
    }
    CHECK(own == 1000 * (long)number);
    return 0;
}

static void counting(void) {
    pthread_t threads[THREADS];
    pthread_barrier_init(&gate, 0, THREADS);
    start(threads, THREADS, increment);
    join(threads, THREADS);
    CHECK(counter == THREADS * 1000 && atomic_counter == THREADS * 1000);
}

static long ball;

static void *play(void *side) {
    for (int i = 0; i < 5000; i++) {
        pthread_mutex_lock(&lock);
        while (ball % 2 != (long)side) pthread_cond_wait(&turn, &lock);
        ball++;
        pthread_cond_broadcast(&turn);
        pthread_mutex_unlock(&lock);
    }
    return 0;
}

static void ping_pong(void) {
    pthread_t players[2];
    start(players, 2, play);
    join(players, 2);
    CHECK(ball == 10000);
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += 20000000;
    if (until.tv_nsec >= 1000000000) until.tv_sec++, until.tv_nsec -= 1000000000;
    pthread_mutex_lock(&lock);
    CHECK(pthread_cond_timedwait(&turn, &lock, &until) == ETIMEDOUT);
    pthread_mutex_unlock(&lock);
}

static void *nothing(void *number) { return number; }

static void *wait_for_cancel(void *unused) {
    for (;;) pause();
    return unused;
}

static void many(void) {
    for (long i = 0; i < 10000; i++) {
        pthread_t thread;
        void *result;
        CHECK(pthread_create(&thread, 0, nothing, (void *)i) == 0 && pthread_join(thread, &result) == 0 && result == (void *)i);
    }
    pthread_attr_t detached;
    pthread_attr_init(&detached);
    pthread_attr_setdetachstate(&detached, PTHREAD_CREATE_DETACHED);
    for (long i = 0; i < 200; i++) {
        pthread_t thread;
        while (pthread_create(&thread, &detached, nothing, 0)) sched_yield();
    }
    /* As many at once as there may be. */
    static pthread_t threads[2000];
    int count = 0;
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 65536);
    while (count < 300 && pthread_create(threads + count, &small, wait_for_cancel, 0) == 0) count++;
    CHECK(count >= 200);
    for (int i = 0; i < count; i++) CHECK(pthread_cancel(threads[i]) == 0);
    join(threads, count);
}

static pthread_mutex_t robust;

static void *die_holding(void *unused) {
    (void)unused;
    CHECK(pthread_mutex_lock(&robust) == 0);
    usleep(20000);
    return 0;
}

static void robust_lock(void) {
    pthread_mutexattr_t kind;
    pthread_mutexattr_init(&kind);
    CHECK(pthread_mutexattr_setrobust(&kind, PTHREAD_MUTEX_ROBUST) == 0 && pthread_mutex_init(&robust, &kind) == 0);
    pthread_t thread;
    start(&thread, 1, die_holding);
    usleep(5000);
    CHECK(pthread_mutex_lock(&robust) == EOWNERDEAD);
    CHECK(pthread_mutex_consistent(&robust) == 0 && pthread_mutex_unlock(&robust) == 0 && pthread_mutex_lock(&robust) == 0);
    join(&thread, 1);
}

static sem_t items;
static pthread_rwlock_t both = PTHREAD_RWLOCK_INITIALIZER;

static void *produce(void *unused) {
    (void)unused;
    for (int i = 0; i < 500; i++) sem_post(&items);
    for (int i = 0; i < 200; i++) {
        pthread_rwlock_rdlock(&both);
        long seen = counter;
        sched_yield();
        CHECK(seen == counter);
        pthread_rwlock_unlock(&both);
        pthread_rwlock_wrlock(&both);
        counter++;
        pthread_rwlock_unlock(&both);
    }
    return 0;
}

static void semaphores(void) {
    pthread_t threads[8];
    CHECK(sem_init(&items, 0, 0) == 0);
    counter = 0;
    start(threads, 8, produce);
    for (int i = 0; i < 4000; i++) CHECK(sem_wait(&items) == 0);
    join(threads, 8);
    CHECK(counter == 1600 && sem_trywait(&items) == -1 && errno == EAGAIN);
}

/* Vector registers belong to a thread. */
__attribute__((target("avx"))) static void *keep_vectors(void *number) {
    __m256 mine = _mm256_set1_ps((float)(long)number);
    long is_wide = __builtin_cpu_supports("avx");
    for (int i = 0; i < 200; i++) {
        float seen = 0;
        if (is_wide) {
            float all[8] __attribute__((aligned(32)));
            /* Waits once by a call and once by working until its time is over. */
            __asm__ volatile(
                "vmovaps %1, %%ymm9\n mov $24, %%eax\n syscall\n mov $20000, %%r8d\n"
                "1: dec %%r8d\n jnz 1b\n vmovaps %%ymm9, %0"
                : "=m"(all) : "m"(mine) : "xmm9", "rax", "rcx", "r8", "r11", "memory");
            for (int lane = 0; lane < 8; lane++) CHECK(all[lane] == (float)(long)number);
            seen = all[7];
        }
        double x = 1.0 / (double)((long)number + 1);
        CHECK(x * (double)((long)number + 1) > 0.999 && (!is_wide || seen == (float)(long)number));
    }
    return 0;
}

static void vectors(void) {
    pthread_t threads[16];
    start(threads, 16, keep_vectors);
    join(threads, 16);
}

/* All general registers, the direction and alignment check flags and the words below the stack pointer
 * are a thread's, wherever the CPU is taken from it: it computes for several time slices, without a call. */
static void *keep_registers(void *number) {
    unsigned long wrong = 0x0101010101010101 * (unsigned long)((long)number + 1);
    __asm__ volatile(
        "push %%rbp\n sub $256, %%rsp\n"
        "lea 1(%%rax), %%rbx\n"
        "lea 2(%%rax), %%rcx\n"
        "lea 3(%%rax), %%rdx\n"
        "lea 4(%%rax), %%rsi\n"
        "lea 5(%%rax), %%rdi\n"
        "lea 6(%%rax), %%rbp\n"
        "lea 7(%%rax), %%r8\n"
        "lea 8(%%rax), %%r9\n"
        "lea 9(%%rax), %%r10\n"
        "lea 10(%%rax), %%r11\n"
        "lea 11(%%rax), %%r12\n"
        "lea 12(%%rax), %%r13\n"
        "lea 13(%%rax), %%r14\n"
        "lea 14(%%rax), %%r15\n"
        "pushfq\n orl $0x40400, (%%rsp)\n popfq\n"
        "mov %%rax, -24(%%rsp)\n movq $0, -40(%%rsp)\n movq $20000000, -16(%%rsp)\n"
        "1: subq $1, -16(%%rsp)\n jnz 1b\n"
        "pushfq\n popq -32(%%rsp)\n"
        "pushfq\n andl $~0x40400, (%%rsp)\n popfq\n"
        "sub -24(%%rsp), %%rbx\n sub $1, %%rbx\n or %%rbx, -40(%%rsp)\n"
        "sub -24(%%rsp), %%rcx\n sub $2, %%rcx\n or %%rcx, -40(%%rsp)\n"
        "sub -24(%%rsp), %%rdx\n sub $3, %%rdx\n or %%rdx, -40(%%rsp)\n"
        "sub -24(%%rsp), %%rsi\n sub $4, %%rsi\n or %%rsi, -40(%%rsp)\n"
        "sub -24(%%rsp), %%rdi\n sub $5, %%rdi\n or %%rdi, -40(%%rsp)\n"
        "sub -24(%%rsp), %%rbp\n sub $6, %%rbp\n or %%rbp, -40(%%rsp)\n"
        "sub -24(%%rsp), %%r8\n sub $7, %%r8\n or %%r8, -40(%%rsp)\n"
        "sub -24(%%rsp), %%r9\n sub $8, %%r9\n or %%r9, -40(%%rsp)\n"
        "sub -24(%%rsp), %%r10\n sub $9, %%r10\n or %%r10, -40(%%rsp)\n"
        "sub -24(%%rsp), %%r11\n sub $10, %%r11\n or %%r11, -40(%%rsp)\n"
        "sub -24(%%rsp), %%r12\n sub $11, %%r12\n or %%r12, -40(%%rsp)\n"
        "sub -24(%%rsp), %%r13\n sub $12, %%r13\n or %%r13, -40(%%rsp)\n"
        "sub -24(%%rsp), %%r14\n sub $13, %%r14\n or %%r14, -40(%%rsp)\n"
        "sub -24(%%rsp), %%r15\n sub $14, %%r15\n or %%r15, -40(%%rsp)\n"
        "xor -24(%%rsp), %%rax\n or %%rax, -40(%%rsp)\n"
        "andl $0x40400, -32(%%rsp)\n xorl $0x40400, -32(%%rsp)\n"
        "mov -40(%%rsp), %%rax\n mov -32(%%rsp), %%ebx\n or %%rbx, %%rax\n"
        "add $256, %%rsp\n pop %%rbp"
        : "+a"(wrong)
        :
        : "rbx", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "memory", "cc");
    CHECK(wrong == 0);
    return 0;
}

static void registers(void) {
    pthread_t threads[4];
    start(threads, 4, keep_registers);
    join(threads, 4);
}

static atomic_int signalled, stops;

static void on_signal(int number) {
    (void)number;
    atomic_fetch_add(&signalled, 1);
}

static void *wait_for_stop(void *unused) {
    (void)unused;
    while (!stops) {
        struct timespec nap = {0, 1000000};
        nanosleep(&nap, 0);
    }
    return 0;
}

static void signals(void) {
    struct sigaction action = {.sa_handler = on_signal};
    sigaction(SIGUSR1, &action, 0);
    pthread_t threads[8];
    start(threads, 8, wait_for_stop);
    for (int i = 0; i < 400; i++) {
        CHECK(pthread_kill(threads[i % 8], SIGUSR1) == 0);
        if (i % 8 == 7) usleep(2000);
    }
    while (signalled < 200) usleep(1000);
    stops = 1;
    join(threads, 8);
}

/* Areas made, changed and removed by several threads at once. */
static void *juggle(void *number) {
    uint32_t seed = (uint32_t)(long)number * 2654435761u + 1;
    for (int i = 0; i < 300; i++) {
        seed = seed * 1664525 + 1013904223;
        size_t bytes = 4096 * (1 + seed % 64);
        char *map = mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        CHECK(map != MAP_FAILED);
        for (size_t at = 0; at < bytes; at += 4096) {
            CHECK(map[at] == 0);
            map[at] = (char)(long)number;
        }
        if (i % 7 == 0) sched_yield();
        CHECK(mprotect(map, bytes, PROT_READ) == 0);
        for (size_t at = 0; at < bytes; at += 4096) CHECK(map[at] == (char)(long)number);
        CHECK(munmap(map, bytes) == 0);
        char *block = malloc(seed % 100000);
        if (block) block[0] = 1;
        free(block);
    }
    return 0;
}

static void areas(void) {
    pthread_t threads[16];
    start(threads, 16, juggle);
    join(threads, 16);
}

/* The rest goes wrong on purpose. */
static void *loop(void *unused) {
    (void)unused;
    for (;;) __asm__ volatile("");
}

static void *call(void *unused) {
    (void)unused;
    for (;;) syscall(SYS_getpid);
}

static int ends[2][2];

static void *pass(void *side) {
    char byte = 0;
    for (;;) {
        if (write(ends[(long)side][1], &byte, 1) != 1 || read(ends[1 - (long)side][0], &byte, 1) != 1) abort();
    }
}

static void *overflow(void *depth) {
    volatile char room[8192];
    room[0] = (char)(long)depth;
    overflow((void *)((long)depth + 1));
    return (void *)(long)room[0];
}

static void misbehave(const char *how) {
    pthread_t threads[8];
    int count = strcmp(how, "one-call") ? 4 : 1;
    if (pipe(ends[0]) || pipe(ends[1])) abort();
    if (!strcmp(how, "loop")) start(threads, count, loop);
    if (!strcmp(how, "call") || !strcmp(how, "one-call")) start(threads, count, call);
    if (!strcmp(how, "pass")) start(threads, 2, pass);
    if (!strcmp(how, "overflow")) start(threads, 1, overflow);
    if (!strcmp(how, "exit")) {
        start(threads, 4, loop);
        usleep(20000);
        exit(7);
    }
    if (!strcmp(how, "last")) {
        start(threads, 2, wait_for_stop);
        stops = 1;
        pthread_exit(0);
    }
    for (;;) pause();
}

static const struct { const char *name; void (*run)(void); } steps[] = {
    {"counting", counting}, {"ping_pong", ping_pong}, {"many", many}, {"robust_lock", robust_lock},
    {"semaphores", semaphores}, {"vectors", vectors}, {"registers", registers}, {"signals", signals}, {"areas", areas},
};

int main(int argc, char **argv) {
    if (argc > 1) misbehave(argv[1]);
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        step = steps[i].name;
        steps[i].run();
        printf("ok %s\n", step);
        fflush(stdout);
    }
    puts("all ok");
    return 0;
}
