/* SPDX-License-Identifier: MIT
 *
 * extent: the free pages, by address, and the search for a place for a run.
 *
 * PURPOSE  Keep what is known of free pages together: a buddy set of each kind, dirty and clean, which
 *          tells the aligned blocks, and fit.c's lists, which tell the extents.
 *
 * LAYOUT   A run is cut from the front of an extent; what is left goes back:
 *
 *            request of 5 pages:   [ extent of 7, dirty ]
 *            taken / put back:     [RRRRR][ 2 ]
 *
 * SEARCH   1. the shortest dirty extent that holds it; aligned: the smallest dirty block that does
 *          2. a dirty extent and what lies beside it, of either kind: GATHER_TRIES of the longest
 *          3. as 1, clean; aligned: then any place that is free, of both kinds
 *          4. more pages from the kernel (zone.c)
 *          5. where it refuses, 2 without the limit of tries, and around clean extents
 *          Runs that may cross regions also look across their borders in 1 and 3.
 *          Where nothing is ever given back, 2 has no limit either: see docs/decisions.
 *
 * INVARIANT
 *   INV-EXTENT-1  extent_longest() says of each region what its longest extent of each kind is.
 *
 * LOCKING  Everything here runs under the page lock.
 */
#include "page_internal.h"

#include <limits.h>

#define S page_state

enum { GATHER_TRIES = 8 };

/* ---- by region ----------------------------------------------------------------------------------- */

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "list[0] is the lowest byte of word");
_Static_assert(FIT_BINS < 128, "no sum of two bytes carries into the next one");

static ALWAYS_INLINE union region_notes *notes_of(uint32_t rank, enum fit_kind kind) {
    return &pagemap_chunks[rank / CHUNK_REGIONS]->longest[rank % CHUNK_REGIONS / 8][kind];
}

/* Bytes of a word that are large enough have their highest bit set once a number is added to all. */
static ALWAYS_INLINE uint32_t next_region(uint32_t rank, enum fit_kind kind, unsigned list) {
    uint64_t passed = bit_mask(rank % 8 * 8);
    for (rank = rank / 8 * 8; rank < pagemap_region_count; rank += 8, passed = 0) {
        uint64_t sums = notes_of(rank, kind)->word + EACH_BYTE(128 - list);
        uint64_t enough = sums & EACH_BYTE(128) & ~passed;
        if (enough)
            return rank + bit_lowest(enough) / 8;
    }
    return pagemap_region_count;
}

uint32_t extent_next_region(uint32_t rank, enum fit_kind kind, unsigned list) {
    return next_region(rank, kind, list);
}

unsigned extent_longest(uint32_t rank, enum fit_kind kind) {
    return notes_of(rank, kind)->list[rank % 8];
}

static inline void note_longest(const struct region *region, enum fit_kind kind) {
    notes_of(region->rank, kind)->list[region->rank % 8] = (uint8_t)fit_longest(&region->fit, kind);
}

void extent_forget(const struct region *region) {
    note_longest(region, FIT_DIRTY);
    note_longest(region, FIT_CLEAN);
}

/* ---- by address ---------------------------------------------------------------------------------- */

static struct buddy *set_of(struct region *region, enum fit_kind kind) {
    return kind == FIT_DIRTY ? &region->dirty : &region->clean;
}

static struct extent to_extent(const struct region *region, struct fit_extent found) {
    uintptr_t start = region->base + ((uintptr_t)found.first << PAGE_SHIFT);
    return (struct extent){start, start + ((uintptr_t)found.count << PAGE_SHIFT)};
}

/* The extent of a region that begins or ends with the page of an address. */
static bool beside_in(const struct region *region, uintptr_t address, bool *dirty,
                      struct extent *extent) {
    struct fit_extent found;
    if (!fit_beside(&region->fit, pagemap_page(region, address), &found))
        return false;
    *dirty = found.kind == FIT_DIRTY;
    *extent = to_extent(region, found);
    return true;
}

bool extent_beside(uintptr_t address, bool *dirty, struct extent *extent) {
    const struct region *region = pagemap_region(address);
    return region && beside_in(region, address, dirty, extent);
}

struct extent extent_holding(uintptr_t address) {
    const struct region *region = pagemap_region(address);
    return to_extent(region, fit_holding(&region->fit, pagemap_page(region, address)));
}

bool extent_clean(struct extent *extent) {
    uint32_t rank = next_region(0, FIT_CLEAN, 1);
    struct fit_walk walk = {0, 0};
    struct fit_extent found;
    if (rank == pagemap_region_count ||
        !fit_next(&pagemap_ranked(rank)->fit, FIT_CLEAN, &walk, &found))
        return false;
    *extent = to_extent(pagemap_ranked(rank), found);
    return true;
}

/* The region of an address, mostly the one at hand. */
static const struct region *region_near(const struct region *region, uintptr_t address) {
    return address - region->base < REGION_BYTES ? region : pagemap_region(address);
}

/* The free pages around the first page of an extent, until there are want_bytes. */
struct extent extent_around(uintptr_t address, size_t want_bytes, bool one_region,
                            bool dirty_only) {
    struct extent extent = {address, address}, block;
    const struct region *home = pagemap_region(address), *region = home;
    bool dirty;
    if (!home) /* beyond the last zone */
        return extent;
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
    enum fit_kind kind = dirty ? FIT_DIRTY : FIT_CLEAN;
    for (uintptr_t at = extent.start; at < extent.end;) {
        struct region *region = pagemap_region(at);
        uintptr_t stop = min_size(extent.end, region->base + REGION_BYTES);
        unsigned first = pagemap_page(region, at), count = (unsigned)((stop - at) >> PAGE_SHIFT);
        buddy_insert(set_of(region, kind), first, count);
        fit_insert(&region->fit, kind, first, count);
        note_longest(region, kind);
        size_t *total = dirty ? &S.dirty_pages : &S.clean_pages;
        STORE_RELAXED(*total, *total + count);
        at = stop;
    }
}

/* Takes all pages of the extent out of the sets; they are all free. */
size_t extent_remove(struct extent extent) {
    size_t dirty_pages = 0;
    for (uintptr_t at = extent.start; at < extent.end;) {
        struct region *region = pagemap_region(at);
        unsigned first = pagemap_page(region, at);
        struct fit_extent held = fit_holding(&region->fit, first);
        uintptr_t stop = min_size(extent.end, to_extent(region, held).end);
        unsigned count = (unsigned)((stop - at) >> PAGE_SHIFT);
        buddy_remove(set_of(region, held.kind), first, count);
        fit_remove(&region->fit, held, first, count);
        note_longest(region, held.kind);
        size_t *total = held.kind == FIT_DIRTY ? &S.dirty_pages : &S.clean_pages;
        STORE_RELAXED(*total, *total - count);
        dirty_pages += held.kind == FIT_DIRTY ? count : 0;
        at = stop;
    }
    return dirty_pages;
}

/* ---- search -------------------------------------------------------------------------------------- */

static bool fits(struct extent extent, size_t bytes, size_t align, struct extent *place) {
    uintptr_t start = round_up(extent.start, align);
    if (start < extent.start || start > extent.end || extent.end - start < bytes)
        return false;
    *place = (struct extent){start, start + bytes};
    return true;
}

/* Blocks are aligned to their size, hence the order covers both. */
static bool find_block(struct region *region, size_t bytes, size_t align, enum fit_kind kind,
                       struct extent *place) {
    unsigned order = buddy_order_for(max_size(bytes, align) >> PAGE_SHIFT), found;
    int page = order <= BUDDY_MAX_ORDER ? buddy_find(set_of(region, kind), order, &found) : -1;
    if (page < 0)
        return false;
    uintptr_t start = region->base + ((uintptr_t)page << PAGE_SHIFT);
    *place = (struct extent){start, start + bytes};
    return true;
}

static bool find_in(struct region *region, size_t bytes, size_t align, enum fit_kind kind,
                    struct extent *place) {
    struct fit_extent found;
    if (align > PAGE_BYTES && find_block(region, bytes, align, kind, place))
        return true;
    size_t pages = (bytes + align - PAGE_BYTES) >> PAGE_SHIFT;
    return fit_find(&region->fit, kind, (unsigned)min_size(pages, UINT_MAX), &found) &&
           fits(to_extent(region, found), bytes, align, place);
}

/* Extents of lists before this one are too short. */
static unsigned list_for(size_t bytes) {
    return fit_list_for((unsigned)min_size(bytes >> PAGE_SHIFT, REGION_PAGES));
}

static bool find(size_t bytes, size_t align, enum fit_kind kind, struct extent *place) {
    unsigned least = list_for(bytes);
    uint32_t rank = 0;
    while ((rank = next_region(rank, kind, least)) < pagemap_region_count)
        if (find_in(pagemap_ranked(rank++), bytes, align, kind, place))
            return true;
    return false;
}

struct wish {
    size_t bytes, align;
    bool one_region, same_kind;
};

/* What is free around a page that is. */
static bool fits_around(uintptr_t at, const struct wish *wish, struct extent *place) {
    struct extent around = extent_around(at, wish->bytes + wish->align - PAGE_BYTES,
                                         wish->one_region, wish->same_kind);
    return fits(around, wish->bytes, wish->align, place);
}

/* Where a region has nothing else beside its extents, only those at its borders are longer than they seem. */
static bool fits_at_borders(const struct region *region, const struct wish *wish,
                            struct extent *place) {
    uintptr_t borders[] = {region->base, region->base + REGION_BYTES - PAGE_BYTES};
    struct extent found;
    bool dirty;
    for (size_t i = 0; i < 2; i++)
        if (extent_beside(borders[i], &dirty, &found) && fits_around(found.start, wish, place))
            return true;
    return false;
}

/* The longest extents of a kind, each with what lies beside it: more of the kind in other regions, or
 * anything that is free. */
static bool gather(size_t bytes, size_t align, enum fit_kind kind, bool same_kind, int tries,
                   struct extent *place) {
    struct wish wish = {bytes, align, !run_may_cross(bytes), same_kind};
    enum fit_kind other = kind == FIT_DIRTY ? FIT_CLEAN : FIT_DIRTY;
    unsigned least = list_for(bytes);
    for (uint32_t rank = 0; (rank = next_region(rank, kind, 1)) < pagemap_region_count; rank++) {
        const struct region *region = pagemap_ranked(rank);
        bool alone = same_kind || !extent_longest(rank, other);
        if (alone && extent_longest(rank, kind) < least) {
            if (!wish.one_region && fits_at_borders(region, &wish, place))
                return true;
            continue;
        }
        struct fit_walk walk = {0, 0};
        struct fit_extent found;
        while (fit_next(&region->fit, kind, &walk, &found)) {
            if (tries-- == 0)
                return false;
            if (fits_around(to_extent(region, found).start, &wish, place))
                return true;
        }
    }
    return false;
}

static uint64_t free_pages_of(const struct region *region, unsigned word) {
    return region->dirty.free[word] | region->clean.free[word];
}

/* The first page from start on that is not free, but none beyond end. */
static uintptr_t free_until(uintptr_t start, uintptr_t end) {
    for (uintptr_t at = start; at < end;) {
        const struct region *region = pagemap_region(at);
        if (!region)
            return at;
        unsigned page = pagemap_page(region, at), bit = page % 64;
        uint64_t taken = ~free_pages_of(region, page / 64) >> bit;
        unsigned count = (unsigned)min_size((end - at) >> PAGE_SHIFT, 64 - bit);
        if (taken & bit_mask(count))
            return at + ((uintptr_t)bit_lowest(taken) << PAGE_SHIFT);
        at += (uintptr_t)count << PAGE_SHIFT;
    }
    return end;
}

/* The first free page of a region, at or behind one of its addresses, whose address is a multiple; 0 if there is none. */
static uintptr_t next_aligned(const struct region *region, uintptr_t from, size_t align) {
    size_t step = align >> PAGE_SHIFT; /* a power of two */
    uint64_t aligned = step < 64 ? bit_mask(64) / bit_mask((unsigned)step) : 1;
    unsigned page = pagemap_page(region, from);
    uint64_t passed = bit_mask(page % 64);
    for (unsigned word = page / 64; word < BUDDY_WORDS; word++, passed = 0) {
        uintptr_t base = region->base + ((uintptr_t)word * 64 << PAGE_SHIFT);
        uint64_t pages = free_pages_of(region, word) & aligned & ~passed;
        if (pages && (step < 64 || (base & (align - 1)) == 0))
            return base + ((uintptr_t)bit_lowest(pages) << PAGE_SHIFT);
    }
    return 0;
}

static bool find_aligned_in(const struct region *region, size_t bytes, size_t align,
                            struct extent *place) {
    uintptr_t start = region->base, stop = start, end = region->base + REGION_BYTES;
    while (stop < end && (start = next_aligned(region, stop, align)) != 0) {
        if (!run_may_cross(bytes) && start + bytes > end)
            return false;
        stop = free_until(start, start + bytes);
        *place = (struct extent){start, start + bytes};
        if (stop == place->end)
            return true;
    }
    return false;
}

/* The lowest place of a region that is aligned and free, of whatever kinds its pages are.  An extent that is long enough
 * wherever it begins need not be there: a run of 5 pages at a multiple of 16 leaves 5 dirty ones and 11 clean ones.
 * The region where the last one was found comes first. */
static SELDOM bool find_aligned(size_t bytes, size_t align, struct extent *place) {
    static uint32_t last;
    size_t pages = run_may_cross(bytes) ? 1 : bytes >> PAGE_SHIFT;
    for (uint32_t i = 0; i < pagemap_region_count; i++) {
        uint32_t rank = (last + i) % pagemap_region_count;
        const struct region *region = pagemap_ranked(rank);
        if (region->dirty.pages + region->clean.pages < pages ||
            !find_aligned_in(region, bytes, align, place))
            continue;
        last = rank;
        return true;
    }
    return false;
}

bool extent_find_one(size_t bytes, size_t align, struct extent *place) {
    return find(bytes, align, FIT_DIRTY, place);
}

bool extent_find_dirty(size_t bytes, size_t align, struct extent *place) {
    return find(bytes, align, FIT_DIRTY, place) ||
           (run_may_cross(bytes) &&
            gather(bytes, align, FIT_DIRTY, true, purge_never() ? INT_MAX : GATHER_TRIES, place));
}

bool extent_find_clean(size_t bytes, size_t align, struct extent *place) {
    return find(bytes, align, FIT_CLEAN, place);
}

bool extent_find(size_t bytes, size_t align, struct extent *place) {
    return extent_find_dirty(bytes, align, place) ||
           gather(bytes, align, FIT_DIRTY, false, purge_never() ? INT_MAX : GATHER_TRIES, place) ||
           extent_find_clean(bytes, align, place) ||
           (UNLIKELY(align > PAGE_BYTES) && find_aligned(bytes, align, place));
}

bool extent_find_any(size_t bytes, size_t align, struct extent *place) {
    return gather(bytes, align, FIT_DIRTY, false, INT_MAX, place) ||
           gather(bytes, align, FIT_CLEAN, false, INT_MAX, place);
}
