/*
 * Kills a process at one of its writes, or has its writes fail. For programs that are started with this library in
 * LD_PRELOAD. Counted are calls that change something below MORTAL_BELOW: files that are created, written, cut, synced,
 * renamed and removed, and folders that are made.
 *
 * MORTAL_AT=N kills at the Nth such call: before it, or with MORTAL_HOW=torn when it is done, and of a write half.
 *
 * MORTAL_WHILE names a file: as long as it exists, each such call fails with the error MORTAL_ERRNO.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static int is_below(const char *path)
{
    const char *below = getenv("MORTAL_BELOW");
    return below != NULL && path != NULL && strncmp(path, below, strlen(below)) == 0;
}

static int is_open_below(int descriptor)
{
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return is_below(path);
}

static void die(void)
{
    syscall(SYS_kill, getpid(), SIGKILL);
    for (;;)
        pause();
}

enum fate { LIVES, DIES, FAILS };

/* What happens with a call, before it is made. */
static enum fate judge(int counts)
{
    static atomic_uint calls;
    if (!counts)
        return LIVES;
    const char *whilst = getenv("MORTAL_WHILE");
    if (whilst != NULL && access(whilst, F_OK) == 0) {
        const char *error = getenv("MORTAL_ERRNO");
        errno = error == NULL ? ENOSPC : atoi(error);
        return FAILS;
    }
    const char *at = getenv("MORTAL_AT");
    if (at == NULL || atomic_fetch_add(&calls, 1) + 1 != (unsigned)atoi(at))
        return LIVES;
    const char *how = getenv("MORTAL_HOW");
    if (how == NULL || strcmp(how, "before") == 0)
        die();
    return DIES;
}

static int is_torn(void)
{
    const char *how = getenv("MORTAL_HOW");
    return how != NULL && strcmp(how, "torn") == 0;
}

#define AROUND(counts, failed, call)                                                                                   \
    enum fate fate = judge(counts);                                                                                    \
    if (fate == FAILS)                                                                                                 \
        return failed;                                                                                                 \
    __typeof__(call) result = call;                                                                                    \
    if (fate == DIES)                                                                                                  \
        die();                                                                                                         \
    return result

static size_t part(enum fate fate, size_t bytes)
{
    return fate == DIES && is_torn() ? bytes / 2 : bytes;
}

ssize_t write(int descriptor, const void *data, size_t bytes)
{
    enum fate fate = judge(descriptor > 2 && is_open_below(descriptor));
    if (fate == FAILS)
        return -1;
    ssize_t written = REAL(write)(descriptor, data, part(fate, bytes));
    if (fate == DIES)
        die();
    return written;
}

static ssize_t write_at(ssize_t (*real)(int, const void *, size_t, off64_t), int descriptor, const void *data,
                        size_t bytes, off64_t offset)
{
    enum fate fate = judge(is_open_below(descriptor));
    if (fate == FAILS)
        return -1;
    ssize_t written = real(descriptor, data, part(fate, bytes), offset);
    if (fate == DIES)
        die();
    return written;
}

ssize_t pwrite(int descriptor, const void *data, size_t bytes, off_t offset)
{
    return write_at(REAL(pwrite64), descriptor, data, bytes, offset);
}

ssize_t pwrite64(int descriptor, const void *data, size_t bytes, off64_t offset)
{
    return write_at(REAL(pwrite64), descriptor, data, bytes, offset);
}

int fsync(int descriptor)
{
    AROUND(is_open_below(descriptor), -1, REAL(fsync)(descriptor));
}

int fdatasync(int descriptor)
{
    AROUND(is_open_below(descriptor), -1, REAL(fdatasync)(descriptor));
}

int ftruncate(int descriptor, off_t bytes)
{
    AROUND(is_open_below(descriptor), -1, REAL(ftruncate64)(descriptor, bytes));
}

int ftruncate64(int descriptor, off64_t bytes)
{
    AROUND(is_open_below(descriptor), -1, REAL(ftruncate64)(descriptor, bytes));
}

int rename(const char *from, const char *to)
{
    AROUND(is_below(to), -1, REAL(rename)(from, to));
}

int unlink(const char *path)
{
    AROUND(is_below(path), -1, REAL(unlink)(path));
}

int mkdir(const char *path, mode_t mode)
{
    AROUND(is_below(path), -1, REAL(mkdir)(path, mode));
}

static int open_it(const char *path, int flags, int mode)
{
    int creates = (flags & O_CREAT) != 0 && is_below(path) && access(path, F_OK) != 0;
    AROUND(creates, -1, REAL(open64)(path, flags, mode));
}

int open(const char *path, int flags, ...)
{
    va_list rest;
    va_start(rest, flags);
    int mode = va_arg(rest, int);
    va_end(rest);
    return open_it(path, flags, mode);
}

int open64(const char *path, int flags, ...)
{
    va_list rest;
    va_start(rest, flags);
    int mode = va_arg(rest, int);
    va_end(rest);
    return open_it(path, flags, mode);
}
