/* SPDX-License-Identifier: MIT
 *
 * Several threads: each for itself, one freeing what another allocated, threads that come and go. */
#include "gbench.h"
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>

enum { TURN = 1000, RING = 256, OLD = 1000 };

static void pair(gbench *bench, long size) {
    while (gbench_go(bench, TURN))
        for (int i = 0; i < TURN; i++)
            free(gbench_used(malloc((size_t)size)));
}

static void batch(gbench *bench, long size) {
    void *blocks[TURN];
    while (gbench_go(bench, TURN)) {
        for (int i = 0; i < TURN; i++)
            blocks[i] = gbench_used(malloc((size_t)size));
        for (int i = 0; i < TURN; i++)
            free(blocks[i]);
    }
}

/* ---- One allocates, the other frees ---- */

static struct {
    _Atomic(void *) slots[RING];
    _Alignas(64) atomic_bool done;
} ring;

static void *free_all(void *unused) {
    for (unsigned at = 0;; at = (at + 1) % RING) {
        void *block;
        while ((block = atomic_exchange_explicit(&ring.slots[at], NULL, memory_order_acquire)) ==
               NULL) {
            if (atomic_load_explicit(&ring.done, memory_order_acquire) &&
                atomic_load_explicit(&ring.slots[at], memory_order_acquire) == NULL)
                return unused;
            sched_yield();
        }
        free(block);
    }
}

static void start(pthread_t *thread, void *(*function)(void *), void *argument) {
    if (pthread_create(thread, NULL, function, argument) != 0)
        gbench_fail("pthread_create");
}

static void handed_over(gbench *bench, long size) {
    pthread_t consumer;
    atomic_store(&ring.done, false);
    start(&consumer, free_all, NULL);
    unsigned at = 0;
    while (gbench_go(bench, TURN)) {
        for (int i = 0; i < TURN; i++, at = (at + 1) % RING) {
            void *block = gbench_used(malloc((size_t)size));
            while (atomic_load_explicit(&ring.slots[at], memory_order_relaxed) != NULL)
                sched_yield();
            atomic_store_explicit(&ring.slots[at], block, memory_order_release);
        }
    }
    atomic_store(&ring.done, true);
    pthread_join(consumer, NULL);
}

/* ---- Threads that come and go ---- */

static void *allocate_some(void *size) {
    for (size_t i = 0; i < 10; i++)
        free(gbench_used(malloc((size_t)size + i * 16)));
    return NULL;
}

/* What a thread costs that uses a few sizes and ends; size 0 is the thread alone. */
static void *do_nothing(void *unused) {
    return unused;
}

static void thread_life(gbench *bench, long size) {
    while (gbench_go(bench, 1)) {
        pthread_t thread;
        start(&thread, size ? allocate_some : do_nothing, (void *)size);
        pthread_join(thread, NULL);
    }
}

static void *allocate_many(void *blocks) {
    for (int i = 0; i < OLD; i++)
        ((void **)blocks)[i] = gbench_used(malloc(100));
    return NULL;
}

/* Blocks outlive the thread that allocated them. */
static void orphans(gbench *bench, long unused) {
    (void)unused;
    static void *blocks[OLD];
    while (gbench_go(bench, OLD)) {
        pthread_t thread;
        start(&thread, allocate_many, (void *)blocks);
        pthread_join(thread, NULL);
        for (int i = 0; i < OLD; i++)
            free(blocks[i]);
    }
}

void gbench_setup(void) {
    for (int threads = 2; threads <= 8; threads *= 4) {
        gbench_add_threads("threads-pair", pair, 64, threads);
        gbench_add_threads("threads-batch1000", batch, 64, threads);
        gbench_add_threads("threads-batch1000", batch, 1024, threads);
    }
    gbench_add("handed-over", handed_over, 64);
    gbench_add("handed-over", handed_over, 1024);
    gbench_add("handed-over", handed_over, 65536);
    gbench_add("thread-life", thread_life, 0);
    gbench_add("thread-life", thread_life, 100);
    gbench_add("orphans", orphans, 100);
}
