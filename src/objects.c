/* SPDX-License-Identifier: MIT
 *
 * objects: caches of constructed objects (Bonwick 1994).
 *
 * PURPOSE  Objects that are expensive to set up stay set up while they are free: the constructor runs
 *          when an object is handed out for the first time, the destructor before its memory goes.
 *
 * LAYOUT   A slab is a run of 2^k bytes at a multiple of 2^k: a header, then the objects.  Whose a
 *          pointer is shows by the start of its run; the page map knows whether there is one.  Free
 *          objects are not written to: what is free and what is built are bits in the header.
 *          A run is as long as OBJECTS_LEAST objects need, and no longer than OBJECTS_MOST fill: so
 *          at most an eighth of it is no object.
 *
 * STATES   of an object: raw (free, not built) -> live -> built (free) -> live ... -> raw, by reap
 *
 * INVARIANTS
 *   INV-OBJECT-1  A slab is in the list of partial ones if and only if it has a free object.
 *   INV-OBJECT-2  An object whose bit in built[] is 1 and that is free has been constructed and not
 *                 been destructed.
 *
 * LOCKING  One lock per cache.  Constructors and destructors are called without it.
 *
 * FORK     The list of all slabs changes by single stores; the other one is rebuilt from it.  What a
 *          reap has taken out of it and not yet given back is lost to a child.
 *
 * FAILURE  No memory, after all that malloc tries, or a constructor that refuses: NULL and ENOMEM.
 *
 * WHY NOT  Per-thread stacks in front: who needs them has cheap objects, and malloc has them.
 */
#include "objects.h"

#include "heap.h"
#include "meta.h"
#include "page.h"
#include "report.h"

#include <errno.h>
#include <string.h>

#define RUN_USUAL ((size_t)32 << 10)
#define SIZE_MOST ((size_t)1 << 20)

enum { OBJECTS_MOST = 64 * OBJECT_WORDS, OBJECTS_LEAST = 8 };

static struct lock list_lock = LOCK_INITIALISER(LOCK_OBJECTS);
struct quarry_cache *object_caches;

/* ---- slabs --------------------------------------------------------------------------------------- */

static void push_partial(struct quarry_cache *cache, struct object_slab *slab) {
    slab->prev_free = NULL;
    slab->next_free = cache->partial;
    if (cache->partial)
        cache->partial->prev_free = slab;
    cache->partial = slab;
}

static void drop_partial(struct quarry_cache *cache, struct object_slab *slab) {
    if (slab->prev_free)
        slab->prev_free->next_free = slab->next_free;
    else
        cache->partial = slab->next_free;
    if (slab->next_free)
        slab->next_free->prev_free = slab->prev_free;
}

static bool add_slab(struct quarry_cache *cache) {
    struct object_slab *slab = heap_take_pages(cache->run_bytes, cache->run_bytes);
    if (!slab)
        return false;
    memset(slab, 0, sizeof *slab);
    slab->owner = cache;
    slab->free_count = cache->objects;
    for (size_t word = 0; word < OBJECT_WORDS; word++)
        slab->free[word] = cache->objects > word * 64
                               ? bit_mask((unsigned)min_size(cache->objects - word * 64, 64))
                               : 0;
    lock_take(&cache->lock);
    slab->next = cache->slabs;
    STORE_RELEASE(cache->slabs, slab);
    push_partial(cache, slab);
    STORE_RELAXED(cache->slab_count, cache->slab_count + 1);
    lock_drop(&cache->lock);
    return true;
}

/* The lowest free object that is built, else the lowest free one. */
static size_t choose(const struct object_slab *slab) {
    for (size_t word = 0; word < OBJECT_WORDS; word++)
        if (slab->free[word] & slab->built[word])
            return word * 64 + bit_lowest(slab->free[word] & slab->built[word]);
    size_t word = 0;
    while (!slab->free[word])
        word++;
    return word * 64 + bit_lowest(slab->free[word]);
}

/* False, and nothing done, where the object is free already. */
static bool mark_free(struct quarry_cache *cache, struct object_slab *slab, size_t i, bool built) {
    uint64_t bit = (uint64_t)1 << (i % 64);
    lock_take(&cache->lock);
    bool live = !(slab->free[i / 64] & bit);
    if (live) {
        slab->built[i / 64] = built ? slab->built[i / 64] | bit : slab->built[i / 64] & ~bit;
        STORE_RELAXED(slab->free[i / 64], slab->free[i / 64] | bit);
        if (slab->free_count++ == 0)
            push_partial(cache, slab);
        STORE_RELAXED(cache->live, cache->live - 1);
    }
    lock_drop(&cache->lock);
    return live;
}

/* A free object that is live from now on; false where there is none.  *built tells its state. */
static bool take_free(struct quarry_cache *cache, struct object_slab **from, size_t *i,
                      bool *built) {
    lock_take(&cache->lock);
    struct object_slab *slab = cache->partial;
    if (slab) {
        *i = choose(slab);
        *from = slab;
        uint64_t bit = (uint64_t)1 << (*i % 64);
        *built = (slab->built[*i / 64] & bit) != 0;
        STORE_RELAXED(slab->free[*i / 64], slab->free[*i / 64] & ~bit);
        if (--slab->free_count == 0)
            drop_partial(cache, slab);
        STORE_RELAXED(cache->live, cache->live + 1);
    }
    lock_drop(&cache->lock);
    return slab != NULL;
}

static void *object_at(const struct quarry_cache *cache, struct object_slab *slab, size_t i) {
    return (char *)slab + cache->first + i * cache->size;
}

/* ---- the public functions ------------------------------------------------------------------------ */

static bool is_name(const char *name) {
    size_t length = strlen(name);
    size_t good = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.");
    return length > 0 && length < QUARRY_CACHE_NAME_BYTES && good == length;
}

static size_t room(const struct quarry_cache *cache) {
    return (cache->run_bytes - cache->first) / cache->size;
}

/* The least object has 16 bytes, so that a run of one page holds fewer than OBJECTS_MOST. */
void objects_init(struct quarry_cache *cache, size_t size, size_t align) {
    cache->lock = (struct lock)LOCK_INITIALISER(LOCK_OBJECTS);
    cache->size = round_up(max_size(size, 1), align);
    cache->first = round_up(sizeof(struct object_slab), align);
    cache->run_bytes = RUN_USUAL;
    while (room(cache) > OBJECTS_MOST)
        cache->run_bytes /= 2;
    while (room(cache) < OBJECTS_LEAST)
        cache->run_bytes *= 2;
    cache->objects = room(cache);
}

struct quarry_cache *quarry_cache_create(const char *name, size_t size, size_t align,
                                         int (*ctor)(void *, void *), void (*dtor)(void *, void *),
                                         void *arg) {
    heap_enter();
    if (!is_name(name) || size > SIZE_MOST || align > PAGE_BYTES ||
        (align != 0 && !is_power_of_two(align))) {
        errno = EINVAL;
        return NULL;
    }
    struct quarry_cache *cache = meta_take(sizeof *cache);
    if (!cache) {
        errno = ENOMEM;
        return NULL;
    }
    cache->ctor = ctor;
    cache->dtor = dtor;
    cache->arg = arg;
    memcpy(cache->name, name, strlen(name));
    objects_init(cache, size, max_size(align, SIZE_GRAIN));
    lock_take(&list_lock);
    cache->next = object_caches;
    STORE_RELEASE(object_caches, cache);
    lock_drop(&list_lock);
    return cache;
}

void *quarry_cache_alloc(struct quarry_cache *cache) {
    struct object_slab *slab = NULL;
    size_t i = 0;
    bool built = false;
    heap_enter();
    while (!take_free(cache, &slab, &i, &built))
        if (!add_slab(cache)) {
            errno = ENOMEM;
            return NULL;
        }
    void *object = object_at(cache, slab, i);
    if (!built && cache->ctor && cache->ctor(object, cache->arg) != 0) {
        mark_free(cache, slab, i, false);
        errno = ENOMEM;
        return NULL;
    }
    return object;
}

/* The slab that an object of the cache lies in; NULL for a pointer that is none. */
static struct object_slab *slab_of(const struct quarry_cache *cache, void *object, size_t *i) {
    uintptr_t start = round_down((uintptr_t)object, cache->run_bytes);
    struct object_slab *slab = (struct object_slab *)start;
    size_t offset = (uintptr_t)object - start - cache->first;
    if (page_run_pages(start) << PAGE_SHIFT != cache->run_bytes || slab->owner != cache ||
        (uintptr_t)object - start < cache->first || offset % cache->size != 0 ||
        offset / cache->size >= cache->objects)
        return NULL;
    *i = offset / cache->size;
    return slab;
}

/* The slab of a live object, and which of its slab it is; NULL, and reported, for what is none. */
static struct object_slab *find_live(const struct quarry_cache *cache, void *object, size_t *i,
                                     const char *function) {
    struct object_slab *slab = slab_of(cache, object, i);
    if (!slab) {
        report_bad_pointer(function, object);
    } else if ((LOAD_RELAXED(slab->free[*i / 64]) >> (*i % 64)) & 1) {
        report_slab_misuse(function, object, SLAB_FREE);
        slab = NULL;
    }
    return slab;
}

bool objects_is_live(const struct quarry_cache *cache, void *object, const char *function) {
    size_t i = 0;
    return find_live(cache, object, &i, function) != NULL;
}

void objects_give(struct quarry_cache *cache, void *object, const char *function) {
    size_t i = 0;
    struct object_slab *slab = find_live(cache, object, &i, function);
    if (slab && !mark_free(cache, slab, i, true))
        report_slab_misuse(function, object, SLAB_FREE); /* by another thread, meanwhile */
}

void quarry_cache_free(struct quarry_cache *cache, void *object) {
    heap_enter();
    if (object)
        objects_give(cache, object, "quarry_cache_free");
}

static void destruct(const struct quarry_cache *cache, struct object_slab *slab) {
    for (size_t i = 0; cache->dtor && i < cache->objects; i++)
        if ((slab->built[i / 64] >> (i % 64)) & 1)
            cache->dtor(object_at(cache, slab, i), cache->arg);
}

/* Takes all slabs without live objects out of the lists; returns a list of them. */
static struct object_slab *take_empty(struct quarry_cache *cache) {
    struct object_slab **link = &cache->slabs, *slab, *taken = NULL;
    lock_take(&cache->lock);
    while ((slab = *link) != NULL) {
        if (slab->free_count != cache->objects) {
            link = &slab->next;
            continue;
        }
        STORE_RELEASE(*link, slab->next);
        STORE_RELEASE(slab->next, taken); /* not before the list goes on without it */
        taken = slab;
        drop_partial(cache, slab);
        STORE_RELAXED(cache->slab_count, cache->slab_count - 1);
    }
    lock_drop(&cache->lock);
    return taken;
}

size_t quarry_cache_reap(struct quarry_cache *cache) {
    size_t bytes = 0;
    heap_enter();
    struct object_slab *slab = take_empty(cache), *next;
    for (; slab; slab = next, bytes += cache->run_bytes) {
        next = slab->next;
        destruct(cache, slab);
        page_run_give((uintptr_t)slab);
    }
    return bytes;
}

/* Where the list names the cache; the list's lock is held.  What is found there is NULL where there is no
 * such cache. */
static struct quarry_cache **link_to(const struct quarry_cache *cache) {
    struct quarry_cache **link = &object_caches;
    while (*link && *link != cache)
        link = &(*link)->next;
    return link;
}

static bool is_known(const struct quarry_cache *cache) {
    lock_take(&list_lock);
    bool known = *link_to(cache) != NULL;
    lock_drop(&list_lock);
    return known;
}

int quarry_cache_destroy(struct quarry_cache *cache) {
    heap_enter();
    if (!is_known(cache)) {
        report_unknown("quarry_cache_destroy", cache, "cache");
        return EINVAL;
    }
    quarry_cache_reap(cache);
    if (LOAD_RELAXED(cache->live) != 0)
        return EBUSY;
    lock_take(&list_lock);
    STORE_RELEASE(*link_to(cache), cache->next);
    lock_drop(&list_lock);
    meta_give(cache, sizeof *cache);
    return 0;
}

size_t quarry_cache_stats(struct quarry_cache_stats *rows, size_t count) {
    size_t found = 0;
    heap_enter();
    lock_take(&list_lock);
    for (const struct quarry_cache *cache = object_caches; cache; cache = cache->next, found++) {
        if (found >= count)
            continue;
        size_t slabs = LOAD_RELAXED(cache->slab_count), live = LOAD_RELAXED(cache->live);
        rows[found] = (struct quarry_cache_stats){.size = cache->size, .slabs = slabs};
        rows[found].bytes = slabs * cache->run_bytes;
        rows[found].live_objects = live;
        rows[found].free_objects = slabs * cache->objects - min_size(live, slabs * cache->objects);
        memcpy(rows[found].name, cache->name, sizeof cache->name);
    }
    lock_drop(&list_lock);
    return found;
}

void objects_drop(struct quarry_cache *cache) {
    for (struct object_slab *slab = cache->slabs, *next; slab; slab = next) {
        next = slab->next;
        page_run_give((uintptr_t)slab);
    }
}

/* ---- fork ---------------------------------------------------------------------------------------- */

void objects_rebuild(struct quarry_cache *cache) {
    if (!lock_broken(&cache->lock))
        return;
    cache->partial = NULL;
    cache->slab_count = cache->live = 0;
    for (struct object_slab *slab = cache->slabs; slab; slab = slab->next) {
        slab->free_count = 0;
        for (size_t word = 0; word < OBJECT_WORDS; word++)
            slab->free_count += (size_t)__builtin_popcountll(slab->free[word]);
        if (slab->free_count)
            push_partial(cache, slab);
        cache->slab_count++;
        cache->live += cache->objects - slab->free_count;
    }
    lock_repair(&cache->lock);
}

void objects_repair(void) {
    if (lock_broken(&list_lock))
        lock_repair(&list_lock);
    for (struct quarry_cache *cache = object_caches; cache; cache = cache->next)
        objects_rebuild(cache);
}
