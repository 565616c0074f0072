/* SPDX-License-Identifier: MIT
 *
 * blocks.c
 *
 * LAYOUT   Four tables, each eight times as large as the one before. A hash picks a bucket of eight
 *          keys, a cache line, in each; a block lies in the first table whose bucket had room. So few
 *          samples touch few pages, and a million find room. Before the tables stands a filter that
 *          counts the samples by their hash.
 *
 * LOCKING  None, and none is needed: an address is added by the thread that was given the block,
 *          before it tells others, and removed by the one that frees it. So two threads never have to
 *          do with one key, and a signal handler never with that of the code which it interrupted.
 *          Threads compete for empty slots alone.
 *
 * FAILURE  A block for which there is no room is not sampled.
 */
#include "blocks.h"

#include <sys/mman.h>

#define WAYS 8
#define TABLES 4
#define FIRST_BUCKETS ((size_t)512)
#define GROWTH_LOG2 3
#define BUCKETS_OF(table) (FIRST_BUCKETS << (GROWTH_LOG2 * (table)))
#define BUCKETS_ALL (FIRST_BUCKETS * 585) /* 1 + 8 + 64 + 512 */

struct bucket {
    _Atomic uintptr_t keys[WAYS];
};

_Atomic uint16_t blocks_filter[1 << BLOCKS_FILTER_BITS];
static struct bucket *buckets;
static struct block_sample *samples;
/* That a sample was ever put in. */
static _Atomic unsigned tables_used;

bool blocks_start(void) {
    size_t bytes = BUCKETS_ALL * (sizeof *buckets + WAYS * sizeof *samples);
    void *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        return false;
    }
    buckets = memory;
    samples = (struct block_sample *)(buckets + BUCKETS_ALL);
    return true;
}

static size_t bucket_of(unsigned table, uint64_t hash) {
    size_t before = 0;
    for (unsigned i = 0; i < table; i++) {
        before += BUCKETS_OF(i);
    }
    /* The filter goes by the upper bits. */
    return before + (size_t)(hash >> 20) % BUCKETS_OF(table);
}

static _Atomic uint16_t *filter_of(const void *block) {
    return &blocks_filter[blocks_hash(block) >> (64 - BLOCKS_FILTER_BITS)];
}

/* A count that is full stays: then the block is not sampled. */
static bool filter_add(_Atomic uint16_t *count) {
    uint16_t before = atomic_load_explicit(count, memory_order_relaxed);
    do {
        if (before == UINT16_MAX) {
            return false;
        }
    } while (!atomic_compare_exchange_weak_explicit(count, &before, (uint16_t)(before + 1),
                                                    memory_order_relaxed, memory_order_relaxed));
    return true;
}

static bool add_to(size_t bucket, const void *block, struct block_sample sample) {
    for (unsigned way = 0; way < WAYS; way++) {
        uintptr_t empty = 0;
        _Atomic uintptr_t *key = &buckets[bucket].keys[way];
        if (atomic_load_explicit(key, memory_order_relaxed) == 0 &&
            atomic_compare_exchange_strong_explicit(key, &empty, (uintptr_t)block,
                                                    memory_order_acquire, memory_order_relaxed)) {
            samples[bucket * WAYS + way] = sample;
            return true;
        }
    }
    return false;
}

bool blocks_add(const void *block, struct block_sample sample) {
    if (!filter_add(filter_of(block))) {
        return false;
    }
    for (unsigned table = 0; table < TABLES; table++) {
        unsigned used = atomic_load_explicit(&tables_used, memory_order_relaxed);
        while (used <= table &&
               !atomic_compare_exchange_weak_explicit(&tables_used, &used, table + 1,
                                                      memory_order_relaxed, memory_order_relaxed)) {
        }
        if (add_to(bucket_of(table, blocks_hash(block)), block, sample)) {
            return true;
        }
    }
    atomic_fetch_sub_explicit(filter_of(block), 1, memory_order_relaxed);
    return false;
}

bool blocks_remove(const void *block, struct block_sample *sample) {
    unsigned used = atomic_load_explicit(&tables_used, memory_order_relaxed);
    for (unsigned table = 0; table < used; table++) {
        size_t bucket = bucket_of(table, blocks_hash(block));
        for (unsigned way = 0; way < WAYS; way++) {
            _Atomic uintptr_t *key = &buckets[bucket].keys[way];
            if (atomic_load_explicit(key, memory_order_relaxed) == (uintptr_t)block) {
                *sample = samples[bucket * WAYS + way];
                atomic_store_explicit(key, 0, memory_order_release);
                atomic_fetch_sub_explicit(filter_of(block), 1, memory_order_relaxed);
                return true;
            }
        }
    }
    return false;
}

void blocks_forget_all(void) {
    for (size_t i = 0; i < sizeof blocks_filter / sizeof *blocks_filter; i++) {
        atomic_store_explicit(&blocks_filter[i], 0, memory_order_relaxed);
    }
    /* Fresh pages, of zeros. */
    madvise(buckets, BUCKETS_ALL * (sizeof *buckets + WAYS * sizeof *samples), MADV_DONTNEED);
}
