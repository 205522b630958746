/* Takes as much of one thing as it is given: files, pipes with bytes in them, sockets, areas of
 * memory, sets of descriptors, listings of folders, threads, folders in folders, processes, and processes that take as many. Says how much that
 * was and exits with 0, or with 3 when it was told that there is no more memory. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static char bytes[65536];

static int files(void) {
    char name[64];
    for (int count = 0;; count++) {
        sprintf(name, "/tmp/file-%d", count);
        int fd = open(name, O_WRONLY | O_CREAT, 0600);
        if (fd < 0) return count;
        ssize_t ignored = count % 8 ? 0 : write(fd, bytes, 5000);
        (void)ignored;
        close(fd);
    }
}

static int fill(int make(int *)) {
    int count = 0;
    for (int ends[2]; make(ends) == 0; count++) {
        fcntl(ends[0], F_SETFL, O_NONBLOCK);
        fcntl(ends[1], F_SETFL, O_NONBLOCK);
        while (write(ends[1], bytes, sizeof bytes) > 0) {}
        while (write(ends[0], bytes, sizeof bytes) > 0) {}
    }
    return count;
}

static int make_pair(int *ends) { return socketpair(AF_UNIX, SOCK_STREAM, 0, ends); }

static int areas(void) {
    size_t length = 64ul << 30;
    char *map = mmap(0, length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) return 1;
    int count = 0;
    for (size_t at = 0; at < length; at += 8192, count++)
        if (munmap(map + at, 4096)) break;
    for (size_t at = 4096; at < length; at += 16384)
        if (mprotect(map + at, 4096, PROT_READ)) break;
    return count;
}

static int epolls(void) {
    int events[500], count = 0;
    for (int i = 0; i < 500; i++)
        if ((events[i] = eventfd(0, 0)) < 0) return i;
    for (int set; (set = epoll_create1(0)) >= 0; count++)
        for (int i = 0; i < 500; i++) {
            struct epoll_event wanted = {.events = EPOLLIN};
            epoll_ctl(set, EPOLL_CTL_ADD, events[i], &wanted);
        }
    return count;
}

static int folders(void) {
    char name[300];
    memset(name, 'n', sizeof name);
    for (int i = 0; i < 20000; i++) {
        sprintf(name, "/tmp/%d", i);
        name[strlen(name)] = 'n';
        name[200] = 0;
        int fd = open(name, O_WRONLY | O_CREAT, 0600);
        if (fd < 0) break;
        close(fd);
    }
    int count = 0;
    for (int fd; (fd = open("/tmp", O_RDONLY | O_DIRECTORY)) >= 0; count++)
        if (syscall(SYS_getdents64, fd, bytes, sizeof bytes) < 0) break;
    return count;
}

static void *rest(void *unused) {
    for (;;) pause();
    return unused;
}

static int threads(void) {
    pthread_attr_t small;
    pthread_attr_init(&small);
    pthread_attr_setstacksize(&small, 16384);
    int count = 0;
    for (pthread_t thread; pthread_create(&thread, &small, rest, 0) == 0; count++) {}
    return count;
}

static int deep(void) {
    int count = 0;
    if (chdir("/tmp")) return 0;
    while (mkdir("level", 0700) == 0 && chdir("level") == 0) count++;
    return count;
}

static int processes(void) {
    int count = 0;
    for (pid_t child; (child = fork()) >= 0; count++)
        if (!child) rest(0);
    return count;
}

static int bomb(void) {
    int count = 0;
    for (pid_t child; (child = fork()) >= 0; count++)
        if (!child) for (;;) fork();
    return count;
}

int main(int argc, char **argv) {
    const char *what = argc > 1 ? argv[1] : "";
    int count = 0;
    if (!strcmp(what, "files")) count = files();
    if (!strcmp(what, "pipes")) count = fill(pipe);
    if (!strcmp(what, "sockets")) count = fill(make_pair);
    if (!strcmp(what, "areas")) count = areas();
    if (!strcmp(what, "epolls")) count = epolls();
    if (!strcmp(what, "folders")) count = folders();
    if (!strcmp(what, "threads")) count = threads();
    if (!strcmp(what, "deep")) count = deep();
    if (!strcmp(what, "processes")) count = processes();
    if (!strcmp(what, "bomb")) count = bomb();
    printf("%d %s, then: %s\n", count, what, strerror(errno));
    return errno == ENOMEM || errno == ENOSPC ? 3 : 0;
}
