/* SPDX-License-Identifier: MIT
 *
 * heaps: heaps that are destroyed as a whole.
 *
 * PURPOSE  What was allocated for one request, one document or one plug-in goes in one step, without
 *          a walk through it; until then single blocks can be freed.
 *
 * LAYOUT   Up to LARGE_FROM bytes: an object cache per size class (objects.c), each slab a run of its own.
 *          Above: a run of its own, which begins with a header of one cache line,
 *
 *            run:  [ header: owner, next, previous | block ... ]
 *
 *          Both kinds of run begin with the address of their owner, so whose a pointer is shows by the
 *          start of its run, which the page map knows.
 *
 * STATES   of a large block: in no list -> in the heap's list -> in no list
 *
 * INVARIANT
 *   INV-HEAPS-1  A run is in the list of its heap, or of a cache of it, from before its first block is
 *                handed out until after its last one was given back.
 *
 * LOCKING  The heap's lock guards the list of large blocks, each cache's its slabs.  Memory is taken and
 *          given without them.
 *
 * FORK     next is authoritative: the list changes by one store; previous is rebuilt from it.
 *
 * FAILURE  NULL and ENOMEM; a wrong pointer is reported as free reports it.
 *
 * WHY NOT  A tag in each slab of the general heap: thread caches would mix the blocks of all heaps.
 */
#include "heaps.h"

#include "heap.h"
#include "meta.h"
#include "page.h"
#include "report.h"
#include "sizeclass.h"

#include <errno.h>
#include <string.h>

enum { LARGE_FROM = 4096 };

struct large {
    struct quarry_heap *owner;
    struct large *next, *previous;
} __attribute__((aligned(CACHE_LINE)));

static struct lock list_lock = LOCK_INITIALISER(LOCK_OBJECTS);
struct quarry_heap *heaps_list;

/* ---- large blocks -------------------------------------------------------------------------------- */

static size_t run_bytes(const struct large *large) {
    return page_run_pages((uintptr_t)large) << PAGE_SHIFT;
}

static void link_large(struct quarry_heap *heap, struct large *large) {
    lock_take(&heap->lock);
    large->next = heap->large;
    STORE_RELEASE(heap->large, large);
    if (large->next)
        large->next->previous = large;
    STORE_RELAXED(heap->large_bytes, heap->large_bytes + run_bytes(large));
    lock_drop(&heap->lock);
}

static void take_out(struct quarry_heap *heap, struct large *large) {
    struct large **link = large->previous ? &large->previous->next : &heap->large;
    STORE_RELEASE(*link, large->next);
    if (large->next)
        large->next->previous = large->previous;
    STORE_RELAXED(heap->large_bytes, heap->large_bytes - run_bytes(large));
    large->owner = NULL; /* a second free finds nobody */
}

/* False where another thread has freed the block meanwhile. */
static bool unlink_large(struct quarry_heap *heap, struct large *large) {
    lock_take(&heap->lock);
    bool ours = large->owner == heap;
    if (ours)
        take_out(heap, large);
    lock_drop(&heap->lock);
    return ours;
}

static void *take_large(struct quarry_heap *heap, size_t size) {
    struct large *large = heap_take_pages(size + sizeof *large, PAGE_BYTES);
    if (!large)
        return NULL;
    large->owner = heap;
    large->previous = NULL;
    link_large(heap, large);
    return large + 1;
}

/* ---- whose a pointer is -------------------------------------------------------------------------- */

static struct quarry_cache *cache_for(struct quarry_heap *heap, size_t size) {
    return &heap->cache[sizeclass_for(size) - 1];
}

/* The cache of the heap that a live block comes from, or its large run; false, and reported, where the
 * pointer is no live block of the heap. */
static bool find(struct quarry_heap *heap, void *block, const char *function,
                 struct quarry_cache **cache, struct large **large) {
    size_t pages;
    struct large *run = (struct large *)page_run_around((uintptr_t)block, &pages);
    uintptr_t owner = run ? (uintptr_t)run->owner : 0, first = (uintptr_t)heap->cache;
    *large = owner != 0 && owner == (uintptr_t)heap && block == run + 1 ? run : NULL;
    *cache = NULL;
    if (*large)
        return true;
    if (owner - first < sizeof heap->cache && (owner - first) % sizeof **cache == 0) {
        *cache = (struct quarry_cache *)owner;
        return objects_is_live(*cache, block, function);
    }
    if (owner == (uintptr_t)heap)
        report_bad_pointer(function, block);
    else
        report_slab_misuse(function, block, SLAB_FOREIGN);
    return false;
}

/* ---- the public functions ------------------------------------------------------------------------ */

struct quarry_heap *quarry_heap_create(void) {
    heap_enter();
    _Static_assert(sizeof(struct quarry_heap) <= META_BLOCK_MAX, "a heap is one block of meta");
    struct quarry_heap *heap = meta_take(sizeof *heap);
    if (!heap) {
        errno = ENOMEM;
        return NULL;
    }
    heap->lock = (struct lock)LOCK_INITIALISER(LOCK_OBJECTS);
    quarry_assert(sizeclass_for(LARGE_FROM) <= HEAP_CACHES);
    for (unsigned i = 1; i <= sizeclass_for(LARGE_FROM); i++)
        objects_init(&heap->cache[i - 1], size_classes[i].size, SIZE_GRAIN);
    lock_take(&list_lock);
    heap->next = heaps_list;
    STORE_RELEASE(heaps_list, heap);
    lock_drop(&list_lock);
    return heap;
}

void *quarry_heap_malloc(struct quarry_heap *heap, size_t size) {
    void *block = NULL;
    heap_enter();
    if (size <= LARGE_FROM)
        return quarry_cache_alloc(cache_for(heap, size));
    if (size <= PTRDIFF_MAX)
        block = take_large(heap, size);
    if (!block)
        errno = ENOMEM;
    return block;
}

void *quarry_heap_calloc(struct quarry_heap *heap, size_t count, size_t size) {
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes)) {
        errno = ENOMEM;
        return NULL;
    }
    void *block = quarry_heap_malloc(heap, bytes);
    return block ? memset(block, 0, bytes) : NULL;
}

static void give_large(struct quarry_heap *heap, struct large *large) {
    if (unlink_large(heap, large))
        page_run_give((uintptr_t)large);
    else
        report_slab_misuse("quarry_heap_free", large + 1, SLAB_FREE);
}

void quarry_heap_free(struct quarry_heap *heap, void *block) {
    struct quarry_cache *cache;
    struct large *large;
    heap_enter();
    if (!block || !find(heap, block, "quarry_heap_free", &cache, &large))
        return;
    if (large)
        give_large(heap, large);
    else
        objects_give(cache, block, "quarry_heap_free");
}

void *quarry_heap_realloc(struct quarry_heap *heap, void *block, size_t size) {
    struct quarry_cache *cache;
    struct large *large;
    if (!block)
        return quarry_heap_malloc(heap, size);
    heap_enter();
    if (!find(heap, block, "quarry_heap_realloc", &cache, &large))
        return NULL;
    size_t usable = cache ? cache->size : run_bytes(large) - sizeof *large;
    if (size <= usable && size >= usable / 2)
        return block;
    void *fresh = quarry_heap_malloc(heap, size);
    if (!fresh)
        return NULL;
    memcpy(fresh, block, min_size(usable, size));
    quarry_heap_free(heap, block);
    return fresh;
}

size_t quarry_heap_bytes(const struct quarry_heap *heap) {
    size_t bytes = LOAD_RELAXED(heap->large_bytes);
    for (unsigned i = 0; i < sizeclass_for(LARGE_FROM); i++)
        bytes += LOAD_RELAXED(heap->cache[i].slab_count) * heap->cache[i].run_bytes;
    return bytes;
}

/* False where there is no such heap. */
static bool unlink_heap(struct quarry_heap *heap) {
    lock_take(&list_lock);
    struct quarry_heap **link = &heaps_list;
    while (*link && *link != heap)
        link = &(*link)->next;
    bool found = *link != NULL;
    if (found)
        STORE_RELEASE(*link, heap->next);
    lock_drop(&list_lock);
    return found;
}

void quarry_heap_destroy(struct quarry_heap *heap) {
    if (!heap)
        return;
    heap_enter();
    if (!unlink_heap(heap)) {
        report_unknown("quarry_heap_destroy", heap, "heap");
        return;
    }
    for (unsigned i = 0; i < sizeclass_for(LARGE_FROM); i++)
        objects_drop(&heap->cache[i]);
    for (struct large *large = heap->large, *next; large; large = next) {
        next = large->next;
        page_run_give((uintptr_t)large);
    }
    meta_give(heap, sizeof *heap);
}

/* ---- fork ---------------------------------------------------------------------------------------- */

static void rebuild(struct quarry_heap *heap) {
    struct large *previous = NULL;
    heap->large_bytes = 0;
    for (struct large *large = heap->large; large; large = large->next) {
        large->previous = previous;
        heap->large_bytes += run_bytes(large);
        previous = large;
    }
    lock_repair(&heap->lock);
}

void heaps_repair(void) {
    if (lock_broken(&list_lock))
        lock_repair(&list_lock);
    for (struct quarry_heap *heap = heaps_list; heap; heap = heap->next) {
        if (lock_broken(&heap->lock))
            rebuild(heap);
        for (unsigned i = 0; i < sizeclass_for(LARGE_FROM); i++)
            objects_rebuild(&heap->cache[i]);
    }
}
