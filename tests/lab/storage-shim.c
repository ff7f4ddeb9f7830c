/* Put before the C library's own (LD_PRELOAD): counts the syncs of a process, and at the SYNC_AT-th kills it, or lets
 * that one and all later ones fail as a broken disk does. The count so far is in the file SYNC_COUNT. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static atomic_long count;

static int fails(void)
{
    long now = atomic_fetch_add(&count, 1) + 1;
    const char *file = getenv("SYNC_COUNT"), *at = getenv("SYNC_AT"), *how = getenv("SYNC_HOW");
    if (file) {
        char text[32];
        int length = snprintf(text, sizeof text, "%ld\n", now);
        int fd = open(file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
        if (fd >= 0) {
            if (write(fd, text, (size_t)length) < 0)
                abort();
            close(fd);
        }
    }
    if (!at || !how || now < atol(at))
        return 0;
    if (!strcmp(how, "kill"))
        raise(SIGKILL);
    errno = EIO;
    return 1;
}

int fsync(int fd)
{
    static int (*real)(int);
    if (!real)
        real = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    return fails() ? -1 : real(fd);
}

int fdatasync(int fd)
{
    static int (*real)(int);
    if (!real)
        real = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    return fails() ? -1 : real(fd);
}
