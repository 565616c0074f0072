/* SPDX-License-Identifier: MIT
 *
 * objects.h: object caches, for heaps.c, which is made of them, and for those who repair them.  What
 * programs see of them is in quarry.h.
 */
#ifndef QUARRY_OBJECTS_H
#define QUARRY_OBJECTS_H

#include "base.h"
#include "lock.h"

#include <quarry.h>

enum { OBJECT_WORDS = 4 };

struct object_slab {
    struct quarry_cache *owner;
    struct object_slab *next;                         /* of all slabs of the cache */
    struct object_slab *next_free, *prev_free;        /* of those with a free object */
    uint64_t free[OBJECT_WORDS], built[OBJECT_WORDS]; /* bit i tells of object i */
    size_t free_count;
};

struct quarry_cache {
    struct lock lock;
    struct quarry_cache *next; /* of all caches */
    struct object_slab *slabs, *partial;
    size_t size, run_bytes, first, objects; /* offset of object 0; objects per slab */
    size_t slab_count, live;
    int (*ctor)(void *, void *);
    void (*dtor)(void *, void *);
    void *arg;
    char name[QUARRY_CACHE_NAME_BYTES];
};

extern struct quarry_cache *object_caches; /* all of them, newest first, but for those of heaps */

/* Gives a cache its lock and the shape of its slabs; all else of it is 0. */
void objects_init(struct quarry_cache *cache, size_t size, size_t align);

/* Whether a pointer is a live object of the cache; reports it if not.  function is the name to print. */
bool objects_is_live(const struct quarry_cache *cache, void *object, const char *function);

/* Takes an object back; a pointer that is no live one is reported. */
void objects_give(struct quarry_cache *cache, void *object, const char *function);

/* Gives the memory of all slabs back, whatever lives in them; destructs nothing. */
void objects_drop(struct quarry_cache *cache);

/* Fork repair: rebuilds the lists of a cache, or of all, that another thread was cut in. */
void objects_rebuild(struct quarry_cache *cache);
void objects_repair(void);

#endif
