/* Contract stream: logs the first line of each request, and answers with the whole request. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

int main(void) {
    static char body[1 << 20];
    uint32_t length;
    while (fread(&length, 4, 1, stdin)) {
        if (length > sizeof body || fread(body, 1, length, stdin) != length) return 1;
        const char *end = memchr(body, '\n', length);
        fprintf(stderr, "%.*s\n", (int)(end ? end - body : length), body);
        fwrite(&length, 4, 1, stdout);
        fwrite(body, 1, length, stdout);
        if (fflush(stdout)) return 1;
    }
    return 0;
}
