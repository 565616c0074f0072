/* SPDX-License-Identifier: MIT
 *
 * next.h: for a library that stands before the allocator in LD_PRELOAD: the functions of the next
 * one that has malloc.
 *
 * Until next_ready() is true, blocks have to come from next_early_malloc and next_early_calloc; they
 * are never given back, and may be handed to free and realloc for ever after.
 */
#ifndef SHIM_NEXT_H
#define SHIM_NEXT_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

struct next_allocator {
    void *(*malloc)(size_t);
    void (*free)(void *);
    void *(*calloc)(size_t, size_t);
    void *(*realloc)(void *, size_t);
    void *(*memalign)(size_t, size_t);
    void *(*aligned_alloc)(size_t, size_t);
    int (*posix_memalign)(void **, size_t, size_t);
    void *(*valloc)(size_t);
    void *(*pvalloc)(size_t);
};
extern struct next_allocator next;
extern _Atomic bool next_found;

/* Looks for the functions; false within its own calls of malloc. */
bool next_search(void);

static inline bool next_ready(void) {
    return __builtin_expect(atomic_load_explicit(&next_found, memory_order_acquire), true) ||
           next_search();
}

/* Where a block is asked for that cannot be an early one: true, or the end of the process. */
void next_require(const char *what);

/* NULL with ENOMEM where the arena is used up. */
void *next_early_malloc(size_t size);
void *next_early_calloc(size_t count, size_t size);

extern unsigned char next_arena[];
#define NEXT_ARENA_BYTES 65536
static inline bool next_is_early(const void *block) {
    return (size_t)block - (size_t)next_arena < NEXT_ARENA_BYTES;
}
/* The bytes that an early block has. */
size_t next_early_size(const void *block);

#endif /* SHIM_NEXT_H */
