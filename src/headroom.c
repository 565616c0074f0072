/* SPDX-License-Identifier: MIT
 *
 * headroom: more free memory than was ever in use, for who gives nothing back.
 *
 * PURPOSE  Runs of many lengths do not fill the last of the free pages (Robson): in three quarters of
 *          a pool they find their places, in seven eighths they do not.  Who warmed W bytes up may use
 *          seven eighths of them without a fault, because the pool is a sixth larger than W.
 *
 * RULE     Where nothing is ever given back (purge_never): when more pages are in use than ever
 *          before, pages in use + dirty pages are brought to that peak and headroom_percent of it.
 *          While the peak does not rise nothing happens, so that a section that needs no more than its
 *          warm-up makes no call.
 *
 * STEPS    The peak is taken for a little higher than it is: a warm-up of many short runs does not make
 *          a call for each of them.
 *
 * LOCKING  The page lock, held while the kernel makes pages resident.
 *
 * FORK     The pages are free by their head words all the time.
 *
 * FAILURE  What the kernel or the limit refuses is missing, and is tried again a step later: the request
 *          that raised the peak has been served.
 */
#include "limit.h"
#include "os.h"
#include "page_internal.h"

#define S page_state

enum { STEP_SHARE = 64, STEP_MIN_PAGES = 64 };

static void make_dirty(struct extent clean) {
    os_make_resident((void *)clean.start, clean.end - clean.start);
    extent_remove(clean);
    extent_insert(clean, true);
}

/* Clean pages first: those beyond the last need, and those given back before the threshold was set. */
static void add_dirty(size_t bytes) {
    struct extent clean;
    while (bytes > 0 && (extent_clean(&clean) || (zone_add(bytes) && extent_clean(&clean)))) {
        clean.end = min_size(clean.end, clean.start + bytes);
        bytes -= clean.end - clean.start;
        make_dirty(clean);
    }
}

/* What was freed counts as dirty, whether or not anybody wrote to it. */
void page_make_resident(void) {
    lock_take(&S.lock);
    hot_merge_all();
    for (uint32_t rank = 0; rank < pagemap_region_count; rank++) {
        struct region *region = pagemap_ranked(rank);
        struct fit_walk walk = {0};
        struct fit_extent extent;
        while (fit_next(&region->fit, FIT_DIRTY, &walk, &extent))
            os_make_resident((char *)region->base + ((size_t)extent.first << PAGE_SHIFT),
                             (size_t)extent.count << PAGE_SHIFT);
    }
    lock_drop(&S.lock);
}

/* As much again has to be left of the limit, for requests are admitted by their size, wherever they
 * find their pages. */
static void provide(void) {
    size_t live = page_live_bytes() >> PAGE_SHIFT, have = live + purge_dirty_pages();
    size_t room = S.provided_pages * S.headroom_percent / 100, want = S.provided_pages + room;
    if (room > 0 && want > have && limit_has_room((want - have + room) << PAGE_SHIFT))
        add_dirty((want - have) << PAGE_SHIFT);
}

void headroom_keep(void) {
    size_t live = page_live_bytes() >> PAGE_SHIFT;
    if (live <= S.provided_pages)
        return;
    S.provided_pages = live + max_size(live / STEP_SHARE, STEP_MIN_PAGES);
    provide();
}

void headroom_forget(void) {
    S.provided_pages = min_size(S.provided_pages, page_live_bytes() >> PAGE_SHIFT);
}

void page_set_headroom(size_t percent) {
    lock_take(&S.lock);
    S.headroom_percent = percent;
    if (purge_never())
        provide(); /* for the peak so far: it may have been freed since */
    lock_drop(&S.lock);
}
