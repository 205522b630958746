/* Freshness fork: initialises itself with threads, open files and areas, then answers each request
 * with what it finds other than it left it, "-" for nothing, and random bytes; then changes all of
 * it. Argument: stream or program. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t asked = PTHREAD_COND_INITIALIZER, answered = PTHREAD_COND_INITIALIZER;
static int questions, answers, count, file, event, pipes[2];
static volatile int polled;
static char *table, *wiped, *left, found[512];
static char body[1 << 16];

static void *answer(void *unused) {
    (void)unused;
    pthread_mutex_lock(&mutex);
    for (;;) {
        while (answers == questions) pthread_cond_wait(&asked, &mutex);
        answers = questions;
        pthread_cond_signal(&answered);
    }
}

static void *watch(void *unused) {
    (void)unused;
    char byte;
    for (;;) {
        struct pollfd entry = {.fd = pipes[0], .events = POLLIN};
        poll(&entry, 1, -1);
        if (read(pipes[0], &byte, 1) == 1) __atomic_add_fetch(&polled, 1, __ATOMIC_SEQ_CST);
    }
}

static void note(int is_there, const char *name) {
    if (!is_there) return;
    strcat(found, " ");
    strcat(found, name);
}

static void initialise(int has_threads) {
    pthread_t thread;
    table = malloc(1 << 20);
    memset(table, 't', 1 << 20);
    file = open("/tmp/kept", O_CREAT | O_RDWR, 0600);
    if (write(file, "0123456789", 10) != 10 || lseek(file, 4, SEEK_SET) != 4) abort();
    event = eventfd(5, EFD_NONBLOCK);
    if (pipe(pipes)) abort();
    wiped = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    left = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memset(wiped, 'w', 4096);
    if (madvise(wiped, 4096, MADV_WIPEONFORK) || madvise(left, 4096, MADV_DONTFORK)) abort();
    if (!has_threads) return;
    if (pthread_create(&thread, NULL, answer, NULL) || pthread_create(&thread, NULL, watch, NULL))
        abort();
}

static void look(void) {
    char text[16] = "";
    uint64_t value = 0;
    found[0] = 0;
    note(count != 0, "count");
    note(table[0] != 't' || table[(1 << 20) - 1] != 't', "table");
    note(lseek(file, 0, SEEK_CUR) != 4, "position");
    note(pread(file, text, 15, 0) != 10 || strcmp(text, "0123456789"), "content");
    note(access("/tmp/left", F_OK) == 0, "file");
    note(fcntl(0, F_GETFL) & O_NONBLOCK, "flags");
    note(fcntl(40, F_GETFD) != -1, "descriptor");
    note(read(event, &value, 8) != 8 || value != 5, "event");
    note(wiped[0] != 0, "wiped");
    note(madvise(left, 4096, MADV_POPULATE_READ) == 0, "left");
}

static void change(int has_threads) {
    count++;
    memset(table, 'x', 1 << 20);
    if (write(file, "changed more than was there", 27) != 27) abort();
    close(open("/tmp/left", O_CREAT | O_RDWR, 0600));
    dup2(file, 40);
    eventfd_write(event, 77);
    memset(wiped, 'x', 4096);
    if (!has_threads) return;
    /* Both threads still do what they were made for. */
    pthread_mutex_lock(&mutex);
    questions++;
    pthread_cond_signal(&asked);
    while (answers != questions) pthread_cond_wait(&answered, &mutex);
    pthread_mutex_unlock(&mutex);
    if (write(pipes[1], "!", 1) != 1) abort();
    while (!polled) sched_yield();
    note(polled != 1 || answers != 1, "threads");
    fcntl(0, F_SETFL, O_NONBLOCK);
}

static int respond(const char *mode, int has_threads) {
    uint64_t random;
    look();
    change(has_threads);
    if (getrandom(&random, 8, 0) != 8) abort();
    if (!strcmp(mode, "crash")) abort();
    if (!strcmp(mode, "hang")) for (;;) pause();
    return sprintf(body, "%d%s %016llx", getpid(), *found ? found : " -", (unsigned long long)random);
}

int main(int argc, char **argv) {
    int is_stream = argc > 1 && !strcmp(argv[1], "stream");
    int has_threads = argc > 2;
    initialise(has_threads);
    if (!is_stream) {
        ssize_t length = read(0, body, sizeof body - 1);
        if (length < 0) return 1;
        body[length] = 0;
        printf("%s\n", (respond(strdup(body), has_threads), body));
        return 0;
    }
    uint32_t length;
    while (read(0, &length, 4) == 4) {
        for (uint32_t done = 0; done < length;) {
            ssize_t more = read(0, body + done, length - done);
            if (more <= 0) return 1;
            done += (uint32_t)more;
        }
        body[length] = 0;
        uint32_t total = (uint32_t)respond(strdup(body), has_threads);
        if (write(1, &total, 4) != 4 || write(1, body, total) != total) return 1;
    }
    return 0;
}
