/* SPDX-License-Identifier: MIT
 *
 * slab_internal.h: what the files of the slab layer share.  Nobody else includes it.
 */
#ifndef QUARRY_SLAB_INTERNAL_H
#define QUARRY_SLAB_INTERNAL_H

#include "slab.h"

/* ---- shards (slab_shard.c) ----------------------------------------------------------------------- */

enum { LANE_OBJECT_MAX = 2 * CACHE_LINE }; /* lines are fetched in pairs */

/* The calling thread's. */
struct slab_home {
    uint32_t shard; /* where it takes objects from */
    uint32_t lane; /* the same + 1 for small objects, which share lines of the processors' caches */
    uint32_t uses; /* of classes' locks, since waits was 0 */
    uint32_t waits; /* of these, where another thread held the lock in the home shard or lane */
    uint32_t tried; /* moves since it made a shard */
};

extern __thread struct slab_home slab_home
    __attribute__((tls_model("initial-exec"), visibility("hidden")));

static inline struct slab_class *slab_class_in(uint32_t shard, unsigned class_index) {
    return &LOAD_ACQUIRE(slab_shards[shard])[class_index];
}

static inline bool slab_has_lane(unsigned class_index) {
    return size_classes[class_index].size <= LANE_OBJECT_MAX;
}

/* Where the calling thread takes objects of a class from. */
static inline struct slab_class *slab_class_here(unsigned class_index) {
    bool in_lane = slab_home.lane && slab_has_lane(class_index);
    return slab_class_in(in_lane ? slab_home.lane - 1 : slab_home.shard, class_index);
}

/* Another thread holds the lock of a class in this shard: the calling one may find itself a new home. */
void slab_shard_waited(uint32_t shard);
void slab_lane_waited(uint32_t shard);

void slab_lock_contended(struct slab_class *class);

/* Takes a class's lock on behalf of the program, which is where waiting matters. */
static inline void slab_lock(struct slab_class *class) {
    slab_home.uses++;
    if (UNLIKELY(!lock_take_free(&class->lock)))
        slab_lock_contended(class);
}

/* Takes the lock of the class, in the shard that a slab belongs to, and returns what it guards.  The
 * slab need not be of the class.  If it is, and the shard is still right when read after the class, it stays
 * so while the lock is held. */
struct slab_class *slab_lock_shard_of(const struct slab *slab, unsigned class_index);

/* Brings a slab with free objects here from another shard; false if none can be had at once. */
bool slab_take_over(struct slab_class *class, unsigned class_index);

/* Where the lock for an object is looked for first. */
struct slab_class *slab_class_of(unsigned class_index, const void *object);

/* Exchanges the lock of a class for that of another slab's shard.  Returns the slab of the address. */
struct slab *slab_follow(struct slab_class **class, unsigned class_index, struct slab *slab,
                         uintptr_t address, struct slab_class **fallen);

/* ---- lists: the class's lock is held for all of it ------------------------------------------------- */

void slab_list_push(struct slab_class *class, struct slab *slab);
void slab_list_append(struct slab_class *class, struct slab *slab);
void slab_list_remove(struct slab_class *class, struct slab *slab);

/* Closes a slab whose objects are all free; false, and nothing done, if it has others. */
bool slab_close_if_free(struct slab_class *class, unsigned class_index, struct slab *slab);

/* Counts objects whose bits were set; a slab whose objects are all free closes: true. */
bool slab_count_given(struct slab_class *class, unsigned class_index, struct slab *slab,
                      unsigned given);

/* True if every object that touches the page is free and in the slab. */
bool slab_page_is_free(const struct slab *slab, const struct size_class *shape, unsigned page);

/* Whether a class has fallen so far that it should be searched for holes now; if so the caller
 * calls slab_trim_class when it holds no lock. */
bool slab_has_fallen(struct slab_class *class, const struct size_class *shape);
size_t slab_trim_class(const struct slab_class *class, unsigned class_index);

/* Pages that count as clean were touched: up to the number purged, that was in vain. */
void slab_holes_retaken(struct slab_class *class, size_t pages);

/* The slab leaves the class, and its holes with it; pages of it that were never touched are not told from them. */
static inline uint32_t slab_forget_holes(struct slab_class *class, const struct slab *slab) {
    if (LIKELY(class->holes_outstanding == 0))
        return 0;
    uint32_t clean = (uint32_t)__builtin_popcount(slab->clean_pages);
    uint32_t holes = (uint32_t)min_size(class->holes_outstanding, clean);
    class->holes_outstanding -= holes;
    return holes;
}

/* Other shards look at both without the lock. */
static inline void slab_add_objects(struct slab_class *class, size_t objects, size_t free_objects) {
    STORE_RELAXED(class->objects, class->objects + objects);
    STORE_RELAXED(class->free_objects, class->free_objects + free_objects);
}

static inline size_t slab_live(const struct slab_class *class) {
    return class->objects - class->free_objects;
}

/* The slab of the class that an address lies in, or NULL; without its lock that may change at once. */
static inline struct slab *slab_find(unsigned class_index, uintptr_t address) {
    struct region *region = pagemap_region(address);
    uint32_t head = region ? LOAD_ACQUIRE(region->head[pagemap_page(region, address)]) : 0;
    if (UNLIKELY(head_kind(head) != HEAD_SLAB))
        return NULL;
    struct slab *slab = pagemap_slab(region, head);
    return LIKELY(LOAD_ACQUIRE(slab->class_index) == class_index) ? slab : NULL;
}

/* Ends what a batch does in one shard; notes the first that is to be searched for holes. */
static inline void slab_drop_class(struct slab_class *class, const struct size_class *shape,
                                   struct slab_class **fallen) {
    class->in_use = 1;
    if (!*fallen && UNLIKELY(slab_has_fallen(class, shape)))
        *fallen = class;
    lock_drop(&class->lock);
}

#endif
