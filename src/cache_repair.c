/* SPDX-License-Identifier: MIT
 *
 * cache_repair: figures of the caches, and what a fork child does with those of the threads it has not.
 *
 * FORK     See cache.c: of a cache, the tops of its bins are authoritative.
 */
#include "cache_internal.h"

#include <string.h>

#define G cache_shared

void cache_count(struct cache_counts *counts) {
    *counts = (struct cache_counts){.capacity_bytes = LOAD_RELAXED(G.capacity_bytes[0]) +
                                                      LOAD_RELAXED(G.capacity_bytes[1])};
    lock_take(&G.lock);
    for (const struct cache *cache = cache_registry; cache; cache = cache->next) {
        counts->caches += cache->in_use;
        for (unsigned i = 1; i < BIN_COUNT && cache->in_use; i++) {
            size_t depth = cache_depth(cache, i), bytes = depth * size_classes[i].size;
            counts->objects[i] += depth;
            counts->cached_bytes += bytes;
            counts->run_bytes += sizeclass_is_run(i) ? bytes : 0;
        }
    }
    lock_drop(&G.lock);
}

/* The stacks of a thread that is gone are read downwards to the first NULL: top is authoritative,
 * capacity and end may have been cut between two changes. */
static void adopt(struct cache *cache) {
    for (unsigned i = 1; i < BIN_COUNT; i++) {
        void *object, **top = cache->top[i];
        unsigned wrong;
        while ((object = *cache->top[i]) != NULL) {
            cache->top[i]--;
            cache_return(i, &object, 1, &wrong);
        }
        cache->top[i] = cache_no_slots;
        cache_give_stack(cache, i, top);
        cache->end[i] = cache_no_slots;
        cache_add_capacity(i, 0 - cache_held_bytes(i, cache->state[i].capacity));
    }
    memset(cache->state, 0, sizeof cache->state);
    G.unused_warm -= cache->warm;
    cache->warm = cache->busy = cache->drain = 0;
    cache->in_use = 0;
    STORE_RELAXED(G.in_use, G.in_use - 1);
}

void cache_adopt_orphans(struct cache *own) {
    lock_take(&G.lock);
    for (struct cache *cache = cache_registry; cache; cache = cache->next)
        if (cache->in_use && cache != own && cache->epoch != G.epoch)
            adopt(cache);
    cache_close_gaps(own); /* before anybody may drain it again */
    own->epoch = G.epoch;
    lock_drop(&G.lock);
}

void cache_repair(void) {
    if (lock_broken(&G.lock))
        lock_repair(&G.lock); /* a cache is linked by its last store */
    G.unused_warm = G.in_use = G.caches = 0;
    G.capacity_bytes[0] = G.capacity_bytes[1] =
        0; /* a cut between a capacity and its sum would stay */
    for (const struct cache *cache = cache_registry; cache; cache = cache->next) {
        if (cache->in_use)
            cache_count_in(cache, true);
        G.unused_warm += cache->warm;
        G.in_use += cache->in_use;
        G.caches++;
    }
    STORE_RELAXED(G.epoch, G.epoch + 1);
}
