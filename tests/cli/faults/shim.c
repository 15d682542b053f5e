/* Fails chosen system calls on chosen files: loaded with LD_PRELOAD, told what to do by hdit_fault(). */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static const char *kinds[] = {"open", "read", "write", "close", "fsync", "rename", "mkdir", "stat", "unlink", "list", "utime"};
enum { KINDS = sizeof kinds / sizeof *kinds };

static char call[16], where[PATH_MAX];
static int error, first, last, seen[KINDS];

/* Let calls number `from` to `to` of this kind on files whose path contains `part` fail, and count those of all kinds. */
void hdit_fault(const char *kind, int number, const char *part, int from, int to)
{
    snprintf(call, sizeof call, "%s", kind);
    snprintf(where, sizeof where, "%s", part);
    error = number, first = from, last = to;
    memset(seen, 0, sizeof seen);
}

/* Return the number of calls of a kind so far. */
int hdit_seen(const char *kind)
{
    for (int i = 0; i < KINDS; i++)
        if (!strcmp(kind, kinds[i]))
            return seen[i];
    return -1;
}

static int fails(const char *kind, const char *path)
{
    int i = 0;
    if (!where[0] || !path || !strstr(path, where))
        return 0;
    while (strcmp(kind, kinds[i]))
        i++;
    int number = __sync_add_and_fetch(&seen[i], 1);
    if (strcmp(kind, call) || number < first || number > last)
        return 0;
    errno = error;
    return 1;
}

static int fails_on(const char *kind, int descriptor)
{
    char name[64], path[PATH_MAX];
    if (!where[0])
        return 0;
    snprintf(name, sizeof name, "/proc/self/fd/%d", descriptor);
    ssize_t length = readlink(name, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return fails(kind, path);
}

#define NEXT(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

#define OPEN(name)                                                  \
    int name(const char *path, int flags, ...)                      \
    {                                                               \
        va_list rest;                                               \
        va_start(rest, flags);                                      \
        mode_t mode = va_arg(rest, mode_t);                         \
        va_end(rest);                                               \
        return fails("open", path) ? -1 : NEXT(name)(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                \
    int name(int folder, const char *path, int flags, ...)          \
    {                                                               \
        va_list rest;                                               \
        va_start(rest, flags);                                      \
        mode_t mode = va_arg(rest, mode_t);                         \
        va_end(rest);                                               \
        return fails("open", path) ? -1 : NEXT(name)(folder, path, flags, mode); \
    }
OPENAT(openat)
OPENAT(openat64)

ssize_t read(int fd, void *to, size_t count) { return fails_on("read", fd) ? -1 : NEXT(read)(fd, to, count); }
ssize_t pread(int fd, void *to, size_t count, off_t at) { return fails_on("read", fd) ? -1 : NEXT(pread)(fd, to, count, at); }
ssize_t pread64(int fd, void *to, size_t count, off64_t at) { return fails_on("read", fd) ? -1 : NEXT(pread64)(fd, to, count, at); }
ssize_t write(int fd, const void *from, size_t count) { return fails_on("write", fd) ? -1 : NEXT(write)(fd, from, count); }
int fsync(int fd) { return fails_on("fsync", fd) ? -1 : NEXT(fsync)(fd); }
int fdatasync(int fd) { return fails_on("fsync", fd) ? -1 : NEXT(fdatasync)(fd); }
int rename(const char *from, const char *to) { return fails("rename", to) ? -1 : NEXT(rename)(from, to); }
int renameat(int a, const char *from, int b, const char *to) { return fails("rename", to) ? -1 : NEXT(renameat)(a, from, b, to); }
int mkdir(const char *path, mode_t mode) { return fails("mkdir", path) ? -1 : NEXT(mkdir)(path, mode); }
int stat(const char *path, struct stat *to) { return fails("stat", path) ? -1 : NEXT(stat)(path, to); }
int stat64(const char *path, struct stat64 *to) { return fails("stat", path) ? -1 : NEXT(stat64)(path, to); }
int lstat(const char *path, struct stat *to) { return fails("stat", path) ? -1 : NEXT(lstat)(path, to); }
int lstat64(const char *path, struct stat64 *to) { return fails("stat", path) ? -1 : NEXT(lstat64)(path, to); }
int fstatat(int fd, const char *path, struct stat *to, int flags) { return fails("stat", path) ? -1 : NEXT(fstatat)(fd, path, to, flags); }
int fstatat64(int fd, const char *path, struct stat64 *to, int flags) { return fails("stat", path) ? -1 : NEXT(fstatat64)(fd, path, to, flags); }
int unlink(const char *path) { return fails("unlink", path) ? -1 : NEXT(unlink)(path); }
int unlinkat(int fd, const char *path, int flags) { return fails("unlink", path) ? -1 : NEXT(unlinkat)(fd, path, flags); }
int rmdir(const char *path) { return fails("unlink", path) ? -1 : NEXT(rmdir)(path); }
DIR *opendir(const char *path) { return fails("list", path) ? NULL : NEXT(opendir)(path); }
DIR *fdopendir(int fd) { return fails_on("list", fd) ? NULL : NEXT(fdopendir)(fd); }
int utimensat(int fd, const char *path, const struct timespec times[2], int flags) { return fails("utime", path) ? -1 : NEXT(utimensat)(fd, path, times, flags); }
int futimens(int fd, const struct timespec times[2]) { return fails_on("utime", fd) ? -1 : NEXT(futimens)(fd, times); }

/* As network file systems do where a quota is exceeded: a file that was written to is closed, and the call fails. */
int close(int fd)
{
    int flags = where[0] ? fcntl(fd, F_GETFL) : -1;
    int wrong = flags >= 0 && (flags & O_ACCMODE) != O_RDONLY && fails_on("close", fd) ? errno : 0;
    int done = NEXT(close)(fd);
    return wrong ? (errno = wrong, -1) : done;
}
