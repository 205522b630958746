/* Contract stream: each request is a number of pages (u32, little-endian); that many pages of fresh
 * memory are written, and the answer is the same bytes. */
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

enum { PAGE = 4096 };

int main(void) {
    struct { uint32_t length, pages; } frame;
    while (read(0, &frame, sizeof frame) == sizeof frame && frame.length == sizeof frame.pages) {
        size_t bytes = (size_t)frame.pages * PAGE;
        if (bytes > 0) {
            char *memory = mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
            if (memory == MAP_FAILED) return 2;
            for (size_t at = 0; at < bytes; at += PAGE) memory[at + 8] = 1;
        }
        if (write(1, &frame, sizeof frame) != sizeof frame) return 3;
    }
    return 1;
}
