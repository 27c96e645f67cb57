/* Faults of a disk, for the tests: preloaded into the server, it sees what is done to the files whose path contains
 * SHIM_FILES. While the file SHIM_SWITCH exists (or where it is not set), SHIM_EIO_PERCENT of the syncs fail with EIO, as a
 * disk's do that has lost the pages, by dice that begin with SHIM_SEED (not those of files whose
 * path contains SHIM_EIO_NOT), and each takes SHIM_SYNC_MS. SHIM_LOG gets every write,
 * truncation, removal and sync in order, so that a test can tell what a power cut would have left. The clock that people
 * set is wrong by the seconds that the file SHIM_CLOCK holds. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

static pthread_mutex_t order = PTHREAD_MUTEX_INITIALIZER;
static int log_fd = -1;
static unsigned int dice;

#define REAL(name, ...) \
    static __typeof__(&name) real; \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static int is_watched(int fd, char *path) {
    const char *files = getenv("SHIM_FILES");
    char link[64];
    ssize_t length;
    if (!files || fd < 0) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    length = readlink(link, path, PATH_MAX - 1);
    if (length <= 0) return 0;
    path[length] = 0;
    return strstr(path, files) != NULL && !strstr(path, "-shm") && !strstr(path, ".lock");
}

static int is_on(void) {
    const char *file = getenv("SHIM_SWITCH");
    return !file || access(file, F_OK) == 0;
}

static long number(const char *name) {
    const char *text = getenv(name);
    return text ? atol(text) : 0;
}

/* One line, and the bytes behind it. Called with the lock held, after the thing was done. */
static void note(char what, const char *path, long long at, const void *bytes, size_t length) {
    static ssize_t (*raw)(int, const struct iovec *, int);
    const char *file = getenv("SHIM_LOG");
    char line[PATH_MAX + 64];
    struct iovec parts[2];
    if (!file) return;
    if (!raw) raw = (ssize_t (*)(int, const struct iovec *, int))dlsym(RTLD_NEXT, "writev");
    if (log_fd < 0) log_fd = open(file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    parts[0].iov_base = line;
    parts[0].iov_len = (size_t)snprintf(line, sizeof line, "%c %lld %zu %s\n", what, at, length, path);
    parts[1].iov_base = (void *)bytes;
    parts[1].iov_len = length;
    if (raw(log_fd, parts, length ? 2 : 1) < 0) abort();
}

ssize_t write(int fd, const void *bytes, size_t length) {
    char path[PATH_MAX];
    REAL(write);
    if (!is_watched(fd, path)) return real(fd, bytes, length);
    pthread_mutex_lock(&order);
    off_t at = lseek(fd, 0, SEEK_CUR);
    ssize_t done = real(fd, bytes, length);
    int error = errno;
    if (done > 0) note('w', path, at, bytes, (size_t)done);
    pthread_mutex_unlock(&order);
    errno = error;
    return done;
}

static ssize_t write_at(ssize_t (*real)(int, const void *, size_t, off64_t), int fd, const void *bytes, size_t length, off64_t at) {
    char path[PATH_MAX];
    if (!is_watched(fd, path)) return real(fd, bytes, length, at);
    pthread_mutex_lock(&order);
    ssize_t done = real(fd, bytes, length, at);
    int error = errno;
    if (done > 0) note('w', path, at, bytes, (size_t)done);
    pthread_mutex_unlock(&order);
    errno = error;
    return done;
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t at) {
    REAL(pwrite64);
    return write_at(real, fd, bytes, length, at);
}

ssize_t pwrite(int fd, const void *bytes, size_t length, off_t at) {
    REAL(pwrite64);
    return write_at((ssize_t (*)(int, const void *, size_t, off64_t))real, fd, bytes, length, at);
}

static int cut(int (*real)(int, off64_t), int fd, off64_t length) {
    char path[PATH_MAX];
    if (!is_watched(fd, path)) return real(fd, length);
    pthread_mutex_lock(&order);
    int done = real(fd, length);
    int error = errno;
    if (done == 0) note('t', path, length, NULL, 0);
    pthread_mutex_unlock(&order);
    errno = error;
    return done;
}

int ftruncate64(int fd, off64_t length) {
    REAL(ftruncate64);
    return cut(real, fd, length);
}

int ftruncate(int fd, off_t length) {
    static int (*real)(int, off64_t);
    if (!real) real = (int (*)(int, off64_t))dlsym(RTLD_NEXT, "ftruncate64");
    return cut(real, fd, length);
}

/* A sync that fails has not happened, and the next one does not make up for it unless the pages are written again. */
static int sync_file(int (*real)(int), int fd) {
    char path[PATH_MAX];
    if (!is_watched(fd, path)) return real(fd);
    if (is_on()) {
        struct timespec pause = {number("SHIM_SYNC_MS") / 1000, number("SHIM_SYNC_MS") % 1000 * 1000000};
        nanosleep(&pause, NULL);
    }
    pthread_mutex_lock(&order);
    if (!dice) dice = (unsigned int)number("SHIM_SEED") + 1;
    const char *spared = getenv("SHIM_EIO_NOT");
    if (is_on() && !(spared && strstr(path, spared)) && rand_r(&dice) % 100 < number("SHIM_EIO_PERCENT")) {
        note('e', path, 0, NULL, 0);
        pthread_mutex_unlock(&order);
        errno = EIO;
        return -1;
    }
    /* The disk is the tests' own: what they call synced is in the log, and the log is what they read. */
    note('s', path, 0, NULL, 0);
    pthread_mutex_unlock(&order);
    return 0;
}

int unlink(const char *path) {
    const char *files = getenv("SHIM_FILES");
    REAL(unlink);
    pthread_mutex_lock(&order);
    int done = real(path);
    int error = errno;
    if (done == 0 && files && strstr(path, files)) note('u', path, 0, NULL, 0);
    pthread_mutex_unlock(&order);
    errno = error;
    return done;
}

int fdatasync(int fd) {
    REAL(fdatasync);
    return sync_file(real, fd);
}

int fsync(int fd) {
    REAL(fsync);
    return sync_file(real, fd);
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    const char *file = getenv("SHIM_CLOCK");
    char text[32] = {0};
    REAL(clock_gettime);
    int done = real(clock, now);
    if (done == 0 && clock == CLOCK_REALTIME && file) {
        int error = errno, fd = open(file, O_RDONLY | O_CLOEXEC);
        if (fd >= 0 && read(fd, text, sizeof text - 1) > 0) now->tv_sec += atol(text);
        if (fd >= 0) close(fd);
        errno = error;
    }
    return done;
}
