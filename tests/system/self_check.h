/* SPDX-License-Identifier: MIT
 *
 * self_check.h: checks of programs that the scripts here run.  A check that fails is told on stdout
 * at once, without allocating; finish() ends the program with "N checks" and the exit status.
 */
#ifndef SELF_CHECK_H
#define SELF_CHECK_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int check_count, check_failures;

__attribute__((format(printf, 1, 2), unused)) static void say(const char *format, ...) {
    char line[512];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    if (length > (int)sizeof line - 1)
        length = sizeof line - 1;
    if (write(STDOUT_FILENO, line, (size_t)length) != length)
        _exit(3);
}

__attribute__((unused)) static int check_that(int good, const char *what, const char *file,
                                              int line) {
    __atomic_fetch_add(&check_count, 1, __ATOMIC_RELAXED);
    if (!good) {
        __atomic_fetch_add(&check_failures, 1, __ATOMIC_RELAXED);
        say("%s:%d: does not hold: %s\n", file, line, what);
    }
    return good;
}

#define CHECK(c) check_that(!!(c), #c, __FILE__, __LINE__)
/* For what makes going on senseless. */
#define MUST(c) (CHECK(c) ? (void)0 : _exit(2))

__attribute__((unused)) static int finish(void) {
    say("%d checks\n", check_count);
    return check_failures != 0;
}

/* A pattern that differs from block to block and from place to place. */
__attribute__((unused)) static void fill(void *block, size_t bytes, unsigned seed) {
    unsigned char *at = (unsigned char *)block;
    for (size_t i = 0; i < bytes; i++)
        at[i] = (unsigned char)(seed * 31u + i * 7u + (i >> 8));
}

__attribute__((unused)) static int intact(const void *block, size_t bytes, unsigned seed) {
    const unsigned char *at = (const unsigned char *)block;
    for (size_t i = 0; i < bytes; i++)
        if (at[i] != (unsigned char)(seed * 31u + i * 7u + (i >> 8)))
            return 0;
    return 1;
}

__attribute__((unused)) static int all_bytes(const void *block, size_t bytes, int value) {
    const unsigned char *at = (const unsigned char *)block;
    for (size_t i = 0; i < bytes; i++)
        if (at[i] != (unsigned char)value)
            return 0;
    return 1;
}

#endif
