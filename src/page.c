/* SPDX-License-Identifier: MIT
 *
 * page: runs of pages.
 *
 * PURPOSE  Hand out runs of any length with little waste, without faults where possible, and merge
 *          what comes back.  Where a run is cut from is extent.c's question.
 *
 * TERMS    run      consecutive pages handed out together
 *          extent   consecutive free pages, whatever blocks they consist of
 *          dirty    free and used before: taking it costs nothing
 *          clean    free, not resident: taking it costs a fault per page, and it reads as zero
 *
 * LAYOUT   Each region keeps its free pages in two buddy sets, dirty and clean, and as extents by
 *          length.  A run of n pages is cut from the front of the shortest extent that holds it; what
 *          is left goes back at once.  Lengths are never rounded up.  Runs that came back a moment ago stay
 *          whole for a while, apart from the sets: short ones in hot.c, the last long one in last.c.
 *
 * STATES   of a page: absent -> free (clean) -> in a run -> free (dirty) -> free (clean) ...
 *          A run's life is told by one word, the head of its first page (INV-MAP-4): HEAD_RUN is
 *          stored after the pages left the sets and replaced before they enter them again.
 *
 * LOCKING  One lock for all of it.  It is not held while the kernel purges (purge.c).
 *
 * FORK     page_repair.c rebuilds the sets from the head words.
 *
 * WHY NOT  Powers of two as run lengths: 25 % of the memory on average.  One set with a dirty bit:
 *          clean blocks would have to be told apart in every search.
 */
#include "os.h"
#include "page_internal.h"
#include "sizeclass.h"

#include <string.h>

struct page_state page_state = {.lock = LOCK_INITIALISER(LOCK_PAGE),
                                .credit_ns = CREDIT_FIRST_NS,
                                .headroom_percent = 17,
                                .bound_least_pages = BOUND_MIN_PAGES,
                                .next_peak_pages = BOUND_MIN_PAGES,
                                .hot_most_bytes = HOT_MAX_PAGES * PAGE_BYTES};
#define S page_state

/* What another thread purges comes back: a few milliseconds for the largest. */
enum { HELD_YIELDS = 10000 };

enum { ROOM_SHARE = 4 }; /* of a run's length that is free at each end of a roomy place */

/* ---- runs ---------------------------------------------------------------------------------------- */

/* Stores the head of a run; in later regions of a very long one, first, the words that say so.  Free is the other way
 * round: from the first word on it is no run. */
void run_set_heads(struct extent run, enum head_kind kind) {
    struct region *region = pagemap_region(run.start);
    bool taken = kind != HEAD_FREE;
    uint32_t pages = (uint32_t)((run.end - run.start) >> PAGE_SHIFT);
    uint32_t head = head_make(kind, taken ? pages : 0);
    if (!taken)
        pagemap_set_head(region, pagemap_page(region, run.start), head);
    for (uintptr_t at = round_down(run.start, REGION_BYTES) + REGION_BYTES; at < run.end;
         at += REGION_BYTES) {
        uint32_t rest = (uint32_t)((run.end - at) >> PAGE_SHIFT);
        pagemap_set_head(pagemap_region(at), 0,
                         taken ? head_make(HEAD_CONT, rest) : head_make(HEAD_FREE, 0));
    }
    if (taken)
        pagemap_set_head(region, pagemap_page(region, run.start), head);
}

bool run_may_lie_at(uintptr_t address, size_t pages) {
    size_t bytes = pages << PAGE_SHIFT;
    return run_may_cross(bytes) ||
           round_down(address, REGION_BYTES) == round_down(address + bytes - 1, REGION_BYTES);
}

static ALWAYS_INLINE bool find_place(size_t pages, size_t align_bytes, struct extent *place) {
    size_t bytes = pages << PAGE_SHIFT;
    if (UNLIKELY(S.huge_percent) && pages <= HUGE_RUN_PAGES &&
        !extent_find_dirty(bytes, align_bytes, place))
        huge_fill();
    if (UNLIKELY(S.last.start))
        last_merge();
    if (UNLIKELY(LOAD_RELAXED(keep_any)))
        keep_merge();
    return extent_find(bytes, align_bytes, place) ||
           (hot_merge_all() && extent_find(bytes, align_bytes, place)) ||
           zone_grow(pages, align_bytes, place) || extent_find_any(bytes, align_bytes, place);
}

/* Returns whether the place is known to read as zero. */
static ALWAYS_INLINE bool claim(struct extent place) {
    size_t dirty = extent_remove(place);
    purge_note_taken(((place.end - place.start) >> PAGE_SHIFT) - dirty);
    return dirty == 0;
}

static ALWAYS_INLINE bool take_free(size_t pages, size_t align_bytes, struct extent *place,
                                    bool *zero) {
    if (!find_place(pages, align_bytes, place))
        return false;
    *zero = claim(*place);
    return true;
}

/* Where nothing is ever given back: no fault while there are dirty pages, and headroom. */
static NOINLINE bool take_kept(size_t pages, size_t align_bytes, struct extent *place, bool *zero) {
    if (!extent_find_dirty(pages << PAGE_SHIFT, align_bytes, place))
        hot_merge_all();
    bool found = take_free(pages, align_bytes, place, zero);
    if (found)
        headroom_keep();
    return found;
}

/* Whether the extent that a place was found in is shorter than the last run. */
static bool is_shorter_than_last(struct extent place) {
    struct extent found = extent_holding(place.start);
    return found.end - found.start < S.last.end - S.last.start;
}

/* Dirty pages where there is a last run: best fit, as if it was in the sets. */
static NOINLINE bool take_beside_last(size_t pages, size_t align_bytes, struct extent *place) {
    bool fits = last_pages() >= pages && S.last.start % align_bytes == 0 &&
                run_may_lie_at(S.last.start, pages);
    bool exact = fits && last_pages() == pages;
    if (!exact && extent_find_one(pages << PAGE_SHIFT, align_bytes, place) &&
        (!fits || is_shorter_than_last(*place)))
        claim(*place);
    else if (fits)
        *place = last_take(pages);
    else
        return false;
    return true;
}

/* Dirty pages where there is a kept run, which is merged otherwise. */
static NOINLINE bool take_beside_kept(size_t pages, size_t align_bytes, struct extent *place) {
    if (!extent_find_one(pages << PAGE_SHIFT, align_bytes, place))
        return false;
    claim(*place);
    return true;
}

/* Hot runs first; where nothing else is found, what they merge to. */
static bool take_locked(size_t pages, size_t align_bytes, struct extent *place, bool *zero) {
    *zero = false;
    if (pages <= HOT_MAX_PAGES && hot_take(pages, align_bytes, place))
        return true;
    if (UNLIKELY(S.last.start) && take_beside_last(pages, align_bytes, place))
        return true;
    if (UNLIKELY(purge_never()))
        return take_kept(pages, align_bytes, place, zero);
    if (UNLIKELY(LOAD_RELAXED(keep_any)) && !S.last.start &&
        take_beside_kept(pages, align_bytes, place))
        return true;
    return take_free(pages, align_bytes, place, zero);
}

static void give_long(struct extent run) {
    run_set_heads(run, HEAD_FREE);
    if (!last_give(run))
        extent_insert(run, true);
}

/* What is kept for the calling thread does not serve it now. */
static void give_kept(void) {
    struct extent kept;
    if (!keep_leave(&kept))
        return;
    give_long(kept);
    purge_note_more();
}

uintptr_t page_run_take(size_t pages, size_t align_bytes, bool *zero) {
    struct extent place;
    if (pages > PAGE_RUN_MAX || align_bytes > PAGE_RUN_MAX << PAGE_SHIFT)
        return 0;
    lock_take(&S.lock);
    if (pages > HOT_MAX_PAGES && UNLIKELY(LOAD_RELAXED(keep_any)))
        give_kept();
    bool found = take_locked(pages, align_bytes, &place, zero);
    for (int i = 0; UNLIKELY(!found) && S.held_pages > 0 && i < HELD_YIELDS; i++) {
        lock_drop(&S.lock);
        os_yield();
        lock_take(&S.lock);
        found = take_locked(pages, align_bytes, &place, zero);
    }
    if (found)
        run_set_heads(place, HEAD_RUN);
    if (found && pages > HOT_MAX_PAGES)
        keep_note_taken(pages);
    purge_note_less();
    lock_drop(&S.lock);
    return found ? place.start : 0;
}

/* The free pages at each end of a roomy run.  Where it may not cross regions, the whole place may not. */
static size_t room_beside(size_t pages) {
    size_t room = pages / ROOM_SHARE, most = (RUN_CROSS_BYTES >> PAGE_SHIFT) - 1;
    return run_may_cross(pages << PAGE_SHIFT) ? room : min_size(room, (most - pages) / 2);
}

/* The gap before the run is there for its neighbour, which may be one that grows as well. */
uintptr_t page_run_take_roomy(size_t pages) {
    struct extent place;
    size_t room = room_beside(pages), whole = pages + 2 * room;
    lock_take(&S.lock);
    bool found = !purge_never() && whole <= PAGE_RUN_MAX && find_place(whole, PAGE_BYTES, &place);
    if (found) {
        place.start += room << PAGE_SHIFT;
        place.end -= room << PAGE_SHIFT;
        bool all_clean = claim(place);
        run_set_heads(place, HEAD_RUN);
        if (all_clean && purge_dirty_pages() > purge_bound_pages())
            purge_end_youth(); /* the places that such runs have left do not serve them */
    }
    purge_note_less();
    lock_drop(&S.lock);
    return found ? place.start : 0;
}

/* A short run that lies before the last one was cut from it, as likely as not. */
static void give_locked(struct extent run) {
    if (run.end - run.start <= S.hot_most_bytes && run.end != S.last.start)
        hot_give(run);
    else
        give_long(run);
}

/* The pages of a run of which some are clean: bit i tells of page i.  For who wants no fault; else such
 * runs stay whole and count as dirty, for apart they would be passed over for other clean pages. */
static void give_parts(struct extent run, uint32_t clean) {
    run_set_heads(run, HEAD_FREE);
    for (uintptr_t at = run.start, end; at < run.end; at = end, clean >>= 1) {
        bool is_clean = clean & 1;
        for (end = at + PAGE_BYTES; end < run.end && (clean >> 1 & 1) == is_clean; clean >>= 1)
            end += PAGE_BYTES;
        extent_insert((struct extent){at, end}, !is_clean);
    }
}

bool page_run_give(uintptr_t address) {
    if (keep_give(address))
        return true;
    lock_take(&S.lock);
    size_t pages = page_run_pages(address);
    if (pages > HOT_MAX_PAGES)
        keep_note_given(pages);
    if (pages) {
        give_locked((struct extent){address, address + (pages << PAGE_SHIFT)});
        purge_excess();
    }
    lock_drop(&S.lock);
    return pages != 0;
}

/* Of a run's class and its head the class comes last and goes first: see cache_runs.c. */
unsigned page_runs_take(size_t pages, void **runs, unsigned most) {
    unsigned taken = 0;
    struct extent run;
    if (pages > HOT_MAX_PAGES || !LOAD_RELAXED(S.hot_of[pages]))
        return 0;
    lock_take(&S.lock);
    for (; taken < most && hot_take(pages, PAGE_BYTES, &run); taken++) {
        run_set_heads(run, HEAD_RUN);
        pagemap_set_class(run.start, 1, sizeclass_of_run(pages));
        runs[taken] = (void *)run.start;
    }
    purge_note_less();
    lock_drop(&S.lock);
    return taken;
}

unsigned page_runs_give(size_t pages, void *const *runs, unsigned count) {
    unsigned given = 0;
    lock_take(&S.lock);
    for (; given < count && page_run_pages((uintptr_t)runs[given]) == pages; given++) {
        uintptr_t address = (uintptr_t)runs[given];
        pagemap_set_class(address, 1, 0);
        give_locked((struct extent){address, address + (pages << PAGE_SHIFT)});
    }
    purge_excess();
    lock_drop(&S.lock);
    return given;
}

/* Both resizes change the run by one store to its head; a run that crosses a region keeps the
 * words in later regions right as well, before it grows and after it shrinks. */
bool page_run_shrink(uintptr_t address, size_t pages) {
    if (keep_resize(address, pages))
        return true;
    lock_take(&S.lock);
    size_t old = page_run_pages(address);
    uintptr_t cut = address + (pages << PAGE_SHIFT), end = address + (old << PAGE_SHIFT);
    bool possible = pages != 0 && pages < old && run_may_lie_at(address, pages);
    if (possible) {
        struct region *region = pagemap_region(address);
        pagemap_set_head(region, pagemap_page(region, address),
                         head_make(HEAD_RUN, (uint32_t)pages));
        run_set_heads((struct extent){cut, end}, HEAD_FREE);
        run_set_heads((struct extent){address, cut}, HEAD_RUN);
        give_long((struct extent){cut, end});
        keep_note_resized(old, pages);
        purge_excess();
    }
    lock_drop(&S.lock);
    return possible;
}

static bool room_at(uintptr_t end, size_t want, bool dirty_only) {
    return extent_around(end, want, false, dirty_only).end - end >= want;
}

/* Who never gives memory back wants no fault either: the run had better move to dirty pages. */
static bool better_elsewhere(uintptr_t end, size_t want, size_t pages) {
    struct extent place;
    return purge_never() && !room_at(end, want, true) &&
           extent_find_dirty(pages << PAGE_SHIFT, PAGE_BYTES, &place);
}

/* The pages behind the run are the last run's. */
static bool extend_into_last(uintptr_t address, uintptr_t end, size_t more_pages) {
    if (S.last.start != end || last_pages() < more_pages)
        return false;
    run_set_heads((struct extent){address, last_take(more_pages).end}, HEAD_RUN);
    return true;
}

/* Makes the pages there free, if they can be. */
static bool make_room_at(uintptr_t end, size_t want) {
    struct extent next = extent_around(end, want, false, false);
    bool hot = next.end == S.last.start || head_kind(pagemap_head(next.end)) == HEAD_CONT;
    if (next.end - end < want && hot && hot_merge_all()) /* or kept */
        next = extent_around(end, want, false, false);
    return next.end - end >= want ||
           (next.end == S.break_top && S.break_top != S.break_start &&
            zone_grow_break(want - (next.end - end), true) &&
            /* what came need not lie there: others may have moved the break */
            room_at(end, want, false));
}

static bool extend(uintptr_t address, size_t old_pages, size_t pages) {
    struct extent more = {address + (old_pages << PAGE_SHIFT), address + (pages << PAGE_SHIFT)};
    size_t want = more.end - more.start;
    if (extend_into_last(address, more.start, pages - old_pages))
        return true;
    if (better_elsewhere(more.start, want, pages) || !make_room_at(more.start, want))
        return false;
    size_t dirty_pages = extent_remove(more);
    purge_note_taken((want >> PAGE_SHIFT) - dirty_pages);
    run_set_heads((struct extent){address, more.end}, HEAD_RUN);
    if (purge_never())
        headroom_keep();
    return true;
}

bool page_run_extend(uintptr_t address, size_t pages) {
    if (UNLIKELY(LOAD_RELAXED(keep_any)) && keep_resize(address, pages))
        return true;
    lock_take(&S.lock);
    size_t old = page_run_pages(address);
    bool possible =
        old != 0 && pages > old && pages <= PAGE_RUN_MAX && run_may_lie_at(address, pages);
    bool done = possible && extend(address, old, pages);
    if (done && pages > HOT_MAX_PAGES)
        keep_note_resized(old, pages);
    if (done)
        purge_note_less();
    lock_drop(&S.lock);
    return done;
}

uintptr_t page_run_around(uintptr_t address, size_t *pages) {
    uintptr_t page = round_down(address, PAGE_BYTES);
    uintptr_t at = page;
    uint32_t head = pagemap_head(at);
    while (head_kind(head) == HEAD_FREE || head_kind(head) == HEAD_CONT) {
        at -= PAGE_BYTES;
        head = pagemap_head(at);
    }
    if (head_kind(head) != HEAD_RUN)
        return 0;
    *pages = head_argument(head);
    return page < at + (*pages << PAGE_SHIFT) ? at : 0;
}

/* ---- slabs ---------------------------------------------------------------------------------------- */

struct slab *page_slab_open(uintptr_t address, size_t pages, unsigned class_index, unsigned shard,
                            unsigned objects, bool zero) {
    struct region *region = pagemap_region(address);
    lock_take(&S.lock);
    struct slab *slab = pagemap_slot_take(region);
    if (!slab) {
        lock_drop(&S.lock);
        return NULL;
    }
    STORE_RELAXED(slab->base, address);
    STORE_RELAXED(slab->shard, (uint8_t)shard);
    slab->clean_pages = zero ? (uint32_t)bit_mask((unsigned)pages) : 0;
    for (unsigned word = 0; word < SLAB_WORDS; word++)
        STORE_RELAXED(slab->word[word], objects > word * 64 ? bit_mask(objects - word * 64) : 0);
    STORE_RELAXED(slab->objects, (uint8_t)objects);
    slab->free_count = 0;                                   /* it is in no list yet */
    STORE_RELEASE(slab->class_index, (uint8_t)class_index); /* who sees it sees the shard */
    uint32_t head = head_make(HEAD_SLAB, (uint32_t)(slab - region->slab));
    unsigned first = pagemap_page(region, address);
    quarry_assert(first + pages <= REGION_PAGES);
    for (size_t i = pages; i-- > 0;) /* the first page last: it is the one that decides */
        pagemap_set_head(region, first + (unsigned)i, head);
    pagemap_set_class(address, pages, class_index);
    lock_drop(&S.lock); /* not before: a repair gives back a slot that no head names */
    return slab;
}

void page_slab_close(struct slab *slab, size_t pages) {
    uintptr_t address = slab->base;
    struct region *region = pagemap_region(address);
    unsigned first = pagemap_page(region, address);
    pagemap_set_class(address, pages, 0);
    pagemap_set_head(region, first, head_make(HEAD_RUN, (uint32_t)pages));
    for (unsigned i = 1; i < pages; i++)
        pagemap_set_head(region, first + i, head_make(HEAD_FREE, 0));
    STORE_RELAXED(slab->class_index, 0);
    struct extent run = {address, address + (pages << PAGE_SHIFT)};
    uint32_t clean = slab->clean_pages;
    lock_take(&S.lock);
    pagemap_slot_give(region, slab);
    if (clean && purge_never())
        give_parts(run, clean);
    else
        give_locked(run);
    lock_drop(&S.lock);
}
