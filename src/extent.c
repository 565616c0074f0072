/* SPDX-License-Identifier: MIT
 *
 * extent: the free pages, by address, and the search for a place for a run.
 *
 * PURPOSE  Make the two buddy sets of each region look like one set of extents.
 *
 * LAYOUT   A run is cut from the front of a block, or of several adjacent ones; what is left goes back:
 *
 *            request of 5 pages:   [ block of 8, dirty ]         [ 4 ][ 2 ] adjacent
 *            taken / put back:     [RRRRR][1][2]          or     [RRRRR ][1]
 *
 * SEARCH   1. a dirty block that is large enough: smallest order, lowest region, lowest address
 *          2. adjacent dirty blocks that together are, around blocks of half and a quarter the size
 *          3. adjacent blocks of both kinds, around dirty ones
 *          4. and 5. as 1 and 2, clean ones
 *          6. more pages from the kernel (zone.c)
 *          7. where it refuses, 3 and 4 without the limit of GATHER_TRIES blocks
 *          Every extent of n pages contains a block of at least a quarter of n rounded up to a power
 *          of two, so 7 finds what there is.
 *          Where nothing is ever given back, 2 comes first and has no limit, nor has 3: see
 *          docs/decisions.
 *
 * LOCKING  Everything here runs under the page lock.
 */
#include "page_internal.h"

#include <limits.h>

#define S page_state

enum { GATHER_TRIES = 8 };

/* ---- the buddy sets, by address ---------------------------------------------------------------- */

static void block_at(const struct region *region, unsigned first, int order, struct extent *block) {
    block->start = region->base + ((uintptr_t)first << PAGE_SHIFT);
    block->end = block->start + (PAGE_BYTES << order);
}

/* The free block that the address of a free page lies in; returns whether it is dirty. */
static bool extent_holding(uintptr_t address, struct extent *block) {
    struct region *region = pagemap_region(address);
    unsigned first = 0, page = pagemap_page(region, address);
    int order = buddy_holding(&region->dirty, page, &first);
    bool dirty = order >= 0;
    if (!dirty)
        order = buddy_holding(&region->clean, page, &first);
    quarry_assert(order >= 0);
    block_at(region, first, order, block);
    return dirty;
}

/* The free block of a region that begins or ends with the page of an address. */
static bool beside_in(const struct region *region, uintptr_t address, bool *dirty,
                      struct extent *block) {
    unsigned page = pagemap_page(region, address);
    int order = buddy_bounded(&region->dirty, page);
    *dirty = order >= 0;
    if (order < 0)
        order = buddy_bounded(&region->clean, page);
    if (order >= 0)
        block_at(region, page >> order << order, order, block);
    return order >= 0;
}

bool extent_beside(uintptr_t address, bool *dirty, struct extent *block) {
    const struct region *region = pagemap_region(address);
    return region && beside_in(region, address, dirty, block);
}

/* The region of an address, mostly the one at hand. */
static const struct region *region_near(const struct region *region, uintptr_t address) {
    return address - region->base < REGION_BYTES ? region : pagemap_region(address);
}

/* The free pages around a free page, extended until want_bytes are found. */
struct extent extent_around(uintptr_t address, size_t want_bytes, bool one_region,
                            bool dirty_only) {
    struct extent extent = {address, address}, block;
    const struct region *home = pagemap_region(address), *region = home;
    bool dirty;
    if (beside_in(region, address, &dirty, &block) && (dirty || !dirty_only))
        extent = block;
    while (extent.end - extent.start < want_bytes) {
        if (one_region && extent.end % REGION_BYTES == 0)
            break;
        region = region_near(region, extent.end);
        if (!region || !beside_in(region, extent.end, &dirty, &block) || (dirty_only && !dirty))
            break;
        extent.end = block.end;
    }
    region = home;
    while (extent.end - extent.start < want_bytes) {
        if (one_region && extent.start % REGION_BYTES == 0)
            break;
        region = region_near(region, extent.start - 1);
        if (!region || !beside_in(region, extent.start - 1, &dirty, &block) ||
            (dirty_only && !dirty))
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
        struct extent block;
        bool dirty = extent_holding(at, &block);
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

/* Where the smaller free blocks directly below a block begin: they are what earlier runs left of
 * their blocks.  A run that starts there leaves nothing between itself and its predecessor; else runs
 * of 5 pages would take 8 pages each. */
static uintptr_t slide_down(uintptr_t start, unsigned order, bool dirty) {
    struct extent block;
    bool is_dirty;
    while (start % REGION_BYTES != 0 && extent_beside(start - 1, &is_dirty, &block) &&
           is_dirty == dirty && block.end - block.start < PAGE_BYTES << order)
        start = block.start;
    return start;
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
        uintptr_t start = region->base + ((uintptr_t)page << PAGE_SHIFT);
        if (bytes < PAGE_BYTES << found)
            start = round_up(slide_down(start, found, dirty), align);
        *place = (struct extent){start, start + bytes};
        return true;
    }
    return false;
}

/* What a search may take: blocks of one kind, or free pages of both that lie around dirty ones. */
enum pages { DIRTY, CLEAN, BOTH };

/* Adjacent blocks that hold the run, around blocks of one order. */
static bool gather_around(unsigned order, size_t bytes, size_t align, enum pages which, int *left,
                          struct extent *place) {
    bool one_region = !run_may_cross(bytes), dirty = which != CLEAN;
    for (uint32_t rank = 0; rank < pagemap_region_count; rank++) {
        struct region *region = pagemap_regions[rank];
        struct buddy *set = set_of(region, dirty);
        int page = set->orders >> order & 1 ? buddy_next(set, order, 0) : -1;
        for (; page >= 0; page = buddy_next(set, order, (unsigned)page + (1u << order))) {
            if (*left == 0)
                return false;
            --*left;
            uintptr_t at = region->base + ((uintptr_t)page << PAGE_SHIFT);
            size_t want = bytes + align - PAGE_BYTES;
            if (!fits(extent_around(at, want, one_region, which == DIRTY), bytes, align, place))
                continue;
            place->start = round_up(slide_down(place->start, order, dirty), align);
            place->end = place->start + bytes;
            return true;
        }
    }
    return false;
}

static bool gather(size_t bytes, size_t align, enum pages which, int left, struct extent *place) {
    unsigned order = buddy_order_for(bytes >> PAGE_SHIFT);
    if (order == 0)
        return false;
    unsigned top = (unsigned)min_size(order - 1, BUDDY_MAX_ORDER);
    return gather_around(top, bytes, align, which, &left, place) ||
           (top > 0 && gather_around(top - 1, bytes, align, which, &left, place));
}

/* Whoever never gives back wants every page used before a new one: no limit then, and holes of about
 * the length before longer ones. */
bool extent_find_dirty(size_t bytes, size_t align, struct extent *place) {
    if (purge_never() && gather(bytes, align, DIRTY, INT_MAX, place))
        return true;
    return find_block(bytes, align, true, place) ||
           gather(bytes, align, DIRTY, GATHER_TRIES, place);
}

bool extent_find(size_t bytes, size_t align, struct extent *place) {
    return extent_find_dirty(bytes, align, place) ||
           gather(bytes, align, BOTH, purge_never() ? INT_MAX : GATHER_TRIES, place) ||
           find_block(bytes, align, false, place) ||
           gather(bytes, align, CLEAN, GATHER_TRIES, place);
}

bool extent_find_any(size_t bytes, size_t align, struct extent *place) {
    return gather(bytes, align, BOTH, INT_MAX, place) ||
           gather(bytes, align, CLEAN, INT_MAX, place);
}
