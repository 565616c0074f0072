/* SPDX-License-Identifier: MIT
 *
 * pagemap: from an address to what its page is.
 *
 * PURPOSE  Answer "what is this pointer?" for every pointer a program may hand us, without a lock,
 *          without touching the heap, and without reserving address space for a heap that may
 *          never grow.
 *
 * LAYOUT   Two maps, one fast and one complete.
 *
 *          class map   one byte per page of the window; read by every free
 *                      [0 0 7 7 7 7 0 0 31 31 ...]    index = (address - base) >> 12
 *          regions     address >> 25 leads through a two-level tree to the 32 MiB region, whose
 *                      head words tell kind and owner of each page, whose buddy sets hold the free
 *                      pages, and which stores the descriptors of its slabs:
 *
 *                      pagemap_root[address >> 36] -> leaf[(address >> 25) & 2047] -> struct region
 *
 *          The window starts at the region of the program break.  The class map grows in place and
 *          never moves: it is mapped where nothing else lives, CLASS_MAP_DISTANCE above the window.
 *          Where the kernel refuses that address, the map stays at its size for good, for it would
 *          know nothing of slabs that came meanwhile; pages beyond the window work through the
 *          regions alone, slower and as correct.
 *
 * INVARIANTS
 *   INV-MAP-1  class_map[page] is the class of the page's slab if its head is HEAD_SLAB; where a run of
 *                a length with a class begins, that class or 0; else 0.
 *   INV-MAP-2  A page is in exactly one buddy set if and only if it is free, and not the last run's (last.c).
 *   INV-MAP-3  All pages of a slab have the same head word.
 *   INV-MAP-4  Head words change kind by one aligned store; for a run that store is to its first
 *              page.  So a fork child that finds the image cut anywhere sees each run in one state.
 *
 * LOCKING  Regions are never unmapped.  They and the tree are written under the page lock and
 *          published by a release store; readers need none.
 */
#include "pagemap.h"

#include "meta.h"
#include "os.h"

#include <string.h>

enum {
    CLASS_MAP_STEP = 64 * 1024, /* bytes, as many pages: 256 MiB of heap */
};

#define CLASS_MAP_DISTANCE ((uintptr_t)1 << 40)
#define CLASS_MAP_MAX ((size_t)1 << 28)

struct window pagemap_window;
static struct region_chunk first_chunk;
struct region_chunk *pagemap_chunks[CHUNK_MAX];
uint32_t pagemap_region_count;

struct region **pagemap_root[ROOT_ENTRIES];
static bool class_map_grows;
static bool descriptors_ready;
static size_t mapped_bytes;

void pagemap_init(uintptr_t base) {
    base = round_down(base, REGION_BYTES);
    uint8_t *map = os_map_at((void *)(base + CLASS_MAP_DISTANCE), CLASS_MAP_STEP);
    class_map_grows = map != NULL;
    if (!map)
        map = os_map(CLASS_MAP_STEP);
    pagemap_chunks[0] = &first_chunk;
    pagemap_window.base = base;
    pagemap_window.class_map = map;
    STORE_RELEASE(pagemap_window.limit, map ? CLASS_MAP_STEP : 0);
    mapped_bytes += map ? CLASS_MAP_STEP : 0;
}

/* Extends the class map so that the window reaches end; where that fails it never grows again. */
static void grow_window(uintptr_t end) {
    size_t need = (end - pagemap_window.base) >> PAGE_SHIFT;
    if (end < pagemap_window.base || need > CLASS_MAP_MAX || !class_map_grows)
        return;
    size_t limit = pagemap_window.limit;
    if (need <= limit)
        return;
    size_t more = round_up(need - limit, CLASS_MAP_STEP);
    class_map_grows = os_map_at(pagemap_window.class_map + limit, more) != NULL;
    if (!class_map_grows)
        return;
    STORE_RELAXED(mapped_bytes, mapped_bytes + more);
    STORE_RELEASE(pagemap_window.limit, limit + more);
}

void pagemap_set_class(uintptr_t address, size_t pages, unsigned class_index) {
    size_t page = (address - pagemap_window.base) >> PAGE_SHIFT;
    size_t limit = LOAD_RELAXED(pagemap_window.limit);
    for (size_t i = page; i < page + pages && i < limit; i++)
        STORE_RELEASE(pagemap_window.class_map[i], (uint8_t)class_index); /* after the head */
}

/* Writes to each page of a table once, so that later stores to it do not fault.  What is said of pages that
 * nobody owned is 0; to read it first would be a fault of its own. */
static void touch(void *table, size_t bytes) {
    size_t step = os_page_bytes();
    uintptr_t end = (uintptr_t)table + bytes;
    for (uintptr_t at = (uintptr_t)table; at < end; at = round_down(at, step) + step) {
        uint8_t *byte = (uint8_t *)at;
        quarry_assert(*byte == 0);
        STORE_RELAXED(*byte, 0);
    }
}

_Static_assert(offsetof(struct region, fit.node) <= PAGE_BYTES,
               "storing a region's base makes its sets resident as well");

/* The chunk of the next rank, made if need be; NULL where that fails. */
static struct region_chunk *chunk_for_next(void) {
    uint32_t index = pagemap_region_count / CHUNK_REGIONS;
    if (index == CHUNK_MAX)
        return NULL;
    if (!pagemap_chunks[index])
        STORE_RELEASE(pagemap_chunks[index], meta_take(sizeof(struct region_chunk)));
    return pagemap_chunks[index];
}

static bool add_region(uintptr_t base) {
    struct region ***leaf = &pagemap_root[base >> (REGION_SHIFT + LEAF_BITS)];
    if (!*leaf) {
        struct region **fresh = meta_take(LEAF_ENTRIES * sizeof *fresh);
        if (!fresh)
            return false;
        STORE_RELEASE(*leaf, fresh);
    }
    size_t bytes = round_up(sizeof(struct region), os_page_bytes());
    struct region_chunk *chunk = chunk_for_next();
    if (!chunk)
        return false;
    struct region *region = os_map(bytes);
    if (!region)
        return false;
    STORE_RELAXED(mapped_bytes, mapped_bytes + bytes);
    region->base = base;
    region->rank = pagemap_region_count;
    chunk->region[region->rank % CHUNK_REGIONS] = region;
    STORE_RELEASE(pagemap_region_count, region->rank + 1);
    STORE_RELEASE((*leaf)[(base >> REGION_SHIFT) & (LEAF_ENTRIES - 1)], region);
    return true;
}

static size_t count_present(const struct region *region) {
    size_t pages = 0;
    for (unsigned page = 0; page < REGION_PAGES; page++)
        pages += head_kind(LOAD_RELAXED(region->head[page])) != HEAD_ABSENT;
    return pages;
}

/* The lowest descriptors are taken first, and there is never more than one for a page. */
static void ready_descriptors(struct region *region, size_t more_pages) {
    size_t slots = min_size(count_present(region) + more_pages, REGION_PAGES);
    os_make_resident(region, offsetof(struct region, head));
    os_make_resident(region->slab, slots * sizeof(struct slab));
}

static void touch_words(uintptr_t start, uintptr_t end) {
    for (uintptr_t at = start; at < end;) {
        struct region *region = pagemap_region(at);
        uintptr_t stop = min_size(end, region->base + REGION_BYTES);
        touch(&region->head[pagemap_page(region, at)], (stop - at) >> PAGE_SHIFT << 2);
        touch(&region->fit.node[pagemap_page(region, at)], 1); /* of an extent that begins here */
        if (LOAD_ACQUIRE(descriptors_ready))
            ready_descriptors(region, (stop - at) >> PAGE_SHIFT);
        at = stop;
    }
    size_t page = (start - pagemap_window.base) >> PAGE_SHIFT;
    size_t pages = (end - start) >> PAGE_SHIFT;
    if (page + pages <= pagemap_window.limit)
        touch(pagemap_window.class_map + page, pages);
}

void pagemap_make_resident(void) {
    STORE_RELEASE(descriptors_ready, true);
    uint32_t count = LOAD_ACQUIRE(pagemap_region_count);
    for (uint32_t rank = 0; rank < count; rank++)
        ready_descriptors(pagemap_ranked(rank), 0);
}

bool pagemap_cover(uintptr_t start, uintptr_t end) {
    for (uintptr_t base = round_down(start, REGION_BYTES); base < end; base += REGION_BYTES)
        if (!pagemap_region(base) && !add_region(base))
            return false;
    grow_window(end);
    touch_words(start, end);
    return true;
}

struct slab *pagemap_slot_take(struct region *region) {
    for (unsigned half = 0; half < 2; half++) {
        if (!region->slot_busy[half])
            continue;
        unsigned word = half * 64 + bit_lowest(region->slot_busy[half]);
        unsigned slot = word * 64 + bit_lowest(region->slot_free[word]);
        region->slot_free[word] &= region->slot_free[word] - 1;
        if (region->slot_free[word] == 0)
            region->slot_busy[half] &= ~((uint64_t)1 << (word % 64));
        return &region->slab[slot];
    }
    if (region->slots_used == REGION_PAGES)
        return NULL;
    struct slab *slab = &region->slab[region->slots_used];
    STORE_RELAXED(region->slots_used, region->slots_used + 1);
    return slab;
}

void pagemap_slot_give(struct region *region, struct slab *slab) {
    unsigned slot = (unsigned)(slab - region->slab);
    quarry_assert(slab->class_index == 0);
    region->slot_free[slot / 64] |= (uint64_t)1 << (slot % 64);
    region->slot_busy[slot / 64 / 64] |= (uint64_t)1 << (slot / 64 % 64);
}

size_t pagemap_mapped_bytes(void) {
    return LOAD_RELAXED(mapped_bytes);
}

void pagemap_repair_regions(void) {
    if (pagemap_region_count == 0)
        return;
    struct region *last = pagemap_ranked(pagemap_region_count - 1);
    struct region **leaf = pagemap_root[last->base >> (REGION_SHIFT + LEAF_BITS)];
    STORE_RELEASE(leaf[(last->base >> REGION_SHIFT) & (LEAF_ENTRIES - 1)], last);
}

void pagemap_repair_slots(struct region *region) {
    uint64_t used[REGION_PAGES / 64] = {0};
    for (unsigned page = 0; page < REGION_PAGES; page++)
        if (head_kind(region->head[page]) == HEAD_SLAB) {
            unsigned slot = head_argument(region->head[page]);
            used[slot / 64] |= (uint64_t)1 << (slot % 64);
        }
    memset(region->slot_busy, 0, sizeof region->slot_busy);
    memset(region->slot_free, 0, sizeof region->slot_free);
    for (unsigned slot = 0; slot < region->slots_used; slot++)
        if (!((used[slot / 64] >> (slot % 64)) & 1)) {
            region->slab[slot].class_index = 0;
            pagemap_slot_give(region, &region->slab[slot]);
        }
}
