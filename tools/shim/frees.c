/* SPDX-License-Identifier: MIT
 *
 * frees.c
 *
 * PURPOSE  The other names of free, of a library that stands before the allocator: each is its own free. The
 *          sizes of C23's are the program's affair; what matters is that the block goes.
 */
#include <stddef.h>
#include <stdlib.h>

#define EXPORT __attribute__((visibility("default")))

EXPORT void cfree(void *block);
EXPORT void cfree(void *block) {
    free(block);
}

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
