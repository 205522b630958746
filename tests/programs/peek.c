/* Leaves a file in /tmp named by the first line of the request, says so on its log, stays until the
 * request ends, then prints what it can see and reach: every name in /tmp, /var/task and
 * /run/credentials, every process in /proc and every one it could signal. Two of these at once in
 * one VM must not see each other. */
#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
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

int main(void) {
    char name[64] = "", path[80], rest[256];
    if (!fgets(name, sizeof name, stdin)) return 1;
    name[strcspn(name, "\n/")] = 0;
    snprintf(path, sizeof path, "/tmp/%s", name);
    int fd = open(path, O_CREAT | O_EXCL | O_WRONLY, 0600);
    if (fd < 0) perror(path);
    fprintf(stderr, "left %s\n", path);
    while (fread(rest, 1, sizeof rest, stdin) > 0) continue;
    printf("pid %d\n", getpid());
    list("/tmp", 0);
    list("/var/task", 0);
    list("/run/credentials", 0);
    list("/proc", 1);
    for (int pid = 1; pid < 1000; pid++) {
        snprintf(path, sizeof path, "/proc/%d/status", pid);
        if (!access(path, F_OK)) printf("looks into %d\n", pid);
        if (!kill(pid, 0)) printf("signals %d\n", pid);
    }
    return 0;
}
