/* SPDX-License-Identifier: MIT
 *
 * profiled_ring_module.c: an allocator that signal handlers may call: blocks come from a ring, and
 * are used again after 64 MiB, whether they were freed or not (test_profile.py).
 */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#define RING_BYTES ((size_t)64 << 20)

static _Alignas(4096) unsigned char ring[2 * RING_BYTES];
static _Atomic size_t used;

void *malloc(size_t size) {
    size_t whole = (size + 31) & ~(size_t)15;
    unsigned char *block = ring + atomic_fetch_add(&used, whole) % RING_BYTES + 16;
    memcpy(block - 16, &size, sizeof size);
    return size > RING_BYTES / 2 ? NULL : block;
}

void free(void *block) {
    (void)block;
}

void *calloc(size_t count, size_t size) {
    void *block = malloc(count * size);
    return block != NULL ? memset(block, 0, count * size) : NULL;
}

void *realloc(void *block, size_t size) {
    size_t before = 0;
    void *moved = malloc(size);
    if (block != NULL && moved != NULL) {
        memcpy(&before, (unsigned char *)block - 16, sizeof before);
        memcpy(moved, block, before < size ? before : size);
    }
    return moved;
}
