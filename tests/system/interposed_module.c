/* SPDX-License-Identifier: MIT
 *
 * Stands in a program between it and libc, as libraries do that tell programs another time or watch their files:
 * each of these functions allocates.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* Of several sizes, so that it does not stay in the thread's cache. */
static void use_the_heap(void) {
    static __thread unsigned calls;
    int saved = errno;
    char *block = malloc(100 + 977 * (++calls % 50));
    if (block)
        *(volatile char *)block = 1;
    free(block);
    errno = saved;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    use_the_heap();
    return (int)syscall(SYS_clock_gettime, clock, now);
}

int madvise(void *address, size_t bytes, int advice) {
    use_the_heap();
    return (int)syscall(SYS_madvise, address, bytes, advice);
}

int munmap(void *address, size_t bytes) {
    use_the_heap();
    return (int)syscall(SYS_munmap, address, bytes);
}

void *mmap(void *address, size_t bytes, int protection, int flags, int file, off_t offset) {
    use_the_heap();
    return (void *)syscall(SYS_mmap, address, bytes, protection, flags, file, offset);
}

ssize_t read(int file, void *buffer, size_t bytes) {
    use_the_heap();
    return syscall(SYS_read, file, buffer, bytes);
}

int sched_yield(void) {
    use_the_heap();
    return (int)syscall(SYS_sched_yield);
}
