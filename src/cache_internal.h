/* SPDX-License-Identifier: MIT
 *
 * cache_internal.h: what the files of the caches share.  Nobody else includes it.
 */
#ifndef QUARRY_CACHE_INTERNAL_H
#define QUARRY_CACHE_INTERNAL_H

#include "cache.h"
#include "lock.h"

struct cache_shared {
    struct lock lock; /* guards the registry, counts, drains, and each cache's in_use and warm */
    size_t capacity_bytes[2]; /* of all bins of caches in use: of objects, and of runs */
    unsigned caches;          /* in the registry */
    unsigned in_use;          /* of these */
    unsigned unused_warm;     /* unused caches that have kept their capacities */
    uint32_t epoch;           /* forks that led to this process and were noticed */
    struct cache *look_at;    /* the cache that was last looked at for an idle thread */
    uint64_t look_ns;         /* when that was */
};

extern struct cache_shared cache_shared;

/* ---- what may be cached (cache_rules.c) ----------------------------------------------------------- */

enum {
    CAPACITY_FIRST = 8,
    CAPACITY_MAX = 2047, /* with the sentinel, one block of META_BLOCK_MAX */
};

struct cache_rules {
    bool enabled;
    uint32_t changes; /* how often they have become narrower */
    size_t capacity_max, size_max;
    size_t uncached_from, deep_max;
};

extern struct cache_rules cache_rules;

bool cache_may_hold(unsigned class_index);

/* How many objects, at most count and bytes in all, the options allow. */
unsigned cache_capacity_limit(unsigned class_index, size_t count, size_t bytes);

/* ---- bins ---------------------------------------------------------------------------------------- */

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

static inline void **cache_slots(const struct cache *cache, unsigned class_index) {
    return cache->end[class_index] - cache->state[class_index].capacity;
}

/* How many objects a bin holds.  Of another thread's it may be wrong, and not by more than its capacity. */
static inline size_t cache_depth(const struct cache *cache, unsigned class_index) {
    unsigned capacity = LOAD_RELAXED(cache->state[class_index].capacity);
    unsigned drained = LOAD_RELAXED(cache->state[class_index].drained);
    size_t room =
        (size_t)(LOAD_RELAXED(cache->end[class_index]) - LOAD_RELAXED(cache->top[class_index]));
    return room + drained > capacity ? 0 : capacity - room - drained;
}

/* Counts what the bins of a cache may hold, now that it is in use, or no longer. */
static inline void cache_count_in(const struct cache *cache, bool in_use) {
    for (unsigned i = 1; i < BIN_COUNT; i++) {
        size_t bytes = cache_held_bytes(i, cache->state[i].capacity);
        if (bytes)
            cache_add_capacity(i, in_use ? bytes : 0 - bytes);
    }
}

/* Moves the objects of a bin of the calling thread's to a stack of another capacity, 0 for none, which must hold
 * them; false, and nothing done, without memory. */
bool cache_resize_bin(struct cache *cache, unsigned class_index, unsigned capacity);

/* Gives back the stack of a bin of a thread that is gone, whose top was there; not one that was cut while it changed. */
void cache_give_stack(struct cache *cache, unsigned class_index, void **top);

/* A slow operation was counted. */
void cache_earn_by_use(struct cache *cache, unsigned class_index);

/* count objects came from the slabs or the page layer; those that had been spilled need not have. */
void cache_earn_by_regret(struct cache *cache, unsigned class_index, unsigned count);

/* Gives objects of the class that are in no bin to the slabs, or runs to the page layer.  Stops at the first
 * that is wrong and says which and why. */
enum slab_status cache_return(unsigned class_index, void *const *objects, unsigned count,
                              unsigned *culprit);

/* Takes runs into a bin that is empty; returns one of them, NULL where none were given back lately. */
void *cache_refill_runs(struct cache *cache, unsigned class_index);

/* A run that came from a bin, or NULL.  What is no run's beginning is reported: it was freed as if it were one. */
void *cache_sound_run(void *run);

/* How many objects move between a bin and the slabs at once: as many as a cut may lose (of a drain: a cache). */
size_t cache_batch_limit(unsigned class_index);

/* The same for objects that were of the class when they were pushed; a wrong one ends the process. */
void cache_give_batch(unsigned class_index, void *const *batch, size_t count);

/* ---- the slow path, and drains (cache_drain.c) ---------------------------------------------------- */

/* Drains all caches but one; true if that gave anything. */
bool cache_drain_others(const struct cache *own);

/* Looks at a few of the other threads' caches, and drains one whose thread has been idle. */
void cache_drain_idle(const struct cache *own);

/* Closes the gaps that drains have left in the calling thread's bins; the second waits for the lock first. */
void cache_close_gaps(struct cache *cache);
void cache_resume(struct cache *cache);

/* A thread is in its slow path, where bins change by more than their tops.  Returns what to end it with: a
 * signal handler may enter it again. */
static inline uint32_t cache_begin_slow(struct cache *cache) {
    uint32_t busy = cache->busy;
    STORE_RELAXED(cache->busy, 1);
    ORDER_STORES(); /* a drain's barrier makes it one of the processor */
    if (UNLIKELY(LOAD_RELAXED(cache->drain)))
        cache_resume(cache);
    return busy;
}

static inline void cache_end_slow(struct cache *cache, uint32_t busy) {
    STORE_RELEASE(cache->busy, busy);
}

/* ---- watches (cache_watch.c) ------------------------------------------------------------------------ */

/* Of the cache that a thread begins with, or has while it is watched, nothing but the bins is looked at, so there is no
 * more of it. */
struct cache_cold {
    void **top[BIN_COUNT], **end[BIN_COUNT];
};
extern struct cache_cold cache_cold;

_Static_assert(offsetof(struct cache, top) == 0, "as in cache_cold");
_Static_assert(offsetof(struct cache, end) == sizeof cache_cold.top, "as in cache_cold");
#define COLD_CACHE ((struct cache *)(void *)&cache_cold)

/* The calling thread's cache while it is watched: cache_tls is COLD_CACHE then. */
extern __thread struct cache *cache_watched
    __attribute__((tls_model("initial-exec"), visibility("hidden")));

static inline bool cache_is_watched(void) {
    return UNLIKELY(cache_watched != NULL);
}

/* At a slow operation: whether it is time to look around because something waits. */
bool cache_watch_is_due(const struct cache *cache);

/* To be called in slow operations now and then: begins a watch where memory waits to be given back. */
void cache_watch(struct cache *cache);

/* A call of a watched thread's: true where it is time to look around. */
bool cache_watch_trips(struct cache *cache);

/* ---- fork (cache_repair.c) ------------------------------------------------------------------------- */

/* Takes over what the threads that a fork child has not had cached. */
void cache_adopt_orphans(struct cache *own);

#endif
