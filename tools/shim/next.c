/* SPDX-License-Identifier: MIT
 *
 * next.c
 *
 * PURPOSE  Finds the allocator that a library in LD_PRELOAD stands before.
 *
 * STATES   Until its functions are found, blocks come from a small arena; the search itself may ask
 *          for some.
 */
#include "next.h"

#include <dlfcn.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ALIGNMENT ((size_t)16)

struct next_allocator next;
_Atomic bool next_found;

_Alignas(ALIGNMENT) unsigned char next_arena[NEXT_ARENA_BYTES];
static _Atomic size_t arena_used;

/* The size stands before the block, for realloc. */
void *next_early_malloc(size_t size) {
    size_t whole = (size + 2 * ALIGNMENT - 1) & ~(ALIGNMENT - 1);
    size_t at = size <= NEXT_ARENA_BYTES ? atomic_fetch_add(&arena_used, whole) : NEXT_ARENA_BYTES;
    if (at + whole > NEXT_ARENA_BYTES) {
        errno = ENOMEM;
        return NULL;
    }
    unsigned char *block = next_arena + at + ALIGNMENT;
    memcpy(block - sizeof size, &size, sizeof size);
    return block;
}

/* The arena is zero, and no block of it is used twice. */
void *next_early_calloc(size_t count, size_t size) {
    if (size != 0 && count > NEXT_ARENA_BYTES / size) {
        errno = ENOMEM;
        return NULL;
    }
    return next_early_malloc(count * size);
}

size_t next_early_size(const void *block) {
    size_t size = 0;
    memcpy(&size, (const unsigned char *)block - sizeof size, sizeof size);
    return size;
}

static void say(const char *text) {
    if (write(2, text, strlen(text)) < 0) {
        return; /* There is nobody to tell. */
    }
}

static _Noreturn void fail(const char *what) {
    say("quarry: the allocator has no function ");
    say(what);
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
bool next_search(void) {
    static bool searching;
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
    atomic_store_explicit(&next_found, true, memory_order_release);
    return true;
}

void next_require(const char *what) {
    if (!next_ready()) {
        fail(what);
    }
}
