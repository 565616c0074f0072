/* SPDX-License-Identifier: MIT
 *
 * sizeclass: object sizes and slab shapes.
 *
 * PURPOSE  Round requests up by little, and cut pages into objects with little left over.
 *
 * SIZES    16, 32, ... 128, then 8 per doubling: 144, 160, ... 256, 288, ... 16 384.  Rounding costs
 *          at most 1/8 above 128 bytes, 1/17 on average.  From 1 KiB on there is one more in each
 *          doubling, a power of two and a sixteenth: a page or a buffer with a header before it.
 *          (Four per doubling cost programs with 4.3 KB pages 12 % of their memory; sixteen gain a
 *          few of them 3.5 % and cost others 4 %.)
 *
 * RUNS     5, 6, 7, 8 pages, then 4 lengths per doubling up to RUN_MAX: so that what a thread caches fits
 *          the next request.  Above, a run is as long as its pages.
 *
 * SLABS    At least SLAB_MIN_BYTES or SLAB_MAX_OBJECTS objects, at least SLAB_MIN_OBJECTS, at most
 *          SLAB_MAX_PAGES: among the page counts that allow that, the first whose tail is at most
 *          1/64 of the slab, else the one with the smallest share.  1 664 bytes: 4 to 6 pages would
 *          leave 1/14 to 1/27 over; 7 pages hold 17 objects and leave 1/75.
 *          Small slabs: one page, or as many more as leave a tail of at most 1/8.
 *
 * INVARIANTS
 *   INV-CLASS-1  The tail of a slab is at most 1/16 of it.
 *   INV-CLASS-2  sizeclass_index is exact for every offset in a slab.
 *   INV-CLASS-3  The lower half of offset * magic is less than magic if and only if the offset is that of an object.
 */
#include "sizeclass.h"

#include "pagemap.h"

#include <string.h>

enum { SLAB_MIN_BYTES = 16384, SLAB_MIN_OBJECTS = 8 };

struct size_class size_classes[BIN_COUNT];
uint8_t size_class_of_grain[SMALL_MAX / SIZE_GRAIN + 1];
uint8_t size_class_of_pages[RUN_MAX_PAGES + 1];

static uint32_t next_size(uint32_t size) {
    if (size < 128)
        return size + SIZE_GRAIN;
    uint32_t power = 1u << bit_highest(size), step = power / 8;
    return size + (power >= 1024 && size - power < step ? step / 2 : step);
}

static unsigned min_pages(uint32_t size) {
    size_t bytes = min_size((size_t)size * SLAB_MAX_OBJECTS, SLAB_MIN_BYTES);
    return (unsigned)pages_for(max_size(bytes, (size_t)size * SLAB_MIN_OBJECTS));
}

static void choose_shape(struct size_class *class) {
    uint32_t best_tail = 0;
    for (unsigned pages = min_pages(class->size); pages <= SLAB_MAX_PAGES; pages++) {
        uint32_t bytes = pages << PAGE_SHIFT;
        uint32_t objects = (uint32_t)min_size(sizeclass_index(class, bytes), SLAB_MAX_OBJECTS);
        uint32_t tail = bytes - objects * class->size;
        /* Shares are compared by cross-multiplication with the page counts. */
        if (class->pages != 0 && tail * class->pages >= best_tail * pages)
            continue;
        class->pages = (uint16_t)pages;
        class->objects = (uint16_t)objects;
        best_tail = tail;
        if (tail * 64 <= bytes)
            break;
    }
}

static void choose_small_shape(struct size_class *class) {
    unsigned pages = (unsigned)pages_for(class->size), bytes, objects;
    for (;; pages++) {
        bytes = pages << PAGE_SHIFT;
        objects = sizeclass_index(class, bytes);
        if (pages == class->pages || (bytes - objects * class->size) * 8 <= bytes)
            break;
    }
    class->small_pages = (uint16_t)pages;
    class->small_objects = (uint16_t)min_size(objects, class->objects);
}

static unsigned next_pages(unsigned pages) {
    return pages < 8 ? pages + 1 : pages + (1u << bit_highest(pages)) / 4;
}

static void init_runs(void) {
    unsigned pages = SMALL_MAX >> PAGE_SHIFT, length = pages;
    for (unsigned index = CLASS_COUNT; index < BIN_COUNT; index++) {
        length = next_pages(length);
        size_classes[index] = (struct size_class){
            .size = length << PAGE_SHIFT, .pages = (uint16_t)length, .objects = 1};
        while (pages < length)
            size_class_of_pages[++pages] = (uint8_t)index;
    }
}

void sizeclass_init(void) {
    init_runs();
    unsigned grain = 0;
    uint32_t size = 0;
    for (unsigned index = 1; index < CLASS_COUNT; index++) {
        struct size_class *class = &size_classes[index];
        class->size = size = next_size(size);
        class->magic = (uint32_t)((((uint64_t)1 << 32) + class->size - 1) / class->size);
        class->pages = 0;
        choose_shape(class);
        choose_small_shape(class);
        unsigned last = size / SIZE_GRAIN;
        memset(size_class_of_grain + grain, (int)index, last + 1 - grain);
        grain = last + 1;
    }
}

size_t sizeclass_run_pages(size_t bytes) {
    return sizeclass_has_run(bytes) ? size_classes[sizeclass_for_run(bytes)].pages
                                    : pages_for(bytes);
}

unsigned sizeclass_aligned(size_t bytes, size_t align) {
    if (bytes > SMALL_MAX || align > PAGE_BYTES)
        return 0;
    size_t least = round_up(max_size(bytes, 1), align); /* most are a class's size */
    for (unsigned index = sizeclass_for(least); index < CLASS_COUNT; index++)
        if ((size_classes[index].size & (align - 1)) == 0)
            return index;
    return 0;
}
