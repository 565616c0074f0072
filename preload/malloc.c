/* SPDX-License-Identifier: MIT
 *
 * preload/malloc.c: the one place where the names of libc's malloc are defined.
 *
 * All entry points stand in one object file, so that a static link that takes one takes all and
 * never libc's.  Left to libc: reallocarray and strdup (they call ours), mcheck and mtrace.  No C++
 * operators: libstdc++'s own forward to these, and a program that replaces only one of them would
 * see blocks of two allocators meet.
 */
#include "api.h"

#include <malloc.h>
#include <stdlib.h>

#define EXPORT __attribute__((visibility("default")))
#define ALIAS(of) __attribute__((visibility("default"), alias(#of), copy(of)))

EXPORT void *malloc(size_t size) {
    return api_malloc(size);
}

EXPORT void free(void *block) {
    api_free(block);
}

EXPORT void *calloc(size_t count, size_t size) {
    return api_calloc(count, size);
}

EXPORT void *realloc(void *block, size_t size) {
    return api_realloc(block, size);
}

EXPORT void *memalign(size_t alignment, size_t size) {
    return api_memalign(alignment, size);
}

EXPORT void *aligned_alloc(size_t alignment, size_t size) {
    return api_memalign(alignment, size);
}

EXPORT int posix_memalign(void **out, size_t alignment, size_t size) {
    return api_posix_memalign(out, alignment, size);
}

EXPORT void *valloc(size_t size) {
    return api_valloc(size);
}

EXPORT void *pvalloc(size_t size) {
    return api_pvalloc(size);
}

EXPORT size_t malloc_usable_size(void *block) {
    return api_malloc_usable_size(block);
}

/* C23 */
EXPORT void free_sized(void *block, size_t size);
EXPORT void free_sized(void *block, size_t size) {
    api_free_sized(block, size);
}

EXPORT void free_aligned_sized(void *block, size_t alignment, size_t size);
EXPORT void free_aligned_sized(void *block, size_t alignment, size_t size) {
    api_free_aligned_sized(block, alignment, size);
}

EXPORT int mallopt(int param, int value) {
    return api_mallopt(param, value);
}

EXPORT int malloc_trim(size_t pad) {
    return api_malloc_trim(pad);
}

EXPORT struct mallinfo2 mallinfo2(void) {
    return api_mallinfo2();
}

EXPORT struct mallinfo mallinfo(void) {
    return api_mallinfo();
}

EXPORT void malloc_stats(void) {
    api_malloc_stats();
}

EXPORT int malloc_info(int options, FILE *stream) {
    return api_malloc_info(options, stream);
}

/* Old binaries, and libc's public aliases. */
void cfree(void *block) ALIAS(free);
void *__libc_malloc(size_t size) ALIAS(malloc);
void __libc_free(void *block) ALIAS(free);
void *__libc_calloc(size_t count, size_t size) ALIAS(calloc);
void *__libc_realloc(void *block, size_t size) ALIAS(realloc);
void *__libc_memalign(size_t alignment, size_t size) ALIAS(memalign);
void *__libc_valloc(size_t size) ALIAS(valloc);
void *__libc_pvalloc(size_t size) ALIAS(pvalloc);
int __libc_mallopt(int param, int value) ALIAS(mallopt);
struct mallinfo __libc_mallinfo(void) __attribute__((visibility("default"), alias("mallinfo")));
