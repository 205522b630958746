/* What C programs ask of Linux about other processes, each step checked and named: prints "ok NAME" per
 * step and "all ok"; a step that fails says where. With names as arguments, only those steps. The same
 * output is expected of Linux itself. Run with "as" as its first argument it is its own child. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/times.h>
#include <sys/wait.h>
#include <unistd.h>

static const char *step = "";
static char self[256];
extern char **environ;

#define CHECK(is)                                                                           \
    do {                                                                                    \
        if (!(is)) {                                                                        \
            printf("FAILED %s, line %d: %s (errno %d)\n", step, __LINE__, #is, errno);       \
            fflush(stdout);                                                                 \
            _exit(1);                                                                       \
        }                                                                                   \
    } while (0)
#define FAILS(call, error) CHECK((errno = 0, (call) == -1 && errno == (error)))

/* The child's status when it has ended. */
static int ended(pid_t child) {
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child);
    return status;
}

static void does_end(pid_t child, int with) {
    int status = ended(child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == with);
}

static void copies(void) {
    static int data = 1;
    int stack = 1, *heap = malloc(sizeof *heap);
    *heap = 1;
    int fd = open("/tmp/copies", O_RDWR | O_CREAT | O_TRUNC, 0600);
    CHECK(fd >= 0 && write(fd, "abcdef", 6) == 6 && lseek(fd, 0, SEEK_SET) == 0);
    pid_t parent = getpid(), child = fork();
    if (!child) {
        CHECK(getppid() == parent && getpid() != parent && getpid() == gettid());
        data = stack = *heap = 2;
        char two[2];
        CHECK(read(fd, two, 2) == 2 && !memcmp(two, "ab", 2));
        CHECK(chdir("/") == 0 && umask(077) == 022);
        close(fd);
        _exit(42);
    }
    CHECK(child > 0);
    CHECK(chdir("/tmp") == 0 && (umask(022), 1));
    does_end(child, 42);
    CHECK(data == 1 && stack == 1 && *heap == 1);
    /* The file's position is shared, the rest of the descriptor is not. */
    CHECK(lseek(fd, 0, SEEK_CUR) == 2 && umask(022) == 022);
    char where[64];
    CHECK(getcwd(where, sizeof where) && !strcmp(where, "/tmp"));
    FAILS(waitpid(child, 0, 0), ECHILD);
    FAILS(waitpid(-1, 0, 0), ECHILD);
    close(fd);
    free(heap);
}

static void statuses(void) {
    int status;
    pid_t child = fork();
    if (!child) { for (;;) pause(); }
    CHECK(waitpid(child, &status, WNOHANG) == 0);
    FAILS(waitpid(1 << 21, 0, 0), ECHILD);
    FAILS(waitpid(child, 0, 0x40), EINVAL);
    CHECK(kill(child, 0) == 0 && kill(child, SIGTERM) == 0);
    status = ended(child);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGTERM);
    FAILS(kill(child, 0), ESRCH);
    child = fork();
    if (!child) raise(SIGSEGV);
    status = ended(child);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
    child = fork();
    if (!child) exit(300);
    struct rusage usage;
    CHECK(wait4(-1, &status, 0, &usage) == child && WEXITSTATUS(status) == (300 & 255));
    child = fork();
    if (!child) _exit(9);
    siginfo_t info = {0};
    CHECK(waitid(P_PID, child, &info, WEXITED | WNOWAIT) == 0);
    CHECK(info.si_signo == SIGCHLD && info.si_code == CLD_EXITED && info.si_pid == child && info.si_status == 9);
    CHECK(waitid(P_ALL, 0, &info, WEXITED) == 0 && info.si_pid == child);
    FAILS(waitid(P_ALL, 0, &info, WEXITED), ECHILD);
    /* Those that end before anybody asks are asked for in any order. */
    pid_t many[8];
    for (int i = 0; i < 8; i++)
        if (!(many[i] = fork())) _exit(i);
    for (int i = 7; i >= 0; i--) does_end(many[i], i);
}

static void pipes(void) {
    int there[2], back[2];
    CHECK(pipe(there) == 0 && pipe(back) == 0);
    pid_t child = fork();
    if (!child) {
        close(there[1]), close(back[0]);
        char c;
        while (read(there[0], &c, 1) == 1) {
            c ^= 32;
            CHECK(write(back[1], &c, 1) == 1);
        }
        _exit(0);
    }
    close(there[0]), close(back[1]);
    char answer[6] = "";
    CHECK(write(there[1], "hello", 5) == 5 && close(there[1]) == 0);
    for (int got = 0, more; got < 5; got += more) CHECK((more = read(back[0], answer + got, 5 - got)) > 0);
    CHECK(!strcmp(answer, "HELLO") && read(back[0], answer, 1) == 0);
    does_end(child, 0);
    /* More than a pipe holds, from a child to its parent. */
    CHECK(pipe(there) == 0);
    child = fork();
    if (!child) {
        close(there[0]);
        static char lot[1 << 20];
        memset(lot, 'x', sizeof lot);
        for (size_t at = 0; at < sizeof lot;) at += write(there[1], lot + at, sizeof lot - at);
        _exit(0);
    }
    close(there[1]);
    size_t sum = 0;
    char part[4096];
    for (ssize_t more; (more = read(there[0], part, sizeof part)) > 0;) sum += more;
    CHECK(sum == 1 << 20);
    does_end(child, 0);
    /* The last reader's end is the writer's signal. */
    CHECK(pipe(back) == 0);
    child = fork();
    if (!child) {
        close(back[0]);
        signal(SIGPIPE, SIG_DFL);
        for (;;) CHECK(write(back[1], part, sizeof part) > 0);
    }
    close(back[1]);
    CHECK(read(back[0], part, 1) == 1 && close(back[0]) == 0);
    int status = ended(child);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGPIPE);
    /* A socket pair, and a descriptor that is waited for by poll. */
    int pair[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    child = fork();
    if (!child) {
        close(pair[0]);
        usleep(20000);
        CHECK(write(pair[1], "x", 1) == 1);
        _exit(0);
    }
    close(pair[1]);
    struct pollfd poller = {pair[0], POLLIN, 0};
    CHECK(poll(&poller, 1, 10000) == 1 && read(pair[0], part, 1) == 1);
    does_end(child, 0);
}

static void programs(void) {
    int kept = open("/dev/null", O_RDONLY), closed = open("/dev/null", O_RDONLY | O_CLOEXEC);
    char first[16], second[16], ignored[] = "1";
    sprintf(first, "%d", kept), sprintf(second, "%d", closed);
    signal(SIGUSR1, SIG_IGN);
    signal(SIGUSR2, exit);
    pid_t child = fork();
    char *arguments[] = {"named", "as", "executed", first, second, ignored, 0}, *environment[] = {"ONLY=this", 0};
    if (!child) {
        execve(self, arguments, environment);
        _exit(99);
    }
    does_end(child, 11);
    FAILS(execve("/tmp/nothing", arguments, environment), ENOENT);
    FAILS(execve("/tmp", arguments, environment), EACCES);
    unlink("/tmp/text");
    int fd = open("/tmp/text", O_WRONLY | O_CREAT | O_TRUNC, 0600);
    CHECK(write(fd, "no program\n", 11) == 11);
    FAILS(execve("/tmp/text", arguments, environment), EACCES);
    CHECK(fchmod(fd, 0755) == 0 && close(fd) == 0);
    FAILS(execve("/tmp/text", arguments, environment), ENOEXEC);
    char *volatile no_path = (char *)8, **volatile no_list = (char **)8;
    FAILS(execve(no_path, arguments, environment), EFAULT);
    FAILS(execve(self, no_list, environment), EFAULT);
    /* A script, and one whose interpreter is a script. */
    char line[300];
    fd = open("/tmp/script", O_WRONLY | O_CREAT | O_TRUNC, 0755);
    sprintf(line, "#! %s as\nwhatever", self);
    CHECK(write(fd, line, strlen(line)) > 0 && fchmod(fd, 0755) == 0 && close(fd) == 0);
    char *scripted[] = {"given up", "more", 0};
    child = fork();
    if (!child) {
        execve("/tmp/script", scripted, environment);
        _exit(99);
    }
    does_end(child, 12);
    fd = open("/tmp/outer", O_WRONLY | O_CREAT | O_TRUNC, 0755);
    CHECK(write(fd, "#!/tmp/script\n", 14) == 14 && fchmod(fd, 0755) == 0 && close(fd) == 0);
    child = fork();
    if (!child) {
        execve("/tmp/outer", scripted, environment);
        _exit(99);
    }
    does_end(child, 13);
    /* By descriptor. */
    child = fork();
    char *end[] = {"named", "as", "end", "14", 0};
    if (!child) {
        fexecve(open(self, O_RDONLY), end, environment);
        _exit(99);
    }
    does_end(child, 14);
    close(kept), close(closed);
    signal(SIGUSR1, SIG_DFL), signal(SIGUSR2, SIG_DFL);
}

static void *executes(void *end) {
    execve(self, end, environ);
    _exit(99);
}

static void *waits(void *unused) {
    for (;;) pause();
    return unused;
}

/* The process becomes the program, whichever of its threads says so, and the others are gone. */
static void threads_execute(void) {
    char *end[] = {"named", "as", "alone", 0};
    pid_t child = fork();
    if (!child) {
        pthread_t thread;
        for (int i = 0; i < 3; i++) CHECK(pthread_create(&thread, 0, waits, 0) == 0);
        CHECK(pthread_create(&thread, 0, executes, end) == 0);
        for (;;) pause();
    }
    does_end(child, 15);
}

/* A child has the one thread that made it, and locks as they were. */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

static void *ends(void *unused) { return unused; }

static void *forks(void *unused) {
    pid_t child = fork();
    if (!child) {
        CHECK(pthread_mutex_trylock(&mutex) == EBUSY && gettid() == getpid());
        pthread_t thread;
        CHECK(pthread_create(&thread, 0, ends, 0) == 0);
        CHECK(pthread_join(thread, 0) == 0);
        _exit(4);
    }
    does_end(child, 4);
    return unused;
}

static void threads_fork(void) {
    pthread_t thread;
    pthread_mutex_lock(&mutex);
    CHECK(pthread_create(&thread, 0, forks, 0) == 0 && pthread_join(thread, 0) == 0);
    pthread_mutex_unlock(&mutex);
}

static void borrows(void) {
    volatile int seen = 0;
    pid_t child = vfork();
    if (!child) {
        seen = 5;
        _exit(6);
    }
    CHECK(seen == 5);
    does_end(child, 6);
    char *end[] = {"named", "as", "end", "16", 0};
    child = vfork();
    if (!child) {
        execve(self, end, environ);
        _exit(99);
    }
    does_end(child, 16);
}

static void spawns(void) {
    char *end[] = {"named", "as", "end", "17", 0}, *say[] = {"named", "as", "say", "spoken", 0};
    pid_t child;
    CHECK(posix_spawn(&child, self, 0, 0, end, environ) == 0);
    does_end(child, 17);
    CHECK(posix_spawn(&child, "/tmp/nothing", 0, 0, end, environ) == ENOENT);
    int out[2];
    CHECK(pipe(out) == 0);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, out[1], 1);
    posix_spawn_file_actions_addclose(&actions, out[0]);
    CHECK(posix_spawn(&child, self, &actions, 0, say, environ) == 0);
    close(out[1]);
    char said[7] = "";
    CHECK(read(out[0], said, 6) == 6 && !strcmp(said, "spoken") && read(out[0], said, 1) == 0);
    does_end(child, 0);
    posix_spawn_file_actions_destroy(&actions);
    close(out[0]);
}

static volatile sig_atomic_t children, which, how;

static void on_child(int signal, siginfo_t *info, void *context) {
    (void)signal, (void)context;
    children++, which = info->si_pid, how = info->si_status;
}

static void signals(void) {
    struct sigaction action = {.sa_sigaction = on_child, .sa_flags = SA_SIGINFO | SA_RESTART};
    CHECK(sigaction(SIGCHLD, &action, 0) == 0);
    pid_t child = fork();
    if (!child) _exit(21);
    /* Restarted, or over before the signal: the child's end is told once either way. */
    does_end(child, 21);
    while (!children) usleep(1000);
    CHECK(children == 1 && which == child && how == 21);
    signal(SIGCHLD, SIG_IGN);
    child = fork();
    if (!child) _exit(0);
    FAILS(waitpid(child, 0, 0), ECHILD);
    signal(SIGCHLD, SIG_DFL);
    /* A group is signalled as one. */
    pid_t group[3];
    for (int i = 0; i < 3; i++) {
        if (!(group[i] = fork())) { for (;;) pause(); }
        CHECK(setpgid(group[i], group[0]) == 0 && getpgid(group[i]) == group[0]);
    }
    CHECK(kill(-group[0], SIGINT) == 0);
    for (int i = 0; i < 3; i++) {
        int status;
        CHECK(waitpid(-group[0], &status, 0) > 0 && WIFSIGNALED(status) && WTERMSIG(status) == SIGINT);
    }
    FAILS(kill(-group[0], SIGINT), ESRCH);
    /* Masks and dispositions are inherited, what is pending is not. */
    sigset_t set;
    sigemptyset(&set), sigaddset(&set, SIGUSR1);
    signal(SIGUSR1, exit), signal(SIGUSR2, SIG_IGN);
    CHECK(sigprocmask(SIG_BLOCK, &set, 0) == 0 && raise(SIGUSR1) == 0);
    child = fork();
    if (!child) {
        sigset_t now;
        CHECK(sigpending(&now) == 0 && !sigismember(&now, SIGUSR1));
        CHECK(sigprocmask(SIG_BLOCK, 0, &now) == 0 && sigismember(&now, SIGUSR1));
        CHECK(raise(SIGUSR2) == 0);
        struct itimerval left;
        CHECK(getitimer(ITIMER_REAL, &left) == 0 && !left.it_value.tv_sec && !left.it_value.tv_usec);
        _exit(0);
    }
    does_end(child, 0);
    signal(SIGUSR1, SIG_IGN), signal(SIGUSR1, SIG_DFL), signal(SIGUSR2, SIG_DFL);
    CHECK(sigprocmask(SIG_UNBLOCK, &set, 0) == 0);
    /* A value that goes along. */
    sigaddset(&set, SIGRTMIN), sigprocmask(SIG_BLOCK, &set, 0);
    pid_t parent = getpid();
    if (!(child = fork())) {
        union sigval value = {.sival_int = 77};
        CHECK(sigqueue(parent, SIGRTMIN, value) == 0);
        _exit(0);
    }
    siginfo_t info;
    CHECK(sigwaitinfo(&set, &info) == SIGRTMIN && info.si_pid == child && info.si_value.sival_int == 77);
    does_end(child, 0);
    sigprocmask(SIG_UNBLOCK, &set, 0);
}

static void sessions(void) {
    pid_t child = fork();
    if (!child) {
        CHECK(getpgid(0) == getpgid(getppid()) && getsid(0) == getsid(getppid()));
        CHECK(setsid() == getpid() && getpgrp() == getpid() && getsid(0) == getpid());
        FAILS(setsid(), EPERM);
        FAILS(setpgid(0, 0), EPERM);
        _exit(0);
    }
    does_end(child, 0);
    FAILS(setpgid(1 << 21, 0), ESRCH);
    FAILS(setpgid(0, -1), EINVAL);
    /* An orphan has another parent, and goes without anybody's asking. */
    int tells[2];
    CHECK(pipe(tells) == 0);
    child = fork();
    if (!child) {
        pid_t parent = getpid();
        if (!fork()) {
            while (getppid() == parent) usleep(1000);
            CHECK(write(tells[1], "o", 1) == 1);
            _exit(0);
        }
        _exit(0);
    }
    does_end(child, 0);
    char told;
    CHECK(close(tells[1]) == 0 && read(tells[0], &told, 1) == 1 && told == 'o' && read(tells[0], &told, 1) == 0);
    FAILS(wait(0), ECHILD);
    close(tells[0]);
}

static void shared(void) {
    struct { sem_t ping, pong; int count; char tail[3 * 4096]; } *both;
    both = mmap(0, sizeof *both, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    char *own = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(both != MAP_FAILED && own != MAP_FAILED);
    both->count = 10;
    CHECK(sem_init(&both->ping, 1, 0) == 0 && sem_init(&both->pong, 1, 0) == 0);
    pid_t child = fork();
    if (!child) {
        for (int i = 0; i < 100; i++) {
            CHECK(sem_wait(&both->ping) == 0);
            both->count++, own[0]++;
            CHECK(sem_post(&both->pong) == 0);
        }
        both->tail[3 * 4096 - 1] = 'y';
        _exit(0);
    }
    for (int i = 0; i < 100; i++) CHECK(sem_post(&both->ping) == 0 && sem_wait(&both->pong) == 0);
    does_end(child, 0);
    CHECK(both->count == 110 && own[0] == 0 && both->tail[3 * 4096 - 1] == 'y');
    /* A file's pages are the same too. */
    int fd = open("/tmp/pages", O_RDWR | O_CREAT | O_TRUNC, 0600);
    CHECK(ftruncate(fd, 8192) == 0);
    char *page = mmap(0, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(page != MAP_FAILED);
    if (!(child = fork())) {
        page[5000] = 'z';
        _exit(0);
    }
    does_end(child, 0);
    char byte;
    CHECK(page[5000] == 'z' && pread(fd, &byte, 1, 5000) == 1 && byte == 'z');
    munmap(page, 8192), munmap(both, sizeof *both), munmap(own, 4096), close(fd);
}

static int locks(int fd, int command, int kind, off_t start, off_t length) {
    struct flock lock = {.l_type = kind, .l_whence = SEEK_SET, .l_start = start, .l_len = length};
    return fcntl(fd, command, &lock);
}

/* Parts of a file are a process's until it closes it. */
static void records(void) {
    int fd = open("/tmp/records", O_RDWR | O_CREAT | O_TRUNC, 0600), told[2], go[2];
    CHECK(fd >= 0 && pipe(told) == 0 && pipe(go) == 0);
    CHECK(locks(fd, F_SETLK, F_WRLCK, 10, 10) == 0 && locks(fd, F_SETLK, F_RDLCK, 100, 0) == 0);
    pid_t parent = getpid(), child = fork();
    if (!child) {
        CHECK(locks(fd, F_SETLK, F_WRLCK, 15, 1) == -1 && (errno == EAGAIN || errno == EACCES));
        CHECK(locks(fd, F_SETLK, F_WRLCK, 20, 5) == 0 && locks(fd, F_SETLK, F_RDLCK, 1000, 1) == 0);
        struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 0};
        CHECK(fcntl(fd, F_GETLK, &lock) == 0 && lock.l_type == F_WRLCK && lock.l_pid == parent);
        CHECK(lock.l_start == 10 && lock.l_len == 10);
        CHECK(write(told[1], "w", 1) == 1 && locks(fd, F_SETLKW, F_WRLCK, 12, 1) == 0);
        CHECK(write(told[1], "g", 1) == 1);
        char c;
        CHECK(read(go[0], &c, 1) == 1);
        _exit(0);
    }
    char c;
    CHECK(read(told[0], &c, 1) == 1 && c == 'w');
    usleep(20000);
    CHECK(locks(fd, F_SETLK, F_UNLCK, 10, 10) == 0 && read(told[0], &c, 1) == 1 && c == 'g');
    CHECK(locks(fd, F_SETLK, F_RDLCK, 12, 1) == -1);
    CHECK(write(go[1], "x", 1) == 1);
    does_end(child, 0);
    CHECK(locks(fd, F_SETLK, F_WRLCK, 0, 0) == 0);
    /* Any of its descriptors does. */
    close(open("/tmp/records", O_RDONLY));
    if (!(child = fork())) _exit(locks(fd, F_SETLK, F_WRLCK, 0, 0) ? 1 : 0);
    does_end(child, 0);
    close(fd), close(told[0]), close(told[1]), close(go[0]), close(go[1]);
}

static void marked(void) {
    char *wiped = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char *left = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    wiped[0] = left[0] = 'x';
    CHECK(madvise(wiped, 4096, MADV_WIPEONFORK) == 0 && madvise(left, 4096, MADV_DONTFORK) == 0);
    pid_t child = fork();
    if (!child) {
        CHECK(wiped[0] == 0);
        left[0] = 'y';
        _exit(0);
    }
    int status = ended(child);
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV && wiped[0] == 'x' && left[0] == 'x');
    munmap(wiped, 4096), munmap(left, 4096);
}

static void times_of_children(void) {
    struct rusage before, after;
    CHECK(getrusage(RUSAGE_CHILDREN, &before) == 0);
    pid_t child = fork();
    if (!child) {
        struct timespec end, now;
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &end);
        do clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
        while ((now.tv_sec - end.tv_sec) * 1000000000LL + now.tv_nsec - end.tv_nsec < 60000000);
        _exit(0);
    }
    does_end(child, 0);
    CHECK(getrusage(RUSAGE_CHILDREN, &after) == 0);
    long long micros = (after.ru_utime.tv_sec - before.ru_utime.tv_sec) * 1000000LL + after.ru_utime.tv_usec -
                       before.ru_utime.tv_usec + (after.ru_stime.tv_sec - before.ru_stime.tv_sec) * 1000000LL +
                       after.ru_stime.tv_usec - before.ru_stime.tv_usec;
    CHECK(micros >= 50000);
    struct tms ticks;
    CHECK(times(&ticks) != (clock_t)-1 && ticks.tms_cutime + ticks.tms_cstime >= 4);
}

/* As many as there may be, again and again: nothing is used up by those that are gone. */
static void many(void) {
    for (int round = 0; round < 3; round++) {
        pid_t child[60];
        for (int i = 0; i < 60; i++) {
            child[i] = fork();
            CHECK(child[i] >= 0);
            if (!child[i]) _exit(i);
        }
        for (int i = 0; i < 60; i++) does_end(child[i], i);
    }
}

/* What the children do that are programs of their own. */
static int as(int count, char **arguments) {
    step = "as";
    const char *what = arguments[2];
    if (!strcmp(what, "end")) return atoi(arguments[3]);
    if (!strcmp(what, "say")) return write(1, arguments[3], strlen(arguments[3])) < 0;
    if (!strcmp(what, "alone")) {
        CHECK(gettid() == getpid());
        FAILS(waitpid(-1, 0, 0), ECHILD);
        return 15;
    }
    if (!strcmp(what, "executed")) {
        CHECK(count == 6 && !strcmp(arguments[0], "named") && environ[0] && !environ[1]);
        CHECK(!strcmp(getenv("ONLY"), "this"));
        CHECK(fcntl(atoi(arguments[3]), F_GETFD) == 0);
        FAILS(fcntl(atoi(arguments[4]), F_GETFD), EBADF);
        struct sigaction action;
        CHECK(sigaction(SIGUSR1, 0, &action) == 0 && action.sa_handler == SIG_IGN);
        CHECK(sigaction(SIGUSR2, 0, &action) == 0 && action.sa_handler == SIG_DFL);
        return 11;
    }
    if (!strcmp(what, "/tmp/script")) {
        if (count == 4 && !strcmp(arguments[3], "more")) return 12;
        CHECK(count == 5 && !strcmp(arguments[3], "/tmp/outer") && !strcmp(arguments[4], "more"));
        return 13;
    }
    return 98;
}

int main(int count, char **arguments) {
    if (count > 2 && !strcmp(arguments[1], "as")) return as(count, arguments);
    CHECK(readlink("/proc/self/exe", self, sizeof self - 1) > 0);
    umask(022);
    static const struct { const char *name; void (*run)(void); } steps[] = {
        {"copies", copies}, {"statuses", statuses}, {"pipes", pipes}, {"programs", programs},
        {"threads_execute", threads_execute}, {"threads_fork", threads_fork}, {"borrows", borrows},
        {"spawns", spawns}, {"signals", signals}, {"sessions", sessions}, {"shared", shared}, {"records", records},
        {"marked", marked}, {"times_of_children", times_of_children}, {"many", many},
    };
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        int is_wanted = count == 1;
        for (int at = 1; at < count; at++) is_wanted |= !strcmp(arguments[at], steps[i].name);
        if (!is_wanted) continue;
        step = steps[i].name;
        steps[i].run();
        printf("ok %s\n", step);
        fflush(stdout);
    }
    puts("all ok");
    return 0;
}
