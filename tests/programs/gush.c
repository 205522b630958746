/* Writes as many MiB to its log as its argument says, in lines of 1 KiB. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(int argc, char **argv) {
    static char lines[64 * 1024];
    long chunks = (argc > 1 ? atol(argv[1]) : 1) * 16;
    memset(lines, 'x', sizeof lines);
    for (size_t end = 1023; end < sizeof lines; end += 1024) lines[end] = '\n';
    while (chunks-- > 0)
        for (size_t at = 0; at < sizeof lines;) {
            ssize_t written = write(2, lines + at, sizeof lines - at);
            if (written <= 0) return 1;
            at += (size_t)written;
        }
    return 0;
}
