/* SPDX-License-Identifier: MIT
 *
 * own_clock.h: a clock of the program's own in the place of the kernel's coarse one, for whatever allocator runs
 * in it: what is done by the clock is done at the same place each time.  Allocators read it through libc, or as the
 * vDSO or a system call of their own; there is no vDSO, and libc's syscall comes by here.  To be included by
 * one file of a program, which defines own_clock_ns().
 */
#ifndef OWN_CLOCK_H
#define OWN_CLOCK_H

#include <dlfcn.h>
#include <elf.h>
#include <stdarg.h>
#include <stdint.h>
#include <sys/auxv.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static uint64_t own_clock_ns(void);

static int tell_time(struct timespec *now) {
    uint64_t ns = own_clock_ns();
    *now = (struct timespec){(time_t)(ns / 1000000000), (long)(ns % 1000000000)};
    return 0;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    (void)clock;
    return tell_time(now);
}

typedef long system_call(long number, ...);
typedef unsigned long auxiliary_value(unsigned long type);

long syscall(long number, ...) {
    static system_call *next;
    long word[6];
    va_list rest;
    if (!next)
        *(void **)&next = dlsym(RTLD_NEXT, "syscall");
    va_start(rest, number);
    for (int i = 0; i < 6; i++)
        word[i] = va_arg(rest, long);
    va_end(rest);
    if (number == SYS_clock_gettime && word[0] == CLOCK_MONOTONIC_COARSE)
        return tell_time((struct timespec *)word[1]);
    return next(number, word[0], word[1], word[2], word[3], word[4], word[5]);
}

/* As libc's, but for the vDSO. */
unsigned long getauxval(unsigned long type) {
    static auxiliary_value *next;
    if (!next)
        *(void **)&next = dlsym(RTLD_NEXT, "getauxval");
    return type == AT_SYSINFO_EHDR ? 0 : next(type);
}

#endif
