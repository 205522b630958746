/* Contract stream: answers each request with "PID COUNT ", its own number and how many requests it
 * has met so far, and then the request. One that is kept counts on; a new one starts at 1. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int main(void) {
    static char body[1 << 20];
    uint32_t length;
    for (long count = 1; fread(&length, 4, 1, stdin); count++) {
        char head[64];
        if (length > sizeof body || fread(body, 1, length, stdin) != length) return 1;
        uint32_t used = (uint32_t)snprintf(head, sizeof head, "%d %ld ", getpid(), count);
        uint32_t total = used + length;
        fwrite(&total, 4, 1, stdout);
        fwrite(head, 1, used, stdout);
        fwrite(body, 1, length, stdout);
        if (fflush(stdout)) return 1;
    }
    return 0;
}
