/* SPDX-License-Identifier: MIT
 *
 * cache_drain: takes what other threads have cached, while they run (Linux drains its per-CPU lists so).
 *
 * PURPOSE  A thread that has worked and sleeps keeps what it cached, and no call of its own will give it back.
 *          malloc_trim does; and threads that work look, a cache for each LOOK_NS, for those whose tops stand
 *          where they stood IDLE_NS ago.
 *
 * HOW      The fast path neither locks nor looks at a flag.  But it stops at a NULL: a drain puts one into the
 *          slot below the top of each bin, and what lies beneath is out of the owner's reach.
 *
 *                  before   [ NULL | a | b | c | d |    ]          after   [ NULL | a | b | NULL | d |    ]
 *                                                ^ top                      ( gone  )  ^ took c  ^ top
 *
 *          1  drain = 1.  Barrier.  An owner that is in its slow path has said so (busy), and is left alone; one
 *             that enters it later sees drain, and waits for the lock.
 *          2  In each bin of two objects or more, NULL is exchanged for the object in the slot below the top.
 *             Barrier.
 *          3  Where the top still lies above that slot, and the slot still holds the NULL, the owner is not
 *             taking from it, has not taken from it, and will find the NULL: what was exchanged and what lies
 *             beneath is ours.  Else the owner came by meanwhile: the object is put back, unless it has put
 *             another there, which it does only after it has taken ours.
 *
 *          The barriers are the kernel's (os_barrier): each thread of the process runs one, at some place of its
 *          own program, so that the owner's side costs nothing.  One object per bin stays: whether the
 *          owner is in the middle of taking the last one cannot be told.
 *
 * RESUME   The owner's next slow operation moves what is above the NULL down to the bottom.
 *
 * LOCKING  The registry's lock, for one cache at a time: a thread that wakes waits for the one that is being drained.
 *
 * FORK     One store takes all below it away from the bin before it enters the slabs (INV-FORK-1).  A child reads
 *          each stack from its top down to the first NULL, whether the drain was done or cut; what lies beneath in the one
 *          cache that was being drained is lost to it.  Nobody drains a
 *          cache whose thread has not been at its slow path since the fork: a gap may lie there that is not known.
 *
 * FAILURE  Where the kernel has no such barrier (before 4.14, some sandboxes) nothing is drained.  A sandbox that
 *          kills for it wants DRAIN_NEVER.
 *
 * WHY NOT  A flag that the owner tests: an instruction in each malloc and free.  A signal to the owner: it
 *          interrupts system calls.  rseq: two stores in each malloc and free.
 */
#include "cache_internal.h"

#include "os.h"
#include "page.h"

#include <string.h>

#define G cache_shared
#define LOOK_NS ((uint64_t)10 * 1000 * 1000)
#define IDLE_NS ((uint64_t)1000 * 1000 * 1000)
#define IDLE_LEAST_BYTES ((size_t)64 << 10)

enum { SKIP_MOST = 64, LOOKS_MOST = 16 };

static size_t drain_when = DRAIN_IDLE; /* relaxed */

void cache_set_drains(size_t when) {
    STORE_RELAXED(drain_when, when);
}

struct cut {
    void **slot; /* that holds our NULL; or NULL where the bin is left alone */
    void *object;
};

static void **bottom_of(const struct cache *cache, unsigned class_index) {
    return cache_slots(cache, class_index) + cache->state[class_index].drained;
}

/* What a drain would give back.  Seen from outside, so it may be wrong. */
static size_t spare_bytes(const struct cache *cache) {
    size_t bytes = 0;
    for (unsigned i = 1; i < BIN_COUNT; i++)
        bytes += (max_size(cache_depth(cache, i), 1) - 1) * size_classes[i].size;
    return bytes;
}

static bool is_drainable(const struct cache *cache) {
    return cache->in_use && cache->epoch == LOAD_RELAXED(G.epoch);
}

/* False where the owner is in its slow path, or we cannot tell. */
static bool keep_owner_out(struct cache *cache) {
    uint32_t before = cache->drain;
    STORE_RELAXED(cache->drain, 1);
    if (os_barrier() && LOAD_ACQUIRE(cache->busy) == 0)
        return true;
    STORE_RELAXED(cache->drain, before);
    return false;
}

static struct cut cut_bin(const struct cache *cache, unsigned class_index) {
    struct cut cut = {NULL, NULL};
    void **top = LOAD_ACQUIRE(cache->top[class_index]);
    if (cache->state[class_index].capacity == 0 || top - bottom_of(cache, class_index) < 2)
        return cut;
    cut.slot = top - 1;
    cut.object = __atomic_exchange_n(cut.slot, NULL, __ATOMIC_ACQ_REL);
    return cut;
}

static bool is_ours(const struct cache *cache, unsigned class_index, const struct cut *cut) {
    return LOAD_ACQUIRE(cache->top[class_index]) > cut->slot && LOAD_ACQUIRE(*cut->slot) == NULL;
}

static void put_back(const struct cut *cut) {
    void *expected = NULL;
    __atomic_compare_exchange_n(cut->slot, &expected, cut->object, false, __ATOMIC_RELEASE,
                                __ATOMIC_RELAXED);
}

static void give_below(struct cache *cache, unsigned class_index, const struct cut *cut) {
    void **from = bottom_of(cache, class_index) + 1;
    STORE_RELAXED(cache->state[class_index].drained,
                  (uint16_t)(cut->slot - cache_slots(cache, class_index)));
    while (from < cut->slot) {
        size_t count = min_size((size_t)(cut->slot - from), cache_batch_limit(class_index));
        cache_give_batch(class_index, from, count);
        from += count;
    }
    cache_give_batch(class_index, &cut->object, 1);
}

/* True if it gave anything. */
static bool drain(struct cache *cache) {
    struct cut cut[BIN_COUNT];
    bool any = false;
    if (!keep_owner_out(cache))
        return false;
    for (unsigned i = 1; i < BIN_COUNT; i++)
        cut[i] = cut_bin(cache, i);
    bool certain = os_barrier();
    for (unsigned i = 1; i < BIN_COUNT; i++) {
        if (!cut[i].slot)
            continue;
        bool ours = certain && is_ours(cache, i, &cut[i]);
        if (ours)
            give_below(cache, i, &cut[i]);
        else
            put_back(&cut[i]);
        any |= ours;
    }
    return any;
}

bool cache_drain_others(const struct cache *own) {
    bool any = false;
    if (LOAD_RELAXED(drain_when) == DRAIN_NEVER)
        return false;
    for (struct cache *cache = LOAD_ACQUIRE(cache_registry); cache; cache = cache->next) {
        if (cache == own)
            continue;
        lock_take(&G.lock);
        bool drained = is_drainable(cache) && spare_bytes(cache) && drain(cache);
        lock_drop(&G.lock);
        if (drained) /* its thread may have woken, and wait */
            os_yield();
        any |= drained;
    }
    return any;
}

/* Another number when the thread has taken or given, unless its tops are where they were; then what it loses by a
 * drain is a refill. */
static uintptr_t fingerprint(const struct cache *cache) {
    uintptr_t sum = LOAD_RELAXED(cache->ticks);
    for (unsigned i = 1; i < BIN_COUNT; i++)
        sum = sum * 31 + (uintptr_t)LOAD_RELAXED(cache->top[i]);
    return sum;
}

/* True if that took long. */
static bool look(struct cache *cache, uint64_t now) {
    uintptr_t seen = fingerprint(cache);
    if (seen != cache->seen) {
        cache->seen = seen;
        cache->seen_ns = now;
        return false;
    }
    size_t spare = spare_bytes(cache);
    if (now - cache->seen_ns < IDLE_NS || !spare || spare < page_hole_bound(IDLE_LEAST_BYTES))
        return false;
    drain(cache);
    cache->seen_ns = now;
    return true;
}

/* The next cache in the order of the list that is in use. */
static struct cache *next_to_look_at(void) {
    struct cache *cache = G.look_at;
    for (unsigned i = 0; i < SKIP_MOST; i++) {
        cache = cache && cache->next ? cache->next : LOAD_ACQUIRE(cache_registry);
        if (cache->in_use)
            break;
    }
    G.look_at = cache;
    return cache;
}

void cache_drain_idle(const struct cache *own) {
    if (LOAD_RELAXED(G.in_use) < 2 || LOAD_RELAXED(drain_when) < DRAIN_IDLE ||
        page_hole_bound(0) == SIZE_MAX)
        return;
    if (os_clock_ns() < LOAD_RELAXED(G.look_ns) + LOOK_NS || !lock_take_free(&G.lock))
        return;
    uint64_t now = os_clock_ns(), elapsed = now - G.look_ns;
    size_t looks = min_size(elapsed / LOOK_NS, LOOKS_MOST);
    bool long_enough = false;
    for (; looks > 0 && !long_enough; looks--) {
        struct cache *cache = next_to_look_at();
        long_enough = cache != own && is_drainable(cache) && look(cache, now);
    }
    /* Those that are left come with the next slow operations. */
    STORE_RELAXED(G.look_ns, now - looks * LOOK_NS);
    lock_drop(&G.lock);
}

/* Meanwhile a bin is empty: a cut loses what it holds. */
static void close_gap(struct cache *cache, unsigned class_index) {
    void **slots = cache_slots(cache, class_index), **top = cache->top[class_index], **low = top;
    while (*low)
        low--;
    if (low == slots)
        return;
    STORE_RELEASE(cache->top[class_index], slots);
    memmove(slots + 1, low + 1, (size_t)(top - low) * sizeof *slots);
    STORE_RELEASE(cache->top[class_index], slots + (top - low));
    STORE_RELAXED(cache->state[class_index].drained, 0);
}

void cache_close_gaps(struct cache *cache) {
    STORE_RELAXED(cache->drain, 0);
    for (unsigned i = 1; i < BIN_COUNT; i++)
        if (cache->state[i].capacity)
            close_gap(cache, i);
}

void cache_resume(struct cache *cache) {
    lock_take(&G.lock);
    cache_close_gaps(cache);
    lock_drop(&G.lock);
}
