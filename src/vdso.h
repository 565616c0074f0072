/* SPDX-License-Identifier: MIT
 *
 * vdso.h: the functions that the kernel lends each process.  Thread-safe; nothing here allocates.
 */
#ifndef QUARRY_VDSO_H
#define QUARRY_VDSO_H

#include "base.h"

#include <time.h>

typedef int vdso_clock(clockid_t clock, struct timespec *now);

/* Reads a clock as clock_gettime does; NULL where the kernel lends no such function (under valgrind). */
vdso_clock *vdso_clock_gettime(void);

#endif
