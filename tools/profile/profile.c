/* SPDX-License-Identifier: MIT
 *
 * profile.c
 *
 * PURPOSE  libquarry_profile.so: stands before the allocator in LD_PRELOAD, passes every call on, and
 *          samples what is allocated (sampler.h).
 *
 * COST     A call that is no sample: a subtraction and a comparison for malloc, a look into a filter
 *          of 32 KiB for free, and the jump to the allocator.
 */
#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "sampler.h"
#include "shim/next.h"

#define EXPORT __attribute__((visibility("default")))
#define SELDOM __attribute__((noinline, cold))
#define CALLER __builtin_return_address(0)

/* ---- What is called most: all but the usual case is kept out of it ------------------------------ */

SELDOM static void *malloc_seldom(size_t size, const void *caller) {
    if (!next_ready()) {
        return next_early_malloc(size);
    }
    if (!sampler_due_slow(size)) {
        return next.malloc(size);
    }
    return sampler_take(next.malloc(size), size, caller);
}

static inline void *allocate(size_t size, const void *caller) {
    return sampler_passes(size) ? next.malloc(size) : malloc_seldom(size, caller);
}

EXPORT void *malloc(size_t size) {
    return allocate(size, CALLER);
}

SELDOM static void *calloc_seldom(size_t count, size_t size, const void *caller) {
    if (!next_ready()) {
        return next_early_calloc(count, size);
    }
    if (!sampler_due_slow(count * size)) {
        return next.calloc(count, size);
    }
    return sampler_take(next.calloc(count, size), count * size, caller);
}

EXPORT void *calloc(size_t count, size_t size) {
    return sampler_passes(count * size) ? next.calloc(count, size)
                                        : calloc_seldom(count, size, CALLER);
}

SELDOM static void free_seldom(void *block) {
    struct block_sample sample;
    if (block == NULL || next_is_early(block)) {
        return;
    }
    if (sampler_hold(block, &sample)) {
        sampler_gone(&sample);
    }
    next.free(block);
}

EXPORT void free(void *block) {
    if (__builtin_expect(blocks_may_have(block) || next_is_early(block) || block == NULL, false)) {
        free_seldom(block);
    } else {
        next.free(block);
    }
}

/* ---- The others -------------------------------------------------------------------------------- */

static void *leave_arena(void *block, size_t size, const void *caller) {
    size_t before = next_early_size(block);
    void *moved = allocate(size, caller);
    return moved ? memcpy(moved, block, before < size ? before : size) : NULL;
}

/* A sample that changes its size is freed, and the block is another one. */
EXPORT void *realloc(void *block, size_t size) {
    struct block_sample sample;
    if (block == NULL) {
        return allocate(size, CALLER);
    }
    if (next_is_early(block)) {
        return leave_arena(block, size, CALLER);
    }
    bool held = blocks_may_have(block) && sampler_hold(block, &sample);
    void *moved = sampler_due(size) ? sampler_take(next.realloc(block, size), size, CALLER)
                                    : next.realloc(block, size);
    if (held && moved == NULL && size != 0) {
        sampler_back(block, &sample);
    } else if (held) {
        sampler_gone(&sample);
    }
    return moved;
}

/* Aligned blocks are never needed before the search is over. */
static inline bool aligned_due(size_t size) {
    next_require("for aligned blocks yet");
    return sampler_due(size);
}

EXPORT void *memalign(size_t alignment, size_t size) {
    return aligned_due(size) ? sampler_take(next.memalign(alignment, size), size, CALLER)
                             : next.memalign(alignment, size);
}

EXPORT void *aligned_alloc(size_t alignment, size_t size) {
    return aligned_due(size) ? sampler_take(next.aligned_alloc(alignment, size), size, CALLER)
                             : next.aligned_alloc(alignment, size);
}

EXPORT int posix_memalign(void **out, size_t alignment, size_t size) {
    if (!aligned_due(size)) {
        return next.posix_memalign(out, alignment, size);
    }
    int error = next.posix_memalign(out, alignment, size);
    sampler_take(error == 0 ? *out : NULL, size, CALLER);
    return error;
}

EXPORT void *valloc(size_t size) {
    return aligned_due(size) ? sampler_take(next.valloc(size), size, CALLER) : next.valloc(size);
}

EXPORT void *pvalloc(size_t size) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t whole = size > 0 ? (size + page - 1) & ~(page - 1) : page;
    return aligned_due(whole) ? sampler_take(next.pvalloc(size), whole, CALLER)
                              : next.pvalloc(size);
}
