/* SPDX-License-Identifier: MIT
 *
 * recorder.c
 *
 * PURPOSE  libquarry_trace.so: stands before the allocator in LD_PRELOAD, passes every call on, and
 *          has it written down.
 *
 * STATES   Until the functions of the next library are found, blocks come from a small arena; the
 *          search itself may ask for some. They are never given back.
 *
 * INVARIANTS
 *          A call made inside another one, by the allocator or by what the recorder uses, is passed
 *          on and not recorded. errno is what the allocator left.
 */
#include <dlfcn.h>
#include <errno.h>
#include <malloc.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "rawlog.h"

#define EXPORT __attribute__((visibility("default")))
#define ARENA_BYTES 65536
#define ARENA_ALIGNMENT ((size_t)16)

static struct {
    void *(*malloc)(size_t);
    void (*free)(void *);
    void *(*calloc)(size_t, size_t);
    void *(*realloc)(void *, size_t);
    void *(*memalign)(size_t, size_t);
    void *(*aligned_alloc)(size_t, size_t);
    int (*posix_memalign)(void **, size_t, size_t);
    void *(*valloc)(size_t);
    void *(*pvalloc)(size_t);
} next;
static _Atomic bool found;

static _Alignas(ARENA_ALIGNMENT) unsigned char arena[ARENA_BYTES];
static _Atomic size_t arena_used;

/* The size stands before the block, for realloc. */
static void *arena_allocate(size_t size) {
    size_t whole = (size + 2 * ARENA_ALIGNMENT - 1) & ~(ARENA_ALIGNMENT - 1);
    size_t at = size <= ARENA_BYTES ? atomic_fetch_add(&arena_used, whole) : ARENA_BYTES;
    if (at + whole > ARENA_BYTES) {
        errno = ENOMEM;
        return NULL;
    }
    unsigned char *block = arena + at + ARENA_ALIGNMENT;
    memcpy(block - sizeof size, &size, sizeof size);
    return block;
}

static bool is_in_arena(const void *block) {
    return (uintptr_t)block - (uintptr_t)arena < ARENA_BYTES;
}

static void say(const char *text) {
    if (write(2, text, strlen(text)) < 0) {
        return; /* There is nobody to tell. */
    }
}

static _Noreturn void fail(const char *name) {
    say("quarry_trace: the allocator has no function ");
    say(name);
    say("\n");
    abort();
}

static void find(void *pointer, const char *name) {
    void *function = dlsym(RTLD_NEXT, name);
    if (function == NULL) {
        fail(name);
    }
    memcpy(pointer, &function, sizeof function);
}

/* The first call is made before there is a second thread. */
static bool ready(void) {
    static bool searching;
    if (atomic_load_explicit(&found, memory_order_acquire)) {
        return true;
    }
    if (searching) {
        return false;
    }
    searching = true;
    find(&next.free, "free");
    find(&next.calloc, "calloc");
    find(&next.realloc, "realloc");
    find(&next.memalign, "memalign");
    find(&next.aligned_alloc, "aligned_alloc");
    find(&next.posix_memalign, "posix_memalign");
    find(&next.valloc, "valloc");
    find(&next.pvalloc, "pvalloc");
    find(&next.malloc, "malloc");
    atomic_store_explicit(&found, true, memory_order_release);
    return true;
}

/* Writes down a call that has returned a block, and ends it. */
static void *record(enum raw_operation operation, size_t size, void *block, size_t alignment) {
    if (block != NULL) {
        rawlog_allocated(operation, rawlog_sequence(), size, block, alignment);
    }
    rawlog_leave();
    return block;
}

EXPORT void *malloc(size_t size) {
    if (!ready()) {
        return arena_allocate(size);
    }
    if (!rawlog_enter()) {
        return next.malloc(size);
    }
    return record(RAW_MALLOC, size, next.malloc(size), 0);
}

EXPORT void *calloc(size_t count, size_t size) {
    if (!ready()) {
        /* The arena is zero, and no block of it is used twice. */
        return size != 0 && count > ARENA_BYTES / size ? NULL : arena_allocate(count * size);
    }
    if (!rawlog_enter()) {
        return next.calloc(count, size);
    }
    return record(RAW_CALLOC, count * size, next.calloc(count, size), 0);
}

EXPORT void free(void *block) {
    if (block == NULL || is_in_arena(block)) {
        return;
    }
    if (ready() && rawlog_enter()) {
        rawlog_freed(rawlog_sequence(), block);
        next.free(block);
        rawlog_leave();
    } else {
        next.free(block);
    }
}

static void *leave_arena(void *block, size_t size) {
    size_t before = 0;
    memcpy(&before, (unsigned char *)block - sizeof before, sizeof before);
    void *moved = malloc(size);
    return moved ? memcpy(moved, block, before < size ? before : size) : NULL;
}

EXPORT void *realloc(void *block, size_t size) {
    if (block == NULL) {
        return malloc(size);
    }
    if (is_in_arena(block)) {
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
    if (!ready()) {
        fail("for aligned blocks yet");
    }
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

EXPORT void cfree(void *block);
EXPORT void cfree(void *block) {
    free(block);
}

/* C23. The sizes are the program's affair; what is recorded is that the block goes. */
EXPORT void free_sized(void *block, size_t size);
EXPORT void free_sized(void *block, size_t size) {
    (void)size;
    free(block);
}

EXPORT void free_aligned_sized(void *block, size_t alignment, size_t size);
EXPORT void free_aligned_sized(void *block, size_t alignment, size_t size) {
    (void)alignment;
    (void)size;
    free(block);
}
