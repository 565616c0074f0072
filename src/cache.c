/* SPDX-License-Identifier: MIT
 *
 * cache: per-thread stacks of free objects (Bonwick's magazines, one per class).
 *
 * PURPOSE  Serve a malloc or free from the calling thread's own memory: no lock, no atomic
 *          read-modify-write, no system call.
 *
 * TERMS    An object is one of a slab, or a run whose length has a class (sizeclass.h): the class map says the
 *          class at its first page, its head stays HEAD_RUN while it is cached.
 *
 * LAYOUT   slots    [ NULL | o1 | o2 | ... | on |    |    ]
 *                     ^ sentinel             ^ top     ^ end = slots + capacity
 *          An empty bin takes half a stack from the slabs, a full one gives up to its older half back: see spill.
 *
 * STATES   of a bin: capacity 0 (cold) -> 8 (runs: 1 to 6) -> 16 -> ... 2047 -> 0: see cache_capacity.c.
 *          At a slow operation REST_NS after the last look, bins that rest, standing where they stood then, lose all.
 *          of a cache: in use by one thread <-> unused, for the next thread.  The last KEPT_WARM that
 *          were left keep their capacities (not their objects): threads replace one another.
 *          of a thread: on the fast path <-> busy, in the slow one, where no drain (cache_drain.c) goes on
 *          of cache_tls: COLD_CACHE (none yet, or left) <-> own cache <-> COLD_CACHE (watched); left for the third time for good
 *
 * INVARIANTS
 *   INV-CACHE-1  Slots from top down to the first NULL (the sentinel, or a drain's) hold distinct objects of the
 *                class whose bits in the slabs are 0, or runs of its length.
 *   INV-CACHE-2  top changes by one store; an object is in a slot before top covers it and leaves
 *                top's cover before its bit is set (INV-FORK-1).
 *
 * LOCKING  The owner alone writes its bins, but for drains.  The registry's lock guards in_use and the list.
 *
 * FORK     In a child the caches of the threads that are gone are orphans; what they hold goes back.  Only the
 *          thread that forked can tell its own cache from them, and the child's first slow operation may be
 *          another's.  So a repair counts an epoch, which later caches bear; the one of an earlier epoch whose
 *          owner still comes is the forking thread's, which adopts the others.  If it had none it does when it
 *          makes one: it is the first of the child's threads.
 *
 * FAILURE  Without memory for a cache or a stack the thread works through the slabs.
 *
 * WHY NOT  Stacks exchanged whole through a depot: half the cost of a batch, but addresses in no order.
 */
#include "cache_internal.h"

#include "meta.h"
#include "os.h"
#include "page.h"
#include "report.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>

enum {
    BATCH_MAX = 128,
    BATCH_BYTES = 64 * 1024,
    LOOK_TICKS = 16,
    EXIT_ROUNDS = 3, /* PTHREAD_DESTRUCTOR_ITERATIONS - 1 */
    KEPT_WARM = 8,
};

#define REST_NS ((uint64_t)3 * 1000 * 1000) /* the clock's step is 1, 4 or 10 ms */

void *cache_no_slots[1];

#define FOUR(x) x, x, x, x
#define EIGHT(x) x, x, x, x, x, x, x, x
#define COLD_BINS                                                                   \
    {                                                                               \
        EIGHT(EIGHT(cache_no_slots)), EIGHT(cache_no_slots), EIGHT(cache_no_slots), \
            FOUR(cache_no_slots), cache_no_slots                                    \
    }

_Static_assert(BIN_COUNT == 8 * 8 + 2 * 8 + 4 + 1, "COLD_BINS has one entry per class");

struct cache_cold cache_cold = {.top = COLD_BINS, .end = COLD_BINS};
__thread struct cache *cache_tls = COLD_CACHE;

struct cache *cache_registry;
struct cache_shared cache_shared = {.lock = LOCK_INITIALISER(LOCK_REGISTRY)};
#define G cache_shared

static pthread_key_t exit_key;
static bool exit_key_made;
static __thread uint8_t leave_calls;

/* ---- a thread's cache ---------------------------------------------------------------------------- */

/* Key 0 is what a program uses that has not made its key yet: it has to find nothing there. */
void cache_init(void (*at_thread_end)(void *)) {
    exit_key_made = pthread_key_create(&exit_key, at_thread_end) == 0;
    if (exit_key_made && exit_key == 0 && pthread_key_create(&exit_key, at_thread_end) == 0)
        pthread_key_delete(0);
}

/* An unused cache, a warm one if there is one. */
static struct cache *find_unused(void) {
    struct cache *found = NULL;
    if (G.in_use == G.caches)
        return NULL;
    for (struct cache *cache = cache_registry; cache && !(found && found->warm);
         cache = cache->next)
        if (!cache->in_use && (!found || cache->warm))
            found = cache;
    return found;
}

static void use_again(struct cache *cache) {
    G.unused_warm -= cache->warm;
    cache->warm = 0;
    cache->epoch = LOAD_RELAXED(G.epoch);
    cache->in_use = 1;
    STORE_RELAXED(G.in_use, G.in_use + 1);
    cache_count_in(cache, true);
}

/* Without the key nobody would tell us of a thread's end, so there would be no cache. */
static SELDOM struct cache *make_cache(void) {
    if (!exit_key_made)
        return NULL;
    lock_take(&G.lock);
    struct cache *cache = find_unused();
    if (cache) {
        use_again(cache);
    } else {
        cache = meta_take(sizeof *cache);
        if (cache) {
            memcpy(cache->top, cache_cold.top, sizeof cache->top);
            memcpy(cache->end, cache_cold.end, sizeof cache->end);
            cache->epoch = LOAD_RELAXED(G.epoch);
            cache->in_use = 1;
            cache->next = cache_registry;
            G.caches++;
            STORE_RELAXED(G.in_use, G.in_use + 1);
            STORE_RELEASE(cache_registry, cache);
        }
    }
    lock_drop(&G.lock);
    if (!cache)
        return NULL;
    cache_tls = cache; /* first, for setspecific may allocate */
    int saved = errno; /* where that fails, free has to leave it alone */
    pthread_setspecific(exit_key, cache);
    errno = saved;
    if (cache->epoch != 0 && os_is_first_thread())
        cache_adopt_orphans(cache);
    return cache;
}

/* The calling thread's cache, if it has one. */
static struct cache *present_cache(void) {
    struct cache *cache = cache_tls;
    if (UNLIKELY(cache == COLD_CACHE) && !(cache = cache_watched))
        return NULL;
    if (UNLIKELY(cache->epoch != LOAD_RELAXED(G.epoch)))
        cache_adopt_orphans(cache);
    return cache;
}

/* The calling thread's cache, made now if need be; NULL if it has none and gets none. */
static struct cache *own_cache(void) {
    struct cache *cache = present_cache();
    if (LIKELY(cache != NULL))
        return cache;
    return leave_calls < EXIT_ROUNDS ? make_cache() : NULL;
}

/* ---- spilling ------------------------------------------------------------------------------------ */

/* How many objects move between a bin and the slabs at once: as many as a cut may lose. */
size_t cache_batch_limit(unsigned class_index) {
    return min_size(BATCH_MAX,
                    max_size(CAPACITY_FIRST / 2, BATCH_BYTES / size_classes[class_index].size));
}

/* Gives objects that are no longer in the bin to the slabs.  All of them were objects of the class when
 * they were pushed.  One whose slab has closed since was freed twice: the slab closed because its first
 * free brought it back. */
void cache_give_batch(unsigned class_index, void *const *batch, size_t count) {
    while (count > 0) {
        unsigned wrong = 0;
        enum slab_status status = cache_return(class_index, batch, (unsigned)count, &wrong);
        if (LIKELY(status == SLAB_OK))
            return;
        if (sizeclass_is_run(class_index))
            report_bad_pointer("free", batch[wrong]);
        else
            report_slab_misuse("free", batch[wrong], status == SLAB_FOREIGN ? SLAB_FREE : status);
        batch += wrong + 1;
        count -= wrong + 1;
    }
}

/* Gives the oldest objects, the coldest ones, of a full bin to the slabs: a batch, and where spills follow each other as
 * much as they gave, up to half of them, for those above move down each time.  A NULL ends the bin above each batch before
 * its objects enter the slabs, as in a drain; to close the gap is to empty the bin for a moment.  While a batch is given a
 * signal handler may take objects from the top; where it forks, its child has closed the gap. */
static unsigned spill(struct cache *cache, unsigned class_index) {
    void *batch[BATCH_MAX], **slots = cache_slots(cache, class_index);
    size_t depth = (size_t)(cache->top[class_index] - slots), gone = 0;
    size_t limit = cache_batch_limit(class_index);
    size_t total = min_size((depth + 1) / 2, max_size(limit, cache->state[class_index].spilled));
    while (gone < min_size(total, depth)) {
        size_t count = min_size(min_size(total, depth) - gone, limit);
        memcpy(batch, slots + 1 + gone, count * sizeof *batch);
        gone += count;
        STORE_RELEASE(slots[gone], NULL);
        cache_give_batch(class_index, batch, count);
        depth = (size_t)(cache->top[class_index] - slots);
        if (UNLIKELY(depth < gone || slots[gone]))
            return (unsigned)gone;
    }
    STORE_RELEASE(cache->top[class_index], slots);
    memmove(slots + 1, slots + 1 + gone, (depth - gone) * sizeof *slots);
    STORE_RELEASE(cache->top[class_index], slots + depth - gone);
    return (unsigned)gone;
}

static void spill_all(struct cache *cache, unsigned class_index) {
    void **slots = cache_slots(cache, class_index);
    size_t depth;
    while ((depth = (size_t)(cache->top[class_index] - slots)) != 0) {
        size_t count = min_size(depth, cache_batch_limit(class_index));
        STORE_RELEASE(cache->top[class_index], slots + depth - count);
        cache_give_batch(class_index, slots + 1 + depth - count, count);
    }
}

static void flush_cache(struct cache *cache) {
    for (unsigned i = 1; i < BIN_COUNT; i++)
        if (cache->state[i].capacity)
            spill_all(cache, i);
}

void cache_flush(void) {
    struct cache *cache = present_cache();
    if (!cache)
        return;
    uint32_t busy = cache_begin_slow(cache);
    flush_cache(cache);
    cache_end_slow(cache, busy);
}

bool cache_drain(void) {
    return cache_drain_others(present_cache());
}

static void drop_bin(struct cache *cache, unsigned class_index) {
    if (!cache->state[class_index].capacity)
        return;
    spill_all(cache, class_index);
    cache_resize_bin(cache, class_index, 0);
    cache->state[class_index].spilled = 0;
}

static SELDOM void drop_forbidden(struct cache *cache) {
    cache->rules = LOAD_RELAXED(cache_rules.changes);
    for (unsigned i = 1; i < BIN_COUNT; i++)
        if (!cache_may_hold(i))
            drop_bin(cache, i);
}

void cache_rules_changed(void) {
    __atomic_fetch_add(&cache_rules.changes, 1, __ATOMIC_RELAXED);
    struct cache *cache = present_cache();
    if (!cache)
        return;
    uint32_t busy = cache_begin_slow(cache);
    drop_forbidden(cache);
    cache_end_slow(cache, busy);
}

/* Time, not slow operations, tells bins that rest from those of which a block is taken and given in turn, which stand where
 * they stood as well.  Those would earn their capacity again in slow operations alone, hence the next look, and never
 * leave them.  With REST_NS between two looks that is an eighth of the time at worst. */
static SELDOM void drop_resting(struct cache *cache) {
    uint64_t now = os_clock_ns();
    if (now - cache->look_ns < REST_NS)
        return;
    cache->look_ns = now;
    for (unsigned i = 1; i < BIN_COUNT; i++) {
        struct bin_state *state = &cache->state[i];
        if (!state->capacity)
            continue;
        unsigned depth = (unsigned)(cache->top[i] - cache_slots(cache, i));
        if (!state->busy && state->seen == depth)
            drop_bin(cache, i);
        state->seen = (uint16_t)depth;
        state->busy = 0;
    }
}

static SELDOM void look_around(struct cache *cache) {
    page_settle_old();
    size_t due = page_peak_due();
    if (UNLIKELY(due))
        slab_trim_at_peak(due);
    cache_drain_idle(cache);
    drop_resting(cache);
    cache_watch(cache);
}

/* Frees earn nothing where a bin holds runs: it would fill with what its thread never takes. */
static void count_slow_op(struct cache *cache, unsigned class_index, bool earns) {
    struct bin_state *state = &cache->state[class_index];
    if (UNLIKELY(cache->rules != LOAD_RELAXED(cache_rules.changes)))
        drop_forbidden(cache);
    state->busy = 1;
    if (earns && state->slow_ops < UINT16_MAX)
        state->slow_ops++;
    if (earns)
        cache_earn_by_use(cache, class_index);
    uint32_t ticks = cache->ticks + 1;
    STORE_RELAXED(cache->ticks, ticks);
    if (ticks % LOOK_TICKS == 0 || cache_watch_is_due(cache))
        look_around(cache);
}

/* ---- the slow path of malloc and free ------------------------------------------------------------ */

static void *take_slowly(struct cache *cache, unsigned class_index) {
    void *object = NULL;
    slab_enter(&cache->lane);
    count_slow_op(cache, class_index, true);
    if (cache->state[class_index].capacity < 2)
        return slab_take(class_index, &object, 1) ? object : NULL;
    void **top = cache->top[class_index];
    if (*top == NULL) {
        size_t wanted =
            min_size(cache->state[class_index].capacity / 2u, cache_batch_limit(class_index));
        unsigned count = slab_take(class_index, top + 1, (unsigned)wanted);
        STORE_RELEASE(cache->top[class_index], top + count);
        cache_earn_by_regret(cache, class_index, count);
    }
    return bin_pop(cache, class_index);
}

/* Where a thread is watched its bin may well hold something. */
static SELDOM void *take_watched(struct cache *cache, unsigned class_index) {
    if (cache_watch_trips(cache))
        look_around(cache);
    return bin_pop(cache, class_index);
}

void *cache_take(unsigned class_index) {
    struct cache *cache = own_cache();
    void *object = NULL;
    if (!cache)
        return slab_take(class_index, &object, 1) ? object : NULL;
    uint32_t busy = cache_begin_slow(cache);
    if (cache_is_watched())
        object = take_watched(cache, class_index);
    if (!object)
        object = take_slowly(cache, class_index);
    cache_end_slow(cache, busy);
    return object;
}

/* Many at once where they have been used a moment ago; else one, for nobody may ever touch the others.  One also for who
 * wants more than a page's alignment, which those have only by chance. */
void *cache_take_run(unsigned class_index, size_t pages, size_t align, bool *zero) {
    struct cache *cache = own_cache();
    void *used = NULL;
    if (cache) {
        uint32_t busy = cache_begin_slow(cache);
        if (cache_is_watched() && align <= PAGE_BYTES)
            used = cache_sound_run(take_watched(cache, class_index));
        if (!used)
            count_slow_op(cache, class_index, true);
        if (!used && align <= PAGE_BYTES)
            used = cache_refill_runs(cache, class_index);
        cache_end_slow(cache, busy);
    }
    if (used) {
        *zero = false;
        return used;
    }
    uintptr_t run = page_run_take(pages, max_size(align, PAGE_BYTES), zero);
    if (run)
        pagemap_set_class(run, 1, sizeclass_of_run(pages));
    return (void *)run;
}

static SELDOM bool give_watched(struct cache *cache, unsigned class_index, void *object) {
    if (cache_watch_trips(cache))
        look_around(cache);
    return bin_push(cache, class_index, object);
}

static enum slab_status give_slowly(struct cache *cache, unsigned class_index, void *object) {
    unsigned wrong;
    if (cache_is_watched() && give_watched(cache, class_index, object))
        return SLAB_OK;
    count_slow_op(cache, class_index, !sizeclass_is_run(class_index));
    if (!cache->state[class_index].capacity)
        return cache_return(class_index, &object, 1, &wrong);
    if (!bin_push(cache, class_index, object)) {
        unsigned count = spill(cache, class_index);
        struct bin_state *state = &cache->state[class_index];
        state->spilled = (uint16_t)min_size(state->spilled + count, UINT16_MAX);
        bin_push(cache, class_index, object);
    }
    return SLAB_OK;
}

/* After a thread's destructors libc frees what it kept for the thread: that makes no cache, for nobody would
 * tell us when to leave it. */
enum slab_status cache_give(unsigned class_index, void *object) {
    struct cache *cache = leave_calls ? present_cache() : own_cache();
    unsigned wrong;
    if (!cache)
        return cache_return(class_index, &object, 1, &wrong);
    uint32_t busy = cache_begin_slow(cache);
    enum slab_status status = give_slowly(cache, class_index, object);
    cache_end_slow(cache, busy);
    return status;
}

/* ---- thread exit --------------------------------------------------------------------------------- */

/* Leaves the cache to the next thread, as warm as it is unless there are enough such. */
static SELDOM void retire(struct cache *cache) {
    cache_begin_slow(cache);
    lock_take(&G.lock);
    bool keep = G.unused_warm < KEPT_WARM && LOAD_RELAXED(cache_rules.enabled);
    cache->warm = keep;
    G.unused_warm += keep;
    lock_drop(&G.lock);
    if (keep)
        flush_cache(cache);
    for (unsigned i = 1; i < BIN_COUNT && !keep; i++)
        drop_bin(cache, i);
    cache_count_in(cache, false);
    lock_take(&G.lock);
    cache_end_slow(cache, 0);
    cache->in_use = 0;
    STORE_RELAXED(G.in_use, G.in_use - 1);
    lock_drop(&G.lock);
}

/* Called in each round of destructors in which the thread has a cache.  Later destructors that allocate
 * get a cache again, which arms the key for the next round.  There are four rounds; from
 * the third call on there may be no next one, so the thread goes on without a cache.  The key's value
 * is not trusted (programs overwrite keys they do not own); the thread's own pointer is. */
void cache_leave(void) {
    struct cache *cache = present_cache();
    if (!cache)
        return;
    cache_tls = COLD_CACHE;
    cache_watched = NULL;
    leave_calls++;
    retire(cache);
}
