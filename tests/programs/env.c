/* Prints its arguments, its folder and its environment, one per line. */
#include <stdio.h>
#include <unistd.h>

extern char **environ;

int main(int argc, char **argv) {
    char folder[4096];
    for (int i = 0; i < argc; i++) printf("argv[%d]=%s\n", i, argv[i]);
    printf("cwd=%s\n", getcwd(folder, sizeof folder) ? folder : "?");
    for (char **entry = environ; *entry; entry++) puts(*entry);
    return 0;
}
