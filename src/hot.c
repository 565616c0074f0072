/* SPDX-License-Identifier: MIT
 *
 * hot: runs given back a moment ago, kept whole (the kernel's per-CPU page lists, in small).
 *
 * PURPOSE  A program that frees a run soon wants one of the same length.  Merging it with its buddies
 *          and cutting it again costs ten times as much as keeping it as it is for a while.
 *
 * LAYOUT   A ring of HOT_RUNS entries of at most HOT_MAX_PAGES pages each.  A run enters over the
 *          oldest entry, which is merged, as are others where all together would hold more than half of
 *          what may stay dirty.  A word tells which entries hold a run, and one for each length which hold such runs;
 *          a request takes the newest of them.
 *
 * STATES   allocated (HEAD_RUN n) -> hot (HEAD_CONT n: taken, yet no block) -> allocated, or free
 *
 * RULE     Hot pages are dirty pages (purge.c counts them).  All are merged before the heap grows,
 *          before anything is purged, and when a neighbour wants to extend into them.  Where nothing is ever
 *          given back there are none: whole extents fit better, and room counts for more than time.
 *
 * LOCKING  The page lock.
 *
 * FORK     Where the page lock is broken, an entry whose run's head agrees with it is free; others leak.
 *          An entry is gone before its run's head changes.
 */
#include "page_internal.h"

#include <string.h>

#define S page_state

_Static_assert(HOT_RUNS == 64, "one word per length has a bit for each entry");

/* Empties an entry; a fork child takes it for free only while it is there. */
static struct extent leave(unsigned index) {
    struct extent run = S.hot[index];
    size_t pages = (run.end - run.start) >> PAGE_SHIFT;
    S.hot[index] = (struct extent){0, 0};
    S.hot_used &= ~((uint64_t)1 << index);
    STORE_RELAXED(S.hot_of[pages], S.hot_of[pages] & ~((uint64_t)1 << index));
    STORE_RELAXED(S.hot_pages, S.hot_pages - pages);
    return run;
}

/* A word of entries, the oldest first. */
static uint64_t by_age(uint64_t word) {
    unsigned oldest = S.hot_next % HOT_RUNS;
    return oldest ? word >> oldest | word << (HOT_RUNS - oldest) : word;
}

static unsigned aged(unsigned age) {
    return (S.hot_next + age) % HOT_RUNS;
}

bool hot_take(size_t pages, size_t align_bytes, struct extent *run) {
    for (uint64_t left = by_age(S.hot_of[pages]); left;
         left &= ~((uint64_t)1 << bit_highest(left))) {
        unsigned index = aged(bit_highest(left));
        if (S.hot[index].start % align_bytes != 0)
            continue;
        *run = leave(index);
        return true;
    }
    return false;
}

static void merge(unsigned index) {
    struct extent run = leave(index);
    run_set_heads(run, HEAD_FREE);
    extent_insert(run, true);
}

/* Merges the oldest while all would be more than the next purge lets stay dirty. */
static void make_room(size_t pages) {
    size_t most = purge_bound_pages() / 2;
    while (S.hot_used && S.hot_pages - last_pages() + pages > most)
        merge(aged(bit_lowest(by_age(S.hot_used))));
}

void hot_give(struct extent run) {
    struct region *region = pagemap_region(run.start);
    uint32_t pages = (uint32_t)((run.end - run.start) >> PAGE_SHIFT);
    if (UNLIKELY(S.hot_pages + pages > S.bound_least_pages / 2))
        make_room(pages);
    if (S.hot_used >> aged(0) & 1)
        merge(aged(0));
    unsigned index = S.hot_next++ % HOT_RUNS;
    pagemap_set_head(region, pagemap_page(region, run.start), head_make(HEAD_CONT, pages));
    S.hot[index] = run;
    S.hot_used |= (uint64_t)1 << index;
    STORE_RELAXED(S.hot_of[pages], S.hot_of[pages] | (uint64_t)1 << index);
    STORE_RELAXED(S.hot_pages, S.hot_pages + pages);
}

bool hot_merge_all(void) {
    bool any = last_merge();
    any |= UNLIKELY(LOAD_RELAXED(keep_any)) && keep_merge();
    if (!S.hot_used)
        return any;
    for (; S.hot_used; merge(bit_lowest(S.hot_used)))
        ;
    return true;
}

void hot_repair(void) {
    S.last.start = 0;
    for (unsigned i = 0; i < HOT_RUNS; i++) {
        struct extent run = S.hot[i];
        size_t pages = (run.end - run.start) >> PAGE_SHIFT;
        S.hot[i] = (struct extent){0, 0};
        if (run.start && pages <= HOT_MAX_PAGES &&
            pagemap_head(run.start) == head_make(HEAD_CONT, (uint32_t)pages))
            run_set_heads(run, HEAD_FREE);
    }
    memset(S.hot_of, 0, sizeof S.hot_of);
    S.hot_used = 0;
    S.hot_pages = 0;
}
