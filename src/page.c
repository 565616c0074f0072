/* SPDX-License-Identifier: MIT
 *
 * page: runs of pages.
 *
 * PURPOSE  Hand out runs of any length with little waste, without faults where possible, and merge
 *          what comes back.
 *
 * TERMS    run      consecutive pages handed out together
 *          extent   consecutive free pages, whatever blocks they consist of
 *          dirty    free and used before: taking it costs nothing
 *          clean    free, not resident: taking it costs a fault per page, and it reads as zero
 *
 * LAYOUT   Each region keeps its free pages in two buddy sets, dirty and clean.  A run of n pages
 *          is cut from the front of a block or of several adjacent ones; what is left of the blocks
 *          goes back at once.  Lengths are never rounded up.
 *
 *            request of 5 pages:   [ block of 8, dirty ]         [ 4 ][ 2 ] adjacent
 *            taken / put back:     [RRRRR][1][2]          or     [RRRRR ][1]
 *
 * SEARCH   1. a dirty block that is large enough: smallest order, lowest region, lowest address
 *          2. adjacent blocks that together are, around dirty ones of half and a quarter the size
 *          3. and 4. the same with clean ones
 *          5. more pages from the kernel (zone.c)
 *          Every extent of n pages contains a block of at least a quarter of n rounded up to a power
 *          of two, so 2 and 4 see all extents within GATHER_TRIES blocks.
 *
 * STATES   of a page: absent -> free (clean) -> in a run -> free (dirty) -> free (clean) ...
 *          A run's life is told by one word, the head of its first page (INV-MAP-4): HEAD_RUN is
 *          stored after the pages left the sets and replaced before they enter them again.
 *
 * LOCKING  One lock for all of it.  It is not held while the kernel purges (purge.c).
 *
 * FORK     page_repair: every page that no head word claims is free, and dirty, for nothing more is
 *          known of it.
 *
 * WHY NOT  Powers of two as run lengths: 25 % of the memory on average.  One set with a dirty bit:
 *          clean blocks would have to be told apart in every search.
 */
#include "page_internal.h"
#include "sizeclass.h"

#include <string.h>

enum { GATHER_TRIES = 24 };

struct page_state page_state = {.lock = LOCK_INITIALISER(LOCK_PAGE)};
#define S page_state

/* ---- the buddy sets, by address ---------------------------------------------------------------- */

bool extent_holding(uintptr_t address, bool *dirty, struct extent *block) {
    struct region *region = pagemap_region(address);
    unsigned first = 0;
    if (!region)
        return false;
    *dirty = true;
    int order = buddy_holding(&region->dirty, pagemap_page(region, address), &first);
    if (order < 0) {
        *dirty = false;
        order = buddy_holding(&region->clean, pagemap_page(region, address), &first);
    }
    if (order < 0)
        return false;
    block->start = region->base + ((uintptr_t)first << PAGE_SHIFT);
    block->end = block->start + (PAGE_BYTES << order);
    return true;
}

/* The free pages around a free page, extended until want_bytes are found. */
struct extent extent_around(uintptr_t address, size_t want_bytes, bool one_region,
                            bool dirty_only) {
    struct extent extent = {address, address}, block;
    bool dirty;
    if (extent_holding(address, &dirty, &block) && (dirty || !dirty_only))
        extent = block;
    while (extent.end - extent.start < want_bytes) {
        if (one_region && extent.end % REGION_BYTES == 0)
            break;
        if (!extent_holding(extent.end, &dirty, &block) || (dirty_only && !dirty))
            break;
        extent.end = block.end;
    }
    while (extent.end - extent.start < want_bytes) {
        if (one_region && extent.start % REGION_BYTES == 0)
            break;
        if (!extent_holding(extent.start - 1, &dirty, &block) || (dirty_only && !dirty))
            break;
        extent.start = block.start;
    }
    return extent;
}

void extent_insert(struct extent extent, bool dirty) {
    for (uintptr_t at = extent.start; at < extent.end;) {
        struct region *region = pagemap_region(at);
        uintptr_t stop = min_size(extent.end, region->base + REGION_BYTES);
        unsigned count = (unsigned)((stop - at) >> PAGE_SHIFT);
        buddy_insert(dirty ? &region->dirty : &region->clean, pagemap_page(region, at), count);
        size_t *total = dirty ? &S.dirty_pages : &S.clean_pages;
        STORE_RELAXED(*total, *total + count);
        at = stop;
    }
}

/* Takes all pages of the extent out of the sets; they are all free. */
size_t extent_remove(struct extent extent) {
    size_t dirty_pages = 0;
    for (uintptr_t at = extent.start; at < extent.end;) {
        bool dirty;
        struct extent block;
        bool found = extent_holding(at, &dirty, &block);
        quarry_assert(found);
        (void)found;
        struct region *region = pagemap_region(at);
        size_t pages = (block.end - block.start) >> PAGE_SHIFT;
        buddy_remove(dirty ? &region->dirty : &region->clean, pagemap_page(region, block.start),
                     bit_lowest(pages));
        size_t *total = dirty ? &S.dirty_pages : &S.clean_pages;
        STORE_RELAXED(*total, *total - pages);
        uintptr_t stop = min_size(block.end, extent.end);
        if (block.start < at)
            extent_insert((struct extent){block.start, at}, dirty);
        if (stop < block.end)
            extent_insert((struct extent){stop, block.end}, dirty);
        if (dirty)
            dirty_pages += (stop - at) >> PAGE_SHIFT;
        at = stop;
    }
    return dirty_pages;
}

/* ---- search ------------------------------------------------------------------------------------- */

static bool fits(struct extent extent, size_t bytes, size_t align, struct extent *place) {
    uintptr_t start = round_up(extent.start, align);
    if (start < extent.start || start > extent.end || extent.end - start < bytes)
        return false;
    *place = (struct extent){start, start + bytes};
    return true;
}

static struct buddy *set_of(struct region *region, bool dirty) {
    return dirty ? &region->dirty : &region->clean;
}

/* One block that holds the run; blocks are aligned to their size, hence the order covers both. */
static bool find_block(size_t bytes, size_t align, bool dirty, struct extent *place) {
    unsigned order = buddy_order_for(max_size(bytes, align) >> PAGE_SHIFT), found;
    if (order > BUDDY_MAX_ORDER)
        return false;
    for (uint32_t rank = 0; rank < pagemap_region_count; rank++) {
        struct region *region = pagemap_regions[rank];
        int page = buddy_find(set_of(region, dirty), order, &found);
        if (page < 0)
            continue;
        place->start = region->base + ((uintptr_t)page << PAGE_SHIFT);
        place->end = place->start + bytes;
        return true;
    }
    return false;
}

/* Adjacent blocks that hold the run, around blocks of one order. */
static bool gather_around(unsigned order, size_t bytes, size_t align, bool dirty, int *tries,
                          struct extent *place) {
    bool one_region = bytes <= REGION_BYTES;
    for (uint32_t rank = 0; rank < pagemap_region_count; rank++) {
        struct region *region = pagemap_regions[rank];
        struct buddy *set = set_of(region, dirty);
        int page = set->orders >> order & 1 ? buddy_next(set, order, 0) : -1;
        for (; page >= 0; page = buddy_next(set, order, (unsigned)page + (1u << order))) {
            if ((*tries)-- == 0)
                return false;
            uintptr_t at = region->base + ((uintptr_t)page << PAGE_SHIFT);
            struct extent extent =
                extent_around(at, bytes + align - PAGE_BYTES, one_region, false);
            if (fits(extent, bytes, align, place))
                return true;
        }
    }
    return false;
}

static bool gather(size_t bytes, size_t align, bool dirty, struct extent *place) {
    unsigned order = buddy_order_for(bytes >> PAGE_SHIFT);
    if (order == 0)
        return false;
    int tries = GATHER_TRIES;
    unsigned top = (unsigned)min_size(order - 1, BUDDY_MAX_ORDER);
    return gather_around(top, bytes, align, dirty, &tries, place) ||
           (top > 0 && gather_around(top - 1, bytes, align, dirty, &tries, place));
}

static bool find(size_t bytes, size_t align, struct extent *place) {
    return find_block(bytes, align, true, place) || gather(bytes, align, true, place) ||
           find_block(bytes, align, false, place) || gather(bytes, align, false, place);
}

/* ---- runs ---------------------------------------------------------------------------------------- */

/* Stores the head of a run; in later regions of a very long one, first, the words that say so. */
static void set_run_heads(struct extent run, enum head_kind kind) {
    struct region *region = pagemap_region(run.start);
    uint32_t pages = (uint32_t)((run.end - run.start) >> PAGE_SHIFT);
    uint32_t head = kind == HEAD_RUN ? head_make(HEAD_RUN, pages) : head_make(kind, 0);
    if (kind != HEAD_RUN)
        pagemap_set_head(region, pagemap_page(region, run.start), head);
    for (uintptr_t at = round_down(run.start, REGION_BYTES) + REGION_BYTES; at < run.end;
         at += REGION_BYTES) {
        uint32_t rest = (uint32_t)((run.end - at) >> PAGE_SHIFT);
        pagemap_set_head(pagemap_region(at), 0,
                         kind == HEAD_RUN ? head_make(HEAD_CONT, rest) : head_make(kind, 0));
    }
    if (kind == HEAD_RUN)
        pagemap_set_head(region, pagemap_page(region, run.start), head);
}

uintptr_t page_run_take(size_t pages, size_t align_bytes, bool *zero) {
    struct extent place;
    if (pages > PAGE_RUN_MAX || align_bytes > PAGE_RUN_MAX << PAGE_SHIFT)
        return 0;
    lock_take(&S.lock);
    bool found = find(pages << PAGE_SHIFT, align_bytes, &place) ||
                 zone_grow(pages, align_bytes, &place);
    if (found) {
        size_t dirty = extent_remove(place);
        purge_note_taken(pages - dirty);
        set_run_heads(place, HEAD_RUN);
        *zero = dirty == 0;
    }
    lock_drop(&S.lock);
    return found ? place.start : 0;
}

size_t page_run_pages(uintptr_t address) {
    uint32_t head = pagemap_head(address);
    return address % PAGE_BYTES == 0 && head_kind(head) == HEAD_RUN ? head_argument(head) : 0;
}

static void give_locked(struct extent run) {
    set_run_heads(run, HEAD_FREE);
    extent_insert(run, true);
    purge_excess();
}

bool page_run_give(uintptr_t address) {
    lock_take(&S.lock);
    size_t pages = page_run_pages(address);
    if (pages)
        give_locked((struct extent){address, address + (pages << PAGE_SHIFT)});
    lock_drop(&S.lock);
    return pages != 0;
}

/* Both resizes change the run by one store to its head; a run that crosses a region keeps the
 * words in later regions right as well, before it grows and after it shrinks. */
bool page_run_shrink(uintptr_t address, size_t pages) {
    lock_take(&S.lock);
    size_t old = page_run_pages(address);
    uintptr_t cut = address + (pages << PAGE_SHIFT), end = address + (old << PAGE_SHIFT);
    bool possible = pages != 0 && pages < old;
    if (possible) {
        struct region *region = pagemap_region(address);
        pagemap_set_head(region, pagemap_page(region, address),
                         head_make(HEAD_RUN, (uint32_t)pages));
        set_run_heads((struct extent){cut, end}, HEAD_FREE);
        set_run_heads((struct extent){address, cut}, HEAD_RUN);
        extent_insert((struct extent){cut, end}, true);
        purge_excess();
    }
    lock_drop(&S.lock);
    return possible;
}

bool page_run_extend(uintptr_t address, size_t pages) {
    lock_take(&S.lock);
    size_t old = page_run_pages(address);
    uintptr_t end = address + (old << PAGE_SHIFT);
    size_t want = (pages - old) << PAGE_SHIFT;
    bool possible = old != 0 && pages > old && pages <= PAGE_RUN_MAX;
    if (possible && pages <= REGION_PAGES)
        possible = round_down(address, REGION_BYTES) ==
                   round_down(address + (pages << PAGE_SHIFT) - 1, REGION_BYTES);
    if (possible) {
        struct extent next = extent_around(end, want, false, false);
        possible = next.end - end >= want ||
                   (next.end == S.break_top && S.break_top != S.break_start &&
                    zone_grow_break(want - (next.end - end), true) &&
                    /* what came need not lie there: others may have moved the break */
                    extent_around(end, want, false, false).end - end >= want);
    }
    if (possible) {
        struct extent taken = {end, end + want};
        size_t dirty_pages = extent_remove(taken);
        purge_note_taken((want >> PAGE_SHIFT) - dirty_pages);
        set_run_heads((struct extent){address, taken.end}, HEAD_RUN);
    }
    lock_drop(&S.lock);
    return possible;
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

struct slab *page_slab_open(uintptr_t address, size_t pages, unsigned class_index,
                            unsigned objects, bool zero) {
    struct region *region = pagemap_region(address);
    lock_take(&S.lock);
    struct slab *slab = pagemap_slot_take(region);
    lock_drop(&S.lock);
    if (!slab)
        return NULL;
    slab->base = address;
    slab->listed = 0;
    slab->clean_pages = zero ? (uint32_t)bit_mask((unsigned)pages) : 0;
    for (unsigned word = 0; word < SLAB_WORDS; word++)
        slab->word[word] = objects > word * 64 ? bit_mask(objects - word * 64) : 0;
    slab->free_count = (uint16_t)objects;
    STORE_RELAXED(slab->class_index, (uint8_t)class_index);
    uint32_t head = head_make(HEAD_SLAB, (uint32_t)(slab - region->slab));
    unsigned first = pagemap_page(region, address);
    for (size_t i = pages; i-- > 0;) /* the first page last: it is the one that decides */
        pagemap_set_head(region, first + (unsigned)i, head);
    pagemap_set_class(address, pages, class_index);
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
    lock_take(&S.lock);
    pagemap_slot_give(region, slab);
    struct extent run = {address, address + (pages << PAGE_SHIFT)};
    set_run_heads(run, HEAD_FREE);
    extent_insert(run, true);
    lock_drop(&S.lock);
}

void page_settle(void) {
    if (LOAD_RELAXED(S.dirty_pages) == 0)
        return;
    lock_take(&S.lock);
    purge_excess();
    lock_drop(&S.lock);
}

/* ---- figures, repair, verification ------------------------------------------------------------------ */

void page_count(struct page_counts *counts) {
    lock_take(&S.lock);
    size_t blocks = 0;
    for (uint32_t rank = 0; rank < pagemap_region_count; rank++)
        for (unsigned order = 0; order < BUDDY_ORDERS; order++)
            blocks += pagemap_regions[rank]->dirty.count[order] +
                      pagemap_regions[rank]->clean.count[order];
    struct extent top = zone_top();
    *counts = (struct page_counts){
        .zone_bytes = S.zone_pages << PAGE_SHIFT,
        .peak_zone_bytes = S.peak_zone_pages << PAGE_SHIFT,
        .dirty_bytes = S.dirty_pages << PAGE_SHIFT,
        .clean_bytes = S.clean_pages << PAGE_SHIFT,
        .top_bytes = top.end - top.start,
        .run_blocks = blocks,
        .purged_bytes = S.purged_total << PAGE_SHIFT,
        .trimmed_bytes = S.trimmed_total << PAGE_SHIFT,
        .purge_refused = S.purge_refused,
    };
    lock_drop(&S.lock);
}

size_t page_live_bytes(void) {
    size_t zone = LOAD_RELAXED(S.zone_pages);
    size_t free_pages = LOAD_RELAXED(S.dirty_pages) + LOAD_RELAXED(S.clean_pages);
    return zone > free_pages ? (zone - free_pages) << PAGE_SHIFT : 0;
}

/* Calls insert for each maximal stretch of free pages of a region; returns how many pages are ours. */
static size_t rebuild_region(struct region *region) {
    size_t ours = 0;
    memset(&region->dirty, 0, sizeof region->dirty);
    memset(&region->clean, 0, sizeof region->clean);
    for (unsigned page = 0; page < REGION_PAGES;) {
        uint32_t head = region->head[page];
        enum head_kind kind = head_kind(head);
        unsigned pages = 1;
        if (kind == HEAD_RUN || kind == HEAD_CONT)
            pages = (unsigned)min_size(head_argument(head), REGION_PAGES - page);
        if (kind == HEAD_FREE) {
            while (page + pages < REGION_PAGES &&
                   head_kind(region->head[page + pages]) == HEAD_FREE)
                pages++;
            uintptr_t start = region->base + ((uintptr_t)page << PAGE_SHIFT);
            extent_insert((struct extent){start, start + ((uintptr_t)pages << PAGE_SHIFT)}, true);
        }
        if (kind != HEAD_ABSENT)
            ours += pages;
        page += pages;
    }
    return ours;
}

void page_repair(void) {
    if (!lock_broken(&S.lock))
        return;
    S.dirty_pages = S.clean_pages = S.zone_pages = 0;
    for (uint32_t rank = 0; rank < pagemap_region_count; rank++) {
        S.zone_pages += rebuild_region(pagemap_regions[rank]);
        pagemap_repair_slots(pagemap_regions[rank]);
    }
    lock_repair(&S.lock);
}

/* Counts for each page of a region how many sets hold it. */
static void count_held(const struct buddy *set, uint8_t *held) {
    for (unsigned order = 0; order < BUDDY_ORDERS; order++)
        for (int page = buddy_next(set, order, 0); page >= 0;
             page = buddy_next(set, order, (unsigned)page + (1u << order)))
            for (unsigned i = 0; i < 1u << order; i++)
                held[(unsigned)page + i]++;
}

/* Whether a page lies in the slab that it names, and so do the page before it and the last one. */
static bool is_page_of_slab(struct region *region, unsigned page) {
    uint32_t head = region->head[page];
    const struct slab *slab = pagemap_slab(region, head);
    unsigned first = pagemap_page(region, slab->base);
    unsigned pages = size_classes[slab->class_index].pages;
    return page - first < pages && region->head[first + pages - 1] == head &&
           (page == first || region->head[page - 1] == head);
}

/* Every page is free by its head word exactly if one buddy set holds it. */
static const char *verify_region(struct region *region) {
    static uint8_t held[REGION_PAGES]; /* guarded by the page lock */
    unsigned run_end = 0;
    memset(held, 0, sizeof held);
    count_held(&region->dirty, held);
    count_held(&region->clean, held);
    for (unsigned page = 0; page < REGION_PAGES; page++) {
        uint32_t head = region->head[page];
        enum head_kind kind = head_kind(head);
        if (page >= run_end && (kind == HEAD_RUN || kind == HEAD_CONT))
            run_end = page + (unsigned)min_size(head_argument(head), REGION_PAGES - page);
        if (held[page] != (kind == HEAD_FREE && page >= run_end))
            return "INV-MAP-2";
        uintptr_t address = region->base + ((uintptr_t)page << PAGE_SHIFT);
        bool in_slab = kind == HEAD_SLAB && page >= run_end;
        unsigned expected = in_slab ? pagemap_slab(region, head)->class_index : 0;
        size_t index = (address - pagemap_window.base) >> PAGE_SHIFT;
        if (index < pagemap_window.limit && pagemap_window.class_map[index] != expected)
            return "INV-MAP-1";
        if (in_slab && !is_page_of_slab(region, page))
            return "INV-MAP-3";
    }
    return "";
}

const char *page_verify(void) {
    const char *broken = "";
    size_t dirty = 0, clean = 0;
    lock_take(&S.lock);
    for (uint32_t rank = 0; rank < pagemap_region_count && !*broken; rank++) {
        struct region *region = pagemap_regions[rank];
        dirty += region->dirty.pages;
        clean += region->clean.pages;
        broken = buddy_verify(&region->dirty);
        if (!*broken)
            broken = buddy_verify(&region->clean);
        if (!*broken)
            broken = verify_region(region);
    }
    if (!*broken && (dirty != S.dirty_pages || clean != S.clean_pages))
        broken = "INV-BUDDY-3";
    lock_drop(&S.lock);
    return broken;
}
