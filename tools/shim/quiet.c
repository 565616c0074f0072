/* SPDX-License-Identifier: MIT
 *
 * quiet.c: see quiet.h.
 */
#include "quiet.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#define PAGE ((size_t)4096)

int quiet_open(const char *path, int flags) {
    return (int)syscall(SYS_openat, AT_FDCWD, path, flags | O_CLOEXEC, 0600);
}

void quiet_close(int fd) {
    syscall(SYS_close, fd);
}

/* Beyond its limit a process is not refused, but killed by SIGXFSZ. */
static bool may_extend(uint64_t end) {
    struct rlimit limit;
    return getrlimit(RLIMIT_FSIZE, &limit) == 0 && end <= limit.rlim_cur;
}

int quiet_extend(int fd, uint64_t offset, size_t bytes) {
    static const unsigned char zeros[PAGE];
    if (!may_extend(offset + bytes)) {
        return EFBIG;
    }
    if (syscall(SYS_fallocate, fd, 0, (off_t)offset, (off_t)bytes) == 0) {
        return 0;
    }
    if (errno != EOPNOTSUPP && errno != ENOSYS) {
        return errno;
    }
    for (size_t at = 0; at < bytes; at += sizeof zeros) {
        long done = syscall(SYS_pwrite64, fd, zeros, sizeof zeros, (off_t)(offset + at));
        if (done != (long)sizeof zeros) {
            return done < 0 ? errno : ENOSPC;
        }
    }
    return 0;
}

void quiet_command(char *out, size_t room) {
    int fd = quiet_open("/proc/self/comm", O_RDONLY);
    long got = fd < 0 ? 0 : syscall(SYS_read, fd, out, room - 1);
    out[got > 0 ? got : 0] = '\0';
    out[strcspn(out, "\n")] = '\0';
    quiet_close(fd);
}

char *quiet_put_text(char *at, const char *text) {
    while (*text != '\0') {
        *at++ = *text++;
    }
    return at;
}

char *quiet_put_number(char *at, uint64_t number) {
    char digits[20];
    size_t count = 0;
    do {
        digits[count++] = (char)('0' + number % 10);
        number /= 10;
    } while (number > 0);
    while (count > 0) {
        *at++ = digits[--count];
    }
    return at;
}

_Atomic uint32_t *quiet_fork_mark(void) {
    void *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) {
        return NULL;
    }
    if (madvise(page, PAGE, MADV_WIPEONFORK) != 0) {
        munmap(page, PAGE);
        return NULL;
    }
    _Atomic uint32_t *mark = page;
    atomic_store(mark, 1);
    return mark;
}
