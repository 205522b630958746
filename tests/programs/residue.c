/* Contract program: says what it finds of requests before it, then plants something in every place
 * it can reach and ends as its request says. First line: pid, invoke id, then the places in which
 * something was found. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#define MARK 0x706c616e74656421ull
#define FAR ((char *)0x200000000000)
#define DEEP 6000

static uint64_t data = 7;
static uint64_t zeros[4096];
static _Thread_local uint64_t local = 9;
static uint64_t *heap;
static char found[512];

static void note(int is_there, const char *name) {
    if (!is_there) return;
    strcat(found, " ");
    strcat(found, name);
}

static void handler(int signal) { (void)signal; }

/* Writes or looks at stack far below what start-up code used. */
static __attribute__((noinline)) int deep_stack(int is_plant) {
    volatile uint64_t room[DEEP];
    int is_found = 0;
    for (int i = 0; i < DEEP; i += 64) {
        is_found |= room[i] == MARK;
        if (is_plant) room[i] = MARK;
    }
    return is_found;
}


static void look(uint64_t vector, size_t end) {
    struct sigaction action;
    sigset_t blocked;
    struct itimerval timer;
    char path[128];
    note(vector == MARK, "vector");
    note(data != 7, "data");
    note(zeros[0] || zeros[2048] || zeros[4095], "zeros");
    note(local != 9, "thread-local");
    note(heap != NULL, "heap");
    note(deep_stack(0), "stack");
    note((size_t)syscall(SYS_brk, 0) != end, "break");
    note(access("/tmp/planted", F_OK) == 0, "file");
    note(access("/dev/shm/planted", F_OK) == 0, "shared");
    sigaction(SIGUSR1, NULL, &action);
    note(action.sa_handler != SIG_DFL, "handler");
    sigprocmask(SIG_SETMASK, NULL, &blocked);
    note(sigismember(&blocked, SIGUSR2), "mask");
    note(fcntl(3, F_GETFD) != -1 || fcntl(9, F_GETFD) != -1, "descriptor");
    note(fcntl(0, F_GETFL) & O_NONBLOCK, "flags");
    note(strcmp(getcwd(path, sizeof path), "/var/task") != 0, "directory");
    mode_t mask = umask(022);
    note(mask != 022, "umask");
    note(getenv("PLANTED") != NULL, "environment");
    getitimer(ITIMER_REAL, &timer);
    note(timer.it_value.tv_sec != 0, "timer");
    void *page = mmap(FAR, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    note(page != FAR || *FAR != 0, "mapping");
    if (page == FAR) munmap(page, 4096);
}

static void plant(void) {
    data = MARK;
    for (int i = 0; i < 4096; i++) zeros[i] = MARK;
    local = MARK;
    heap = malloc(300000);
    memset(heap, 0x55, 300000);
    deep_stack(1);
    syscall(SYS_brk, (size_t)syscall(SYS_brk, 0) + 40960);
    int file = open("/tmp/planted", O_CREAT | O_RDWR, 0600);
    if (write(file, "planted", 7) != 7) abort();
    dup2(file, 9);
    close(open("/dev/shm/planted", O_CREAT | O_RDWR, 0600));
    struct sigaction action = {.sa_handler = handler};
    sigaction(SIGUSR1, &action, NULL);
    sigset_t blocked;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR2);
    sigprocmask(SIG_BLOCK, &blocked, NULL);
    fcntl(0, F_SETFL, O_RDONLY | O_NONBLOCK);
    if (chdir("/tmp")) abort();
    umask(077);
    setenv("PLANTED", "yes", 1);
    struct itimerval timer = {.it_value = {.tv_sec = 1000}};
    setitimer(ITIMER_REAL, &timer, NULL);
    char *page = mmap(FAR, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    memset(page, 0x66, 8192);
    /* Pages that were there lose their rights, or go. */
    uintptr_t start = ((uintptr_t)&zeros[1024] + 4095) & ~4095ul;
    mprotect((void *)start, 4096, PROT_READ);
    madvise((void *)(start + 4096), 4096, MADV_DONTNEED);
    munmap((void *)(start + 8192), 4096);
}

static void *spin(void *unused) {
    (void)unused;
    for (;;) pause();
}

static void threads(void) {
    pthread_t thread;
    for (int i = 0; i < 3; i++) if (pthread_create(&thread, NULL, spin, NULL)) abort();
}

static void vector_set(uint64_t value) {
    __asm__ volatile("vmovq %0, %%xmm15\n vinserti128 $1, %%xmm15, %%ymm15, %%ymm15" ::"r"(value));
}

static uint64_t vector_get(void) {
    uint64_t low;
    __asm__ volatile("vextracti128 $1, %%ymm15, %%xmm15\n vmovq %%xmm15, %0" : "=r"(low));
    return low;
}

int main(void) {
    static size_t end;
    uint64_t vector = vector_get();
    end = (size_t)syscall(SYS_brk, 0);
    static size_t first_end;
    char mode[64] = "";
    ssize_t length = read(0, mode, sizeof mode - 1);
    if (length < 0) return 9;
    if (!first_end) first_end = end; else note(1, "static");
    look(vector, end);
    printf("%d %s%s\n", getpid(), getenv("PILOTLIGHT_INVOKE_ID"), found);
    fflush(stdout);
    plant();
    vector_set(MARK);
    if (!strcmp(mode, "crash")) *(volatile int *)8 = 1;
    if (!strcmp(mode, "abort")) abort();
    if (!strcmp(mode, "hang")) for (;;) vector_set(MARK);
    if (!strcmp(mode, "threads")) threads();
    if (!strcmp(mode, "large")) for (int i = 0; i < 300; i++) fwrite(zeros, 1, 8192, stdout);
    if (!strcmp(mode, "closed")) close(1);
    if (!strcmp(mode, "status")) _exit(3);
    if (!strcmp(mode, "much")) for (int i = 0; i < 16 << 20; i += 4096) FAR[i % 8192] = 1;
    _exit(0);
}
