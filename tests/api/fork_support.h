/* SPDX-License-Identifier: MIT
 *
 * fork_support.h: threads that allocate like mad, and what a child of them must still be able to do.
 *
 * The threads put their blocks into one table of atomic slots.  A block is complete before it enters
 * the table and leaves it before it is freed, so that in the image that a fork copies every block in
 * the table is live and holds its pattern, whichever thread it belonged to.
 */
#ifndef FORK_SUPPORT_H
#define FORK_SUPPORT_H

#include "thread_support.h"

#include <signal.h>
#include <stdatomic.h>

enum { CHURNERS = 4, TABLE_SLOTS = 600, FORKS = UNDER_SANITIZER ? 12 : 40 };

struct churned {
    size_t size; /* of the whole block */
    uint64_t seed;
};

static _Atomic(struct churned *) table[TABLE_SLOTS];
static atomic_bool stop_churning;
static atomic_size_t churning; /* threads that have entered their loop */
static pthread_t churners[CHURNERS];

static inline struct churned *make_churned(struct rng *rng) {
    size_t dice = rng_below(rng, 1000);
    size_t extra = dice < 700   ? rng_below(rng, 600)
                   : dice < 950 ? rng_below(rng, 20 * KIB)
                   : dice < 998 ? rng_below(rng, 200 * KIB)
                                : rng_below(rng, 2 * MIB);
    size_t size = sizeof(struct churned) + extra;
    struct churned *block = rng_below(rng, 4) == 0 ? t_memalign(64, size) : t_malloc(size);
    must(block != NULL);
    block->size = size;
    block->seed = rng_next(rng);
    pattern_fill(block + 1, extra, block->seed);
    return block;
}

static inline void check_and_free_churned(struct churned *block) {
    if (block == NULL)
        return;
    size_t extra = block->size - sizeof *block;
    must(pattern_intact(block + 1, extra, block->seed, extra));
    t_free(block);
}

static inline void churn(struct rng *rng) {
    struct churned *block = make_churned(rng);
    size_t slot = rng_below(rng, TABLE_SLOTS);
    check_and_free_churned(atomic_exchange_explicit(&table[slot], block, memory_order_acq_rel));
}

static inline void empty_table(void) {
    for (size_t i = 0; i < TABLE_SLOTS; i++)
        check_and_free_churned(atomic_exchange(&table[i], NULL));
}

static inline void *churn_until_stopped(void *argument) {
    struct rng rng = {(uintptr_t)argument};
    atomic_fetch_add(&churning, 1);
    while (!atomic_load_explicit(&stop_churning, memory_order_relaxed))
        churn(&rng);
    return NULL;
}

/* ASan's runtime does not survive a fork while another thread is inside it, as a thread that starts
 * is: there, the caller goes on when all have started. */
static inline void start_churners(uint64_t seed) {
    atomic_store(&stop_churning, false);
    atomic_store(&churning, 0);
    for (size_t i = 0; i < CHURNERS; i++)
        churners[i] = start(churn_until_stopped, (void *)(uintptr_t)mix64(seed + i));
    while (UNDER_ASAN && atomic_load(&churning) < CHURNERS)
        usleep(100);
}

static inline void stop_churners(void) {
    atomic_store(&stop_churning, true);
    for (size_t i = 0; i < CHURNERS; i++)
        join(churners[i]);
    empty_table();
}

/* What any child must be able to do by itself: free what all threads of its parent had allocated,
 * allocate in all sizes, resize, trim. */
static inline void use_heap_alone(uint64_t seed) {
    struct rng rng = {seed};
    empty_table();
    for (int i = 0; i < 1000; i++)
        churn(&rng);
    void *block = NULL;
    for (size_t size = 1; size < 2 * MIB; size = size * 3 / 2 + 1) {
        block = t_realloc(block, size);
        must(block != NULL);
    }
    t_free(block);
    (void)t_malloc_trim(0);
    (void)t_mallinfo2();
    empty_table();
}

static inline void *churn_a_little(void *argument) {
    struct rng rng = {(uintptr_t)argument};
    for (int i = 0; i < 300; i++)
        churn(&rng);
    return NULL;
}

/* What a child of fork can do in addition: run threads.  Not under TSan, which takes the thread
 * identifiers of the parent for those of its child and stops. */
static inline void use_heap_with_threads(uint64_t seed) {
    enum { THREADS = 8 };
    pthread_t threads[THREADS];
    use_heap_alone(seed);
    if (UNDER_TSAN)
        return;
    for (size_t i = 0; i < THREADS; i++)
        threads[i] = start(churn_a_little, (void *)(uintptr_t)mix64(seed + i));
    for (size_t i = 0; i < THREADS; i++)
        join(threads[i]);
    empty_table();
}

#endif /* FORK_SUPPORT_H */
