/* What C programs ask of Linux besides threads, each step checked and named: prints "ok NAME" per
 * step and "all ok"; a step that fails says where. With names as arguments, only those steps. The
 * same output is expected of Linux itself. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/sysinfo.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <sys/times.h>
#include <sys/uio.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <time.h>
#include <ucontext.h>
#include <unistd.h>

static const char *step = "";

#define CHECK(is)                                                                           \
    do {                                                                                    \
        if (!(is)) {                                                                        \
            printf("FAILED %s, line %d: %s (errno %d)\n", step, __LINE__, #is, errno);       \
            exit(1);                                                                        \
        }                                                                                   \
    } while (0)
#define FAILS(call, error) CHECK((errno = 0, (call) == -1 && errno == (error)))

static int64_t now(clockid_t clock) {
    struct timespec time;
    CHECK(clock_gettime(clock, &time) == 0);
    return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static void put(const char *path, const char *text) {
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    CHECK(fd >= 0);
    CHECK(write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    CHECK(close(fd) == 0);
}

static char *get(const char *path) {
    static char text[65536];
    int fd = open(path, O_RDONLY);
    CHECK(fd >= 0);
    size_t done = 0;
    for (ssize_t count; (count = read(fd, text + done, sizeof text - 1 - done)) != 0; done += (size_t)count) CHECK(count > 0);
    text[done] = 0;
    close(fd);
    return text;
}

static void files(void) {
    CHECK(mkdir("/tmp/abi", 0755) == 0 && chdir("/tmp/abi") == 0);
    FAILS(mkdir("/tmp/abi", 0755), EEXIST);
    char here[64];
    CHECK(getcwd(here, sizeof here) && !strcmp(here, "/tmp/abi"));
    errno = 0;
    CHECK(!getcwd(here, 3) && errno == ERANGE);
    put("a", "hello world");
    int fd = open("a", O_RDWR);
    CHECK(lseek(fd, -5, SEEK_END) == 6);
    char bytes[32] = {0};
    CHECK(read(fd, bytes, 32) == 5 && !memcmp(bytes, "world", 5));
    CHECK(read(fd, bytes, 32) == 0);
    CHECK(pwrite(fd, "W", 1, 6) == 1 && pread(fd, bytes, 5, 6) == 5 && !memcmp(bytes, "World", 5));
    CHECK(lseek(fd, 100, SEEK_SET) == 100 && write(fd, "far", 3) == 3);
    struct stat stat_a;
    CHECK(fstat(fd, &stat_a) == 0 && stat_a.st_size == 103 && S_ISREG(stat_a.st_mode) && stat_a.st_nlink == 1);
    CHECK(pread(fd, bytes, 4, 50) == 4 && !memcmp(bytes, "\0\0\0\0", 4));
    CHECK(ftruncate(fd, 5) == 0 && lseek(fd, 0, SEEK_END) == 5);
    FAILS(lseek(fd, -6, SEEK_END), EINVAL);
    FAILS(lseek(fd, 0, 99), EINVAL);
    CHECK(fsync(fd) == 0 && fdatasync(fd) == 0);
    CHECK(posix_fallocate(fd, 0, 8192) == 0 && fstat(fd, &stat_a) == 0 && stat_a.st_size == 8192);
    CHECK(ftruncate(fd, 5) == 0);
    struct iovec parts[3] = {{"one", 3}, {"", 0}, {"three", 5}};
    CHECK(lseek(fd, 0, SEEK_SET) == 0 && writev(fd, parts, 3) == 8);
    char first[4] = {0}, second[8] = {0};
    struct iovec into[2] = {{first, 3}, {second, 7}};
    CHECK(preadv(fd, into, 2, 0) == 8 && !strcmp(first, "one") && !strcmp(second, "three"));
    CHECK(close(fd) == 0);
    FAILS(close(fd), EBADF);
    FAILS(read(fd, bytes, 1), EBADF);
    FAILS(open("a", O_RDWR | O_CREAT | O_EXCL, 0600), EEXIST);
    FAILS(open("none", O_RDONLY), ENOENT);
    FAILS(open("a/b", O_RDONLY), ENOTDIR);
    FAILS(open(".", O_WRONLY), EISDIR);
    FAILS(open("a", O_RDONLY | O_DIRECTORY), ENOTDIR);
    fd = open("a", O_WRONLY | O_APPEND);
    CHECK(lseek(fd, 0, SEEK_SET) == 0 && write(fd, "end", 3) == 3 && lseek(fd, 0, SEEK_CUR) == 11);
    FAILS(read(fd, bytes, 1), EBADF);
    close(fd);
    CHECK(rename("a", "b") == 0 && !strcmp(get("b"), "onethreeend"));
    FAILS(rename("a", "b"), ENOENT);
    CHECK(link("b", "c") == 0 && stat("c", &stat_a) == 0 && stat_a.st_nlink == 2);
    CHECK(symlink("c", "s") == 0 && readlink("s", bytes, 32) == 1 && bytes[0] == 'c');
    struct stat link_stat;
    CHECK(lstat("s", &link_stat) == 0 && S_ISLNK(link_stat.st_mode) && link_stat.st_size == 1);
    CHECK(stat("s", &link_stat) == 0 && link_stat.st_ino == stat_a.st_ino);
    FAILS(open("s", O_RDONLY | O_NOFOLLOW), ELOOP);
    CHECK(symlink("loop", "loop") == 0);
    FAILS(open("loop", O_RDONLY), ELOOP);
    CHECK(unlink("b") == 0 && stat("c", &stat_a) == 0 && stat_a.st_nlink == 1);
    CHECK(chmod("c", 0640) == 0 && stat("c", &stat_a) == 0 && (stat_a.st_mode & 07777) == 0640);
    CHECK(access("c", R_OK | W_OK) == 0);
    FAILS(access("none", F_OK), ENOENT);
    mode_t old = umask(077);
    CHECK(umask(old) == 077);
    struct timespec times[2] = {{1000, 5}, {2000, 7}};
    CHECK(utimensat(AT_FDCWD, "c", times, 0) == 0 && stat("c", &stat_a) == 0);
    CHECK(stat_a.st_mtim.tv_sec == 2000 && stat_a.st_mtim.tv_nsec == 7 && stat_a.st_atim.tv_sec == 1000);
    struct timeval old_times[2] = {{3000, 5}, {4000, 7}};
    CHECK(utimes("c", old_times) == 0 && stat("c", &stat_a) == 0 && stat_a.st_mtim.tv_nsec == 7000);
    CHECK(truncate("c", 3) == 0 && !strcmp(get("c"), "one"));
    /* A file without a name lives until its last descriptor closes. */
    fd = open("c", O_RDWR);
    CHECK(unlink("c") == 0 && write(fd, "two", 3) == 3 && pread(fd, bytes, 3, 0) == 3 && !memcmp(bytes, "two", 3));
    CHECK(fstat(fd, &stat_a) == 0 && stat_a.st_nlink == 0);
    close(fd);
    CHECK(mkdir("d", 0700) == 0 && mkdir("d/e", 0700) == 0);
    FAILS(rmdir("d"), ENOTEMPTY);
    FAILS(unlink("d"), EISDIR);
    FAILS(rename("d", "d/e/f"), EINVAL);
    put("d/x", "x");
    CHECK(rename("d/x", "d/e/x") == 0 && unlink("d/e/x") == 0 && rmdir("d/e") == 0 && rmdir("d") == 0);
    int folder = open("/tmp/abi", O_RDONLY | O_DIRECTORY);
    CHECK(folder >= 0 && mkdirat(folder, "at", 0755) == 0 && fstatat(folder, "at", &stat_a, 0) == 0 && S_ISDIR(stat_a.st_mode));
    CHECK(unlinkat(folder, "at", AT_REMOVEDIR) == 0 && faccessat(folder, "s", F_OK, 0) == -1);
    FAILS(read(folder, bytes, 1), EISDIR);
    close(folder);
    char long_name[300];
    memset(long_name, 'n', 299);
    long_name[299] = 0;
    FAILS(open(long_name, O_RDONLY), ENAMETOOLONG);
    FAILS(open("", O_RDONLY), ENOENT);
    FAILS(open((const char *)8, O_RDONLY), EFAULT);
    CHECK(unlink("s") == 0 && unlink("loop") == 0 && chdir("/") == 0 && rmdir("/tmp/abi") == 0);
    FAILS(chdir("/tmp/abi"), ENOENT);
    struct statvfs space;
    CHECK(statvfs("/tmp", &space) == 0 && space.f_bsize >= 512 && space.f_blocks > 0 && space.f_namemax == 255);
}

static int by_name(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static void directories(void) {
    enum { COUNT = 500 };
    char path[64], *names[COUNT + 8];
    CHECK(mkdir("/tmp/many", 0755) == 0);
    for (int i = 0; i < COUNT; i++) {
        sprintf(path, "/tmp/many/file-%04d", i);
        put(path, path);
    }
    DIR *folder = opendir("/tmp/many");
    int count = 0;
    CHECK(folder);
    for (struct dirent *entry; (entry = readdir(folder));) {
        CHECK(count < COUNT + 8);
        names[count++] = strdup(entry->d_name);
    }
    CHECK(count == COUNT + 2);
    rewinddir(folder);
    CHECK(readdir(folder));
    closedir(folder);
    qsort(names, (size_t)count, sizeof *names, by_name);
    CHECK(!strcmp(names[0], ".") && !strcmp(names[1], "..") && !strcmp(names[COUNT + 1], "file-0499"));
    /* Removed while it is read. */
    folder = opendir("/tmp/many");
    for (struct dirent *entry; (entry = readdir(folder));) {
        if (entry->d_name[0] == '.') continue;
        sprintf(path, "/tmp/many/%s", entry->d_name);
        CHECK(unlink(path) == 0);
    }
    closedir(folder);
    CHECK(rmdir("/tmp/many") == 0);
    /* Deep. */
    CHECK(mkdir("/tmp/deep", 0755) == 0 && chdir("/tmp/deep") == 0);
    for (int i = 0; i < 300; i++) CHECK(mkdir("level", 0755) == 0 && chdir("level") == 0);
    char here[PATH_MAX];
    CHECK(getcwd(here, sizeof here) && strlen(here) == 9 + 300 * 6);
    for (int i = 0; i < 300; i++) CHECK(chdir("..") == 0 && rmdir("level") == 0);
    CHECK(chdir("/") == 0 && rmdir("/tmp/deep") == 0);
}

static void locks(void) {
    int first = open("/tmp/locked", O_RDWR | O_CREAT, 0600), second = open("/tmp/locked", O_RDWR);
    CHECK(flock(first, LOCK_SH) == 0 && flock(second, LOCK_SH | LOCK_NB) == 0);
    FAILS(flock(first, LOCK_EX | LOCK_NB), EWOULDBLOCK);
    CHECK(flock(second, LOCK_UN) == 0 && flock(first, LOCK_EX | LOCK_NB) == 0);
    close(first);
    CHECK(flock(second, LOCK_EX | LOCK_NB) == 0);
    struct flock range = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    CHECK(fcntl(second, F_SETLK, &range) == 0);
    close(second);
    unlink("/tmp/locked");
}

static void descriptors(void) {
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    CHECK(fcntl(null, F_GETFD) == FD_CLOEXEC && fcntl(null, F_SETFD, 0) == 0 && fcntl(null, F_GETFD) == 0);
    int high = fcntl(null, F_DUPFD_CLOEXEC, 100);
    CHECK(high == 100 && fcntl(high, F_GETFD) == FD_CLOEXEC);
    CHECK(dup2(null, 50) == 50 && fcntl(50, F_GETFD) == 0 && dup3(null, 51, O_CLOEXEC) == 51);
    CHECK(dup2(null, null) == null);
    FAILS(dup3(null, null, 0), EINVAL);
    CHECK((fcntl(null, F_GETFL) & O_ACCMODE) == O_RDWR);
    FAILS(fcntl(99, F_GETFL), EBADF);
    struct rlimit limit;
    CHECK(getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur >= 256);
    int last = -1, count = 0;
    while ((last = dup(null)) >= 0) count++;
    CHECK(errno == EMFILE && count > 200);
    for (int fd = 3; fd < 70000; fd++) close(fd);
}

static void pipes(void) {
    int ends[2];
    CHECK(pipe2(ends, O_NONBLOCK) == 0);
    char bytes[70000] = {0};
    FAILS(read(ends[0], bytes, 1), EAGAIN);
    CHECK(write(ends[1], bytes, 70000) == 65536);
    FAILS(write(ends[1], bytes, 1), EAGAIN);
    int waiting = 0;
    CHECK(ioctl(ends[0], 0x541b, &waiting) == 0 && waiting == 65536);
    struct pollfd polled[2] = {{ends[0], POLLIN, 0}, {ends[1], POLLOUT, 0}};
    CHECK(poll(polled, 2, 0) == 1 && polled[0].revents == POLLIN && polled[1].revents == 0);
    CHECK(read(ends[0], bytes, 70000) == 65536 && close(ends[0]) == 0);
    CHECK(poll(polled + 1, 1, 0) == 1 && polled[1].revents & POLLERR);
    signal(SIGPIPE, SIG_IGN);
    FAILS(write(ends[1], "x", 1), EPIPE);
    signal(SIGPIPE, SIG_DFL);
    close(ends[1]);
    CHECK(pipe(ends) == 0 && write(ends[1], "last", 4) == 4 && close(ends[1]) == 0);
    CHECK(read(ends[0], bytes, 10) == 4 && read(ends[0], bytes, 10) == 0);
    FAILS(lseek(ends[0], 0, SEEK_CUR), ESPIPE);
    close(ends[0]);
    int pair[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
    CHECK(write(pair[0], "ping", 4) == 4 && recv(pair[1], bytes, 10, MSG_PEEK) == 4 && read(pair[1], bytes, 10) == 4);
    CHECK(send(pair[1], "pong", 4, MSG_NOSIGNAL) == 4 && recv(pair[0], bytes, 4, MSG_WAITALL) == 4);
    CHECK(shutdown(pair[0], SHUT_WR) == 0 && read(pair[1], bytes, 10) == 0);
    FAILS(recv(pair[0], bytes, 1, MSG_DONTWAIT), EAGAIN);
    close(pair[1]);
    CHECK(read(pair[0], bytes, 1) == 0);
    FAILS(send(pair[0], "x", 1, MSG_NOSIGNAL), EPIPE);
    close(pair[0]);
}

static void polling(void) {
    int event = eventfd(3, EFD_NONBLOCK), semaphore = eventfd(2, EFD_SEMAPHORE | EFD_NONBLOCK);
    uint64_t value = 0;
    CHECK(read(event, &value, 8) == 8 && value == 3);
    FAILS(read(event, &value, 8), EAGAIN);
    CHECK(read(semaphore, &value, 8) == 8 && value == 1 && read(semaphore, &value, 8) == 8);
    FAILS(read(semaphore, &value, 8), EAGAIN);
    int set = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event wanted = {.events = EPOLLIN, .data.u64 = 0x1122334455667788}, found[4];
    CHECK(epoll_ctl(set, EPOLL_CTL_ADD, event, &wanted) == 0);
    FAILS(epoll_ctl(set, EPOLL_CTL_ADD, event, &wanted), EEXIST);
    FAILS(epoll_ctl(set, EPOLL_CTL_DEL, semaphore, 0), ENOENT);
    CHECK(epoll_wait(set, found, 4, 0) == 0);
    int64_t start = now(CLOCK_MONOTONIC);
    CHECK(epoll_wait(set, found, 4, 30) == 0 && now(CLOCK_MONOTONIC) - start >= 29000000);
    value = 1;
    CHECK(write(event, &value, 8) == 8);
    CHECK(epoll_wait(set, found, 4, -1) == 1 && found[0].data.u64 == 0x1122334455667788 && found[0].events == EPOLLIN);
    CHECK(epoll_wait(set, found, 4, -1) == 1);
    wanted.events = EPOLLIN | EPOLLET;
    CHECK(epoll_ctl(set, EPOLL_CTL_MOD, event, &wanted) == 0 && epoll_wait(set, found, 4, 0) == 1 && epoll_wait(set, found, 4, 0) == 0);
    CHECK(write(event, &value, 8) == 8 && epoll_wait(set, found, 4, 0) == 1);
    wanted.events = EPOLLIN | EPOLLONESHOT;
    CHECK(epoll_ctl(set, EPOLL_CTL_MOD, event, &wanted) == 0 && epoll_wait(set, found, 4, 0) == 1 && epoll_wait(set, found, 4, 0) == 0);
    int regular = open("/tmp/regular", O_RDWR | O_CREAT, 0600);
    FAILS(epoll_ctl(set, EPOLL_CTL_ADD, regular, &wanted), EPERM);
    struct pollfd polled[3] = {{regular, POLLIN | POLLOUT, 0}, {-1, POLLIN, 7}, {999, POLLIN, 0}};
    CHECK(poll(polled, 3, -1) == 2 && polled[0].revents == (POLLIN | POLLOUT) && polled[1].revents == 0 && polled[2].revents == POLLNVAL);
    close(regular);
    unlink("/tmp/regular");
    start = now(CLOCK_MONOTONIC);
    CHECK(poll(0, 0, 25) == 0 && now(CLOCK_MONOTONIC) - start >= 24000000);
    fd_set reads, writes;
    FD_ZERO(&reads);
    FD_ZERO(&writes);
    FD_SET(event, &reads);
    FD_SET(semaphore, &reads);
    FD_SET(event, &writes);
    struct timeval wait = {1, 0};
    CHECK(select(semaphore + 1, &reads, &writes, 0, &wait) == 2);
    CHECK(FD_ISSET(event, &reads) && !FD_ISSET(semaphore, &reads) && FD_ISSET(event, &writes));
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct itimerspec often = {{0, 5000000}, {0, 10000000}}, left;
    FAILS(read(timer, &value, 8), EAGAIN);
    CHECK(timerfd_settime(timer, 0, &often, 0) == 0 && timerfd_gettime(timer, &left) == 0);
    CHECK(left.it_interval.tv_nsec == 5000000 && left.it_value.tv_nsec > 0 && left.it_value.tv_nsec <= 10000000);
    polled[0] = (struct pollfd){timer, POLLIN, 0};
    start = now(CLOCK_MONOTONIC);
    CHECK(poll(polled, 1, -1) == 1 && read(timer, &value, 8) == 8 && value >= 1);
    usleep(40000);
    CHECK(read(timer, &value, 8) == 8 && value >= 5);
    struct itimerspec at = {{0, 0}, {0, 0}};
    clock_gettime(CLOCK_REALTIME, &at.it_value);
    at.it_value.tv_sec -= 5;
    close(timer);
    timer = timerfd_create(CLOCK_REALTIME, 0);
    CHECK(timerfd_settime(timer, TFD_TIMER_ABSTIME, &at, 0) == 0 && read(timer, &value, 8) == 8 && value == 1);
    wanted.events = EPOLLIN | EPOLLET;
    CHECK(epoll_ctl(set, EPOLL_CTL_ADD, timer, &wanted) == 0 && timerfd_settime(timer, 0, &often, 0) == 0);
    CHECK(epoll_wait(set, found, 4, 5000) == 1 && read(timer, &value, 8) == 8 && epoll_wait(set, found, 4, 5000) == 1);
    close(timer), close(set), close(event), close(semaphore);
}

static void memory(void) {
    long page = sysconf(_SC_PAGESIZE);
    CHECK(page == 4096);
    char *map = mmap(0, 16 * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(map != MAP_FAILED);
    for (int i = 0; i < 16; i++) {
        CHECK(map[i * 4096] == 0);
        map[i * 4096] = (char)(i + 1);
    }
    CHECK(munmap(map + 4096, 4096) == 0);
    CHECK(mmap(map + 4096, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == map + 4096);
    CHECK(map[4096] == 0 && map[0] == 1 && map[8192] == 3);
    CHECK(mprotect(map, 4096, PROT_READ) == 0 && map[0] == 1 && mprotect(map, 4096, PROT_READ | PROT_WRITE) == 0);
    map[0] = 9;
    CHECK(madvise(map, 4 * 4096, MADV_DONTNEED) == 0 && map[0] == 0 && map[3 * 4096] == 0 && map[4 * 4096] == 5);
    char *grown = mremap(map, 16 * 4096, 4096 * 4096, MREMAP_MAYMOVE);
    CHECK(grown != MAP_FAILED && grown[4 * 4096] == 5 && grown[15 * 4096] == 16 && grown[4095 * 4096] == 0);
    CHECK(mremap(grown, 4096 * 4096, 8 * 4096, 0) == grown && munmap(grown, 8 * 4096) == 0);
    FAILS(munmap(grown + 1, 4096), EINVAL);
    FAILS(mprotect(grown, 4096, PROT_READ), ENOMEM);
    errno = 0;
    CHECK(mmap(0, 0, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED && errno == EINVAL);
    /* What allocators and language runtimes reserve and never touch. */
    char *huge = mmap(0, 10ul << 30, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CHECK(huge != MAP_FAILED && mprotect(huge + (5ul << 30), 1 << 20, PROT_READ | PROT_WRITE) == 0);
    huge[(5ul << 30) + 12345] = 7;
    CHECK(huge[(5ul << 30) + 12345] == 7 && munmap(huge, 10ul << 30) == 0);
    CHECK(mmap(grown, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == grown);
    errno = 0;
    CHECK(mmap(grown, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0) == MAP_FAILED && errno == EEXIST);
    munmap(grown, 4096);
    put("/tmp/mapped", "mapped bytes");
    int fd = open("/tmp/mapped", O_RDWR);
    char *file = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
    CHECK(file != MAP_FAILED && !strcmp(file, "mapped bytes"));
    file[0] = 'M';
    CHECK(!strcmp(get("/tmp/mapped"), "mapped bytes") && munmap(file, 4096) == 0);
    const char *seen = mmap(0, 4096, PROT_READ, MAP_SHARED, fd, 0);
    CHECK(seen != MAP_FAILED && !strcmp(seen, "mapped bytes"));
    munmap((void *)seen, 4096);
    close(fd);
    unlink("/tmp/mapped");
    char *shared = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    CHECK(shared != MAP_FAILED && (shared[5000] = 3) == 3 && munmap(shared, 8192) == 0);
    char *start = (char *)syscall(SYS_brk, 0);
    CHECK(syscall(SYS_brk, start + (1 << 20)) == (long)start + (1 << 20));
    start[(1 << 20) - 1] = 4;
    CHECK(syscall(SYS_brk, start) == (long)start);
    char *big = malloc(40 << 20);
    CHECK(big);
    for (size_t i = 0; i < 40 << 20; i += 4096) big[i] = (char)(i >> 12);
    for (size_t i = 0; i < 40 << 20; i += 4096) CHECK(big[i] == (char)(i >> 12));
    free(big);
    CHECK(mlock(&page, sizeof page) == 0 && munlock(&page, sizeof page) == 0);
    /* Every other page taken out again. */
    enum { PARTS = 2000 };
    char *comb = mmap(0, PARTS * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int i = 0; i < PARTS; i += 2) CHECK(munmap(comb + i * 4096, 4096) == 0);
    for (int i = 1; i < PARTS; i += 2) comb[i * 4096] = 1;
    CHECK(munmap(comb, PARTS * 4096) == 0);
}

static void shared_file(void) {
    int fd = open("/tmp/shared", O_RDWR | O_CREAT | O_TRUNC, 0600);
    CHECK(ftruncate(fd, 3 * 4096) == 0 && pwrite(fd, "before", 6, 4096) == 6);
    char *map = mmap(0, 3 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(map != MAP_FAILED && !memcmp(map + 4096, "before", 6) && map[0] == 0);
    memcpy(map, "by store", 8);
    memcpy(map + 2 * 4096, "third", 5);
    char bytes[16] = {0};
    CHECK(pread(fd, bytes, 8, 0) == 8 && !memcmp(bytes, "by store", 8));
    CHECK(pwrite(fd, "by call", 7, 4096) == 7 && !memcmp(map + 4096, "by call", 7));
    char *again = mmap(0, 4096, PROT_READ, MAP_SHARED, fd, 2 * 4096);
    CHECK(again != MAP_FAILED && !memcmp(again, "third", 5));
    map[2 * 4096] = 'T';
    CHECK(again[0] == 'T' && msync(map, 3 * 4096, MS_SYNC) == 0);
    CHECK(mprotect(map, 4096, PROT_READ) == 0 && mprotect(map, 4096, PROT_READ | PROT_WRITE) == 0);
    map[1] = 'Y';
    CHECK(pread(fd, bytes, 8, 0) == 8 && bytes[1] == 'Y');
    CHECK(munmap(map, 3 * 4096) == 0 && munmap(again, 4096) == 0);
    CHECK(pread(fd, bytes, 5, 2 * 4096) == 5 && !memcmp(bytes, "Third", 5));
    close(fd);
    fd = open("/tmp/shared", O_RDONLY);
    errno = 0;
    CHECK(mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED && errno == EACCES);
    map = mmap(0, 4096, PROT_READ, MAP_SHARED, fd, 0);
    FAILS(mprotect(map, 4096, PROT_READ | PROT_WRITE), EACCES);
    close(fd);
    unlink("/tmp/shared");
}

static sigjmp_buf back;
static volatile sig_atomic_t caught, depth;
static volatile void *fault_address;

static void on_signal(int number) { caught = number; }

static void on_fault(int number, siginfo_t *information, void *context) {
    (void)context;
    caught = number;
    fault_address = information->si_addr;
    siglongjmp(back, information->si_code);
}

static void on_alternate(int number, siginfo_t *information, void *context) {
    char here;
    stack_t stack;
    (void)information, (void)context;
    sigaltstack(0, &stack);
    caught = number;
    depth = (char *)stack.ss_sp <= &here && &here < (char *)stack.ss_sp + stack.ss_size && stack.ss_flags & SS_ONSTACK;
}

static void on_queued(int number, siginfo_t *information, void *context) {
    (void)context;
    depth = depth * 10 + information->si_value.sival_int;
    caught = number;
}

static void step_over(int number, siginfo_t *information, void *context) {
    (void)information;
    caught = number;
    ((ucontext_t *)context)->uc_mcontext.gregs[REG_RIP] += 2;
    ((ucontext_t *)context)->uc_mcontext.gregs[REG_RBX] = 77;
}

static void signals(void) {
    struct sigaction action = {.sa_handler = on_signal}, before;
    sigset_t set, old;
    CHECK(sigaction(SIGUSR1, &action, 0) == 0 && sigaction(SIGUSR1, 0, &before) == 0 && before.sa_handler == on_signal);
    FAILS(sigaction(SIGKILL, &action, 0), EINVAL);
    CHECK(raise(SIGUSR1) == 0 && caught == SIGUSR1);
    sigemptyset(&set), sigaddset(&set, SIGUSR1);
    CHECK(sigprocmask(SIG_BLOCK, &set, &old) == 0);
    caught = 0;
    raise(SIGUSR1);
    sigset_t pending;
    CHECK(!caught && sigpending(&pending) == 0 && sigismember(&pending, SIGUSR1));
    CHECK(sigprocmask(SIG_SETMASK, &old, 0) == 0 && caught == SIGUSR1);
    /* A handler that leaves by longjmp, and where the fault was. */
    struct sigaction fault = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO};
    CHECK(sigaction(SIGSEGV, &fault, 0) == 0 && sigaction(SIGILL, &fault, 0) == 0 && sigaction(SIGFPE, &fault, 0) == 0);
    volatile int code = sigsetjmp(back, 1);
    if (!code) *(volatile int *)0x123456 = 1;
    CHECK(code == SEGV_MAPERR && caught == SIGSEGV && fault_address == (void *)0x123456);
    char *page = mmap(0, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    code = sigsetjmp(back, 1);
    if (!code) *(volatile char *)page = 1;
    CHECK(code == SEGV_ACCERR && fault_address == page);
    code = sigsetjmp(back, 1);
    if (!code) __asm__ volatile("idivl %0" : : "r"(0), "a"(1), "d"(0));
    CHECK(code == FPE_INTDIV && caught == SIGFPE);
    code = sigsetjmp(back, 1);
    if (!code) __asm__ volatile("ud2");
    CHECK(code == ILL_ILLOPN && caught == SIGILL);
    /* A handler that changes what it returns to. */
    struct sigaction stepping = {.sa_sigaction = step_over, .sa_flags = SA_SIGINFO};
    sigaction(SIGILL, &stepping, 0);
    long result = 5;
    __asm__ volatile("ud2" : "+b"(result));
    CHECK(result == 77);
    /* An alternate stack. */
    stack_t stack = {.ss_sp = malloc(65536), .ss_size = 65536}, none = {.ss_flags = SS_DISABLE};
    CHECK(sigaltstack(&stack, 0) == 0);
    struct sigaction alternate = {.sa_sigaction = on_alternate, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    sigaction(SIGUSR2, &alternate, 0);
    depth = 0;
    raise(SIGUSR2);
    CHECK(caught == SIGUSR2 && depth && sigaltstack(&none, 0) == 0);
    /* Queued, in order. */
    struct sigaction queued = {.sa_sigaction = on_queued, .sa_flags = SA_SIGINFO};
    sigaction(SIGRTMIN + 1, &queued, 0);
    sigemptyset(&set), sigaddset(&set, SIGRTMIN + 1);
    sigprocmask(SIG_BLOCK, &set, 0);
    depth = 0;
    for (int i = 1; i <= 3; i++) CHECK(sigqueue(getpid(), SIGRTMIN + 1, (union sigval){.sival_int = i}) == 0);
    sigprocmask(SIG_SETMASK, &old, 0);
    CHECK(depth == 123);
    /* Waited for. */
    sigemptyset(&set), sigaddset(&set, SIGUSR1);
    sigprocmask(SIG_BLOCK, &set, 0);
    struct timespec soon = {0, 20000000};
    siginfo_t information;
    FAILS(sigtimedwait(&set, 0, &soon), EAGAIN);
    raise(SIGUSR1);
    CHECK(sigtimedwait(&set, &information, &soon) == SIGUSR1 && information.si_pid == getpid());
    /* Interrupting a call, and restarting one. */
    sigprocmask(SIG_SETMASK, &old, 0);
    action.sa_flags = 0;
    sigaction(SIGALRM, &action, 0);
    int ends[2];
    char byte;
    CHECK(pipe(ends) == 0);
    struct itimerval once = {{0, 0}, {0, 20000}};
    setitimer(ITIMER_REAL, &once, 0);
    FAILS(read(ends[0], &byte, 1), EINTR);
    setitimer(ITIMER_REAL, &once, 0);
    struct timespec long_sleep = {10, 0}, rest;
    FAILS(nanosleep(&long_sleep, &rest), EINTR);
    CHECK(rest.tv_sec >= 8);
    setitimer(ITIMER_REAL, &once, 0);
    FAILS(pause(), EINTR);
    setitimer(ITIMER_REAL, &once, 0);
    FAILS(sigsuspend(&old), EINTR);
    timer_t timer;
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN + 1, .sigev_value.sival_int = 7};
    CHECK(timer_create(CLOCK_MONOTONIC, &event, &timer) == 0);
    struct itimerspec quick = {{0, 0}, {0, 5000000}};
    depth = 0;
    CHECK(timer_settime(timer, 0, &quick, 0) == 0);
    FAILS(pause(), EINTR);
    CHECK(depth == 7 && timer_delete(timer) == 0);
    CHECK(kill(getpid(), 0) == 0);
    FAILS(kill(getpid(), 65), EINVAL);
    FAILS(kill(999999, 0), ESRCH);
    signal(SIGSEGV, SIG_DFL), signal(SIGILL, SIG_DFL), signal(SIGFPE, SIG_DFL);
    alarm(100);
    CHECK(alarm(0) == 100);
}

static void clocks(void) {
    int64_t last = now(CLOCK_MONOTONIC);
    for (int i = 0; i < 100000; i++) {
        int64_t next = now(CLOCK_MONOTONIC);
        CHECK(next >= last);
        last = next;
    }
    struct timespec raw;
    CHECK(syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &raw) == 0);
    int64_t difference = now(CLOCK_MONOTONIC) - (raw.tv_sec * 1000000000LL + raw.tv_nsec);
    CHECK(difference >= 0 && difference < 1000000000);
    struct timeval day;
    CHECK(gettimeofday(&day, 0) == 0 && llabs(day.tv_sec - (long long)time(0)) <= 1);
    CHECK(llabs(now(CLOCK_REALTIME) / 1000000000 - (long long)time(0)) <= 1);
    struct timespec resolution;
    CHECK(clock_getres(CLOCK_MONOTONIC, &resolution) == 0 && resolution.tv_sec == 0);
    int64_t start = now(CLOCK_MONOTONIC);
    struct timespec at = {(start + 30000000) / 1000000000, (start + 30000000) % 1000000000};
    CHECK(clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, 0) == 0 && now(CLOCK_MONOTONIC) >= start + 30000000);
    struct timespec bad = {0, 1000000000};
    FAILS(nanosleep(&bad, 0), EINVAL);
    /* A program that counts the time it works. */
    clock_t begin = clock();
    int64_t worked = now(CLOCK_THREAD_CPUTIME_ID), wall = now(CLOCK_MONOTONIC);
    while (clock() - begin < CLOCKS_PER_SEC / 50) {}
    CHECK(now(CLOCK_THREAD_CPUTIME_ID) - worked >= 19000000 && now(CLOCK_MONOTONIC) - wall >= 19000000);
    struct rusage usage;
    CHECK(getrusage(RUSAGE_SELF, &usage) == 0 && usage.ru_utime.tv_sec * 1000000 + usage.ru_utime.tv_usec + usage.ru_stime.tv_usec >= 19000);
    struct tms ticks;
    CHECK(times(&ticks) != (clock_t)-1);
    int64_t asleep = now(CLOCK_PROCESS_CPUTIME_ID);
    usleep(60000);
    CHECK(now(CLOCK_PROCESS_CPUTIME_ID) - asleep < 40000000);
}

static void identity(void) {
    struct utsname name;
    CHECK(uname(&name) == 0 && !strcmp(name.sysname, "Linux") && !strcmp(name.machine, "x86_64"));
    CHECK(getpid() > 0 && getppid() >= 0 && gettid() == getpid() && getuid() == geteuid() && getgid() == getegid());
    struct sysinfo system;
    CHECK(sysinfo(&system) == 0 && system.totalram > 0 && system.mem_unit > 0 && system.procs > 0);
    struct rlimit limit;
    CHECK(getrlimit(RLIMIT_STACK, &limit) == 0 && limit.rlim_cur >= 1 << 20);
    cpu_set_t processors;
    CHECK(sched_getaffinity(0, sizeof processors, &processors) == 0 && CPU_COUNT(&processors) >= 1);
    CHECK(sysconf(_SC_NPROCESSORS_ONLN) >= 1 && sysconf(_SC_CLK_TCK) == 100 && sysconf(_SC_PHYS_PAGES) > 0);
    unsigned cpu = 99;
    CHECK(syscall(SYS_getcpu, &cpu, 0, 0) == 0 && cpu < 64);
    CHECK(sched_yield() == 0 && syscall(SYS_sched_getscheduler, 0) == 0 && sched_get_priority_max(SCHED_FIFO) == 99);
    FAILS(wait(0), ECHILD);
    FAILS(waitpid(-1, 0, WNOHANG), ECHILD);
    unsigned char first[16], second[16], zeros[16] = {0};
    CHECK(getrandom(first, 16, 0) == 16 && getrandom(second, 16, GRND_NONBLOCK) == 16);
    CHECK(memcmp(first, second, 16) && memcmp(first, zeros, 16));
    FAILS(getrandom(first, 16, 64), EINVAL);
    CHECK(memcmp((void *)getauxval(AT_RANDOM), zeros, 16) && getauxval(AT_PAGESZ) == 4096 && getauxval(AT_SYSINFO_EHDR));
    CHECK(!strcmp((char *)getauxval(AT_PLATFORM), "x86_64") && getauxval(AT_SECURE) == 0 && getauxval(AT_CLKTCK) == 100);
    FAILS(syscall(9999), ENOSYS);
    CHECK(isatty(0) == 0 && errno == ENOTTY);
}

static void proc(void) {
    char text[4096], link[PATH_MAX];
    ssize_t length = readlink("/proc/self/exe", link, sizeof link - 1);
    CHECK(length > 0 && link[0] == '/');
    link[length] = 0;
    CHECK(access(link, X_OK) == 0);
    char *maps = get("/proc/self/maps");
    CHECK(strstr(maps, "[stack]") && strstr(maps, "r-xp") && strstr(maps, link));
    unsigned long from, to, here = (unsigned long)&from;
    int is_inside = 0;
    for (char *line = maps; line && *line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : 0) {
        char access[5];
        CHECK(sscanf(line, "%lx-%lx %4s", &from, &to, access) == 3 && from < to);
        if (from <= here && here < to) is_inside = access[1] == 'w';
    }
    CHECK(is_inside);
    int pid, parent;
    char state, name[64];
    CHECK(sscanf(get("/proc/self/stat"), "%d (%63[^)]) %c %d", &pid, name, &state, &parent) == 4 && pid == getpid() && state == 'R');
    CHECK(strstr(get("/proc/self/status"), "VmRSS:") && strstr(get("/proc/self/status"), "Threads:\t1"));
    CHECK(get("/proc/self/cmdline")[0] && strchr(get("/proc/self/comm"), '\n'));
    int fd = open("/tmp/shown", O_RDWR | O_CREAT, 0600);
    sprintf(text, "/proc/self/fd/%d", fd);
    CHECK(readlink(text, link, sizeof link) == 10 && !memcmp(link, "/tmp/shown", 10));
    CHECK(write(fd, "bytes", 5) == 5 && !strcmp(get(text), "bytes"));
    DIR *folder = opendir("/proc/self/fd");
    int count = 0;
    while (readdir(folder)) count++;
    closedir(folder);
    CHECK(count >= 5);
    close(fd);
    unlink("/tmp/shown");
    unsigned long kilobytes;
    CHECK(sscanf(get("/proc/meminfo"), "MemTotal: %lu kB", &kilobytes) == 1 && kilobytes > 1000);
    CHECK(strstr(get("/proc/cpuinfo"), "processor") && strstr(get("/proc/version"), "Linux"));
    double up;
    CHECK(sscanf(get("/proc/uptime"), "%lf", &up) == 1 && up > 0 && get("/proc/loadavg")[0]);
    CHECK(strstr(get("/proc/self/cgroup"), ":") && strstr(get("/proc/mounts"), "/proc"));
    FAILS(open("/proc/self/none", O_RDONLY), ENOENT);
}

static void devices(void) {
    char bytes[64];
    int null = open("/dev/null", O_RDWR), zero = open("/dev/zero", O_RDWR), full = open("/dev/full", O_RDWR), random = open("/dev/urandom", O_RDONLY);
    CHECK(null >= 0 && zero >= 0 && full >= 0 && random >= 0);
    CHECK(read(null, bytes, 64) == 0 && write(null, bytes, 64) == 64);
    memset(bytes, 1, 64);
    CHECK(read(zero, bytes, 64) == 64 && bytes[63] == 0);
    FAILS(write(full, bytes, 1), ENOSPC);
    CHECK(read(random, bytes, 64) == 64 && memcmp(bytes, bytes + 32, 32));
    close(null), close(zero), close(full), close(random);
    FILE *out = fopen("/dev/full", "w");
    CHECK(out && fputs("lost", out) >= 0 && fclose(out) == EOF && errno == ENOSPC);
    char *map = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE, zero = open("/dev/zero", O_RDWR), 0);
    CHECK(map != MAP_FAILED && map[8000] == 0 && (map[8000] = 1));
    close(zero);
}

static __attribute__((noinline)) long recurse(long depth) {
    volatile char room[512];
    room[0] = (char)depth;
    return depth ? recurse(depth - 1) + room[0] - (char)depth + 1 : 0;
}

static jmp_buf far_back;

static __attribute__((noinline)) void dive(int depth) {
    if (depth == 0) longjmp(far_back, 42);
    dive(depth - 1);
    __asm__ volatile("");
}

static void stacks(void) {
    CHECK(recurse(10000) == 10000);
    int value = setjmp(far_back);
    if (!value) dive(1000);
    CHECK(value == 42);
    volatile char *big = __builtin_alloca(6 << 20);
    big[0] = 1, big[(6 << 20) - 1] = 2;
    CHECK(big[0] + big[(6 << 20) - 1] == 3);
}

static void standard(void) {
    FILE *file = fopen("/tmp/text", "w+");
    CHECK(file && fprintf(file, "%d %s %.3f\n", 42, "words", 2.5) == 15 && fseek(file, 0, SEEK_SET) == 0);
    int number;
    char word[16];
    double real;
    CHECK(fscanf(file, "%d %15s %lf", &number, word, &real) == 3 && number == 42 && real == 2.5 && ftell(file) == 14);
    fclose(file);
    CHECK(remove("/tmp/text") == 0);
    char name[] = "/tmp/fileXXXXXX", folder[] = "/tmp/folderXXXXXX";
    int fd = mkstemp(name);
    CHECK(fd >= 0 && close(fd) == 0 && unlink(name) == 0 && mkdtemp(folder) && rmdir(folder) == 0);
    file = tmpfile();
    CHECK(file && fputs("gone", file) >= 0 && fclose(file) == 0);
    CHECK(setenv("COLOUR", "blue", 1) == 0 && !strcmp(getenv("COLOUR"), "blue"));
    time_t moment = 1700000000;
    struct tm parts;
    CHECK(gmtime_r(&moment, &parts) && parts.tm_year == 123 && mktime(&parts) > 0 && localtime(&moment));
}

static const struct { const char *name; void (*run)(void); } steps[] = {
    {"files", files}, {"directories", directories}, {"locks", locks}, {"descriptors", descriptors},
    {"pipes", pipes}, {"polling", polling}, {"memory", memory}, {"shared_file", shared_file},
    {"signals", signals}, {"clocks", clocks}, {"identity", identity}, {"proc", proc},
    {"devices", devices}, {"stacks", stacks}, {"standard", standard},
};

int main(int argc, char **argv) {
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        int is_wanted = argc < 2;
        for (int word = 1; word < argc; word++) is_wanted |= !strcmp(argv[word], steps[i].name);
        if (!is_wanted) continue;
        step = steps[i].name;
        steps[i].run();
        printf("ok %s\n", step);
        fflush(stdout);
    }
    puts("all ok");
    return 0;
}
