/* SPDX-License-Identifier: MIT
 *
 * last: the long run that came back last, and what was cut from it (Lea's designated victim, for long runs).
 *
 * PURPOSE  A program that frees a buffer of a megabyte soon wants one as long, or another one that fits.  To merge such a
 *          run and to cut it again is work in buddy sets and lists of extents, ten times as much as to move where it begins.
 *
 * LAYOUT   One stretch of dirty pages.  A run is cut from its front; one that comes back beside it joins it:
 *
 *            [ last, 9 pages    ]   take 5:  [RRRRR][ last  ]   give them back:  [ last, 9 pages    ]
 *
 * STATES   of its pages: in a run -> last (free by their head words, in no set) -> in a run, or free
 *
 * RULE     Best fit, as if it was in the sets: it is taken from where no shorter dirty extent holds the pages.  They are
 *          hot pages (purge.c counts them).  It is merged before clean pages are taken, the heap grows or anything is purged.
 *
 * LOCKING  The page lock.
 *
 * FORK     Where the page lock is broken, the head words say all; it is forgotten.
 */
#include "page_internal.h"

#define S page_state

static size_t pages_of(struct extent extent) {
    return (extent.end - extent.start) >> PAGE_SHIFT;
}

struct extent last_take(size_t pages) {
    struct extent run = {S.last.start, S.last.start + (pages << PAGE_SHIFT)};
    S.last.start = run.end < S.last.end ? run.end : 0;
    STORE_RELAXED(S.hot_pages, S.hot_pages - pages);
    return run;
}

bool last_merge(void) {
    struct extent run = S.last;
    if (!run.start)
        return false;
    S.last.start = 0;
    STORE_RELAXED(S.hot_pages, S.hot_pages - pages_of(run));
    extent_insert(run, true);
    return true;
}

/* A run that lies beside it joins it, however short. */
static bool join(struct extent run) {
    if (!S.last.start)
        return false;
    if (run.end == S.last.start)
        S.last.start = run.start;
    else if (run.start == S.last.end)
        S.last.end = run.end;
    else
        return false;
    return true;
}

static bool replace(struct extent run) {
    if (pages_of(run) <= HOT_MAX_PAGES)
        return false;
    last_merge();
    S.last = run;
    return true;
}

bool last_give(struct extent run) {
    if (S.hot_most_bytes == 0 || (!join(run) && !replace(run)))
        return false;
    STORE_RELAXED(S.hot_pages, S.hot_pages + pages_of(run));
    return true;
}
