/* Records the file calls of a process that change what a disk holds, in order, into the file
 * named by RECORD_IO; only calls on paths below RECORD_ROOT. Made for LD_PRELOAD.
 *
 * A record: op, path length, offset, data length (four 64-bit integers), path, data. Ops:
 * 'w' write at offset, 's' fsync, 't' truncate to offset, 'u' unlink, 'c' create, 'm' mkdir.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int record_fd = -2;

static int skipped(const char *path) {
    const char *root = getenv("RECORD_ROOT");
    size_t length = path ? strlen(path) : 0;
    if (!root || strncmp(path, root, strlen(root)) != 0) return 1;
    return length > 4 && strcmp(path + length - 4, "-shm") == 0; /* rebuilt after a crash */
}

static void put(int64_t op, const char *path, int64_t offset, const void *data, int64_t length) {
    int64_t head[4] = {op, (int64_t)strlen(path), offset, length};
    if (record_fd == -2) {
        const char *name = getenv("RECORD_IO");
        record_fd = name ? (int)syscall(SYS_openat, AT_FDCWD, name,
                                        O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600) : -1;
    }
    if (record_fd < 0) return;
    if (syscall(SYS_write, record_fd, head, sizeof head) < 0) abort();
    if (syscall(SYS_write, record_fd, path, head[1]) < 0) abort();
    if (length && syscall(SYS_write, record_fd, data, length) < 0) abort();
}

static int path_of(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, 4095);
    if (length < 0) return 0;
    path[length] = 0;
    return !skipped(path);
}

/* The call happens under the lock, so that the record has the order in which things happened. */
#define RECORDED(fd, call, op, offset, data, length)                                  \
    char path[4096];                                                                  \
    int wanted = path_of(fd, path);                                                   \
    if (wanted) pthread_mutex_lock(&lock);                                            \
    ssize_t result = (call);                                                          \
    if (wanted) {                                                                     \
        if (result >= 0) put(op, path, offset, data, length);                         \
        pthread_mutex_unlock(&lock);                                                  \
    }                                                                                 \
    return result;

ssize_t pwrite64(int fd, const void *data, size_t length, off64_t offset) {
    RECORDED(fd, syscall(SYS_pwrite64, fd, data, length, offset), 'w', offset, data, result)
}
ssize_t pwrite(int fd, const void *data, size_t length, off_t offset) {
    return pwrite64(fd, data, length, offset);
}
ssize_t write(int fd, const void *data, size_t length) {
    off_t at = lseek(fd, 0, SEEK_CUR);
    RECORDED(fd, syscall(SYS_write, fd, data, length), 'w', at, data, result)
}
int fsync(int fd) { RECORDED(fd, syscall(SYS_fsync, fd), 's', 0, 0, 0) }
int fdatasync(int fd) { RECORDED(fd, syscall(SYS_fdatasync, fd), 's', 0, 0, 0) }
int ftruncate64(int fd, off64_t size) {
    RECORDED(fd, syscall(SYS_ftruncate, fd, size), 't', size, 0, 0)
}
int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }

int unlink(const char *path) {
    int wanted = !skipped(path);
    if (wanted) pthread_mutex_lock(&lock);
    int result = (int)syscall(SYS_unlinkat, AT_FDCWD, path, 0);
    if (wanted) {
        if (result == 0) put('u', path, 0, 0, 0);
        pthread_mutex_unlock(&lock);
    }
    return result;
}

int mkdir(const char *path, mode_t mode) {
    int wanted = !skipped(path);
    if (wanted) pthread_mutex_lock(&lock);
    int result = (int)syscall(SYS_mkdirat, AT_FDCWD, path, mode);
    if (wanted) {
        if (result == 0) put('m', path, 0, 0, 0);
        pthread_mutex_unlock(&lock);
    }
    return result;
}

static int recorded_open(const char *path, int flags, mode_t mode) {
    struct stat before;
    int is_new = (flags & O_CREAT) && !skipped(path) && stat(path, &before) != 0;
    if (is_new) pthread_mutex_lock(&lock);
    int fd = (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
    if (is_new) {
        if (fd >= 0) put('c', path, 0, 0, 0);
        pthread_mutex_unlock(&lock);
    }
    return fd;
}
int open64(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    mode_t mode = flags & O_CREAT ? va_arg(more, mode_t) : 0;
    va_end(more);
    return recorded_open(path, flags, mode);
}
int open(const char *path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    mode_t mode = flags & O_CREAT ? va_arg(more, mode_t) : 0;
    va_end(more);
    return recorded_open(path, flags, mode);
}
