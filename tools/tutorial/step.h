/* SPDX-License-Identifier: MIT
 *
 * What the programs of the tutorial share: they say what they did and wait for Enter, so that one
 * can look at them meanwhile.  At the end of their input they go on without waiting.
 */
#ifndef QUARRY_TUTORIAL_STEP_H
#define QUARRY_TUTORIAL_STEP_H

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MIB ((size_t)1 << 20)

/* Standard output without a buffer: the programs' heaps hold what the tutorial says, no more. */
__attribute__((format(printf, 1, 2))) static inline void say(const char *format, ...) {
    char text[256];
    va_list values;
    va_start(values, format);
    int length = vsnprintf(text, sizeof text - 1, format, values);
    va_end(values);
    if (length < 0)
        exit(1);
    if (length > (int)sizeof text - 2)
        length = (int)sizeof text - 2;
    text[length++] = '\n';
    if (write(STDOUT_FILENO, text, (size_t)length) != length)
        exit(1);
}

static inline void wait_for_enter(void) {
    char byte;
    while (read(STDIN_FILENO, &byte, 1) == 1 && byte != '\n')
        continue;
}

static inline void *must(void *block) {
    if (block == NULL) {
        say("out of memory");
        exit(1);
    }
    return block;
}

/* A block, each byte of it written: resident. */
static inline char *written(size_t bytes) {
    return memset(must(malloc(bytes)), 1, bytes);
}

#endif
