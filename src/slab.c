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
 * STATES   of a slab:    full (not listed) <-> partial (listed) <-> empty (at the list's end, or its pages go back)
 *          of an object: free here (bit 1) -> taken (bit 0: in a cache, then live) -> free here
 *          of a page:    clean (zero, not resident) -> touched, when one of its objects is taken
 *
 * INVARIANTS
 *   INV-SLAB-1  free_count is the number of bits set in word[], at most the objects that it has.
 *   INV-SLAB-2  A slab is listed if and only if 0 < free_count.  It is closed when all are free, except a
 *               new one from which nothing was taken because others gave objects meanwhile; and where there
 *               is more than one shard those of up to an eighth of the class, which are used last.
 *   INV-SLAB-3  A page marked clean holds no taken object.
 *   INV-SLAB-4  A class's counters agree with its slabs, in each shard.
 *
 * LOCKING  One lock per class and shard (slab_shard.c) for words, list and counters.  A batch costs one
 *          acquisition, and one more where its next object is in another shard than the last.  Pages
 *          are obtained without it.  It is not held during a purge: the objects of the pages are
 *          taken, purged, and given back (purging a hole is an allocation).
 *
 * FORK     Taking clears bits before the pointers enter a cache, giving removes the pointers from
 *          the cache before bits are set (INV-FORK-1).  Slabs open and close under the class's
 *          lock, so that a cut in there is noticed.  slab_repair rebuilds list and counters.
 *
 * COST     take: a few instructions per object (lowest bit, add); give: a lookup per object, a multiplication where
 *          the slab is that of the one before, a comparison where it is the next one there.
 *
 * WHY NOT  Links through free objects: faults, copied pages after fork, and a stray write into a
 *          freed block would steer the allocator.  Owner threads: they save 3-5 % when cores are
 *          oversubscribed, more where lines travel far (decision 42), and cost half as much memory again.
 */
#include "slab.h"

#include "limit.h"
#include "page.h"
#include "slab_internal.h"

#include <string.h>

struct slab_class slab_classes[CLASS_COUNT];
struct slab_class *slab_shards[SHARD_MAX];
uint32_t slab_shard_count;

uint32_t slab_small_most = 8;

enum { KEPT_PART = 8 }; /* of a class's objects that may be free while empty slabs are kept */

/* The first one's prev is the last one, so that both ends are found at once. */
void slab_list_push(struct slab_class *class, struct slab *slab) {
    struct slab *first = class->partial;
    slab->next = first;
    slab->prev = first ? first->prev : slab;
    if (first)
        first->prev = slab;
    STORE_RELAXED(class->partial, slab);
}

void slab_list_append(struct slab_class *class, struct slab *slab) {
    struct slab *first = class->partial;
    if (!first) {
        slab_list_push(class, slab);
        return;
    }
    slab->next = NULL;
    slab->prev = first->prev;
    first->prev->next = slab;
    first->prev = slab;
}

void slab_list_remove(struct slab_class *class, struct slab *slab) {
    struct slab *first = class->partial;
    if (slab == first)
        STORE_RELAXED(class->partial, slab->next);
    else
        slab->prev->next = slab->next;
    if (slab->next)
        slab->next->prev = slab->prev;
    else
        first->prev = slab->prev;
}

/* ---- taking -------------------------------------------------------------------------------------- */

/* The pages that objects first..last of a slab touch are clean no longer. */
static void mark_touched(struct slab_class *class, const struct size_class *shape,
                         struct slab *slab, unsigned first, unsigned last) {
    unsigned low = first * shape->size >> PAGE_SHIFT;
    unsigned high = (last * shape->size + shape->size - 1) >> PAGE_SHIFT;
    uint32_t touched = slab->clean_pages & (uint32_t)(bit_mask(high + 1) & ~bit_mask(low));
    slab->clean_pages ^= touched;
    if (class->holes_outstanding)
        slab_holes_retaken(class, (size_t)__builtin_popcount(touched));
}

/* Whether the bits are consecutive, as in a slab that is new or was given back in order. */
static ALWAYS_INLINE bool is_stretch(uint64_t bits) {
    return (bits & (bits + (bits & (0 - bits)))) == 0;
}

/* Moves up to max of the lowest free objects of one word to the slots below end, lowest last. */
static unsigned take_word(struct slab_class *class, const struct size_class *shape,
                          struct slab *slab, unsigned word, void **end, unsigned max) {
    uint64_t bits = slab->word[word], rest = bits;
    char *base = (char *)slab->base + (size_t)word * 64 * shape->size;
    void **out = end;
    unsigned first = bit_lowest(bits), last;
    if (is_stretch(bits)) {
        unsigned count = (unsigned)min_size(bit_highest(bits) - first + 1, max);
        char *object = base + (size_t)first * shape->size;
        for (void **low = end - count; out != low; object += shape->size)
            *--out = object;
        last = first + count - 1;
        rest = bits & ~bit_mask(last + 1);
    } else {
        do {
            last = bit_lowest(rest);
            *--out = base + (size_t)last * shape->size;
            rest &= rest - 1;
        } while (rest && out != end - max);
    }
    if (slab->clean_pages) /* first: a cut must not leave a taken object on a clean page */
        mark_touched(class, shape, slab, word * 64 + first, word * 64 + last);
    STORE_RELEASE(slab->word[word], rest);
    return (unsigned)(end - out);
}

/* Fills out[] from its end.  A slab without free objects leaves the list. */
static unsigned take_from_list(struct slab_class *class, unsigned class_index, void **out,
                               unsigned max) {
    const struct size_class *shape = &size_classes[class_index];
    unsigned left = max;
    slab_lock(class);
    if (!class->partial && UNLIKELY(LOAD_RELAXED(slab_shard_count) > 1))
        slab_take_over(class, class_index);
    while (left > 0 && class->partial) {
        struct slab *slab = class->partial;
        unsigned before = left;
        for (unsigned word = 0; word < SLAB_WORDS && left > 0; word++)
            if (slab->word[word])
                left -= take_word(class, shape, slab, word, out + left, left);
        slab->free_count = (uint8_t)(slab->free_count - (before - left));
        if (slab->free_count == 0)
            slab_list_remove(class, slab);
    }
    slab_add_objects(class, 0, 0 - (size_t)(max - left));
    class->in_use = 1;
    class->high_live = max_size(class->high_live, slab_live(class));
    lock_drop(&class->lock);
    if (left > 0)
        memmove(out, out + left, (max - left) * sizeof *out);
    return max - left;
}

static bool add_slab_of(struct slab_class *class, unsigned class_index, bool small) {
    const struct size_class *shape = &size_classes[class_index];
    bool zero;
    unsigned pages = small ? shape->small_pages : shape->pages;
    unsigned objects = small ? shape->small_objects : shape->objects;
    if (!limit_admits((size_t)pages << PAGE_SHIFT))
        return false;
    uintptr_t run = page_run_take(pages, PAGE_BYTES, &zero);
    if (!run)
        return false;
    lock_take(&class->lock); /* before the run turns into a slab: see FORK */
    struct slab *slab = page_slab_open(run, pages, class_index, class->shard, objects, zero);
    if (slab) {
        slab_list_push(class, slab);
        slab->free_count = slab->objects;
        STORE_RELAXED(class->slabs, class->slabs + 1);
        slab_add_objects(class, objects, objects);
    }
    lock_drop(&class->lock);
    if (!slab)
        page_run_give(run);
    return slab != NULL;
}

/* Where there is no memory for a slab of full size there may be some for a small one. */
static bool add_slab(struct slab_class *class, unsigned class_index) {
    bool small = LOAD_RELAXED(class->slabs) < LOAD_RELAXED(slab_small_most);
    return add_slab_of(class, class_index, small) ||
           (!small && add_slab_of(class, class_index, true));
}

/* Where there is no memory for a slab: what other shards have, the slabs that are left to them too. */
static unsigned take_elsewhere(unsigned class_index, void **out, unsigned max) {
    uint32_t shards = LOAD_ACQUIRE(slab_shard_count);
    unsigned count = 0;
    for (uint32_t i = 0; shards > 1 && i < shards && count == 0; i++)
        count = take_from_list(slab_class_in(i, class_index), class_index, out, max);
    return count;
}

unsigned slab_take(unsigned class_index, void **out, unsigned max) {
    struct slab_class *class = slab_class_here(class_index);
    for (;;) {
        unsigned count = take_from_list(class, class_index, out, max);
        if (count)
            return count;
        if (!add_slab(class, class_index))
            return take_elsewhere(class_index, out, max);
    }
}

/* ---- giving -------------------------------------------------------------------------------------- */

/* How many of at most so many objects lie one step after the other. */
static ALWAYS_INLINE unsigned row_of(void *const *objects, unsigned most, uintptr_t step) {
    uintptr_t at = (uintptr_t)objects[0];
    unsigned count = 1;
    while (count < most && (uintptr_t)objects[count] == (at += step))
        count++;
    return count;
}

/* The bits of an object and of those after it that go on as it lies to the one before, up or down, as far as one word
 * tells of them: *row objects. */
static ALWAYS_INLINE uint64_t bits_of_row(const struct slab *slab, const struct size_class *shape,
                                          void *const *objects, unsigned count, unsigned index,
                                          uintptr_t step, unsigned *row) {
    unsigned bit = index % 64;
    *row = 1;
    if (step == shape->size) {
        unsigned room = (unsigned)min_size(64 - bit, slab->objects - index);
        *row = row_of(objects, (unsigned)min_size(count, room), step);
    } else if (step == 0 - (uintptr_t)shape->size) {
        *row = row_of(objects, (unsigned)min_size(count, bit + 1), step);
        bit -= *row - 1;
    }
    return bit_mask(*row) << bit;
}

/* True if one that lies in the slab's pages is an object that was not free.  The product's upper half is the index, its
 * lower half tells whether it is exact (INV-CLASS-2, 3). */
static ALWAYS_INLINE bool give_one(struct slab *slab, const struct size_class *shape,
                                   uintptr_t address) {
    uint64_t product = (uint64_t)(address - slab->base) * shape->magic;
    unsigned index = (unsigned)(product >> 32);
    if (UNLIKELY(index >= slab->objects || (uint32_t)product >= shape->magic))
        return false;
    uint64_t *word = &slab->word[index / 64], bit = (uint64_t)1 << (index % 64), old = *word;
    if (UNLIKELY(old & bit))
        return false;
    STORE_RELAXED(*word, old | bit);
    return true;
}

/* Gives those that lie in the slab as well, after one that was given; returns how many. */
static NOINLINE unsigned give_others(struct slab *slab, const struct size_class *shape,
                                     void *const *objects, unsigned count) {
    uintptr_t base = slab->base, bytes = (uintptr_t)slab->objects * shape->size;
    unsigned given = 0, row;
    while (given < count) {
        uintptr_t offset = (uintptr_t)objects[given] - base;
        uintptr_t step = (uintptr_t)objects[given] - (uintptr_t)objects[(int)given - 1];
        uint64_t product = offset * shape->magic;
        if (offset >= bytes || UNLIKELY((uint32_t)product >= shape->magic))
            break;
        unsigned index = (unsigned)(product >> 32);
        uint64_t *word = &slab->word[index / 64];
        uint64_t bits = bits_of_row(slab, shape, objects + given, count - given, index, step, &row);
        if (UNLIKELY(*word & bits)) { /* one of them; told of when it is the first */
            bits = (uint64_t)1 << (index % 64);
            row = 1;
            if (*word & bits)
                break;
        }
        STORE_RELAXED(*word, *word | bits);
        given += row;
    }
    return given;
}

/* Why one that lies in the slab's pages cannot be given. */
static NOINLINE enum slab_status fault_of(const struct slab *slab, const struct size_class *shape,
                                          uintptr_t address) {
    uint64_t product = (uint64_t)(address - slab->base) * shape->magic;
    if (product >> 32 >= slab->objects)
        return SLAB_TAIL;
    return (uint32_t)product >= shape->magic ? SLAB_INTERIOR : SLAB_FREE;
}

bool slab_close_if_free(struct slab_class *class, unsigned class_index, struct slab *slab) {
    const struct size_class *shape = &size_classes[class_index];
    if (slab->free_count != slab->objects)
        return false;
    slab_list_remove(class, slab);
    STORE_RELAXED(class->slabs, class->slabs - 1);
    slab_add_objects(class, 0 - (size_t)slab->objects, 0 - (size_t)slab->objects);
    slab_forget_holes(class, slab);
    slab->free_count = 0; /* a cut leaves a descriptor that nobody takes for a slab in the list */
    page_slab_close(slab, sizeclass_pages(shape, slab->objects));
    return true;
}

/* Where more threads than one use the class its next slab would mostly be another's, with its lines in the other
 * processor.  Not where the user has set how much may stay dirty: what is kept here is not counted. */
static bool keeps_empty(const struct slab_class *class) {
    return LOAD_RELAXED(slab_shard_count) > 1 && class->free_objects * KEPT_PART < class->objects &&
           !page_trim_threshold_set();
}

/* Those that were kept, while there are more than are worth keeping. */
static void close_kept(struct slab_class *class, unsigned class_index) {
    while (class->partial && !keeps_empty(class) &&
           slab_close_if_free(class, class_index, class->partial->prev))
        ;
}

/* Whoever is about to take from a slab that is new, and so empty as well, opens another one. */
static bool close_empty_in(struct slab_class *class, unsigned class_index) {
    bool any = false;
    lock_take(&class->lock);
    while (class->partial && slab_close_if_free(class, class_index, class->partial->prev))
        any = true;
    lock_drop(&class->lock);
    return any;
}

bool slab_close_empty(void) {
    uint32_t shards = LOAD_ACQUIRE(slab_shard_count);
    bool any = false;
    for (uint32_t shard = 0; shards > 1 && shard < shards; shard++)
        for (unsigned i = 1; i < CLASS_COUNT; i++)
            any |= close_empty_in(slab_class_in(shard, i), i);
    return any;
}

/* A slab that had no free objects, or has no others now: true if it closes. */
static NOINLINE bool list_or_close(struct slab_class *class, unsigned class_index,
                                   struct slab *slab, unsigned given) {
    if (slab->free_count == given)
        slab_list_push(class, slab);
    if (slab->free_count != slab->objects)
        return false;
    if (keeps_empty(class)) {
        slab_list_remove(class, slab);
        slab_list_append(class, slab);
        return false;
    }
    slab_close_if_free(class, class_index, slab);
    if (UNLIKELY(LOAD_RELAXED(slab_shard_count) > 1))
        close_kept(class, class_index);
    return true;
}

static ALWAYS_INLINE bool count_given(struct slab_class *class, unsigned class_index,
                                      struct slab *slab, unsigned given) {
    unsigned now = slab->free_count + given;
    slab->free_count = (uint8_t)now;
    STORE_RELAXED(class->free_objects, class->free_objects + given);
    if (now != given && now != slab->objects)
        return false;
    return list_or_close(class, class_index, slab, given);
}

bool slab_count_given(struct slab_class *class, unsigned class_index, struct slab *slab,
                      unsigned given) {
    return given != 0 && count_given(class, class_index, slab, given);
}

static ALWAYS_INLINE bool lies_in(const struct slab *slab, const struct size_class *shape,
                                  const void *object) {
    return (uintptr_t)object - slab->base < (uintptr_t)slab->objects * shape->size;
}

/* Neighbours in a batch often share a slab, and lie there in a row: it is looked for once, and they are given together.
 * What is wrong is told before they are counted, for then the slab may close. */
enum slab_status slab_give(unsigned class_index, void *const *objects, unsigned count,
                           unsigned *culprit) {
    struct slab_class *class = &slab_classes[class_index], *fallen = NULL;
    const struct size_class *shape = &size_classes[class_index];
    enum slab_status status = SLAB_OK;
    unsigned i = 0;
    bool closed = false;
    if (UNLIKELY(LOAD_RELAXED(slab_shard_count) > 1) && count > 0)
        class = slab_class_of(class_index, objects[0]);
    slab_lock(class);
    while (i < count) {
        uintptr_t address = (uintptr_t)objects[i];
        struct slab *slab = slab_find(class_index, address);
        unsigned given = 1;
        if (UNLIKELY(slab && LOAD_RELAXED(slab->shard) != class->shard)) {
            struct slab_class *next = class; /* class itself stays in a register */
            slab = slab_follow(&next, class_index, slab, address, &fallen);
            class = next;
        }
        if (UNLIKELY(!slab || !give_one(slab, shape, address))) {
            status = slab ? fault_of(slab, shape, address) : SLAB_FOREIGN;
            break;
        }
        if (++i < count && lies_in(slab, shape, objects[i])) {
            given += give_others(slab, shape, objects + i, count - i);
            i += given - 1;
            if (UNLIKELY(i < count && lies_in(slab, shape, objects[i]))) {
                status = fault_of(slab, shape, (uintptr_t)objects[i]);
                count = i;
            }
        }
        closed |= count_given(class, class_index, slab, given);
    }
    slab_drop_class(class, shape, &fallen);
    *culprit = i;
    if (UNLIKELY(fallen)) {
        page_note_fall();
        slab_trim_class(fallen, class_index);
    } else if (closed) {
        page_settle();
    }
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
    if (index >= LOAD_RELAXED(slab->objects)) {
        *object = 0;
        return class_index;
    }
    *object = slab->base + (size_t)index * shape->size;
    *is_free = (LOAD_RELAXED(slab->word[index / 64]) >> (index % 64)) & 1;
    return class_index;
}
