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
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* A file below LATE_BELOW that was open before its process could not see paths any more. */
static struct stat known[8];
static int known_count;

/* Whether a file is below LATE_BELOW; -1 if this process sees no paths. */
static int is_below(int descriptor)
{
    const char *below = getenv("LATE_BELOW");
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return -1;
    path[length] = 0;
    return below != NULL && strncmp(path, below, strlen(below)) == 0;
}

/* By the call that a process in the jail may make. */
static int look(int descriptor, struct stat *found)
{
    return syscall(SYS_fstat, descriptor, found);
}

static void remember(int descriptor)
{
    if (known_count < 8 && is_below(descriptor) == 1 && look(descriptor, &known[known_count]) == 0)
        known_count++;
}

static int is_known(int descriptor)
{
    struct stat found;
    if (look(descriptor, &found) != 0)
        return 0;
    for (int at = 0; at < known_count && at < 8; at++)
        if (known[at].st_dev == found.st_dev && known[at].st_ino == found.st_ino)
            return 1;
    return 0;
}

__attribute__((constructor)) static void remember_streams(void)
{
    for (int descriptor = 0; descriptor < 3; descriptor++)
        remember(descriptor);
}

int open64(const char *path, int flags, ...)
{
    static int (*real)(const char *, int, ...);
    va_list rest;
    va_start(rest, flags);
    int mode = va_arg(rest, int);
    va_end(rest);
    if (real == NULL)
        real = (int (*)(const char *, int, ...))dlsym(RTLD_NEXT, "open64");
    int descriptor = real(path, flags, mode);
    if (descriptor >= 0)
        remember(descriptor);
    return descriptor;
}

static int is_lost(int descriptor)
{
    static atomic_uint closed;
    int flags = fcntl(descriptor, F_GETFL);
    if (getenv("LATE_BELOW") == NULL || flags < 0 || (flags & O_ACCMODE) == O_RDONLY)
        return 0;
    int below = is_below(descriptor);
    if (below == 0 || (below < 0 && !is_known(descriptor)))
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
