/* SPDX-License-Identifier: MIT
 *
 * purge: what goes back to the kernel, and when.
 *
 * PURPOSE  Bound what the heap keeps resident for nobody, without a thread and without a call, at a
 *          cost that the program's own behaviour limits.
 *
 * TERMS    R  dirty bytes: free pages that are resident
 *          T  the bound on R
 *          B  the budget: an absolute number of bytes that the heap earns by wanting pages back
 *
 * RULE     After every operation R <= T, unless the kernel refuses, time is short or the excess is young.
 *          M_TRIM_THRESHOLD set:   T is that value; purging goes down to max(3/4 T, M_TOP_PAD), and
 *                                  takes what time it takes.  -1: never; a share more is kept (headroom.c).
 *          default:                T = max(1 MiB, live/8, B), purging goes down to 3/4 T.
 *          B grows by two for each purged page that is taken again, up to the largest heap so far, and loses half
 *          of what stays dirty throughout a second.  So a heap that empties once is trimmed
 *          by its last frees, a heap that breathes keeps what it will want again, one that
 *          breathes slowly pays a few percent of the time for giving back, and one that stops gives all back.
 *
 * YOUTH    By default an excess over T is left alone for YOUTH_NS, as long as R <= live: a heap that breathes
 *          wants those pages again at once.  Not where the heap empties: when the slabs of a class that has
 *          fallen to half are searched for holes, no excess is young for YOUTH_NS; nor where runs that grow leave places
 *          that do not serve each other.
 *          An old one goes when pages are freed next, or in a thread's slow operations.  A threshold that was set may be
 *          exceeded for MOMENT_NS, by MOMENT_PAGES: else threads with buffers of 20 kB each fault at every call.
 *
 * TIME     What the default bound makes us do is paid from a credit (credit.c), and so are holes in slabs, always.
 *          While there is none, R may exceed T; but each time that what is in use has fallen to half, whole stretches
 *          of free pages go (a sweep), as long as the debt is bearable.
 *
 * PEAK     Where more pages are in use or dirty than ever, by a PEAK_SHARE, holes are searched for, a piece at a
 *          time, until as many have gone as came, in slabs of classes of which a quarter is free, for as long as
 *          the faults of what came take: what one size needs no more pays for what another one needs.  That
 *          time is beside the share above, for the heap grows to a peak but once.
 *
 * ORDER    The top of the break first (it gives address space back too), then the largest dirty
 *          blocks, highest address first: allocation prefers the lowest.
 *
 * FORK     While the kernel purges, the lock is not held and the pages count as taken, so a cut
 *          leaks them and no more.
 *
 * FAILURE  Where the kernel refuses (mlockall) pages stay dirty, and the bound is suspended for REFUSED_NS, or until
 *          the next explicit trim, which tries again.
 */
#include "lock.h"
#include "os.h"
#include "page_internal.h"

#define S page_state

#define TOP_STEP_BYTES ((size_t)128 << 20)
#define BUDGET_HALF_LIFE_NS ((uint64_t)1000 * 1000 * 1000)
#define YOUTH_NS ((uint64_t)1000 * 1000 * 1000)
#define MOMENT_NS ((uint64_t)100 * 1000 * 1000)
#define MOMENT_LEAST_BYTES ((size_t)64 << 10)
#define LONG_AGO ((uint64_t)1)
#define REFUSED_NS ((uint64_t)10 * 1000 * 1000 * 1000)

enum {
    MOMENT_PAGES = 128,     /* half of BOUND_MIN_PAGES */
    WAIT_LEAST_PAGES = 512, /* less is not worth a watch (cache_watch.c) */
    SWEEP_LEAST_PAGES = 16, /* dirty ones, that are worth a call */
    SWEEP_MOST_PAGES = 512,
    PEAK_SHARE = 32,
    PEAK_LEAST_PAGES = 256,
    PEAK_OWED_PAGES = 4096, /* at most, whatever came: it may never be written to */
    PEAK_PIECE_PAGES = 256,
    PAD_PIECES = 8,
};

void page_set_trim_threshold(size_t bytes) {
    lock_take(&S.lock);
    if (!purge_never())
        S.provided_pages = 0;
    STORE_RELAXED(S.trim_threshold_bytes, bytes);
    STORE_RELAXED(S.trim_threshold_set, true);
    keep_merge();
    S.bound_least_pages = bytes >> PAGE_SHIFT;
    S.hot_most_bytes = bytes == SIZE_MAX ? 0 : HOT_MAX_PAGES * PAGE_BYTES;
    if (purge_never())
        headroom_keep();
    STORE_RELAXED(S.excess_ns, LONG_AGO);
    purge_excess();
    purge_note_less();
    lock_drop(&S.lock);
}

/* Also called without the lock: hence the relaxed loads. */
size_t purge_bound_pages(void) {
    if (LOAD_RELAXED(S.trim_threshold_set))
        return LOAD_RELAXED(S.trim_threshold_bytes) >> PAGE_SHIFT;
    size_t live_pages = page_live_bytes() >> PAGE_SHIFT;
    return max_size(max_size(BOUND_MIN_PAGES, live_pages / 8), LOAD_RELAXED(S.budget_pages));
}

size_t page_trim_bound(void) {
    return purge_bound_pages() << PAGE_SHIFT;
}

bool page_trim_threshold_set(void) {
    return LOAD_RELAXED(S.trim_threshold_set);
}

size_t page_hole_bound(size_t otherwise) {
    return LOAD_RELAXED(S.trim_threshold_set) ? LOAD_RELAXED(S.trim_threshold_bytes) : otherwise;
}

static void age_budget(void) {
    uint64_t now = os_clock_ns(), halvings = (now - S.budget_ns) / BUDGET_HALF_LIFE_NS;
    if (halvings == 0)
        return;
    size_t unwanted = min_size(S.unwanted_pages, S.budget_pages);
    size_t left = halvings < 64 ? unwanted >> halvings : 0;
    STORE_RELAXED(S.budget_ns, now);
    STORE_RELAXED(S.budget_pages, S.budget_pages - (unwanted - left));
    S.unwanted_pages = purge_dirty_pages();
}

/* Whether it may be what keeps pages dirty. */
static bool budget_matters(void) {
    return UNLIKELY(LOAD_RELAXED(S.budget_pages) != 0) && !LOAD_RELAXED(S.trim_threshold_set) &&
           purge_dirty_pages() > BOUND_MIN_PAGES;
}

/* Else it may be of any age. */
static bool budget_is_old(void) {
    return budget_matters() && os_clock_ns() - LOAD_RELAXED(S.budget_ns) >= BUDGET_HALF_LIFE_NS;
}

/* They are wanted again, and the budget grows. */
void purge_count_retaken(size_t clean_pages) {
    size_t retaken = min_size(clean_pages, S.purged_outstanding);
    S.purged_outstanding -= retaken;
    purge_spend_on_runs(retaken * FAULT_NS);
    age_budget();
    STORE_RELAXED(S.budget_pages, min_size(S.budget_pages + 2 * retaken, S.peak_zone_pages));
    purge_note_more(); /* B has become less */
}

void purge_note_more(void) {
    if (!S.excess_ns && purge_dirty_pages() > purge_bound_pages())
        STORE_RELAXED(S.excess_ns, os_clock_ns());
}

/* The extent of the highest of the largest dirty blocks that consist of whole system pages: its end, no
 * more than is to go.  Where a system page is several of ours, the block. */
static bool pick_dirty(size_t limit_bytes, struct extent *extent) {
    unsigned min_order = bit_lowest(os_page_bytes() >> PAGE_SHIFT);
    struct region *best = NULL;
    unsigned best_order = 0;
    for (uint32_t rank = 0; (rank = extent_next_region(rank, FIT_DIRTY, 1)) < pagemap_region_count;
         rank++) {
        uint32_t orders = buddy_orders(&pagemap_ranked(rank)->dirty) >> min_order << min_order;
        if (orders && (!best || bit_highest(orders) >= best_order)) {
            best = pagemap_ranked(rank);
            best_order = bit_highest(orders);
        }
    }
    if (!best)
        return false;
    uintptr_t at = best->base + ((uintptr_t)buddy_last(&best->dirty, best_order) << PAGE_SHIFT);
    *extent = (struct extent){at, at + (PAGE_BYTES << best_order)};
    if (min_order == 0) {
        *extent = extent_holding(at);
        extent->start = max_size(extent->start, extent->end - min_size(limit_bytes, extent->end));
    }
    return true;
}

size_t purge_hold(struct extent extent) {
    struct region *region = pagemap_region(extent.start);
    uint32_t pages = (uint32_t)((extent.end - extent.start) >> PAGE_SHIFT);
    size_t dirty_pages = extent_remove(extent);
    pagemap_set_head(region, pagemap_page(region, extent.start), head_make(HEAD_CONT, pages));
    STORE_RELAXED(S.held_pages, S.held_pages + pages);
    return dirty_pages;
}

void purge_let_go(struct extent extent, bool dirty) {
    struct region *region = pagemap_region(extent.start);
    pagemap_set_head(region, pagemap_page(region, extent.start), head_make(HEAD_FREE, 0));
    size_t pages = (extent.end - extent.start) >> PAGE_SHIFT;
    pages = min_size(pages, S.held_pages); /* a child that a handler forked forgot them */
    STORE_RELAXED(S.held_pages, S.held_pages - pages);
    extent_insert(extent, dirty);
}

/* Purges one extent; the lock is dropped meanwhile.  False if the kernel refuses. */
static bool purge_extent(struct extent extent) {
    size_t dirty_pages = purge_hold(extent);
    lock_drop(&S.lock);
    purge_spend_on_runs(purge_calls_ns(1, dirty_pages));
    bool gone = os_purge((void *)extent.start, extent.end - extent.start);
    lock_take(&S.lock);
    purge_let_go(extent, !gone);
    if (!gone) {
        S.purge_refused = true;
        S.refused_ns = os_clock_ns();
    } else {
        STORE_RELAXED(S.purged_total, S.purged_total + dirty_pages);
        S.purged_outstanding += dirty_pages;
    }
    return gone;
}

static size_t purge_down_to(size_t target_pages) {
    size_t before = S.purged_total;
    struct extent extent;
    while (S.dirty_pages > target_pages &&
           pick_dirty((S.dirty_pages - target_pages) << PAGE_SHIFT, &extent))
        if (!purge_extent(extent))
            break;
    return (S.purged_total - before) << PAGE_SHIFT;
}

/* How many free bytes at the top of the break stay if no more dirty pages of it go than there are
 * too many: what lies below is wanted again as it is.  *dirty_pages tells how many go.  The kernel lowers the
 * break under our lock, so that no more than TOP_STEP_BYTES go at once; others are purged without it. */
static size_t top_to_keep(size_t excess_pages, size_t *dirty_pages) {
    struct extent top = zone_top(), block;
    uintptr_t at = top.end;
    bool dirty;
    *dirty_pages = 0;
    while (at > top.start && *dirty_pages < excess_pages && top.end - at < TOP_STEP_BYTES &&
           extent_beside(at - 1, &dirty, &block)) { /* of at most a region */
        size_t pages = (at - block.start) >> PAGE_SHIFT;
        if (dirty)
            pages = min_size(pages, excess_pages - *dirty_pages);
        *dirty_pages += dirty ? pages : 0;
        at -= pages << PAGE_SHIFT;
    }
    return at - top.start;
}

/* The free pages from one on, of either kind, at most SWEEP_MOST_PAGES of its region: they are nobody's while
 * they are purged.  *dirty_pages tells how many are dirty. */
static struct extent free_from(const struct region *region, unsigned first, size_t *dirty_pages) {
    struct fit_extent next;
    unsigned page = first, stop = (unsigned)min_size(REGION_PAGES, first + SWEEP_MOST_PAGES);
    *dirty_pages = 0;
    while (page < stop && fit_beside(&region->fit, page, &next)) {
        unsigned end = (unsigned)min_size(next.first + next.count, stop);
        *dirty_pages += next.kind == FIT_DIRTY ? end - page : 0;
        page = end;
    }
    uintptr_t start = region->base + ((uintptr_t)first << PAGE_SHIFT);
    return (struct extent){start, start + ((uintptr_t)(page - first) << PAGE_SHIFT)};
}

/* Purges what is dirty in whole stretches of free pages, over clean ones that lie between: a small part of
 * the calls that it takes to purge runs as they become free. */
static void sweep(size_t target_pages) {
    hot_merge_all();
    for (uint32_t rank = 0; (rank = extent_next_region(rank, FIT_DIRTY, 1)) < pagemap_region_count;
         rank++)
        for (unsigned page = 0; page < REGION_PAGES && S.dirty_pages > target_pages;) {
            size_t dirty_pages;
            struct extent stretch = free_from(pagemap_ranked(rank), page, &dirty_pages);
            bool worth_it = dirty_pages >= SWEEP_LEAST_PAGES;
            if (worth_it && !(purge_debt_is_bearable() && purge_extent(stretch)))
                return;
            page += (unsigned)max_size((stretch.end - stretch.start) >> PAGE_SHIFT, 1);
        }
}

/* True each time that what is in use has fallen to half since pages last went. */
static bool has_emptied(size_t live_pages) {
    if (live_pages > S.swept_live_pages / 2 || !purge_debt_is_bearable())
        return false;
    S.swept_live_pages = live_pages;
    return true;
}

/* By how much a bound that the user set may be exceeded for a moment. */
static size_t moment_pages(size_t live_pages) {
    size_t quarter = purge_bound_pages() / 4; /* is purged at once in any case */
    if (S.trim_threshold_bytes < MOMENT_LEAST_BYTES || quarter >= MOMENT_PAGES)
        return 0;
    return min_size(MOMENT_PAGES - quarter, live_pages);
}

static bool excess_is_young(size_t live_pages) {
    uint64_t now = os_clock_ns();
    if (!S.excess_ns)
        STORE_RELAXED(S.excess_ns, now);
    if (S.trim_threshold_set)
        return now - S.excess_ns < MOMENT_NS &&
               purge_dirty_pages() <= purge_bound_pages() + moment_pages(live_pages);
    return purge_dirty_pages() <= live_pages && now - S.excess_ns < YOUTH_NS &&
           now - S.fallen_ns >= YOUTH_NS;
}

bool purge_is_due(void) {
    uint64_t since = LOAD_RELAXED(S.excess_ns);
    uint64_t youth_ns = LOAD_RELAXED(S.trim_threshold_set) ? MOMENT_NS : YOUTH_NS;
    return (UNLIKELY(since) && os_clock_ns() - since >= youth_ns) || budget_is_old();
}

bool page_waits(void) {
    return UNLIKELY(purge_dirty_pages() >= WAIT_LEAST_PAGES) &&
           (LOAD_RELAXED(S.excess_ns) != 0 || budget_matters());
}

static void settle(void) {
    lock_take(&S.lock);
    if (keep_is_due())
        keep_merge_old();
    purge_excess();
    lock_drop(&S.lock);
}

void page_settle(void) {
    if (purge_dirty_pages() > purge_bound_pages())
        settle();
}

void page_settle_old(void) {
    if (purge_is_due() || keep_is_due())
        settle();
}

void purge_look_at_less(void) {
    S.unwanted_pages = min_size(S.unwanted_pages, purge_dirty_pages());
    if (S.excess_ns && (purge_dirty_pages() <= purge_bound_pages() || S.purge_refused))
        STORE_RELAXED(S.excess_ns, 0);
}

void purge_end_youth(void) {
    S.fallen_ns = os_clock_ns();
    purge_excess();
}

void page_note_fall(void) {
    lock_take(&S.lock);
    purge_end_youth();
    lock_drop(&S.lock);
}

static size_t resident_pages(void) { /* in use, or dirty */
    return LOAD_RELAXED(S.zone_pages) - LOAD_RELAXED(S.clean_pages) - LOAD_RELAXED(S.held_pages);
}

static void set_peak(size_t pages) {
    S.peak_pages = pages;
    STORE_RELAXED(S.next_peak_pages, pages + max_size(pages / PEAK_SHARE, PEAK_LEAST_PAGES));
}

void purge_begin_peaks(void) {
    set_peak(resident_pages());
    S.peak_owed_pages = 0;
}

/* The first look is without the lock, and may be wrong. */
size_t page_peak_due(void) {
    if (LIKELY(resident_pages() < LOAD_RELAXED(S.next_peak_pages) &&
               LOAD_RELAXED(S.peak_owed_pages) == 0))
        return 0;
    lock_take(&S.lock);
    size_t pages = resident_pages(), owed = S.peak_owed_pages;
    if (pages >= S.next_peak_pages) {
        owed += pages - S.peak_pages;
        set_peak(pages);
    }
    owed = S.trim_threshold_set ? 0 : min_size(owed, PEAK_OWED_PAGES);
    size_t due = min_size(owed, PEAK_PIECE_PAGES);
    STORE_RELAXED(S.peak_owed_pages, owed - due);
    lock_drop(&S.lock);
    return due;
}

static void purge_some(size_t live_pages) {
    if (!purge_affordable(PURGE_RUNS)) {
        if (os_page_bytes() == PAGE_BYTES && has_emptied(live_pages))
            sweep(purge_bound_pages() / 4 * 3);
        return;
    }
    S.swept_live_pages = live_pages;
    hot_merge_all();
    age_budget();
    size_t bound = purge_bound_pages(), target = bound / 4 * 3;
    if (S.trim_threshold_set)
        target = min_size(bound, max_size(target, S.top_pad_bytes >> PAGE_SHIFT));
    if (S.dirty_pages <= target)
        return;
    size_t top_dirty_pages, keep = top_to_keep(S.dirty_pages - target, &top_dirty_pages);
    if (top_dirty_pages > bound / 4 && /* less is not worth moving the break */
        zone_trim_top(max_size(keep, S.top_pad_set ? S.top_pad_bytes : 0)))
        purge_spend_on_runs(purge_calls_ns(1, top_dirty_pages));
    purge_down_to(target);
}

static bool was_refused(void) {
    if (S.purge_refused && os_clock_ns() - S.refused_ns >= REFUSED_NS)
        S.purge_refused = false;
    return S.purge_refused;
}

void purge_down(void) {
    size_t live_pages = page_live_bytes() >> PAGE_SHIFT;
    S.swept_live_pages = max_size(S.swept_live_pages, live_pages);
    if (budget_is_old())
        age_budget();
    if (purge_dirty_pages() <= purge_bound_pages() || was_refused() || excess_is_young(live_pages))
        return;
    purge_some(live_pages);
    purge_note_less();
}

size_t purge_all(void) {
    S.purge_refused = false;
    return purge_down_to(0);
}

void page_purge(size_t bytes) {
    size_t pages = (bytes + PAGE_BYTES - 1) >> PAGE_SHIFT;
    lock_take(&S.lock);
    hot_merge_all();
    purge_down_to(S.dirty_pages - min_size(pages, S.dirty_pages));
    purge_note_less();
    lock_drop(&S.lock);
}

/* Purges all but the pad at the top of the break, of which at most PAD_PIECES are told apart. */
static size_t purge_below(size_t pad_bytes) {
    struct extent top = zone_top(), held[PAD_PIECES], piece;
    uintptr_t low = round_down(top.end - min_size(pad_bytes, top.end - top.start), PAGE_BYTES);
    unsigned count = 0;
    bool dirty;
    for (uintptr_t at = top.end; at > low && count < PAD_PIECES; at = piece.start) {
        if (!extent_beside(at - 1, &dirty, &piece))
            break;
        piece.start = max_size(piece.start, low);
        if (dirty) {
            purge_hold(piece);
            held[count++] = piece;
        }
    }
    size_t bytes = purge_all();
    while (count > 0)
        purge_let_go(held[--count], true);
    return bytes;
}

size_t page_trim(size_t pad_bytes) {
    lock_take(&S.lock);
    huge_retry();
    hot_merge_all();
    size_t bytes = zone_trim_top(pad_bytes);
    bytes += purge_below(pad_bytes);
    purge_note_less();
    headroom_forget();
    lock_drop(&S.lock);
    return bytes;
}
