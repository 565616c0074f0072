/* SPDX-License-Identifier: MIT
 *
 * Fixed loops whose instructions are counted.  Run it under callgrind with an allocator preloaded;
 * bench/counts.py does.  Each loop runs once to warm up, then once with a dump of its own, whose
 * description is "NAME OPERATIONS".  Reading one allocator's object from the dump leaves out the
 * loop itself, the jumps into libraries, and libc's memcpy, which depends on the processor. */
#include "own_clock.h"

#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
#include <valgrind/callgrind.h>

enum { OPERATIONS = 2000, BATCH = 1000 };

static void *blocks[BATCH];

_Noreturn static void fail(const char *what) {
    fprintf(stderr, "loops: %s failed\n", what);
    exit(1);
}

/* A step is what sixteen of Quarry's slow operations take, which is how often it looks. */
static uint64_t own_clock_ns(void) {
    static uint64_t ns = 1000000000;
    ns += 1600;
    return ns;
}

/* Keeps the compiler from seeing that a block is not used. */
static void *used(void *block) {
    if (block == NULL)
        fail("an allocation");
    __asm__ volatile("" : : "r"(block) : "memory");
    return block;
}

static void loop_pair(size_t size) {
    for (int i = 0; i < OPERATIONS; i++)
        free(used(malloc(size)));
}

static void loop_calloc(size_t size) {
    for (int i = 0; i < OPERATIONS; i++)
        free(used(calloc(1, size)));
}

static void loop_aligned(size_t alignment) {
    for (int i = 0; i < OPERATIONS; i++)
        free(used(aligned_alloc(alignment, alignment * 3)));
}

/* First in, first out. */
static void loop_batch(size_t size) {
    for (int round = 0; round < OPERATIONS / BATCH; round++) {
        for (int i = 0; i < BATCH; i++)
            blocks[i] = used(malloc(size));
        for (int i = 0; i < BATCH; i++)
            free(blocks[i]);
    }
}

static void loop_last_first(size_t size) {
    for (int round = 0; round < OPERATIONS / BATCH; round++) {
        for (int i = 0; i < BATCH; i++)
            blocks[i] = used(malloc(size));
        for (int i = BATCH - 1; i >= 0; i--)
            free(blocks[i]);
    }
}

/* A string that grows by a step at a time, begun again when it is 100 steps long. */
static void loop_realloc(size_t step) {
    char *text = NULL;
    for (size_t i = 0; i < OPERATIONS; i++) {
        if (i % 100 == 0) {
            free(text);
            text = NULL;
        }
        text = used(realloc(text, (i % 100 + 1) * step));
    }
    free(text);
}

static void loop_usable(size_t size) {
    void *block = used(malloc(size));
    for (int i = 0; i < OPERATIONS; i++)
        if (malloc_usable_size(block) < size)
            fail("malloc_usable_size");
    free(block);
}

static void *allocate_blocks(void *size) {
    for (int i = 0; i < BATCH; i++)
        blocks[i] = used(malloc((size_t)size));
    return NULL;
}

static void *free_blocks(void *unused) {
    for (int i = 0; i < BATCH; i++)
        free(blocks[i]);
    return unused;
}

static void in_thread(void *(*function)(void *), size_t size) {
    pthread_t thread;
    if (pthread_create(&thread, NULL, function, (void *)size) != 0)
        fail("pthread_create");
    pthread_join(thread, NULL);
}

/* One thread's blocks are freed by another: each thread lives for one batch. */
static void loop_crossing(size_t size) {
    for (int round = 0; round < OPERATIONS / BATCH; round++) {
        in_thread(allocate_blocks, size);
        in_thread(free_blocks, 0);
    }
}

static void count(const char *name, void (*loop)(size_t), size_t argument) {
    char title[64];
    snprintf(title, sizeof(title), "%s %d", name, OPERATIONS);
    loop(argument);
    loop(argument);
    CALLGRIND_ZERO_STATS;
    loop(argument);
    CALLGRIND_DUMP_STATS_AT(title);
}

int main(void) {
    count("pair-16", loop_pair, 16);
    count("pair-64", loop_pair, 64);
    count("pair-256", loop_pair, 256);
    count("pair-1024", loop_pair, 1024);
    count("pair-8192", loop_pair, 8192);
    count("pair-32768", loop_pair, 32768);
    count("pair-1048576", loop_pair, 1048576);
    count("batch-64", loop_batch, 64);
    count("batch-1024", loop_batch, 1024);
    count("last-first-64", loop_last_first, 64);
    count("calloc-64", loop_calloc, 64);
    count("aligned-64", loop_aligned, 64);
    count("aligned-4096", loop_aligned, 4096);
    count("realloc-grow-16", loop_realloc, 16);
    count("realloc-grow-4096", loop_realloc, 4096);
    count("usable-64", loop_usable, 64);
    /* Nothing waits to be given back: how often a thread looks at the clock meanwhile is no number of instructions. */
    mallopt(M_TRIM_THRESHOLD, 1 << 30);
    count("batch-8192", loop_batch, 8192);
    /* From here on the process has had a second thread.  Nothing is given back: a thread that works looks for idle
     * ones by the clock, which is no number of instructions. */
    mallopt(M_TRIM_THRESHOLD, -1);
    count("crossing-64", loop_crossing, 64);
    count("threaded-pair-64", loop_pair, 64);
    count("threaded-batch-64", loop_batch, 64);
    return 0;
}
