/* Plants secrets wherever a program can leave them, or hunts for what another request planted.
 *
 * A request is one letter, how many pages of fresh memory to look through (u32, little-endian),
 * and a secret of 16 bytes, each XORed with 0xa5 so that the hunter's own request does not hold
 * what it looks for:
 *   P  plant it; the answer is "planted"
 *   H  hunt for it; the answer is "clean", or "found" and where
 *   R  M  N  T  E  the same, only in: registers; memory; new memory; tmpfs; the environment and
 *      what else the kernel keeps of a process
 *   K  the same, in so many pages of the VM's RAM, through the guest kernel's own mapping: where
 *      the page tables are the only wall (KVM of the PVM kind) a program can read that; elsewhere
 *      the answer is "out of reach"
 * With the argument "stream" requests and answers are framed by a u32 length (contract stream);
 * without it there is one request, to the end of the input. No byte of a secret is 0. */
#include <dirent.h>
#include <fcntl.h>
#include <immintrin.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define MASK 0xa5a5a5a5a5a5a5a5u
#define REQUEST 21

static uint64_t masked[2];
static char answer[512];
static char data[4096] = "data";
static char bss[4096];
static __thread char local[1024];

/* What the vector and general registers held when a read of the request returned. */
static struct {
    _Alignas(64) uint8_t wide[32 * 64];
    uint64_t general[6];
    uint64_t masks[8];
} registers;
static int has_avx512;
static int has_avx;

static void detect(void) {
    unsigned a, b, c, d, low, high;
    __asm__ volatile("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(1), "c"(0));
    if (!(c & (1u << 27))) return;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    has_avx = (c & (1u << 28)) && (low & 6) == 6;
    __asm__ volatile("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(7), "c"(0));
    has_avx512 = has_avx && (b & (1u << 16)) && (low & 0xe6) == 0xe6;
}

#define EACH16(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)
#define EACH_HIGH(X) X(16) X(17) X(18) X(19) X(20) X(21) X(22) X(23) X(24) X(25) X(26) X(27) X(28) X(29) X(30) X(31)
#define SAVE_XMM(n) "movdqu %%xmm" #n ", " #n "*64(%[to])\n"
#define SAVE_YMM(n) "vmovdqu %%ymm" #n ", " #n "*64(%[to])\n"
#define SAVE_ZMM(n) "vmovdqu64 %%zmm" #n ", " #n "*64(%[to])\n"
#define LOAD_XMM(n) "movdqu (%[from]), %%xmm" #n "\n"
#define LOAD_YMM(n) "vmovdqu (%[from]), %%ymm" #n "\n"
#define LOAD_ZMM(n) "vmovdqu64 (%[from]), %%zmm" #n "\n"

/* read(0), and what the registers hold right behind it. */
static long read_request(void *to, size_t bytes) {
    long result = SYS_read;
    uint64_t *general = registers.general;
    __asm__ volatile(
        "syscall\n"
        "mov %%rbx, 0(%[to])\n mov %%r12, 8(%[to])\n mov %%r13, 16(%[to])\n"
        "mov %%r14, 24(%[to])\n mov %%r15, 32(%[to])\n mov %%rbp, 40(%[to])\n"
        : "+a"(result)
        : "D"(0), "S"(to), "d"(bytes), [to] "r"(general)
        : "rcx", "r11", "memory");
    if (has_avx512) {
        __asm__ volatile(EACH16(SAVE_ZMM) EACH_HIGH(SAVE_ZMM) : : [to] "r"(registers.wide) : "memory");
        __asm__ volatile(
            "kmovw %%k1, 0(%[to])\n kmovw %%k2, 8(%[to])\n kmovw %%k3, 16(%[to])\n"
            : : [to] "r"(registers.masks) : "memory");
    } else if (has_avx) {
        __asm__ volatile(EACH16(SAVE_YMM) : : [to] "r"(registers.wide) : "memory");
    } else {
        __asm__ volatile(EACH16(SAVE_XMM) : : [to] "r"(registers.wide) : "memory");
    }
    return result;
}

/* Writes the answer with the secret in every register the kernel keeps. */
static void write_with_registers(const void *from, size_t bytes, const uint8_t *secret) {
    uint8_t wide[64];
    for (int at = 0; at < 64; at += 16) memcpy(wide + at, secret, 16);
    if (has_avx512) {
        __asm__ volatile(EACH16(LOAD_ZMM) EACH_HIGH(LOAD_ZMM) : : [from] "r"(wide) : "memory");
        __asm__ volatile("kmovw (%[from]), %%k1\n kmovw (%[from]), %%k2\n kmovw (%[from]), %%k3\n"
            : : [from] "r"(wide) : "memory");
    } else if (has_avx) {
        __asm__ volatile(EACH16(LOAD_YMM) : : [from] "r"(wide) : "memory");
    } else {
        __asm__ volatile(EACH16(LOAD_XMM) : : [from] "r"(wide) : "memory");
    }
    __asm__ volatile(
        "mov (%[from]), %%rbx\n mov (%[from]), %%r12\n mov (%[from]), %%r13\n"
        "mov (%[from]), %%r14\n mov 8(%[from]), %%r15\n"
        "syscall\n"
        : : "a"(SYS_write), "D"(1), "S"(from), "d"(bytes), [from] "r"(wide)
        : "rbx", "rcx", "r11", "r12", "r13", "r14", "r15", "memory");
    memset(wide, 0, sizeof wide);
}

static void fill(void *to, size_t bytes, const uint8_t *secret) {
    for (size_t at = 0; at + 16 <= bytes; at += 16) memcpy((char *)to + at, secret, 16);
}

static void __attribute__((noinline)) deep(int depth, const uint8_t *secret) {
    char frame[1024];
    fill(frame, sizeof frame, secret);
    __asm__ volatile("" : : "r"(frame) : "memory");
    if (depth > 0) deep(depth - 1, secret);
    __asm__ volatile("" : : "r"(frame) : "memory");
}

static void on_signal(int number) { (void)number; }

static void plant_files(const uint8_t *secret) {
    static char block[8192];
    fill(block, sizeof block, secret);
    for (int number = 0; number < 4; number++) {
        char path[64];
        snprintf(path, sizeof path, "/tmp/secret-%d", number);
        int file = open(path, O_RDWR | O_CREAT, 0600);
        if (file >= 0 && write(file, block, sizeof block) < 0) abort();
        if (number == 3) unlink(path); /* its descriptor stays open */
    }
    mkdir("/tmp/deeper", 0700);
    if (chdir("/tmp/deeper") != 0) abort();
    int ends[2];
    if (pipe(ends) == 0 && write(ends[1], block, 256) < 0) abort();
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) == 0 && write(ends[1], block, 256) < 0) abort();
}

static void plant(const uint8_t *secret) {
    void *blocks[64];
    for (int number = 0; number < 64; number++) {
        blocks[number] = malloc(64u << (number % 8));
        fill(blocks[number], 64u << (number % 8), secret);
    }
    for (int number = 0; number < 64; number += 2) free(blocks[number]);
    char *heap = sbrk(16 * 4096);
    if (heap != (char *)-1) fill(heap, 16 * 4096, secret);
    sbrk(-8 * 4096);
    char *map = mmap(0, 64 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map != MAP_FAILED) {
        fill(map, 64 * 4096, secret);
        munmap(map, 32 * 4096);
        madvise(map + 32 * 4096, 16 * 4096, MADV_DONTNEED);
    }
    fill(data, sizeof data, secret);
    fill(bss, sizeof bss, secret);
    fill(local, sizeof local, secret);
    deep(64, secret);
    char text[17] = {0};
    memcpy(text, secret, 16);
    setenv("SECRET", text, 1);
    text[15] = 0;
    prctl(PR_SET_NAME, text);
    signal(SIGUSR1, on_signal);
    sigset_t blocked;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGUSR2);
    sigprocmask(SIG_BLOCK, &blocked, 0);
    plant_files(secret);
}

static int found(const char *format, ...) {
    va_list list;
    va_start(list, format);
    int length = snprintf(answer, sizeof answer, "found ");
    vsnprintf(answer + length, sizeof answer - length, format, list);
    va_end(list);
    return 1;
}

/* Where the secret is in a piece of memory; -1: nowhere. Compares under the mask. */
static long search(const uint8_t *memory, size_t bytes) {
    for (size_t at = 0; at + 16 <= bytes; at++) {
        uint64_t low, high;
        memcpy(&low, memory + at, 8);
        if ((low ^ MASK) != masked[0]) continue;
        memcpy(&high, memory + at + 8, 8);
        if ((high ^ MASK) == masked[1]) return (long)at;
    }
    return -1;
}

static int hunt_registers(void) {
    if (search(registers.wide, sizeof registers.wide) >= 0) return found("vector registers");
    for (int number = 0; number < 6; number++) {
        uint64_t value = registers.general[number] ^ MASK;
        if (value == masked[0] || value == masked[1]) return found("general register %d", number);
    }
    for (int number = 0; number < 3 && has_avx512; number++) {
        uint16_t value = (uint16_t)(registers.masks[number] ^ MASK);
        if (registers.masks[number] != 0 && value == (uint16_t)masked[0]) return found("mask register");
    }
    return 0;
}

static int hunt_memory(void) {
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[512];
    if (!maps) return found("no /proc/self/maps to look through");
    while (fgets(line, sizeof line, maps)) {
        unsigned long start, end;
        char access[8];
        if (sscanf(line, "%lx-%lx %7s", &start, &end, access) != 3) return found("odd maps: %s", line);
        if (access[0] != 'r' || strstr(line, "[v")) continue;
        /* The stack's far pages were never touched; looking there would only make them. */
        if (strstr(line, "[stack]") && end - start > 256 * 4096) start = end - 256 * 4096;
        long at = search((const uint8_t *)start, end - start);
        if (at >= 0) {
            fclose(maps);
            return found("memory at %lx of %s", start + at, line);
        }
    }
    fclose(maps);
    return 0;
}

static int is_zero(const char *memory, size_t bytes) {
    for (size_t at = 0; at < bytes; at += 8)
        if (*(const uint64_t *)(memory + at) != 0) return 0;
    return 1;
}

/* Pages the kernel hands out now: whatever they held before, they read as zeros. */
static int hunt_fresh(uint32_t pages) {
    size_t bytes = (size_t)pages * 4096;
    char *map = mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED) return found("no memory to look through");
    for (size_t at = 0; at < bytes; at += 4096) map[at + 4095] = 0; /* a frame of its own each */
    int is_clean = is_zero(map, bytes);
    munmap(map, bytes);
    if (!is_clean) return found("fresh memory that is not zero");
    char *heap = sbrk(4 * 4096);
    is_clean = heap == (char *)-1 || is_zero((char *)(((uintptr_t)heap + 4095) & ~4095ul), 3 * 4096);
    if (heap != (char *)-1) sbrk(-4 * 4096);
    return is_clean ? 0 : found("a fresh heap that is not zero");
}

static int hunt_folder(const char *path) {
    DIR *folder = opendir(path);
    struct dirent *entry;
    if (!folder) return 0;
    while ((entry = readdir(folder))) {
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..")) {
            char name[300];
            snprintf(name, sizeof name, "%s", entry->d_name);
            closedir(folder);
            return found("file %s/%s", path, name);
        }
    }
    closedir(folder);
    return 0;
}

static int hunt_rest(void) {
    char where[256], name[17] = {0};
    if (getenv("SECRET")) return found("the environment");
    if (!getcwd(where, sizeof where) || strcmp(where, "/var/task")) return found("directory %s", where);
    for (int file = 3; file < 64; file++)
        if (fcntl(file, F_GETFD) >= 0) return found("open descriptor %d", file);
    prctl(PR_GET_NAME, name);
    if (((*(uint64_t *)name) ^ MASK) == masked[0]) return found("the thread's name");
    struct sigaction action;
    sigaction(SIGUSR1, 0, &action);
    if (action.sa_handler != SIG_DFL) return found("a signal handler");
    sigset_t blocked;
    sigprocmask(SIG_BLOCK, 0, &blocked);
    if (sigismember(&blocked, SIGUSR2)) return found("a blocked signal");
    return 0;
}

static sigjmp_buf beyond;
static void on_fault(int number) {
    (void)number;
    siglongjmp(beyond, 1);
}

/* All of the VM's RAM, as the guest kernel maps it. */
static void hunt_ram(uint32_t pages) {
    const uint8_t *ram = (const uint8_t *)0xffffff8000000000ul;
    struct sigaction action = {.sa_handler = on_fault, .sa_flags = SA_NODEFER}, before;
    sigaction(SIGSEGV, &action, &before);
    if (sigsetjmp(beyond, 1)) {
        strcpy(answer, "out of reach");
    } else {
        long at = search(ram, (size_t)pages * 4096);
        if (at >= 0) found("RAM at %lx", at);
    }
    sigaction(SIGSEGV, &before, 0);
}

static void hunt(uint8_t letter, uint32_t pages) {
    int all = letter == 'H';
    strcpy(answer, "clean");
    /* The first find stays the answer. */
    int is_found = (all || letter == 'R') && hunt_registers();
    is_found = is_found || ((all || letter == 'M') && hunt_memory());
    is_found = is_found || ((all || letter == 'N') && hunt_fresh(pages));
    is_found = is_found || ((all || letter == 'T') && hunt_folder("/tmp"));
    is_found = is_found || ((all || letter == 'T') && hunt_folder("/dev/shm"));
    is_found = is_found || ((all || letter == 'E') && hunt_rest());
    (void)is_found;
    if (letter == 'K') hunt_ram(pages);
}

static int serve(const uint8_t *request, int is_stream) {
    uint32_t pages;
    uint8_t secret[16];
    char framed[4 + sizeof answer];
    memcpy(&pages, request + 1, 4);
    memcpy(masked, request + 5, 16);
    if (request[0] == 'P') {
        for (int at = 0; at < 16; at++) secret[at] = request[5 + at] ^ 0xa5;
        plant(secret);
        strcpy(answer, "planted");
    } else {
        hunt(request[0], pages);
    }
    uint32_t length = (uint32_t)strlen(answer);
    memcpy(framed, &length, 4);
    memcpy(framed + 4, answer, length);
    const char *from = is_stream ? framed : framed + 4;
    size_t bytes = is_stream ? length + 4 : length;
    if (request[0] == 'P') write_with_registers(from, bytes, secret);
    else if (write(1, from, bytes) != (ssize_t)bytes) return 1;
    return 0;
}

int main(int count, char **arguments) {
    int is_stream = count > 1 && !strcmp(arguments[1], "stream");
    uint8_t request[4 + REQUEST];
    size_t wanted = is_stream ? 4 + REQUEST : REQUEST;
    detect();
    do {
        size_t have = 0;
        while (have < wanted) {
            long got = read_request(request + have, wanted - have);
            if (got <= 0) return have == 0 && is_stream ? 0 : 1;
            /* What a partial read left in registers is seen by the last one only. */
            have += (size_t)got;
        }
        if (serve(is_stream ? request + 4 : request, is_stream)) return 2;
    } while (is_stream);
    return 0;
}
