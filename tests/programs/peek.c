/* Leaves a file in /tmp named by the request, stays for as many milliseconds as its argument says,
 * then prints what it can see: every name in /tmp, /var/task and /run/credentials, every process
 * in /proc. Two of these at once in one VM must not see each other. */
#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static void list(const char *path, int only_numbers) {
    DIR *folder = opendir(path);
    if (!folder) return;
    for (struct dirent *entry; (entry = readdir(folder));) {
        if (entry->d_name[0] == '.') continue;
        if (only_numbers && !isdigit((unsigned char)entry->d_name[0])) continue;
        printf("%s/%s\n", path, entry->d_name);
    }
    closedir(folder);
}

int main(int argc, char **argv) {
    char name[64] = "", path[80];
    ssize_t length = read(0, name, sizeof name - 1);
    name[length > 0 ? length : 0] = 0;
    name[strcspn(name, "\n/")] = 0;
    snprintf(path, sizeof path, "/tmp/%s", name);
    int fd = open(path, O_CREAT | O_EXCL | O_WRONLY, 0600);
    if (fd < 0) perror(path);
    long millis = argc > 1 ? atol(argv[1]) : 0;
    struct timespec stay = {millis / 1000, millis % 1000 * 1000000};
    nanosleep(&stay, NULL);
    printf("pid=%d\n", getpid());
    list("/tmp", 0);
    list("/var/task", 0);
    list("/run/credentials", 0);
    list("/proc", 1);
    return 0;
}
