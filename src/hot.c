/* SPDX-License-Identifier: MIT
 *
 * hot: runs given back a moment ago, kept whole (the kernel's per-CPU page lists, in small).
 *
 * PURPOSE  A program that frees a run soon wants one of the same length.  Merging it with its buddies
 *          and cutting it again costs ten times as much as keeping it as it is for a while.
 *
 * LAYOUT   A ring of HOT_RUNS entries of at most HOT_MAX_PAGES pages each.  A run enters over the
 *          oldest entry, which is merged; a request takes the newest entry of exactly its length.
 *
 * STATES   allocated (HEAD_RUN n) -> hot (HEAD_CONT n: taken, yet no block) -> allocated, or free
 *
 * RULE     Hot pages are dirty pages (purge.c counts them).  All are merged before the heap grows,
 *          before anything is purged, and when a neighbour wants to extend into them.
 *
 * LOCKING  The page lock.
 *
 * FORK     Where the page lock is broken, an entry whose run's head agrees with it is free; others leak.
 *          An entry is gone before its run's head changes.
 */
#include "page_internal.h"

#define S page_state

bool hot_take(size_t pages, size_t align_bytes, struct extent *run) {
    for (unsigned i = 1; i <= HOT_RUNS; i++) {
        struct extent *entry = &S.hot[(S.hot_next - i) % HOT_RUNS];
        if (entry->end - entry->start != pages << PAGE_SHIFT || entry->start % align_bytes != 0)
            continue;
        *run = *entry;
        *entry = (struct extent){0, 0};
        STORE_RELAXED(S.hot_pages, S.hot_pages - pages);
        return true;
    }
    return false;
}

static void merge(struct extent *entry) {
    struct extent run = *entry;
    if (!run.start)
        return;
    *entry = (struct extent){0, 0};
    STORE_RELAXED(S.hot_pages, S.hot_pages - ((run.end - run.start) >> PAGE_SHIFT));
    run_set_heads(run, HEAD_FREE);
    extent_insert(run, true);
}

void hot_give(struct extent run) {
    struct region *region = pagemap_region(run.start);
    uint32_t pages = (uint32_t)((run.end - run.start) >> PAGE_SHIFT);
    struct extent *entry = &S.hot[S.hot_next % HOT_RUNS];
    merge(entry);
    pagemap_set_head(region, pagemap_page(region, run.start), head_make(HEAD_CONT, pages));
    *entry = run;
    STORE_RELAXED(S.hot_pages, S.hot_pages + pages);
    S.hot_next++;
}

bool hot_merge_all(void) {
    if (S.hot_pages == 0)
        return false;
    for (unsigned i = 0; i < HOT_RUNS; i++)
        merge(&S.hot[i]);
    return true;
}

void hot_repair(void) {
    for (unsigned i = 0; i < HOT_RUNS; i++) {
        struct extent run = S.hot[i];
        size_t pages = (run.end - run.start) >> PAGE_SHIFT;
        S.hot[i] = (struct extent){0, 0};
        if (run.start && pages <= HOT_MAX_PAGES &&
            pagemap_head(run.start) == head_make(HEAD_CONT, (uint32_t)pages))
            run_set_heads(run, HEAD_FREE);
    }
    S.hot_pages = 0;
}
