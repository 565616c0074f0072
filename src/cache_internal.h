/* SPDX-License-Identifier: MIT
 *
 * cache_internal.h: what cache.c and cache_repair.c share.  Nobody else includes it.
 */
#ifndef QUARRY_CACHE_INTERNAL_H
#define QUARRY_CACHE_INTERNAL_H

#include "cache.h"
#include "lock.h"

struct cache_shared {
    struct lock lock; /* guards the registry, both counts, and in_use and warm of each cache */
    size_t capacity_bytes[2]; /* of all bins of caches in use: of objects, and of runs */
    unsigned in_use;          /* caches */
    unsigned unused_warm;     /* unused caches that have kept their capacities */
    uint32_t epoch;           /* forks that led to this process and were noticed */
};

extern struct cache_shared cache_shared;

extern void *cache_no_slots[1]; /* the stack of a bin without capacity: its sentinel */

static inline void cache_add_capacity(unsigned class_index, size_t bytes) {
    size_t *sum = &cache_shared.capacity_bytes[sizeclass_is_run(class_index)];
    if (lock_single_thread())
        STORE_RELAXED(*sum, *sum + bytes);
    else
        __atomic_fetch_add(sum, bytes, __ATOMIC_RELAXED);
}

static inline size_t cache_held_bytes(unsigned class_index, unsigned capacity) {
    return capacity * ((size_t)size_classes[class_index].size + sizeof(void *));
}

/* Counts what the bins of a cache may hold, now that it is in use, or no longer. */
static inline void cache_count_in(const struct cache *cache, bool in_use) {
    for (unsigned i = 1; i < BIN_COUNT; i++) {
        size_t bytes = cache_held_bytes(i, cache->state[i].capacity);
        if (bytes)
            cache_add_capacity(i, in_use ? bytes : 0 - bytes);
    }
}

/* Gives objects of the class that are in no bin to the slabs, or runs to the page layer.  Stops at the first
 * that is wrong and says which and why. */
enum slab_status cache_return(unsigned class_index, void *const *objects, unsigned count,
                              unsigned *culprit);

/* Takes over what the threads that a fork child has not had cached. */
void cache_adopt_orphans(struct cache *own);

#endif
