/* Tries to connect to each address the request names (IPv4:PORT, one per line) and says what came
 * of it: "ADDRESS connected" (after sending a line) or "ADDRESS ERRNO-TEXT". */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const char *probe(char *text) {
    static const char line[] = "hello from net-probe\n";
    char *colon = strchr(text, ':');
    struct sockaddr_in to = {.sin_family = AF_INET};
    if (!colon) return "no port";
    *colon = 0;
    if (inet_pton(AF_INET, text, &to.sin_addr) != 1) return "no address";
    to.sin_port = htons((unsigned short)atoi(colon + 1));
    *colon = ':';
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    if (fd < 0) return strerror(errno);
    const char *result = "connected";
    if (connect(fd, (struct sockaddr *)&to, sizeof to)) result = strerror(errno);
    else if (write(fd, line, sizeof line - 1) < 0) result = strerror(errno);
    close(fd);
    return result;
}

int main(void) {
    char line[128];
    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\r\n")] = 0;
        if (line[0]) printf("%s %s\n", line, probe(line));
    }
    return 0;
}
