/* SPDX-License-Identifier: MIT
 *
 * recorder.c
 *
 * PURPOSE  libquarry_trace.so: stands before the allocator in LD_PRELOAD, passes every call on, and
 *          has it written down.
 *
 * INVARIANTS
 *          A call made inside another one, by the allocator or by what the recorder uses, is passed
 *          on and not recorded. errno is what the allocator left.
 */
#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "rawlog.h"
#include "shim/next.h"

#define EXPORT __attribute__((visibility("default")))

/* Writes down a call that has returned a block, and ends it. */
static void *record(enum raw_operation operation, size_t size, void *block, size_t alignment) {
    if (block != NULL) {
        rawlog_allocated(operation, rawlog_sequence(), size, block, alignment);
    }
    rawlog_leave();
    return block;
}

EXPORT void *malloc(size_t size) {
    if (!next_ready()) {
        return next_early_malloc(size);
    }
    if (!rawlog_enter()) {
        return next.malloc(size);
    }
    return record(RAW_MALLOC, size, next.malloc(size), 0);
}

EXPORT void *calloc(size_t count, size_t size) {
    if (!next_ready()) {
        return next_early_calloc(count, size);
    }
    if (!rawlog_enter()) {
        return next.calloc(count, size);
    }
    return record(RAW_CALLOC, count * size, next.calloc(count, size), 0);
}

EXPORT void free(void *block) {
    if (block == NULL || next_is_early(block)) {
        return;
    }
    if (next_ready() && rawlog_enter()) {
        rawlog_freed(rawlog_sequence(), block);
        next.free(block);
        rawlog_leave();
    } else {
        next.free(block);
    }
}

static void *leave_arena(void *block, size_t size) {
    size_t before = next_early_size(block);
    void *moved = malloc(size);
    return moved ? memcpy(moved, block, before < size ? before : size) : NULL;
}

EXPORT void *realloc(void *block, size_t size) {
    if (block == NULL) {
        return malloc(size);
    }
    if (next_is_early(block)) {
        return leave_arena(block, size);
    }
    if (!rawlog_enter()) {
        return next.realloc(block, size);
    }
    rawlog_reallocating(rawlog_sequence(), size, block);
    void *moved = next.realloc(block, size);
    rawlog_reallocated(rawlog_sequence(), moved);
    rawlog_leave();
    return moved;
}

/* Aligned blocks are never needed before the search is over. */
static bool enter_aligned(void) {
    next_require("for aligned blocks yet");
    return rawlog_enter();
}

EXPORT void *memalign(size_t alignment, size_t size) {
    if (!enter_aligned()) {
        return next.memalign(alignment, size);
    }
    return record(RAW_ALIGNED, size, next.memalign(alignment, size), alignment);
}

EXPORT void *aligned_alloc(size_t alignment, size_t size) {
    if (!enter_aligned()) {
        return next.aligned_alloc(alignment, size);
    }
    return record(RAW_ALIGNED, size, next.aligned_alloc(alignment, size), alignment);
}

EXPORT int posix_memalign(void **out, size_t alignment, size_t size) {
    if (!enter_aligned()) {
        return next.posix_memalign(out, alignment, size);
    }
    int error = next.posix_memalign(out, alignment, size);
    record(RAW_ALIGNED, size, error == 0 ? *out : NULL, alignment);
    return error;
}

EXPORT void *valloc(size_t size) {
    if (!enter_aligned()) {
        return next.valloc(size);
    }
    return record(RAW_ALIGNED, size, next.valloc(size), (size_t)sysconf(_SC_PAGESIZE));
}

EXPORT void *pvalloc(size_t size) {
    if (!enter_aligned()) {
        return next.pvalloc(size);
    }
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    size_t whole = size > 0 ? (size + page - 1) & ~(page - 1) : page;
    return record(RAW_ALIGNED, whole, next.pvalloc(size), page);
}
