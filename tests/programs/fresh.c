/* Prints what must differ between any two invokes, restores and clones: random bytes from three
 * sources, and both clocks in nanoseconds. */
#include <fcntl.h>
#include <stdio.h>
#include <sys/auxv.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

static void hex(const char *name, const unsigned char *bytes) {
    printf("%s=", name);
    for (int i = 0; i < 16; i++) printf("%02x", bytes[i]);
    putchar('\n');
}

static void clock_line(const char *name, clockid_t clock) {
    struct timespec now;
    clock_gettime(clock, &now);
    printf("%s=%lld\n", name, (long long)now.tv_sec * 1000000000 + now.tv_nsec);
}

int main(void) {
    unsigned char bytes[16] = {0};
    if (getrandom(bytes, sizeof bytes, 0) != sizeof bytes) return 1;
    hex("getrandom", bytes);
    hex("at_random", (const unsigned char *)getauxval(AT_RANDOM));
    int fd = open("/dev/urandom", O_RDONLY);
    if (fd < 0 || read(fd, bytes, sizeof bytes) != sizeof bytes) return 2;
    hex("urandom", bytes);
    clock_line("realtime", CLOCK_REALTIME);
    clock_line("monotonic", CLOCK_MONOTONIC);
    return 0;
}
