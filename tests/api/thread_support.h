/* SPDX-License-Identifier: MIT
 *
 * thread_support.h: threads with small stacks and blocks with patterns, for programs that check with
 * must() in children.
 */
#ifndef THREAD_SUPPORT_H
#define THREAD_SUPPORT_H

#include "support.h"

#include <pthread.h>

#include "api_under_test.h"

/* Sanitizers need more stack than the programs themselves, and some machines more than these need. */
static inline size_t stack_bytes(void) {
    size_t wanted = UNDER_SANITIZER ? 256 * KIB : 32 * KIB,
           least = (size_t)sysconf(_SC_THREAD_STACK_MIN);
    return wanted < least ? least : wanted;
}

static inline pthread_t start(void *(*body)(void *), void *argument) {
    pthread_attr_t attributes;
    pthread_t thread;
    must(pthread_attr_init(&attributes) == 0);
    must(pthread_attr_setstacksize(&attributes, stack_bytes()) == 0);
    int error = pthread_create(&thread, &attributes, body, argument);
    if (error != 0)
        errno = error;
    must(error == 0);
    pthread_attr_destroy(&attributes);
    return thread;
}

static inline void join(pthread_t thread) {
    must(pthread_join(thread, NULL) == 0);
}

static inline void *filled(size_t size, uint64_t seed) {
    void *block = t_malloc(size);
    must(block != NULL);
    pattern_fill(block, size, seed);
    return block;
}

static inline void check_and_free(void *block, size_t size, uint64_t seed) {
    must(pattern_intact(block, size, seed, size));
    t_free(block);
}

/* How many blocks a thread holds, and how large they are: many classes, in no order. */
enum { BLOCKS_HELD = 20 };

static inline size_t size_of_block(size_t i) {
    return 16 + i * i * 37 % 3000;
}

#endif /* THREAD_SUPPORT_H */
