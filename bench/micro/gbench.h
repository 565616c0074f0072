/* SPDX-License-Identifier: MIT
 *
 * Google Benchmark for benchmarks written in C.
 *
 * A program defines gbench_setup, which names its benchmarks; main is in gbench.cc.  A benchmark
 * does its work while gbench_go says so, and tells how many operations each turn is:
 *
 *     static void pair(gbench *bench, long size)
 *     {
 *         while (gbench_go(bench, 1000))
 *             for (int i = 0; i < 1000; i++)
 *                 free(gbench_used(malloc((size_t)size)));
 *     }
 *
 * Time is real time divided by operations, those of all threads together. */
#ifndef GBENCH_H
#define GBENCH_H

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct gbench gbench;
typedef void gbench_function(gbench *bench, long argument);

/* To be defined by the program. */
void gbench_setup(void);

/* Adds NAME/ARGUMENT.  With several threads, all run the function at once. */
void gbench_add(const char *name, gbench_function *function, long argument);
void gbench_add_threads(const char *name, gbench_function *function, long argument, int threads);

/* Adds one that does so many operations, however long they take: for those whose preparation takes
 * far longer than they do. */
void gbench_add_fixed(const char *name, gbench_function *function, long argument, long operations);

/* Whether to do another turn of so many operations. */
bool gbench_go(gbench *bench, long operations);

/* What lies between the two is not measured.  Each costs some 100 ns: long turns only. */
void gbench_pause(gbench *bench);
void gbench_resume(gbench *bench);

/* A further figure, per operation: it is reported as KIND.NAME. */
void gbench_figure(gbench *bench, const char *kind, double total);

/* Ends the benchmark without a result, which is not a failure. */
void gbench_skip(gbench *bench, const char *why);

/* Ends the program: something that must not fail did. */
void gbench_fail(const char *what) __attribute__((noreturn));

/* Returns the block, of which the compiler then believes that it is used; NULL ends the program. */
static inline void *gbench_used(void *block) {
    if (block == NULL)
        gbench_fail("an allocation");
    __asm__ volatile("" : : "r"(block) : "memory");
    return block;
}

/* Pseudo-random numbers that are the same each time (xorshift). */
static inline unsigned gbench_random(unsigned *state) {
    unsigned x = *state;
    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    return *state = x;
}

#ifdef __cplusplus
}
#endif

#endif
