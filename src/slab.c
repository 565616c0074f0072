/* SPDX-License-Identifier: MIT
 *
 * slab: objects of one size in one run of pages (Bonwick 1994), described out of band.
 *
 * PURPOSE  Hand objects out in batches in address order, take them back in any order, notice every
 *          pointer that is not what it claims to be, and never touch the memory of a free object.
 *
 * LAYOUT   pages       [ object 0 ][ object 1 ] ... [ object n-1 ][ tail ]
 *          descriptor  base, four words of bits (1: free and here), clean pages, links: 64 bytes
 *          Objects are not initialised or linked, so a fresh slab faults no page until the program
 *          writes, and a fork child that frees copies descriptors, not heap pages.
 *
 * STATES   of a slab:    full (not listed) <-> partial (listed) -> empty (its pages go back)
 *          of an object: free here (bit 1) -> taken (bit 0: in a cache, then live) -> free here
 *          of a page:    clean (zero, not resident) -> touched, when one of its objects is taken
 *
 * INVARIANTS
 *   INV-SLAB-1  free_count is the number of bits set in word[], at most the class's objects.
 *   INV-SLAB-2  A slab is listed if and only if 0 < free_count; it is closed when all are free.
 *   INV-SLAB-3  A page marked clean holds no taken object.
 *   INV-SLAB-4  A class's counters agree with its slabs.
 *
 * LOCKING  One lock per class for words, list and counters; a batch costs one acquisition.  Pages
 *          are obtained without it.  It is not held during a purge: the objects of the pages are
 *          taken, purged, and given back (purging a hole is an allocation).
 *
 * FORK     Taking clears bits before the pointers enter a cache, giving removes the pointers from
 *          the cache before bits are set (INV-FORK-1).  Slabs open and close under the class's
 *          lock, so that a cut in there is noticed.  slab_repair rebuilds list and counters.
 *
 * COST     take: a few instructions per object (lowest bit, add); give: one lookup and one
 *          multiplication per object.
 *
 * WHY NOT  Links through free objects: faults, copied pages after fork, and a stray write into a
 *          freed block would steer the allocator.  Owner threads: they save 3-5 % when cores are
 *          oversubscribed and cost half as much memory again.
 */
#include "slab.h"

#include "os.h"
#include "page.h"

#include <string.h>

struct slab_class slab_classes[CLASS_COUNT];

void slab_init(void) {
    for (unsigned i = 0; i < CLASS_COUNT; i++)
        slab_classes[i].lock.rank = LOCK_CLASS;
}

static void list_push(struct slab_class *class, struct slab *slab) {
    slab->prev = NULL;
    slab->next = class->partial;
    if (slab->next)
        slab->next->prev = slab;
    class->partial = slab;
    slab->listed = 1;
}

static void list_remove(struct slab_class *class, struct slab *slab) {
    if (slab->prev)
        slab->prev->next = slab->next;
    else
        class->partial = slab->next;
    if (slab->next)
        slab->next->prev = slab->prev;
    slab->listed = 0;
}

/* ---- taking -------------------------------------------------------------------------------------- */

/* The pages that objects first..last of a slab touch are clean no longer. */
static void mark_touched(struct slab *slab, const struct size_class *shape, unsigned first,
                         unsigned last) {
    unsigned low = first * shape->size >> PAGE_SHIFT;
    unsigned high = (last * shape->size + shape->size - 1) >> PAGE_SHIFT;
    slab->clean_pages &= ~(uint32_t)(bit_mask(high + 1) & ~bit_mask(low));
}

/* Moves up to max of the lowest free objects of one word to the slots below end, lowest last. */
static unsigned take_word(struct slab *slab, const struct size_class *shape, unsigned word,
                          void **end, unsigned max) {
    uint64_t bits = slab->word[word], rest = bits;
    char *base = (char *)slab->base + (size_t)word * 64 * shape->size;
    void **out = end;
    unsigned last = 0;
    do {
        last = bit_lowest(rest);
        *--out = base + (size_t)last * shape->size;
        rest &= rest - 1;
    } while (rest && out != end - max);
    STORE_RELAXED(slab->word[word], rest);
    if (slab->clean_pages)
        mark_touched(slab, shape, word * 64 + bit_lowest(bits), word * 64 + last);
    return (unsigned)(end - out);
}

/* Fills out[] from its end.  A slab without free objects leaves the list. */
static unsigned take_from_list(unsigned class_index, void **out, unsigned max) {
    struct slab_class *class = &slab_classes[class_index];
    const struct size_class *shape = &size_classes[class_index];
    unsigned left = max;
    lock_take(&class->lock);
    while (left > 0 && class->partial) {
        struct slab *slab = class->partial;
        unsigned before = left;
        for (unsigned word = 0; word < SLAB_WORDS && left > 0; word++)
            if (slab->word[word])
                left -= take_word(slab, shape, word, out + left, left);
        slab->free_count = (uint16_t)(slab->free_count - (before - left));
        if (slab->free_count == 0)
            list_remove(class, slab);
    }
    class->free_objects -= max - left;
    lock_drop(&class->lock);
    if (left > 0)
        memmove(out, out + left, (max - left) * sizeof *out);
    return max - left;
}

static bool add_slab(unsigned class_index) {
    struct slab_class *class = &slab_classes[class_index];
    const struct size_class *shape = &size_classes[class_index];
    bool zero;
    uintptr_t run = page_run_take(shape->pages, PAGE_BYTES, &zero);
    if (!run)
        return false;
    lock_take(&class->lock); /* before the run turns into a slab: see FORK */
    struct slab *slab = page_slab_open(run, shape->pages, class_index, shape->objects, zero);
    if (slab) {
        list_push(class, slab);
        class->slabs++;
        class->free_objects += shape->objects;
    }
    lock_drop(&class->lock);
    if (!slab)
        page_run_give(run);
    return slab != NULL;
}

unsigned slab_take(unsigned class_index, void **out, unsigned max) {
    for (;;) {
        unsigned count = take_from_list(class_index, out, max);
        if (count || !add_slab(class_index))
            return count;
    }
}

/* ---- giving -------------------------------------------------------------------------------------- */

static struct slab *find_slab(unsigned class_index, uintptr_t address) {
    struct region *region = pagemap_region(address);
    uint32_t head = region ? LOAD_ACQUIRE(region->head[pagemap_page(region, address)]) : 0;
    if (UNLIKELY(head_kind(head) != HEAD_SLAB))
        return NULL;
    struct slab *slab = pagemap_slab(region, head);
    return LIKELY(LOAD_RELAXED(slab->class_index) == class_index) ? slab : NULL;
}

static enum slab_status give_one(struct slab *slab, const struct size_class *shape,
                                 size_t offset) {
    unsigned index = sizeclass_index(shape, offset);
    if (UNLIKELY(index >= shape->objects))
        return SLAB_TAIL;
    if (UNLIKELY((size_t)index * shape->size != offset))
        return SLAB_INTERIOR;
    uint64_t *word = &slab->word[index / 64];
    uint64_t bit = (uint64_t)1 << (index % 64), old = *word;
    if (UNLIKELY(old & bit))
        return SLAB_FREE;
    STORE_RELAXED(*word, old | bit);
    return SLAB_OK;
}

/* Counts what was given to a slab; one whose objects are all free closes. */
static void count_given(struct slab_class *class, unsigned class_index, struct slab *slab,
                        unsigned given) {
    const struct size_class *shape = &size_classes[class_index];
    if (given == 0)
        return;
    slab->free_count = (uint16_t)(slab->free_count + given);
    class->free_objects += given;
    if (!slab->listed)
        list_push(class, slab);
    if (slab->free_count == shape->objects) {
        list_remove(class, slab);
        class->slabs--;
        class->free_objects -= slab->free_count;
        page_slab_close(slab, shape->pages);
    }
}

/* Neighbours in a batch often share a slab: it is looked up when it changes. */
enum slab_status slab_give(unsigned class_index, void *const *objects, unsigned count,
                           unsigned *culprit) {
    struct slab_class *class = &slab_classes[class_index];
    const struct size_class *shape = &size_classes[class_index];
    size_t slab_bytes = (size_t)shape->pages << PAGE_SHIFT;
    enum slab_status status = SLAB_OK;
    struct slab *slab = NULL;
    uintptr_t base = 0;
    unsigned given = 0, i;
    lock_take(&class->lock);
    size_t slabs = class->slabs;
    for (i = 0; i < count; i++) {
        uintptr_t address = (uintptr_t)objects[i];
        if (address - base >= slab_bytes || !slab) {
            count_given(class, class_index, slab, given);
            given = 0;
            slab = find_slab(class_index, address);
            status = slab ? SLAB_OK : SLAB_FOREIGN;
            base = slab ? slab->base : 0;
        }
        if (LIKELY(status == SLAB_OK))
            status = give_one(slab, shape, address - base);
        if (UNLIKELY(status != SLAB_OK))
            break;
        given++;
    }
    count_given(class, class_index, slab, given);
    bool closed = class->slabs != slabs;
    lock_drop(&class->lock);
    *culprit = i;
    if (closed)
        page_settle();
    return status;
}

unsigned slab_around(uintptr_t address, uintptr_t *object, bool *is_free) {
    struct region *region = pagemap_region(address);
    uint32_t head = region ? LOAD_ACQUIRE(region->head[pagemap_page(region, address)]) : 0;
    if (head_kind(head) != HEAD_SLAB)
        return 0;
    struct slab *slab = pagemap_slab(region, head);
    unsigned class_index = LOAD_RELAXED(slab->class_index);
    const struct size_class *shape = &size_classes[class_index];
    if (class_index == 0)
        return 0;
    unsigned index = sizeclass_index(shape, address - slab->base);
    if (index >= shape->objects) {
        *object = 0;
        return class_index;
    }
    *object = slab->base + (size_t)index * shape->size;
    *is_free = (LOAD_RELAXED(slab->word[index / 64]) >> (index % 64)) & 1;
    return class_index;
}

/* ---- trimming ------------------------------------------------------------------------------------ */

/* True if every object that touches the page is free and in the slab. */
static bool page_is_free(const struct slab *slab, const struct size_class *shape, unsigned page) {
    unsigned first = sizeclass_index(shape, (size_t)page << PAGE_SHIFT);
    unsigned last = sizeclass_index(shape, ((size_t)(page + 1) << PAGE_SHIFT) - 1);
    last = last < shape->objects ? last : (unsigned)shape->objects - 1;
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
    for (unsigned i = first; i <= last && i < shape->objects; i++) {
        uint64_t bit = (uint64_t)1 << (i % 64), old = slab->word[i / 64];
        if (((old & bit) != 0) != to_free) {
            STORE_RELAXED(slab->word[i / 64], old ^ bit);
            changed++;
        }
    }
    return changed;
}

/* The free pages of a slab that are not clean yet: their objects are taken out of it. */
static uint32_t take_holes(struct slab_class *class, const struct size_class *shape,
                           struct slab *slab) {
    uint32_t holes = 0;
    for (unsigned page = 0; page < shape->pages; page++)
        if (!((slab->clean_pages >> page) & 1) && page_is_free(slab, shape, page))
            holes |= (uint32_t)1 << page;
    unsigned taken = 0;
    for (uint32_t rest = holes; rest; rest &= rest - 1)
        taken += flip_page(slab, shape, bit_lowest(rest), false);
    slab->free_count = (uint16_t)(slab->free_count - taken);
    class->free_objects -= taken;
    if (taken && slab->free_count == 0)
        list_remove(class, slab);
    return holes;
}

static uint32_t purge_holes(const struct slab *slab, uint32_t holes) {
    uint32_t gone = 0;
    while (holes) {
        unsigned first = bit_lowest(holes);
        uint64_t beyond = ~(uint64_t)holes & ~bit_mask(first);
        unsigned end = bit_lowest(beyond);
        uint32_t run = (uint32_t)(bit_mask(end) & ~bit_mask(first));
        if (os_purge((char *)slab->base + ((size_t)first << PAGE_SHIFT),
                     (size_t)(end - first) << PAGE_SHIFT))
            gone |= run;
        holes &= ~run;
    }
    return gone;
}

static void return_holes(struct slab_class *class, unsigned class_index, struct slab *slab,
                         uint32_t holes, uint32_t gone) {
    const struct size_class *shape = &size_classes[class_index];
    unsigned given = 0;
    for (uint32_t rest = holes; rest; rest &= rest - 1)
        given += flip_page(slab, shape, bit_lowest(rest), true);
    slab->clean_pages |= gone;
    count_given(class, class_index, slab, given);
}

static size_t trim_slab(struct slab *slab) {
    unsigned class_index = LOAD_RELAXED(slab->class_index);
    if (class_index == 0)
        return 0;
    struct slab_class *class = &slab_classes[class_index];
    uint32_t holes = 0;
    lock_take(&class->lock);
    if (LOAD_RELAXED(slab->class_index) == class_index && slab->listed)
        holes = take_holes(class, &size_classes[class_index], slab);
    lock_drop(&class->lock);
    if (!holes)
        return 0;
    uint32_t gone = purge_holes(slab, holes);
    lock_take(&class->lock);
    return_holes(class, class_index, slab, holes, gone);
    lock_drop(&class->lock);
    return (size_t)__builtin_popcount(gone) << PAGE_SHIFT;
}

size_t slab_trim(void) {
    size_t bytes = 0;
    if (os_page_bytes() != PAGE_BYTES)
        return 0; /* holes are tracked per granule; larger system pages would need all of theirs */
    for (uint32_t rank = 0; rank < LOAD_ACQUIRE(pagemap_region_count); rank++) {
        struct region *region = pagemap_regions[rank];
        for (uint32_t slot = 0; slot < LOAD_RELAXED(region->slots_used); slot++)
            bytes += trim_slab(&region->slab[slot]);
    }
    return bytes;
}

/* ---- figures, repair, verification --------------------------------------------------------------- */

void slab_count(unsigned class_index, struct slab_counts *counts) {
    struct slab_class *class = &slab_classes[class_index];
    *counts = (struct slab_counts){0};
    lock_take(&class->lock);
    counts->slabs = class->slabs;
    counts->objects = class->slabs * size_classes[class_index].objects;
    counts->free_objects = class->free_objects;
    for (const struct slab *slab = class->partial; slab; slab = slab->next) {
        counts->partial_slabs++;
        counts->clean_bytes += (size_t)__builtin_popcount(slab->clean_pages) << PAGE_SHIFT;
    }
    lock_drop(&class->lock);
}

static unsigned count_bits(const struct slab *slab) {
    unsigned bits = 0;
    for (unsigned word = 0; word < SLAB_WORDS; word++)
        bits += (unsigned)__builtin_popcountll(slab->word[word]);
    return bits;
}

/* The slab a slot holds, if it is in use: the page map has the last word. */
static bool slot_is_slab(struct region *region, uint32_t slot) {
    const struct slab *slab = &region->slab[slot];
    return slab->class_index != 0 && pagemap_head(slab->base) == head_make(HEAD_SLAB, slot);
}

static void rebuild_class(unsigned class_index) {
    struct slab_class *class = &slab_classes[class_index];
    class->partial = NULL;
    class->slabs = class->free_objects = 0;
    for (uint32_t rank = 0; rank < pagemap_region_count; rank++) {
        struct region *region = pagemap_regions[rank];
        for (uint32_t slot = 0; slot < region->slots_used; slot++) {
            struct slab *slab = &region->slab[slot];
            if (slab->class_index != class_index || !slot_is_slab(region, slot))
                continue;
            slab->free_count = (uint16_t)count_bits(slab);
            slab->listed = 0;
            pagemap_set_class(slab->base, size_classes[class_index].pages, class_index);
            class->slabs++;
            class->free_objects += slab->free_count;
            if (slab->free_count)
                list_push(class, slab);
        }
    }
}

void slab_repair(void) {
    for (unsigned i = 1; i < CLASS_COUNT; i++)
        if (lock_broken(&slab_classes[i].lock)) {
            rebuild_class(i);
            lock_repair(&slab_classes[i].lock);
        }
}

static const char *verify_slab(const struct slab *slab, size_t *free_objects) {
    const struct size_class *shape = &size_classes[slab->class_index];
    unsigned bits = count_bits(slab);
    *free_objects += bits;
    if (bits != slab->free_count || bits > shape->objects)
        return "INV-SLAB-1";
    if (slab->listed != (bits > 0))
        return "INV-SLAB-2";
    for (unsigned page = 0; page < shape->pages; page++)
        if (((slab->clean_pages >> page) & 1) && !page_is_free(slab, shape, page))
            return "INV-SLAB-3";
    return "";
}

static const char *verify_class(unsigned class_index) {
    struct slab_class *class = &slab_classes[class_index];
    size_t slabs = 0, free_objects = 0, listed = 0;
    for (const struct slab *slab = class->partial; slab; slab = slab->next)
        listed++;
    for (uint32_t rank = 0; rank < pagemap_region_count; rank++)
        for (uint32_t slot = 0; slot < pagemap_regions[rank]->slots_used; slot++) {
            const struct slab *slab = &pagemap_regions[rank]->slab[slot];
            if (slab->class_index != class_index || !slot_is_slab(pagemap_regions[rank], slot))
                continue;
            slabs++;
            listed -= slab->listed;
            const char *broken = verify_slab(slab, &free_objects);
            if (*broken)
                return broken;
        }
    if (slabs != class->slabs || free_objects != class->free_objects)
        return "INV-SLAB-4";
    return listed == 0 ? "" : "INV-SLAB-2";
}

const char *slab_verify(void) {
    const char *broken = "";
    for (unsigned i = 1; i < CLASS_COUNT && !*broken; i++) {
        lock_take(&slab_classes[i].lock);
        broken = verify_class(i);
        lock_drop(&slab_classes[i].lock);
    }
    return broken;
}
