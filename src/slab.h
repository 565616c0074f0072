/* SPDX-License-Identifier: MIT
 *
 * slab.h: objects of one size, taken and given back in batches.  Thread-safe.
 *
 * The layer checks every pointer it is given and changes nothing for one that is wrong; what to do
 * about it is for the caller to decide.
 */
#ifndef QUARRY_SLAB_H
#define QUARRY_SLAB_H

#include "base.h"
#include "lock.h"
#include "pagemap.h"
#include "sizeclass.h"

/* What a shard knows of a class; written under its lock. */
struct slab_class {
    struct lock lock;
    struct slab
        *partial; /* slabs with free objects, most recently freed into first, empty ones last */
    size_t slabs, objects, free_objects;

    /* slab_trim.c */
    size_t high_live;           /* most objects taken since the class was last searched for holes */
    uint32_t holes_outstanding; /* pages purged inside slabs and not touched again */

    /* slab_shard.c */
    uint16_t shard;
    uint16_t in_use; /* objects were taken or given since another shard last asked for a slab */
} __attribute__((aligned(CACHE_LINE)));

extern struct slab_class slab_classes[CLASS_COUNT]; /* of shard 0 */

/* The number of small slabs that a class begins with in each shard, so that a class of few objects holds
 * few pages.  It is a variable for the tests, which set 0 where slabs of one size are to be seen. */
extern uint32_t slab_small_most;

/* slab_shard.c: the classes of each shard.  Those below the count stay for ever. */
enum { SHARD_MAX = 64 };
extern struct slab_class *slab_shards[SHARD_MAX];
extern uint32_t slab_shard_count;

/* Limits for shards made from now on: how many; and, where that is 0, how many without regard to the
 * number of processors. */
void slab_set_shard_max(size_t shards);
void slab_set_shard_test(size_t shards);

/* Told by a thread before it takes objects.  Its lane, 0 at first, is kept for the thread that comes after it. */
void slab_enter(uint32_t *lane);

enum slab_status {
    SLAB_OK,
    SLAB_FOREIGN,  /* not in a slab of this class */
    SLAB_INTERIOR, /* inside an object, not at its start */
    SLAB_FREE,     /* the object is in the slab already */
    SLAB_TAIL,     /* behind the last object */
};

/* Closes the slabs that were kept although they are empty; true if there were any. */
bool slab_close_empty(void);

/* Takes up to max free objects of a class; the lowest address is the last in out[].  Returns how
 * many, 0 only where the kernel refuses memory. */
unsigned slab_take(unsigned class_index, void **out, unsigned max);

/* Gives objects of a class back.  Stops at the first one that is wrong and says which and why. */
enum slab_status slab_give(unsigned class_index, void *const *objects, unsigned count,
                           unsigned *culprit);

/* The class of the slab that an address lies in, and the start of its object; 0 if in none. */
unsigned slab_around(uintptr_t address, uintptr_t *object, bool *is_free);

/* Whether an address is the start of an object that is not in its slab. */
static inline bool slab_is_taken(uintptr_t address) {
    struct region *region = pagemap_region(address);
    uint32_t head = region ? LOAD_ACQUIRE(region->head[pagemap_page(region, address)]) : 0;
    if (UNLIKELY(head_kind(head) != HEAD_SLAB))
        return false;
    const struct slab *slab = pagemap_slab(region, head);
    const struct size_class *shape = &size_classes[LOAD_RELAXED(slab->class_index)];
    size_t offset = address - LOAD_RELAXED(slab->base);
    unsigned index = sizeclass_index(shape, offset);
    return index < LOAD_RELAXED(slab->objects) && (size_t)index * shape->size == offset &&
           !((LOAD_RELAXED(slab->word[index / 64]) >> (index % 64)) & 1);
}

/* Gives the free pages inside partly used slabs back to the kernel; returns the bytes. */
size_t slab_trim(void);

/* The same where the heap has grown to a peak: as many pages at most, of classes that need them least. */
void slab_trim_at_peak(size_t pages);

/* Makes all pages of slabs resident: objects that are free, or cached, may never have been written to. */
void slab_make_resident(void);

struct slab_counts {
    size_t slabs, partial_slabs, pages;
    size_t objects, free_objects; /* free: in the slabs, not those in caches */
    size_t clean_bytes;           /* of free objects' pages, given back or never touched */
};

static inline void slab_counts_add(struct slab_counts *sum, const struct slab_counts *more) {
    sum->slabs += more->slabs;
    sum->partial_slabs += more->partial_slabs;
    sum->pages += more->pages;
    sum->objects += more->objects;
    sum->free_objects += more->free_objects;
    sum->clean_bytes += more->clean_bytes;
}

/* Of one shard, and of all: a slab that changes its shard meanwhile may be missed or counted twice. */
void slab_count_in(uint32_t shard, unsigned class_index, struct slab_counts *counts);
void slab_count(unsigned class_index, struct slab_counts *counts);

void slab_init(void);

/* Fork repair: rebuilds a class's list from the descriptors if another thread was cut in it. */
void slab_repair(void);

/* Empty string, or the first invariant that does not hold; for tests. */
const char *slab_verify(void);

#endif
