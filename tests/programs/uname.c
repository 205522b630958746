/* Prints which kernel it runs on. */
#include <stdio.h>
#include <sys/utsname.h>

int main(void) {
    struct utsname name;
    if (uname(&name)) return 1;
    printf("%s|%s|%s|%s|%s\n", name.sysname, name.nodename, name.release, name.version, name.machine);
    return 0;
}
