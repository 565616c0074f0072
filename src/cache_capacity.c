/* SPDX-License-Identifier: MIT
 *
 * cache_capacity: how deep the bins of the threads' caches are.
 *
 * PURPOSE  Let a bin hold what its thread takes and gives again and again, and no bin more than that.
 *
 * RULE     Up to 64 objects, 128 where there are threads, and 32 KiB capacity is earned by slow
 *          operations: EARN_FIRST of them for the first step, EARN_NEXT for each further one.
 *          Beyond, up to 1 MiB, by regret: objects that were taken back from the slabs after a spill.
 *          One that only fills or only drains does not grow.  While the capacities of all threads exceed the budget of max(4 MiB,
 *          live/32), or 1 MiB for each thread while that is less than live/2, each step by use costs
 *          EARN_HARD, and there is none by regret.  Of runs the budget is max(8 MiB for each thread, live/32):
 *          what no bin holds of them is dirty in the page layer instead; but by regret no more than max(16 MiB, live/4) is
 *          earned, however many threads there are.  See cache_runs.c.
 *          The basic capacity is not refused for what others hold: without any, a block of a size that is taken and
 *          freed in turn opens a slab and closes it.
 *
 * LOCKING  A bin's owner alone changes its capacity, in its slow path.
 *
 * FAILURE  Without memory for a deeper stack the bin stays as deep as it is.
 */
#include "cache_internal.h"

#include "meta.h"
#include "page.h"

#include <string.h>

#define G cache_shared

enum {
    CAPACITY_STEADY = 64,
    CAPACITY_STEADY_THREADS = 128, /* a batch costs more where others may want the lock */
    CAPACITY_STEADY_BYTES = 32 * 1024,
    CAPACITY_STEADY_RUN_BYTES = 128 * 1024, /* or one run */
    CAPACITY_MAX_BYTES = 1024 * 1024,
    EARN_FIRST = 64, /* what a program does once or twice is checked exactly: see docs/decisions */
    EARN_NEXT = 4,
    EARN_REGRET = 2, /* times the capacity */
    EARN_HARD = 512,
    BASIC_BYTES = 4 * 1024,
    BASIC_LEAST = 2,
    BUDGET_MIN = 4 * 1024 * 1024,
    BUDGET_PER_THREAD = 1024 * 1024,
    BUDGET_RUNS_PER_THREAD = 8 * 1024 * 1024,
    BUDGET_RUNS_BY_REGRET = 16 * 1024 * 1024, /* or live/4 */
};

static size_t slot_bytes(unsigned capacity) {
    return (capacity + 1u) * sizeof(void *);
}

/* Meanwhile it is empty: a cut loses its objects. */
bool cache_resize_bin(struct cache *cache, unsigned class_index, unsigned capacity) {
    void ***bin_top = &cache->top[class_index];
    unsigned old_capacity = cache->state[class_index].capacity;
    void **old = cache_slots(cache, class_index);
    void **fresh = capacity ? meta_take_ready(slot_bytes(capacity)) : cache_no_slots;
    if (!fresh)
        return false;
    size_t depth = (size_t)(*bin_top - old);
    STORE_RELEASE(*bin_top, fresh);
    memcpy(fresh + 1, old + 1, depth * sizeof *fresh);
    STORE_RELAXED(cache->end[class_index], fresh + capacity);
    STORE_RELEASE(*bin_top, fresh + depth);
    STORE_RELAXED(cache->state[class_index].capacity, (uint16_t)capacity);
    cache->state[class_index].slow_ops = 0;
    cache->state[class_index].regret = 0;
    if (old_capacity)
        meta_give(old, slot_bytes(old_capacity));
    cache_add_capacity(class_index, cache_held_bytes(class_index, capacity) -
                                        cache_held_bytes(class_index, old_capacity));
    return true;
}

/* Cut in cache_resize_bin, the end and the capacity are those of different stacks, or there is none. */
void cache_give_stack(struct cache *cache, unsigned class_index, void **top) {
    unsigned capacity = cache->state[class_index].capacity;
    void **end = cache->end[class_index], **slots = end - capacity;
    if (capacity && end != cache_no_slots && slots <= top && top <= end && !*slots)
        meta_give(slots, slot_bytes(capacity));
}

static size_t run_budget(size_t live, size_t threads, bool by_regret) {
    size_t budget = threads * BUDGET_RUNS_PER_THREAD;
    return by_regret ? min_size(budget, max_size(BUDGET_RUNS_BY_REGRET, live / 4)) : budget;
}

static bool budget_exceeded(unsigned class_index, bool by_regret) {
    size_t live = page_live_bytes(), threads = LOAD_RELAXED(G.in_use);
    size_t budget = max_size(live / 32, min_size(live / 2, threads * BUDGET_PER_THREAD));
    bool runs = sizeclass_is_run(class_index);
    budget = max_size(budget, runs ? run_budget(live, threads, by_regret) : BUDGET_MIN);
    return LOAD_RELAXED(G.capacity_bytes[runs]) > budget;
}

/* The step to the next capacity below a limit. */
static SELDOM void grow_bin(struct cache *cache, unsigned class_index, unsigned limit) {
    unsigned capacity = cache->state[class_index].capacity;
    unsigned wanted = capacity ? 2 * capacity : CAPACITY_FIRST;
    cache->state[class_index].slow_ops = 0;
    if (capacity < limit)
        cache_resize_bin(cache, class_index, (unsigned)min_size(wanted, limit));
}

static unsigned steady_limit(unsigned class_index) {
    unsigned count = lock_single_thread() ? CAPACITY_STEADY : CAPACITY_STEADY_THREADS;
    bool run = sizeclass_is_run(class_index);
    return cache_capacity_limit(class_index, count,
                                run ? CAPACITY_STEADY_RUN_BYTES : CAPACITY_STEADY_BYTES);
}

/* What a bin may hold whatever others hold. */
static unsigned basic_capacity(unsigned class_index) {
    size_t few = max_size(BASIC_LEAST, BASIC_BYTES / size_classes[class_index].size);
    size_t count = sizeclass_is_run(class_index) ? 1 : min_size(few, CAPACITY_FIRST);
    return cache_capacity_limit(class_index, count, SIZE_MAX);
}

void cache_earn_by_use(struct cache *cache, unsigned class_index) {
    struct bin_state *state = &cache->state[class_index];
    unsigned price = state->capacity ? EARN_NEXT : EARN_FIRST; /* powers of two */
    if (state->slow_ops == 0 || (state->slow_ops & (price - 1)) != 0)
        return;
    unsigned limit = steady_limit(class_index);
    if (state->capacity >= limit) {
        state->slow_ops = 0;
        return;
    }
    bool dear = budget_exceeded(class_index, false), run = sizeclass_is_run(class_index);
    unsigned basic = basic_capacity(class_index);
    if (!dear || state->slow_ops >= EARN_HARD)
        grow_bin(cache, class_index, dear && run ? basic : limit);
    else if (!run && state->capacity < basic)
        grow_bin(cache, class_index, basic);
}

void cache_earn_by_regret(struct cache *cache, unsigned class_index, unsigned count) {
    struct bin_state *state = &cache->state[class_index];
    unsigned missed = (unsigned)min_size(count, state->spilled);
    state->spilled = (uint16_t)(state->spilled - missed);
    state->regret = (uint16_t)min_size(state->regret + missed, UINT16_MAX);
    if (!state->capacity || size_classes[class_index].size > LOAD_RELAXED(cache_rules.deep_max))
        return;
    if (state->regret >= EARN_REGRET * state->capacity && !budget_exceeded(class_index, true))
        grow_bin(cache, class_index,
                 cache_capacity_limit(class_index, CAPACITY_MAX, CAPACITY_MAX_BYTES));
}
