/* SPDX-License-Identifier: MIT
 *
 * cache_internal.h: what cache.c and cache_repair.c share.  Nobody else includes it.
 */
#ifndef QUARRY_CACHE_INTERNAL_H
#define QUARRY_CACHE_INTERNAL_H

#include "cache.h"
#include "lock.h"

struct cache_shared {
    struct lock lock;      /* guards the registry, both counts, and in_use and warm of each cache */
    size_t capacity_bytes; /* of all bins of caches in use */
    unsigned in_use;       /* caches */
    unsigned unused_warm;  /* unused caches that have kept their capacities */
    uint32_t epoch;        /* forks that led to this process and were noticed */
};

extern struct cache_shared cache_shared;

extern void *cache_no_slots[1]; /* the stack of a bin without capacity: its sentinel */

static inline void cache_add_capacity(size_t bytes) {
    if (lock_single_thread())
        STORE_RELAXED(cache_shared.capacity_bytes, cache_shared.capacity_bytes + bytes);
    else
        __atomic_fetch_add(&cache_shared.capacity_bytes, bytes, __ATOMIC_RELAXED);
}

static inline size_t cache_held_bytes(unsigned class_index, unsigned capacity) {
    return capacity * ((size_t)size_classes[class_index].size + sizeof(void *));
}

static inline size_t cache_held_by(const struct cache *cache) {
    size_t bytes = 0;
    for (unsigned i = 1; i < CLASS_COUNT; i++)
        bytes += cache_held_bytes(i, cache->state[i].capacity);
    return bytes;
}

/* Takes over what the threads that a fork child has not had cached. */
void cache_adopt_orphans(struct cache *own);

#endif
