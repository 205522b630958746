/* Contract stream in C: requests framed by their length (u32, little-endian) on standard input,
 * answered with the same bytes framed alike. One argument changes what it does wrong:
 *   close    closes standard output instead of the second answer
 *   long     claims a longer second answer than it gives, then ends
 *   crash    dies on the second request */
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int all(int write_it, int fd, char *bytes, size_t count) {
    while (count > 0) {
        ssize_t moved = write_it ? write(fd, bytes, count) : read(fd, bytes, count);
        if (moved <= 0) return 0;
        bytes += moved;
        count -= (size_t)moved;
    }
    return 1;
}

int main(int argc, char **argv) {
    const char *fault = argc > 1 ? argv[1] : "";
    static char frame[4 + (8 << 20)];
    for (int request = 1; all(0, 0, frame, 4); request++) {
        uint32_t length;
        memcpy(&length, frame, 4);
        if (length > sizeof frame - 4 || !all(0, 0, frame + 4, length)) return 1;
        if (request == 2 && !strcmp(fault, "close")) close(1);
        if (request == 2 && !strcmp(fault, "crash")) raise(SIGSEGV);
        if (request == 2 && !strcmp(fault, "long")) {
            length++;
            memcpy(frame, &length, 4);
            all(1, 1, frame, 3 + length);
            return 0;
        }
        if (!all(1, 1, frame, 4 + length) && strcmp(fault, "close")) return 1;
    }
    return 0;
}
