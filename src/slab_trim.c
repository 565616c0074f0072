/* SPDX-License-Identifier: MIT
 *
 * slab_trim: free pages inside slabs that are in use.
 *
 * PURPOSE  Give a hole back without moving anything: a page all of whose objects are free.
 *
 * HOW      Purging a hole is an allocation: under the class's lock the objects that touch the page
 *          are taken; without it the kernel purges; under it they are given back, and the page is
 *          marked clean.  Meanwhile nobody waits for the kernel.
 *
 * WHEN     malloc_trim searches all classes.  By itself a class is searched when its live objects have
 *          fallen to half of their peak since the last search (so searches are few) and its free
 *          bytes exceed HOLES_MIN_BYTES, for as long as there is time for it (purge.c).  Where the user
 *          set M_TRIM_THRESHOLD: when what has become free since exceeds that and a 64th of what is in use.
 *          Where the heap grows to a peak, classes of which a share is free are searched, from where the last
 *          such search ended (purge.c, PEAK).
 *
 * FORK     A cut while the kernel purges leaks the objects of one slab's holes.
 */
#include "os.h"
#include "page.h"
#include "purge.h"
#include "slab_internal.h"

#define HOLES_MIN_BYTES ((size_t)256 << 10)
#define SEARCH_NS ((uint64_t)100) /* a slab searched */
#define LOOK_NS ((uint64_t)10)    /* one of another class passed over */
#define PEAK_MIN_BYTES ((size_t)32 << 10)
#define PEAK_FREE_PART 4

bool slab_page_is_free(const struct slab *slab, const struct size_class *shape, unsigned page) {
    unsigned first = sizeclass_index(shape, (size_t)page << PAGE_SHIFT);
    unsigned last = sizeclass_index(shape, ((size_t)(page + 1) << PAGE_SHIFT) - 1);
    last = last < slab->objects ? last : (unsigned)slab->objects - 1;
    for (unsigned i = first; i <= last; i++)
        if (!((slab->word[i / 64] >> (i % 64)) & 1))
            return false;
    return true;
}

/* Sets or clears the bits of all objects that touch a page; returns how many changed. */
static unsigned flip_page(struct slab *slab, const struct size_class *shape, unsigned page,
                          bool to_free) {
    unsigned changed = 0;
    unsigned first = sizeclass_index(shape, (size_t)page << PAGE_SHIFT);
    unsigned last = sizeclass_index(shape, ((size_t)(page + 1) << PAGE_SHIFT) - 1);
    for (unsigned i = first; i <= last && i < slab->objects; i++) {
        uint64_t bit = (uint64_t)1 << (i % 64), old = slab->word[i / 64];
        if (((old & bit) != 0) != to_free) {
            STORE_RELAXED(slab->word[i / 64], old ^ bit);
            changed++;
        }
    }
    return changed;
}

/* The free pages of a slab that are not clean yet, and the clean ones beside them: an object may lie
 * on both, and a clean page holds no taken object.  Their objects are taken out of the slab. */
static uint32_t take_holes(struct slab_class *class, const struct size_class *shape,
                           struct slab *slab) {
    uint32_t holes = 0, more;
    unsigned pages = sizeclass_pages(shape, slab->objects);
    for (unsigned page = 0; page < pages; page++)
        if (!((slab->clean_pages >> page) & 1) && slab_page_is_free(slab, shape, page))
            holes |= (uint32_t)1 << page;
    do {
        more = (holes << 1 | holes >> 1) & slab->clean_pages & ~holes;
        holes |= more;
    } while (more);
    slab->clean_pages &= ~holes;
    unsigned taken = 0;
    for (uint32_t rest = holes; rest; rest &= rest - 1)
        taken += flip_page(slab, shape, bit_lowest(rest), false);
    slab->free_count = (uint8_t)(slab->free_count - taken);
    slab_add_objects(class, 0, 0 - (size_t)taken);
    if (taken && slab->free_count == 0)
        slab_list_remove(class, slab);
    return holes;
}

/* Returns the pages that are gone; *calls counts what it took. */
static uint32_t purge_holes(const struct slab *slab, uint32_t holes, size_t *calls) {
    uint32_t gone = 0;
    for (; holes; ++*calls) {
        unsigned first = bit_lowest(holes);
        uint64_t beyond = ~(uint64_t)holes & ~bit_mask(first);
        unsigned end = bit_lowest(beyond);
        uint32_t run = (uint32_t)(bit_mask(end) & ~bit_mask(first));
        if (os_purge((char *)slab->base + ((size_t)first << PAGE_SHIFT), (size_t)(end - first)
                                                                             << PAGE_SHIFT))
            gone |= run;
        holes &= ~run;
    }
    return gone;
}

/* Returns the bytes that were given back. */
static size_t return_holes(struct slab_class *class, unsigned class_index, struct slab *slab,
                           uint32_t holes, uint32_t gone, uint32_t were_clean) {
    const struct size_class *shape = &size_classes[class_index];
    unsigned given = 0;
    for (uint32_t rest = holes; rest; rest &= rest - 1)
        given += flip_page(slab, shape, bit_lowest(rest), true);
    slab->clean_pages |= gone;
    size_t pages = (size_t)__builtin_popcount(gone & ~were_clean);
    class->holes_outstanding += (uint32_t)pages;
    slab_count_given(class, class_index, slab, given);
    return pages << PAGE_SHIFT;
}

static size_t trim_slab(struct slab *slab, unsigned class_index, size_t *calls) {
    struct slab_class *class = slab_lock_shard_of(slab, class_index);
    uint32_t holes = 0, were_clean = 0;
    /* A descriptor that was free just now may have been opened in another shard: the shard once more, after
     * the class. */
    bool listed = LOAD_ACQUIRE(slab->class_index) == class_index &&
                  LOAD_RELAXED(slab->shard) == class->shard && slab->free_count != 0;
    if (listed && !slab_close_if_free(class, class_index, slab)) {
        were_clean = slab->clean_pages;
        holes = take_holes(class, &size_classes[class_index], slab);
    }
    lock_drop(&class->lock);
    if (!holes)
        return 0;
    uint32_t gone = purge_holes(slab, holes, calls);
    class = slab_lock_shard_of(slab, class_index);
    size_t bytes = return_holes(class, class_index, slab, holes, gone, were_clean);
    lock_drop(&class->lock);
    return bytes;
}

/* Searches the slabs of one class in its shard while there is time for it, or of all (NULL). */
static size_t trim_slabs(const struct slab_class *only, unsigned only_index) {
    size_t bytes = 0;
    if (os_page_bytes() != PAGE_BYTES)
        return 0; /* holes are tracked per granule; larger system pages would need all of theirs */
    for (uint32_t rank = 0; rank < LOAD_ACQUIRE(pagemap_region_count); rank++) {
        struct region *region = pagemap_ranked(rank);
        if (only)
            purge_spend(LOAD_RELAXED(region->slots_used) * LOOK_NS);
        for (uint32_t slot = 0; slot < LOAD_RELAXED(region->slots_used); slot++) {
            struct slab *slab = &region->slab[slot];
            unsigned class_index = LOAD_RELAXED(slab->class_index);
            size_t calls = 0, gone = 0;
            if (only ? class_index == only_index && LOAD_RELAXED(slab->shard) == only->shard
                     : class_index != 0)
                gone = trim_slab(slab, class_index, &calls);
            bytes += gone;
            if (only && calls) {
                purge_spend_calls(calls, gone >> PAGE_SHIFT);
                if (!purge_affordable(PURGE_HOLES))
                    return bytes;
            }
        }
    }
    return bytes;
}

size_t slab_trim(void) {
    return trim_slabs(NULL, 0);
}

size_t slab_trim_class(const struct slab_class *class, unsigned class_index) {
    return trim_slabs(class, class_index);
}

/* ---- in real time ------------------------------------------------------------------------------- */

void slab_make_resident(void) {
    for (uint32_t rank = 0; rank < LOAD_ACQUIRE(pagemap_region_count); rank++) {
        struct region *region = pagemap_ranked(rank);
        for (uint32_t slot = 0; slot < LOAD_RELAXED(region->slots_used); slot++) {
            struct slab *slab = &region->slab[slot];
            unsigned class_index = LOAD_ACQUIRE(slab->class_index);
            if (class_index == 0)
                continue;
            struct slab_class *class = slab_lock_shard_of(slab, class_index);
            if (LOAD_ACQUIRE(slab->class_index) == class_index &&
                LOAD_RELAXED(slab->shard) == class->shard) {
                unsigned pages = sizeclass_pages(&size_classes[class_index], slab->objects);
                os_make_resident((void *)slab->base, (size_t)pages << PAGE_SHIFT);
                slab_forget_holes(class, slab);
                slab->clean_pages = 0;
            }
            lock_drop(&class->lock);
        }
    }
}

/* ---- at a peak ----------------------------------------------------------------------------------- */

struct peak_search {
    uint64_t worth[SHARD_MAX][CLASS_COUNT / 64 + 1]; /* bit c: of this class, in this shard */
    size_t pages_left;
    int64_t ns_left;
};

/* Where the next search begins; whatever two threads make of it is a place. */
static uint32_t next_rank, next_slot;

static bool has_much_free(struct slab_class *class, const struct size_class *shape) {
    lock_take(&class->lock);
    size_t holes = (size_t) class->holes_outstanding << PAGE_SHIFT;
    size_t free_bytes = class->free_objects * shape->size;
    size_t all_bytes = class->objects * shape->size;
    lock_drop(&class->lock);
    return free_bytes > holes + PEAK_MIN_BYTES && free_bytes - holes > all_bytes / PEAK_FREE_PART;
}

static bool choose_classes(struct peak_search *search) {
    bool any = false;
    for (uint32_t shard = 0; shard < LOAD_ACQUIRE(slab_shard_count); shard++)
        for (unsigned i = 1; i < CLASS_COUNT; i++)
            if (has_much_free(slab_class_in(shard, i), &size_classes[i])) {
                search->worth[shard][i / 64] |= (uint64_t)1 << (i % 64);
                any = true;
            }
    return any;
}

static void trim_if_worth(struct slab *slab, struct peak_search *search) {
    unsigned class_index = LOAD_RELAXED(slab->class_index);
    const uint64_t *worth = search->worth[LOAD_RELAXED(slab->shard)];
    size_t calls = 0;
    search->ns_left -= (int64_t)LOOK_NS;
    if (!((worth[class_index / 64] >> (class_index % 64)) & 1))
        return;
    size_t pages = trim_slab(slab, class_index, &calls) >> PAGE_SHIFT;
    search->ns_left -= (int64_t)(SEARCH_NS + purge_calls_ns(calls, pages));
    search->pages_left -= min_size(pages, search->pages_left);
}

/* Goes on in the region; false where the search is over, *slot is where then. */
static bool trim_region_at_peak(struct region *region, uint32_t *slot, struct peak_search *search) {
    for (; *slot < LOAD_RELAXED(region->slots_used); ++*slot) {
        if (search->pages_left == 0 || search->ns_left < 0)
            return false;
        trim_if_worth(&region->slab[*slot], search);
    }
    *slot = 0;
    return true;
}

void slab_trim_at_peak(size_t pages) {
    struct peak_search search = {.pages_left = pages, .ns_left = (int64_t)(pages * FAULT_NS)};
    if (os_page_bytes() != PAGE_BYTES || !choose_classes(&search))
        return;
    uint32_t regions = LOAD_ACQUIRE(pagemap_region_count);
    uint32_t rank = LOAD_RELAXED(next_rank) % regions, slot = LOAD_RELAXED(next_slot);
    for (uint32_t i = 0; i <= regions; i++) { /* where it began, twice */
        if (!trim_region_at_peak(pagemap_ranked(rank), &slot, &search))
            break;
        rank = (rank + 1) % regions;
    }
    STORE_RELAXED(next_rank, rank);
    STORE_RELAXED(next_slot, slot);
}

void slab_holes_retaken(struct slab_class *class, size_t pages) {
    pages = min_size(pages, class->holes_outstanding);
    class->holes_outstanding -= (uint32_t)pages;
    purge_spend_faults(pages);
}

bool slab_has_fallen(struct slab_class *class, const struct size_class *shape) {
    size_t live = slab_live(class), high = class->high_live;
    bool threshold_set = page_trim_threshold_set();
    if (LIKELY(live >= high / 2 && !threshold_set))
        return false;
    size_t bound = page_hole_bound(HOLES_MIN_BYTES);
    if (threshold_set && (high - live) * shape->size <= max_size(bound, page_live_bytes() / 64))
        return false;
    size_t free_bytes = class->free_objects * shape->size * LOAD_RELAXED(slab_shard_count);
    if (free_bytes <= bound || !purge_affordable(PURGE_HOLES))
        return false;
    class->high_live = live;
    purge_spend(class->slabs * SEARCH_NS);
    return true;
}
