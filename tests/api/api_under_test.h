/* SPDX-License-Identifier: MIT
 *
 * api_under_test.h: the allocator that this suite tests, under names that begin with t_.
 *
 * Without TEST_LIBC these are Quarry's quarry_* functions, and the test program itself (cmocka,
 * stdio, threads) keeps libc's malloc.  With TEST_LIBC they are libc's own: the suite then shows
 * that it asks for nothing that glibc does not do; the exceptions are in docs/COMPAT.md.
 *
 * All calls go through volatile pointers.  A compiler that knows what malloc and free mean drops
 * pairs of them, and judges a double free at compile time; here it must really call.
 */
#ifndef API_UNDER_TEST_H
#define API_UNDER_TEST_H

#include <malloc.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#ifdef TEST_LIBC
#define ON_GLIBC 1
#define API_NAME(name) name
#else
#include "quarry.h"
#define ON_GLIBC 0
#define API_NAME(name) quarry_##name
#endif

#define API_ENTRY(type, name, ...) \
    static type (*volatile const t_##name)(__VA_ARGS__) __attribute__((unused)) = API_NAME(name)

API_ENTRY(void *, malloc, size_t);
API_ENTRY(void *, calloc, size_t, size_t);
API_ENTRY(void *, realloc, void *, size_t);
API_ENTRY(void, free, void *);
API_ENTRY(void *, memalign, size_t, size_t);
API_ENTRY(void *, aligned_alloc, size_t, size_t);
API_ENTRY(int, posix_memalign, void **, size_t, size_t);
API_ENTRY(void *, valloc, size_t);
API_ENTRY(void *, pvalloc, size_t);
API_ENTRY(size_t, malloc_usable_size, void *);
API_ENTRY(int, mallopt, int, int);
API_ENTRY(int, malloc_trim, size_t);
API_ENTRY(struct mallinfo2, mallinfo2, void);
API_ENTRY(void, malloc_stats, void);
API_ENTRY(int, malloc_info, int, FILE *);

#ifdef TEST_LIBC
/* glibc before 2.43 lacks these two; its later versions ignore the sizes, as here. */
static inline void t_free_sized(void *block, size_t size) {
    (void)size;
    t_free(block);
}

static inline void t_free_aligned_sized(void *block, size_t alignment, size_t size) {
    (void)alignment;
    (void)size;
    t_free(block);
}
#else
API_ENTRY(void, free_sized, void *, size_t);
API_ENTRY(void, free_aligned_sized, void *, size_t, size_t);
#endif

/* mallinfo is deprecated for its int fields, which is no reason not to test it. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wdeprecated-declarations"
API_ENTRY(struct mallinfo, mallinfo, void);
#pragma GCC diagnostic pop

#undef API_ENTRY
#undef API_NAME

#endif /* API_UNDER_TEST_H */
