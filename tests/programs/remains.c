/* Contract stream: answers each request with what it finds of the requests before it, a word for
 * each, or "nothing"; and then leaves something in each place: a file in /tmp, a value on its heap,
 * a thread that listens on the loopback address, and, where the request is IPv4:PORT, a connection to
 * there. */
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const char FILE_PATH[] = "/tmp/remains";

static struct sockaddr_in address(void) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(4321)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

static int has_thread(void) {
    struct sockaddr_in to = address();
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    int answers = fd >= 0 && connect(fd, (struct sockaddr *)&to, sizeof to) == 0;
    close(fd);
    return answers;
}

static void *serve(void *listener) {
    for (;;) close(accept(*(int *)listener, NULL, NULL));
    return NULL;
}

/* The listener is there before the thread is: whoever looks next finds it. */
static int leave_thread(void) {
    struct sockaddr_in at = address();
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0) return 5;
    if (bind(fd, (struct sockaddr *)&at, sizeof at)) return 6;
    if (listen(fd, 1)) return 7;
    static int listener;
    listener = fd;
    pthread_t thread;
    return pthread_create(&thread, NULL, serve, &listener) ? 8 : 0;
}

static int connection = -1;

/* What is no address is no request for a connection. */
static int leave_connection(char *text) {
    struct sockaddr_in to = {.sin_family = AF_INET};
    char *colon = strchr(text, ':');
    if (!colon) return 0;
    *colon = 0;
    to.sin_port = htons((uint16_t)atoi(colon + 1));
    if (inet_pton(AF_INET, text, &to.sin_addr) != 1) return 0;
    connection = socket(AF_INET, SOCK_STREAM, 0);
    return connection < 0 || connect(connection, (struct sockaddr *)&to, sizeof to) ? 9 : 0;
}

static int answer(const char *text) {
    uint32_t length = (uint32_t)strlen(text);
    fwrite(&length, 4, 1, stdout);
    fwrite(text, 1, length, stdout);
    return fflush(stdout);
}

int main(void) {
    static char body[4097];
    char *planted = calloc(1, 64);
    uint32_t length;
    while (planted && fread(&length, 4, 1, stdin)) {
        if (length > sizeof body - 1 || fread(body, 1, length, stdin) != length) return 1;
        char found[64] = "";
        if (access(FILE_PATH, F_OK) == 0) strcat(found, "file ");
        if (planted[0]) strcat(found, "heap ");
        if (has_thread()) strcat(found, "thread ");
        else {
            int failed = leave_thread();
            if (failed) return failed;
        }
        int fd = open(FILE_PATH, O_CREAT | O_WRONLY, 0600);
        if (fd < 0 || write(fd, body, length) != (ssize_t)length || close(fd)) return 3;
        strcpy(planted, "planted");
        if (connection >= 0) strcat(found, "connection ");
        else {
            body[length] = 0;
            int failed = leave_connection(body);
            if (failed) return failed;
        }
        if (answer(found[0] ? found : "nothing")) return 4;
    }
    return 0;
}
