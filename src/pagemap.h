/* SPDX-License-Identifier: MIT
 *
 * pagemap.h: from an address to what its page is.  See the theory in pagemap.c.
 *
 * Reading is free of locks.  Writing: a page's words belong to whoever owns the page; pages that
 * nobody owns belong to the page layer, under its lock.
 */
#ifndef QUARRY_PAGEMAP_H
#define QUARRY_PAGEMAP_H

#include "base.h"
#include "buddy.h"
#include "fit.h"

enum {
    REGION_PAGES = BUDDY_PAGES,
    REGION_SHIFT = PAGE_SHIFT + BUDDY_MAX_ORDER, /* 32 MiB */
#ifdef __x86_64__
    ADDRESS_BITS = 47,
#else
    ADDRESS_BITS = 48,
#endif
};

#define REGION_BYTES ((size_t)1 << REGION_SHIFT)

/* Head words, one per page: a kind in the top four bits, an argument below.  (Frozen: docs/FORMATS.md)
 *
 *   HEAD_ABSENT        not ours: never mapped by us, or given back by lowering the break
 *   HEAD_FREE          ours; free, or a later page of the run that starts below it
 *   HEAD_RUN     n     first page of an allocated run of n pages
 *   HEAD_CONT    n     first page in its region of a run that began in an earlier region; n pages left
 *   HEAD_SLAB    slot  a page of the slab with this descriptor slot in its region
 */
enum head_kind { HEAD_ABSENT, HEAD_FREE, HEAD_RUN, HEAD_CONT, HEAD_SLAB };

#define HEAD_SHIFT 28
#define HEAD_ARGUMENT ((uint32_t)((1u << HEAD_SHIFT) - 1))

static inline uint32_t head_make(enum head_kind kind, uint32_t argument) {
    return (uint32_t)kind << HEAD_SHIFT | argument;
}

static inline enum head_kind head_kind(uint32_t head) {
    return (enum head_kind)(head >> HEAD_SHIFT);
}

static inline uint32_t head_argument(uint32_t head) {
    return head & HEAD_ARGUMENT;
}

enum {
    SLAB_WORDS = 4,
    SLAB_MAX_OBJECTS = 64 * SLAB_WORDS - 1, /* counted in one byte */
    SLAB_MAX_PAGES = 32,
};

/* A slab: objects of one size in one run of pages, described out of band in one cache line.
 *
 *   free word bit i = 1   object i is free and in the slab
 *                     0   it is live, in a thread's cache, or past the last object
 *   free_count            = bits set in word[]; 0 while it is being opened or closed
 *   Who may write: the holder of the lock of its class in its shard. */
struct slab {
    struct slab *next, *prev;  /* in the class's list of slabs with free objects */
    uint64_t word[SLAB_WORDS]; /* authoritative: each change is one aligned store */
    uintptr_t base;            /* address of object 0, a page */
    uint32_t clean_pages;      /* bit i: page i reads as zero and is not resident */
    uint8_t free_count;
    uint8_t objects;     /* how many it has */
    uint8_t class_index; /* 0: the descriptor is not in use */
    uint8_t shard;       /* whose list it is in; changes under that shard's lock */
};

/* 32 MiB of address space, and all that is known of it; what is always in use comes first, in few pages. */
struct region {
    uintptr_t base;          /* address of page 0, a multiple of REGION_BYTES */
    uint32_t rank;           /* index in the table of regions */
    uint32_t slots_used;     /* slab descriptors below this one have been in use */
    uint64_t slot_busy[2];   /* bit w: slot_free[w] is not 0 */
    uint64_t slot_free[128]; /* bit s: descriptor s was used and is free again */
    struct buddy dirty;      /* free pages that were used before */
    struct buddy clean;      /* free pages that read as zero and are not resident */
    struct fit fit;          /* the same pages as extents */
    uint32_t head[REGION_PAGES];
    struct slab slab[REGION_PAGES];
};

/* The regions by rank, which is the order in which they came, in chunks: what a small heap needs of them is static,
 * and a chunk never moves.  Beside each is what the page layer notes of it (extent.c). */
enum {
    CHUNK_REGIONS = 128, /* 4 GiB of heap */
    CHUNK_MAX = 4096,    /* 16 TiB */
};

struct region_chunk {
    struct region *region[CHUNK_REGIONS];
    union region_notes { /* a byte for each region, so that a search passes over eight at once */
        uint64_t word;
        uint8_t list[8];
    } longest[CHUNK_REGIONS / 8][2];
};

/* The window: the stretch of addresses for which the class map answers.  class_map[i] is the size
 * class of the slab that page i of the window belongs to, or that of the run which begins there and may be
 * cached; else 0. */
struct window {
    uintptr_t base;
    size_t limit; /* in pages */
    uint8_t *class_map;
};

extern struct window pagemap_window __attribute__((visibility("hidden")));
extern struct region_chunk *pagemap_chunks[CHUNK_MAX]; /* guarded by the page lock */
extern uint32_t pagemap_region_count;

/* The region of a rank below the count. */
static inline struct region *pagemap_ranked(uint32_t rank) {
    return pagemap_chunks[rank / CHUNK_REGIONS]->region[rank % CHUNK_REGIONS];
}

/* Places the window; called once, before any other function. */
void pagemap_init(uintptr_t base);

/* What the class map says of an address of the window: the class of its slab or run, else 0. */
static ALWAYS_INLINE unsigned pagemap_class(const void *address) {
    size_t page = ((uintptr_t)address - LOAD_PLAIN(pagemap_window.base)) >> PAGE_SHIFT;
    if (UNLIKELY(page >= LOAD_PLAIN(pagemap_window.limit)))
        return 0;
    return LOAD_PLAIN(LOAD_PLAIN(pagemap_window.class_map)[page]);
}

/* Sets the class of pages; those outside the window are passed over (the head word serves them). */
void pagemap_set_class(uintptr_t address, size_t pages, unsigned class_index);

/* The tree of regions: pagemap_root[address >> 36][(address >> 25) & 2047]. */
enum {
    LEAF_BITS = 11,
    LEAF_ENTRIES = 1 << LEAF_BITS,
    ROOT_ENTRIES = 1 << (ADDRESS_BITS - REGION_SHIFT - LEAF_BITS),
};

extern struct region **pagemap_root[ROOT_ENTRIES] __attribute__((visibility("hidden")));

/* The region of an address, or NULL. */
static inline struct region *pagemap_region(uintptr_t address) {
    if (UNLIKELY(address >> ADDRESS_BITS))
        return NULL;
    struct region **leaf = LOAD_ACQUIRE(pagemap_root[address >> (REGION_SHIFT + LEAF_BITS)]);
    if (UNLIKELY(!leaf))
        return NULL;
    return LOAD_ACQUIRE(leaf[(address >> REGION_SHIFT) & (LEAF_ENTRIES - 1)]);
}

static inline unsigned pagemap_page(const struct region *region, uintptr_t address) {
    return (unsigned)((address - region->base) >> PAGE_SHIFT);
}

/* The head word of an address; HEAD_ABSENT where no region is. */
static inline uint32_t pagemap_head(uintptr_t address) {
    struct region *region = pagemap_region(address);
    return region ? LOAD_ACQUIRE(region->head[pagemap_page(region, address)]) : 0;
}

static inline void pagemap_set_head(struct region *region, unsigned page, uint32_t head) {
    STORE_RELEASE(region->head[page], head);
}

/* Makes sure that every address of [start, end) has a region, the window reaches end where it can,
 * and the words of these pages are resident.  False if the kernel refuses; regions made stay. */
bool pagemap_cover(uintptr_t start, uintptr_t end);

/* From now on also the descriptors of the slabs that covered pages may become are resident, those of
 * pages that are there already as well: taking pages then causes no fault in the map. */
void pagemap_make_resident(void);

/* The slab of a page whose head is HEAD_SLAB. */
static inline struct slab *pagemap_slab(struct region *region, uint32_t head) {
    return &region->slab[head_argument(head)];
}

/* A descriptor of the region, lowest first, with class 0; NULL if none is left.  Page lock held. */
struct slab *pagemap_slot_take(struct region *region);
void pagemap_slot_give(struct region *region, struct slab *slab);

/* Bytes of address space that the map's tables take. */
size_t pagemap_mapped_bytes(void);

/* Fork repair: makes the region that was added last known by its address, if that was cut off. */
void pagemap_repair_regions(void);

/* Fork repair: rebuilds the free descriptors of a region from the head words. */
void pagemap_repair_slots(struct region *region);

#endif
