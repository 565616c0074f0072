/* SPDX-License-Identifier: MIT
 *
 * own_clock.h: a clock of the program's own in the place of the kernel's coarse one, for whatever allocator runs
 * in it: what is done by the clock is done at the same place each time.  Allocators read it through libc, or as the
 * vDSO or a system call of their own; there is no vDSO, and libc's syscall comes by here.  To be included by
 * one file of a program, which defines own_clock_ns().
 */
#ifndef OWN_CLOCK_H
#define OWN_CLOCK_H

#include <elf.h>
#include <errno.h>
#include <fcntl.h>
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

static long kernel_call(long number, const long *word) {
#if defined(__x86_64__)
    long result;
    __asm__ volatile("mov %5, %%r10\n\tmov %6, %%r8\n\tmov %7, %%r9\n\tsyscall"
                     : "=a"(result)
                     : "a"(number), "D"(word[0]), "S"(word[1]), "d"(word[2]), "rm"(word[3]),
                       "rm"(word[4]), "rm"(word[5])
                     : "rcx", "r8", "r9", "r10", "r11", "memory");
    return result;
#elif defined(__aarch64__)
    register long code __asm__("x8") = number;
    register long first __asm__("x0") = word[0];
    register long second __asm__("x1") = word[1];
    register long third __asm__("x2") = word[2];
    register long fourth __asm__("x3") = word[3];
    register long fifth __asm__("x4") = word[4];
    register long sixth __asm__("x5") = word[5];
    __asm__ volatile("svc 0"
                     : "+r"(first)
                     : "r"(code), "r"(second), "r"(third), "r"(fourth), "r"(fifth), "r"(sixth)
                     : "memory");
    return first;
#else
#error "how does this machine call its kernel?"
#endif
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    (void)clock;
    return tell_time(now);
}

long syscall(long number, ...) {
    long word[6];
    va_list rest;
    va_start(rest, number);
    for (int i = 0; i < 6; i++)
        word[i] = va_arg(rest, long);
    va_end(rest);
    if (number == SYS_clock_gettime && word[0] == CLOCK_MONOTONIC_COARSE)
        return tell_time((struct timespec *)word[1]);
    long result = kernel_call(number, word);
    if (result >= 0 || result < -4095)
        return result;
    errno = (int)-result;
    return -1;
}

/* As libc's, but for the vDSO. */
unsigned long getauxval(unsigned long type) {
    static Elf64_auxv_t vector[64];
    if (vector[0].a_type == AT_NULL) {
        static const char path[] = "/proc/self/auxv";
        long file = kernel_call(SYS_openat, (long[6]){AT_FDCWD, (long)path, O_RDONLY});
        kernel_call(SYS_read, (long[6]){file, (long)vector, sizeof vector - sizeof *vector});
        kernel_call(SYS_close, (long[6]){file});
    }
    for (const Elf64_auxv_t *entry = vector; entry->a_type != AT_NULL; entry++)
        if (entry->a_type == type && type != AT_SYSINFO_EHDR)
            return entry->a_un.a_val;
    errno = ENOENT;
    return 0;
}

#endif
