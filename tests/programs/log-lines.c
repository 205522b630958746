/* Writes as many lines to its log as its argument says, each as long as the second says, and
 * answers "done". A third argument ends it badly: "crash" or "loop". */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv) {
    long lines = argc > 1 ? atol(argv[1]) : 3;
    int width = argc > 2 ? atoi(argv[2]) : 0;
    for (long line = 1; line <= lines; line++) {
        int used = fprintf(stderr, "line %ld of %ld", line, lines);
        for (; used < width; used++) fputc('.', stderr);
        fputc('\n', stderr);
    }
    if (argc > 3 && !strcmp(argv[3], "crash")) abort();
    if (argc > 3 && !strcmp(argv[3], "loop")) for (;;) __asm__ volatile("");
    puts("done");
    return 0;
}
