/*
 * Pretends to be a file system that reports only on close that it kept nothing, as NFS, AFS, FUSE and quotas may. For
 * programs that are started with this library in LD_PRELOAD, close() fails on files that were written below LATE_BELOW,
 * and their content is gone.
 *
 * LATE_ERRNO is the error (EIO by default); LATE_ONE_IN=N loses only every Nth file.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int is_lost(int descriptor)
{
    static atomic_uint closed;
    const char *below = getenv("LATE_BELOW");
    char link[64], path[PATH_MAX];
    int flags = fcntl(descriptor, F_GETFL);
    if (below == NULL || flags < 0 || (flags & O_ACCMODE) == O_RDONLY)
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    if (strncmp(path, below, strlen(below)) != 0)
        return 0;
    const char *one_in = getenv("LATE_ONE_IN");
    unsigned every = one_in == NULL ? 1 : (unsigned)atoi(one_in);
    return atomic_fetch_add(&closed, 1) % (every == 0 ? 1 : every) == 0;
}

int close(int descriptor)
{
    static int (*real)(int);
    int before = errno;
    if (real == NULL)
        real = (int (*)(int))dlsym(RTLD_NEXT, "close");
    if (!is_lost(descriptor)) {
        errno = before;
        return real(descriptor);
    }
    const char *error = getenv("LATE_ERRNO");
    if (ftruncate(descriptor, 0) != 0) {
        /* A pipe or a device keeps its data. */
    }
    real(descriptor);
    errno = error == NULL ? EIO : atoi(error);
    return -1;
}
