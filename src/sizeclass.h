/* SPDX-License-Identifier: MIT
 *
 * sizeclass.h: which object size serves a request, and the shape of the slabs of that size.
 *
 * Pure tables, filled once by sizeclass_init and constant from then on.  Class 0 means "none"; those from
 * CLASS_COUNT on are lengths of runs, which are no slabs' but may be cached as objects are.
 */
#ifndef QUARRY_SIZECLASS_H
#define QUARRY_SIZECLASS_H

#include "base.h"

enum {
    SIZE_GRAIN = 16,
    SMALL_MAX = 16384,
    CLASS_COUNT =
        69, /* 1..8: 16..128 in steps of 16; then 8, later 9 per doubling up to SMALL_MAX */
    RUN_MAX_PAGES = 64,
    RUN_MAX = RUN_MAX_PAGES * 4096,
    BIN_COUNT = CLASS_COUNT + 16, /* runs of 5..8 pages, then 4 lengths per doubling */
};

/* Of a run: size, pages, and one object. */
struct size_class {
    uint32_t size;    /* bytes per object */
    uint32_t magic;   /* offset * magic >> 32 == offset / size for every offset in a slab */
    uint16_t objects; /* of a slab */
    uint16_t pages;
    uint16_t small_objects; /* of a small slab, which the first ones of a class are */
    uint16_t small_pages;
};

extern struct size_class size_classes[BIN_COUNT];
extern uint8_t size_class_of_grain[SMALL_MAX / SIZE_GRAIN + 1];
extern uint8_t size_class_of_pages[RUN_MAX_PAGES + 1];

void sizeclass_init(void);

/* The class for a request of at most SMALL_MAX bytes; 0 bytes are served as 1. */
static ALWAYS_INLINE unsigned sizeclass_for(size_t bytes) {
    return size_class_of_grain[(bytes + SIZE_GRAIN - 1) / SIZE_GRAIN];
}

static inline bool sizeclass_is_run(unsigned class_index) {
    return class_index >= CLASS_COUNT;
}

/* Whether a request is for a run of a length that has a class. */
static ALWAYS_INLINE bool sizeclass_has_run(size_t bytes) {
    return bytes > SMALL_MAX && bytes <= RUN_MAX;
}

/* The class of the run that serves such a request. */
static ALWAYS_INLINE unsigned sizeclass_for_run(size_t bytes) {
    return size_class_of_pages[pages_for(bytes)];
}

/* The pages of the run that serves so many bytes, with a class if there is one. */
size_t sizeclass_run_pages(size_t bytes);

/* The class of the runs of exactly so many pages; 0 if there is none. */
static inline unsigned sizeclass_of_run(size_t pages) {
    unsigned class_index = pages <= RUN_MAX_PAGES ? size_class_of_pages[pages] : 0;
    return class_index && size_classes[class_index].pages == pages ? class_index : 0;
}

/* The smallest class whose objects are all aligned (to a power of two up to PAGE_BYTES) and hold
 * bytes; 0 if there is none. */
unsigned sizeclass_aligned(size_t bytes, size_t align);

/* The pages that so many objects of a slab lie in. */
static inline unsigned sizeclass_pages(const struct size_class *class, unsigned objects) {
    return (objects * class->size + (unsigned)PAGE_BYTES - 1) >> PAGE_SHIFT;
}

/* Index of the object that an offset from the start of a slab lies in. */
static ALWAYS_INLINE unsigned sizeclass_index(const struct size_class *class, size_t offset) {
    return (unsigned)(((uint64_t)offset * class->magic) >> 32);
}

#endif
