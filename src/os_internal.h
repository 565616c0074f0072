/* SPDX-License-Identifier: MIT
 *
 * os_internal.h: how os.c and os_port.c call the kernel.  Nobody else includes it.
 */
#ifndef QUARRY_OS_INTERNAL_H
#define QUARRY_OS_INTERNAL_H

#include <errno.h>
#include <sys/syscall.h>
#include <unistd.h>

/* errno is what it was. */
static inline long call(long number, long a, long b, long c, long d, long e, long f) {
    int saved = errno;
    long result = syscall(number, a, b, c, d, e, f);
    errno = saved;
    return result;
}

#endif
