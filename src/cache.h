/* SPDX-License-Identifier: MIT
 *
 * cache.h: what a thread keeps at hand: per size class a small stack of free objects.
 *
 * cache_pop and cache_push are the whole fast path of malloc and free; they touch the calling
 * thread's data only.  The other functions are the slow path behind them.
 */
#ifndef QUARRY_CACHE_H
#define QUARRY_CACHE_H

#include "base.h"
#include "sizeclass.h"
#include "slab.h"

/* A bin is a stack of objects of one class.  The slot below the first one holds NULL, so that "pop
 * and test" is the test for emptiness; top == end is the test for fullness.  A bin of capacity 0 is
 * both. */
struct bin_state {
    uint16_t capacity;
    uint16_t slow_ops; /* slow operations since the capacity last changed */
    uint16_t seen;     /* depth at the last look for bins that rest */
    uint16_t busy;     /* there was a slow operation since then */
    uint16_t spilled;  /* objects given back and not asked for again since */
    uint16_t regret;   /* those that were asked for again, since the capacity last changed */
    uint16_t drained;  /* slots at the bottom that hold nothing: cache_drain.c */
};

/* Of each bin the object pushed last, or the NULL slot; and the last slot.  Written by the owner only.  Bin 0
 * stays both empty and full: NULL, foreign and most large pointers end up there. */
struct cache {
    void **top[BIN_COUNT];
    void **end[BIN_COUNT];
    struct bin_state state[BIN_COUNT];
    struct cache *next; /* in the registry of all caches; they are never unmapped */
    uint32_t in_use;    /* guarded by the registry's lock */
    uint32_t epoch;     /* the number of forks when its thread last looked */
    uint32_t ticks;     /* slow operations */
    uint32_t warm;      /* not in use, but its bins have their capacities; guarded as in_use */
    uint32_t lane;      /* of its thread: slab_shard.c */
    uint32_t rules;     /* the changes of what may be cached that it has followed */
    uint32_t busy;      /* its thread is in the slow path */
    uint32_t drain;     /* written under the registry's lock: its thread is to close gaps first */
    uintptr_t seen;     /* guarded by it: what a look for idle threads saw, */
    uint64_t seen_ns;   /* since when */
    uint64_t look_ns;   /* when its thread last looked for bins that rest */
    uint64_t watch_ns;  /* when a watch began, looked or ended: cache_watch.c */
    size_t watch_live;  /* most that was in use since one began */
    uint32_t trips;     /* that are left of it */
};

/* Initially a static cache without capacity, so that no path tests for NULL; so is a watched thread's (cache_watch.c). */
extern __thread struct cache *cache_tls
    __attribute__((tls_model("initial-exec"), visibility("hidden")));

/* Moves the top of a bin by one slot: one instruction on memory, without an address computed first. */
static ALWAYS_INLINE void bin_move_top(struct cache *cache, size_t class_index, long slots) {
    ORDER_STORES();
#if defined(__x86_64__) && !defined(QUARRY_DEBUG) /* tracers see compiled stores only */
    __asm__("addq %1, %0" : "+m"(cache->top[class_index]) : "re"(slots * 8) : "cc");
#else
    STORE_RELEASE(cache->top[class_index], cache->top[class_index] + slots); /* for drains */
#endif
}

/* An object of the class, or NULL where the bin is empty. */
static ALWAYS_INLINE void *bin_pop(struct cache *cache, size_t class_index) {
#if defined(__x86_64__)
    /* What is needed before the object is known stays out of the register that returns it. */
    __asm__("" : "+d"(cache), "+c"(class_index));
#endif
    void *object = LOAD_RELAXED(*cache->top[class_index]); /* once: a drain may write there */
    if (LIKELY(object != NULL))
        bin_move_top(cache, class_index, -1);
    return object;
}

/* False, and nothing done, where the bin is full.  The slot is written before the top (fork.c).
 *
 * Nothing is written into a free object, so nothing has brought its first line into the processor's
 * cache either when the program writes there again, which is soon: what was freed last is taken first.
 * Hence the prefetch.  It waits for nothing, faults nowhere and copies no page after a fork. */
static ALWAYS_INLINE bool bin_push(struct cache *cache, size_t class_index, void *object) {
    void **top = cache->top[class_index];
    if (UNLIKELY(top == cache->end[class_index]))
        return false;
    STORE_PLAIN(top[1], object);
    __builtin_prefetch(object, 1);
    bin_move_top(cache, class_index, 1);
    return true;
}

static ALWAYS_INLINE void *cache_pop(size_t class_index) {
    return bin_pop(cache_tls, class_index);
}

static ALWAYS_INLINE bool cache_push(size_t class_index, void *object) {
    return bin_push(cache_tls, class_index, object);
}

extern struct cache *cache_registry; /* the list of all caches, newest first */

/* at_thread_end is called when a thread that has a cache ends; it calls cache_leave. */
void cache_init(void (*at_thread_end)(void *));

/* Gives up the calling thread's cache, on the last of several calls. */
void cache_leave(void);

/* An object of the class, refilling the bin; NULL where the kernel refuses memory. */
void *cache_take(unsigned class_index);

/* Gives an object whose class is known back, spilling the bin where it is full.  A status other
 * than SLAB_OK is about this object; a wrong pointer that was freed earlier and is found when its
 * bin spills is reported at once (report.h). */
enum slab_status cache_give(unsigned class_index, void *object);

/* A run for a request of the class at an alignment, which is not on top of the bin, and whether all of it is known to
 * read as zero; NULL where the kernel refuses memory.  One that is shorter than the class's has no class. */
void *cache_take_run(unsigned class_index, size_t pages, size_t align, bool *zero);

/* Whether a run of the class lies in the calling thread's bin. */
bool cache_holds_run(unsigned class_index, const void *run);

/* Empties the calling thread's bins: objects go to the slabs, runs to the page layer. */
void cache_flush(void);

/* Gives what other threads have cached to the slabs and the page layer, but for an object in each bin; those
 * that are in the allocator just now are left alone.  True if there was something. */
bool cache_drain(void);

/* Whether bins may have capacity; false makes every call take the slow, fully checked path.  Threads
 * other than the calling one give up what they have at their next slow operation. */
void cache_set_enabled(bool enabled);

/* What may be cached has changed: the calling thread's cache gives up now what it may not have any more,
 * others do at their next slow operation. */
void cache_rules_changed(void);

/* Limits for capacity earned from now on: objects per bin, and bytes of the largest class. */
void cache_set_capacity_limit(size_t objects);
void cache_set_size_limit(size_t bytes);

/* Classes of at least so many bytes are not cached; a change of the rules, as above. */
void cache_set_uncached_from(size_t bytes);

/* The largest objects of which a bin may hold more than use alone earns. */
void cache_set_deep_limit(size_t bytes);

/* When what other threads have cached is taken: never; in malloc_trim, for an idle heap
 * (control.c) and where memory is refused; or also when those threads are idle. */
enum { DRAIN_NEVER, DRAIN_ASKED, DRAIN_IDLE };
void cache_set_drains(size_t when);

struct cache_counts {
    size_t caches;             /* in use */
    size_t objects[BIN_COUNT]; /* in bins; other threads' bins are read while they change */
    size_t cached_bytes;       /* the same */
    size_t run_bytes;          /* of these, in runs */
    size_t capacity_bytes;
};

void cache_count(struct cache_counts *counts);

/* Fork repair.  What threads that are gone had cached goes back to the slabs at the next slow
 * operation of the thread that forked. */
void cache_repair(void);

#endif
