/* SPDX-License-Identifier: MIT
 *
 * keep_support.h: long runs that are kept for a thread (keep.c).
 */
#ifndef KEEP_SUPPORT_H
#define KEEP_SUPPORT_H

#include "run_support.h"

#include "page_internal.h"

enum { EARNED = 16, SECOND_NS = 1000000000 };

/* Gives a run and takes it again until its length is kept; it is the caller's then. */
static inline uintptr_t earn(size_t pages) {
    uintptr_t run = take_dirty(pages);
    for (int i = 0; i < EARNED; i++) {
        must(page_run_give(run) && !keep_any);
        must_take(run, pages, false);
    }
    return run;
}

static inline uintptr_t keep(size_t pages) {
    uintptr_t run = earn(pages);
    must(page_run_give(run) && keep_any);
    return run;
}

static inline void must_take_exactly(uintptr_t expected, size_t pages) {
    bool zero;
    must(page_run_take(pages, PAGE_BYTES, &zero) == expected);
}

/* However often it takes, for the heap changes meanwhile. */
static inline void keep_again(size_t pages) {
    bool zero;
    for (int i = 0; i <= EARNED + 1; i++)
        must(page_run_give(page_run_take(pages, PAGE_BYTES, &zero)));
    must(keep_any);
}

static inline void must_take_any(size_t pages) {
    bool zero;
    must(page_run_take(pages, PAGE_BYTES, &zero) != 0);
}

static inline void must_be_kept(uintptr_t run, size_t pages) {
    must(pagemap_head(run) == head_make(HEAD_CONT, (uint32_t)pages));
    must(page_run_pages(run) == 0 && page_live_bytes() >= pages * PAGE_BYTES);
}

static inline void must_not_be_kept(size_t pages) {
    struct extent kept;
    must(page_run_take_kept(pages, PAGE_BYTES) == 0 && !keep_leave(&kept));
    must_be_sound();
}

/* As what the thread of another number does. */
static inline void as_thread(uint64_t number) {
    lock_serial = number * 2;
}

static inline uintptr_t take_kept(size_t pages) {
    uintptr_t run = page_run_take_kept(pages, PAGE_BYTES);
    must(run != 0 && page_run_pages(run) == pages);
    return run;
}

/* A kept run of 1000 pages, of which 300 lie in the first region. */
static inline uintptr_t keep_crossing(void) {
    bool zero;
    uintptr_t first = page_run_take(2 * REGION_PAGES, REGION_BYTES, &zero);
    uintptr_t border = first + REGION_BYTES, wall = page_run_take(1, PAGE_BYTES, &zero);
    page_state.budget_pages = page_state.peak_zone_pages; /* so that nothing is purged */
    must(wall != 0 && page_run_shrink(first, REGION_PAGES - 300));
    uintptr_t run = border - 300 * PAGE_BYTES;
    must(run_may_lie_at(run, 1000));
    for (int i = 0; i <= EARNED; i++) {
        must_take_exactly(run, 1000);
        must(page_run_give(run));
    }
    must_be_kept(run, 1000);
    must(pagemap_head(border) == head_make(HEAD_CONT, 700));
    return run;
}

#endif
