/* A disk that fails when it is told to, for one process: preloaded, it looks into the file that FAULTY_DISK
 * names before each write and sync of a file below FAULTY_BELOW. That file holds what shall happen:
 *
 *     write <errno>     every write fails with it
 *     sync <errno>      every sync fails with it; what was written before stays written
 *     slow <ms>         every write and sync takes so much longer
 *
 * An empty file, or none: all goes well. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static int is_below(int fd) {
    const char *below = getenv("FAULTY_BELOW");
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    return below && length > 0 && strncmp(path, below, strlen(below)) == 0;
}

/* The errno with which the operation shall fail, or 0. */
static int fault(int fd, const char *operation) {
    const char *file = getenv("FAULTY_DISK");
    char text[64] = "", word[16] = "";
    int number = 0;
    if (!file || !is_below(fd)) return 0;
    int wish = open(file, O_RDONLY | O_CLOEXEC);
    if (wish < 0) return 0;
    ssize_t length = syscall(SYS_read, wish, text, sizeof text - 1);
    close(wish);
    if (length <= 0 || sscanf(text, "%15s %d", word, &number) != 2) return 0;
    if (strcmp(word, "slow") == 0) {
        struct timespec pause = {number / 1000, number % 1000 * 1000000L};
        nanosleep(&pause, NULL);
    }
    return strcmp(word, operation) == 0 ? number : 0;
}

#define UNLESS(operation, call)                        \
    int error = fault(fd, operation);                  \
    if (error) { errno = error; return -1; }           \
    return syscall call

ssize_t write(int fd, const void *bytes, size_t length) { UNLESS("write", (SYS_write, fd, bytes, length)); }
ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t at) { UNLESS("write", (SYS_pwrite64, fd, bytes, length, at)); }
int fsync(int fd) { UNLESS("sync", (SYS_fsync, fd)); }
int fdatasync(int fd) { UNLESS("sync", (SYS_fdatasync, fd)); }
