/* SPDX-License-Identifier: MIT
 *
 * ledger: why is this page resident?
 *
 * PURPOSE  Split the memory that the kernel charges for the heap into what the program holds, what
 *          is free beside it, what is free altogether, and what the allocator needs for itself.
 *
 * HOW      The page map says what each page is, the slabs' words which objects on it are taken, and
 *          mincore(2) whether it is resident.  Every page of the zones, of the mappings and of the
 *          tables is looked at once.
 *
 * LOCKING  None on the way through the page map: its tables are never unmapped, and each word is
 *          read by itself.  The break may fall meanwhile; then the kernel says "not mapped", which
 *          counts as not resident.
 *
 * COST     A system call per 4 MiB of heap, and a test per object on resident pages.
 */
#include "ledger.h"

#include "mapping.h"
#include "meta.h"
#include "os.h"
#include "page.h"
#include "pagemap.h"
#include "sizeclass.h"

enum { WINDOW_PAGES = 1024, MAPPINGS_AT_ONCE = 32 };

/* What the kernel said last: byte i tells of the i-th system page from start on. */
struct window_seen {
    uintptr_t start, end;
    uint8_t page[WINDOW_PAGES];
};

/* Asks about the pages from address on; about fewer where not all of them are mapped. */
static void look(struct window_seen *seen, uintptr_t address, uintptr_t limit) {
    size_t step = os_page_bytes();
    size_t pages = (round_up(limit, step) - round_down(address, step)) / step;
    seen->start = round_down(address, step);
    pages = min_size(pages, WINDOW_PAGES);
    while (!os_resident((void *)seen->start, pages * step, seen->page)) {
        seen->page[0] = 0;
        if (pages == 1)
            break;
        pages /= 2;
    }
    seen->end = seen->start + pages * step;
}

static bool is_resident(struct window_seen *seen, uintptr_t address, uintptr_t limit) {
    if (address < seen->start || address >= seen->end)
        look(seen, address, limit);
    return seen->page[(address - seen->start) / os_page_bytes()] & 1;
}

static void add_page(struct ledger *ledger, bool resident, size_t live) {
    if (!resident) {
        ledger->untouched += live;
    } else if (live) {
        ledger->live += live;
        ledger->free += PAGE_BYTES - live;
    } else {
        ledger->dirty += PAGE_BYTES;
    }
}

/* The bytes of a slab's page that belong to objects which are not free. */
static size_t taken_on_page(const struct slab *slab, const struct size_class *shape,
                            unsigned page) {
    size_t start = (size_t)page << PAGE_SHIFT, end = start + PAGE_BYTES, taken = 0;
    unsigned i = sizeclass_index(shape, start);
    for (; i < LOAD_RELAXED(slab->objects) && (size_t)i * shape->size < end; i++)
        if (!((LOAD_RELAXED(slab->word[i / 64]) >> (i % 64)) & 1)) {
            size_t from = max_size((size_t)i * shape->size, start);
            taken += min_size((size_t)(i + 1) * shape->size, end) - from;
        }
    return taken;
}

static size_t taken_in_slab(struct region *region, uint32_t head, uintptr_t address) {
    const struct slab *slab = pagemap_slab(region, head);
    unsigned class_index = LOAD_RELAXED(slab->class_index);
    size_t page = (address - LOAD_RELAXED(slab->base)) >> PAGE_SHIFT;
    if (class_index == 0 || class_index >= CLASS_COUNT || page >= SLAB_MAX_PAGES)
        return 0;
    return taken_on_page(slab, &size_classes[class_index], (unsigned)page);
}

/* How many pages from this one on belong together, at most to the end of the region, and how many
 * bytes of each are live. */
static unsigned read_head(struct region *region, unsigned page, size_t *live) {
    uintptr_t address = region->base + ((uintptr_t)page << PAGE_SHIFT);
    uint32_t head = LOAD_ACQUIRE(region->head[page]);
    size_t pages = 1, ignored;
    *live = 0;
    if (head_kind(head) == HEAD_RUN || head_kind(head) == HEAD_CONT) {
        pages = max_size(head_argument(head), 1);
        /* Only at the start of a region can it be the rest of a run; else it is taken, yet free. */
        if (head_kind(head) == HEAD_RUN || (page == 0 && page_run_around(address, &ignored)))
            *live = PAGE_BYTES;
    } else if (head_kind(head) == HEAD_SLAB) {
        *live = taken_in_slab(region, head, address);
    }
    return (unsigned)min_size(pages, REGION_PAGES - page);
}

static void read_region(struct ledger *ledger, struct window_seen *seen, struct region *region) {
    uintptr_t limit = region->base + REGION_BYTES;
    for (unsigned page = 0; page < REGION_PAGES;) {
        size_t live;
        enum head_kind kind = head_kind(LOAD_ACQUIRE(region->head[page]));
        unsigned pages = read_head(region, page, &live);
        for (unsigned i = page; i < page + pages && kind != HEAD_ABSENT; i++) {
            bool resident = is_resident(seen, region->base + ((uintptr_t)i << PAGE_SHIFT), limit);
            add_page(ledger, resident, live);
            if (kind == HEAD_RUN)
                *(resident ? &ledger->runs_resident : &ledger->runs_untouched) += PAGE_BYTES;
        }
        page += pages;
    }
}

static size_t resident_bytes(struct window_seen *seen, uintptr_t start, uintptr_t end) {
    size_t bytes = 0, step = os_page_bytes();
    for (uintptr_t at = round_down(start, step); at < end; at += step)
        bytes += is_resident(seen, at, end) ? step : 0;
    return bytes;
}

static void read_mappings(struct ledger *ledger, struct window_seen *seen) {
    struct mapping_entry entry[MAPPINGS_AT_ONCE];
    size_t slot = 0, count;
    while ((count = mapping_copy(&slot, entry, MAPPINGS_AT_ONCE)) != 0)
        for (size_t i = 0; i < count; i++) {
            uintptr_t start = entry[i].address;
            size_t bytes = resident_bytes(seen, start, start + entry[i].bytes);
            ledger->live += bytes;
            ledger->untouched += entry[i].bytes - min_size(bytes, entry[i].bytes);
        }
}

static void read_tables(struct ledger *ledger, struct window_seen *seen) {
    uint32_t count = LOAD_ACQUIRE(pagemap_region_count);
    for (uint32_t rank = 0; rank < count; rank++) {
        uintptr_t start = (uintptr_t)pagemap_ranked(rank);
        ledger->metadata += resident_bytes(seen, start, start + sizeof(struct region));
    }
    uintptr_t map = (uintptr_t)pagemap_window.class_map;
    ledger->metadata += resident_bytes(seen, map, map + LOAD_RELAXED(pagemap_window.limit));
    for (const struct meta_chunk *chunk = meta_chunks(); chunk; chunk = chunk->next)
        ledger->metadata += resident_bytes(seen, (uintptr_t)chunk, (uintptr_t)chunk + chunk->bytes);
    ledger->metadata += meta_large_bytes();
}

void ledger_read(struct ledger *ledger) {
    struct window_seen seen = {.start = 0, .end = 0};
    *ledger = (struct ledger){0};
    uint32_t count = LOAD_ACQUIRE(pagemap_region_count);
    for (uint32_t rank = 0; rank < count; rank++)
        read_region(ledger, &seen, pagemap_ranked(rank));
    read_mappings(ledger, &seen);
    read_tables(ledger, &seen);
}
