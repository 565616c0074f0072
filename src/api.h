/* SPDX-License-Identifier: MIT
 *
 * api.h: the semantics of the malloc family, inline, for the two sets of names (api.c and
 * preload/malloc.c).  errno is touched on failure only.
 */
#ifndef QUARRY_API_INTERNAL_H
#define QUARRY_API_INTERNAL_H

#include "base.h"
#include "cache.h"
#include "heap.h"
#include "pagemap.h"

#include <errno.h>
#include <stdio.h>

struct mallinfo;
struct mallinfo2;

static inline void *api_or_enomem(void *block) {
    if (UNLIKELY(!block))
        errno = ENOMEM;
    return block;
}

static NOINLINE void *api_malloc_uncached(void *wrong, size_t size) {
    if (UNLIKELY(wrong != NULL))
        heap_report_inside(wrong);
    return api_or_enomem(heap_allocate(size));
}

static NOINLINE void *api_malloc_slow(size_t size) {
    void *run = heap_pop_run(size);
    return LIKELY(heap_is_run(run)) ? run : api_malloc_uncached(run, size);
}

static ALWAYS_INLINE void *api_malloc(size_t size) {
    if (LIKELY(size <= SMALL_MAX)) {
        void *object = cache_pop(sizeclass_for(size));
        if (LIKELY(object != NULL))
            return object;
    }
    return api_malloc_slow(size);
}

static NOINLINE void api_free_slow(void *block) {
    heap_free(block, "free");
}

static ALWAYS_INLINE void api_free(void *block) {
    if (UNLIKELY(!cache_push(pagemap_class(block), block)))
        api_free_slow(block);
}

size_t api_usable_size_slow(void *block);

/* Not checked where the class is known (but under QUARRY_CHECK): nothing is changed, and some programs
 * (redis, sqlite, ruby) ask for each block that they take and free. */
static ALWAYS_INLINE size_t api_malloc_usable_size(void *block) {
    size_t known = LOAD_RELAXED(heap_usable_known[pagemap_class(block)]);
    return LIKELY(known != 0) ? known : api_usable_size_slow(block);
}

void *api_calloc(size_t count, size_t size);
void *api_realloc(void *block, size_t size);
void api_free_sized(void *block, size_t size);
void api_free_aligned_sized(void *block, size_t alignment, size_t size);
void *api_memalign(size_t alignment, size_t size);
int api_posix_memalign(void **out, size_t alignment, size_t size);
void *api_valloc(size_t size);
void *api_pvalloc(size_t size);
int api_mallopt(int param, int value);
int api_malloc_trim(size_t pad);
struct mallinfo2 api_mallinfo2(void);
struct mallinfo api_mallinfo(void);
void api_malloc_stats(void);
int api_malloc_info(int options, FILE *stream);

#endif
