/* SPDX-License-Identifier: MIT
 *
 * huge: free pages that become resident 2 MiB at a time, as one huge page.
 *
 * PURPOSE  A heap that grows by small blocks faults once per 4 KiB, and its pages take an entry of the TLB
 *          each.  One huge page costs a fifth of the faults that it replaces (decision 25).
 *
 * RULE     Where a short run finds no dirty pages, an aligned stretch of clean ones is filled and becomes
 *          dirty, if all dirty pages are then no more than huge_percent of the pages in use, nor than the bound
 *          of purge.c.  So what nobody has used yet is a stated share of the heap at most, small heaps have
 *          no huge pages, and what is filled counts, is preferred and is given back as any dirty page.
 *
 * WHY NOT  MADV_HUGEPAGE: the kernel then makes huge pages of holes that were given back, each
 *          stretch is a mapping of its own, and nothing bounds what comes with a first write.
 *          Long runs: a program may leave most of a large block alone, and RSS would not say so.
 *
 * LOCKING  The page lock; it is dropped while the kernel fills, the pages are nobody's then (purge.c).
 *
 * FAILURE  A kernel that refuses (before 6.1, or without a free huge page) is asked again after a trim
 *          or when the share is set.
 */
#include "limit.h"
#include "os.h"
#include "page_internal.h"

#define S page_state

#define HUGE_BYTES ((size_t)2 << 20)
#define HUGE_PAGES (HUGE_BYTES >> PAGE_SHIFT)

void huge_retry(void) {
    S.huge_refused = os_page_bytes() != PAGE_BYTES; /* huge ones have another size then */
}

void page_set_huge_share(size_t percent) {
    lock_take(&S.lock);
    S.huge_percent = percent;
    huge_retry();
    lock_drop(&S.lock);
}

static bool within_share(void) {
    size_t most = (page_live_bytes() >> PAGE_SHIFT) * S.huge_percent / 100;
    return purge_dirty_pages() + HUGE_PAGES <= min_size(most, purge_bound_pages()) &&
           limit_has_room(HUGE_BYTES);
}

/* Clean pages that the kernel did not fill: os_make_huge has written to the first one, no more. */
static void let_go_untouched(struct extent place) {
    uintptr_t rest = place.start + PAGE_BYTES;
    purge_let_go((struct extent){place.start, rest}, true);
    purge_let_go((struct extent){rest, place.end}, false);
}

bool huge_fill(void) {
    struct extent place;
    if (S.huge_refused || !within_share() ||
        (!extent_find_clean(HUGE_BYTES, HUGE_BYTES, &place) &&
         !zone_grow(HUGE_PAGES, HUGE_BYTES, &place)))
        return false;
    /* The break grows from what is free below it, dirty or not. */
    size_t dirty_pages = purge_hold(place);
    purge_note_taken(HUGE_PAGES - dirty_pages);
    lock_drop(&S.lock);
    bool filled = os_make_huge((void *)place.start, HUGE_BYTES);
    lock_take(&S.lock);
    if (!filled && dirty_pages == 0)
        let_go_untouched(place);
    else
        purge_let_go(place, true);
    S.huge_refused = !filled;
    return filled;
}
