/* SPDX-License-Identifier: MIT
 *
 * api: the public functions under their own names, with C's and POSIX's semantics.
 *
 * The semantics stand in api.h, shared with preload/malloc.c, which gives the same functions libc's
 * names: there is no call between a program's malloc and the cache.
 */
#include "api.h"

#include <quarry.h>

#define STRING(x) #x
#define VERSION(major, minor, patch) STRING(major) "." STRING(minor) "." STRING(patch)

const char *quarry_version(void) {
    return VERSION(QUARRY_VERSION_MAJOR, QUARRY_VERSION_MINOR, QUARRY_VERSION_PATCH);
}

void *quarry_malloc(size_t size) {
    return api_malloc(size);
}

void *quarry_calloc(size_t count, size_t size) {
    return api_calloc(count, size);
}

void *quarry_realloc(void *block, size_t size) {
    return api_realloc(block, size);
}

void quarry_free(void *block) {
    api_free(block);
}

void quarry_free_sized(void *block, size_t size) {
    api_free_sized(block, size);
}

void quarry_free_aligned_sized(void *block, size_t alignment, size_t size) {
    api_free_aligned_sized(block, alignment, size);
}

void *quarry_memalign(size_t alignment, size_t size) {
    return api_memalign(alignment, size);
}

void *quarry_aligned_alloc(size_t alignment, size_t size) {
    return api_memalign(alignment, size);
}

int quarry_posix_memalign(void **out, size_t alignment, size_t size) {
    return api_posix_memalign(out, alignment, size);
}

void *quarry_valloc(size_t size) {
    return api_valloc(size);
}

void *quarry_pvalloc(size_t size) {
    return api_pvalloc(size);
}

size_t quarry_malloc_usable_size(void *block) {
    return api_malloc_usable_size(block);
}

int quarry_mallopt(int param, int value) {
    return api_mallopt(param, value);
}

int quarry_malloc_trim(size_t pad) {
    return api_malloc_trim(pad);
}

struct mallinfo2 quarry_mallinfo2(void) {
    return api_mallinfo2();
}

struct mallinfo quarry_mallinfo(void) {
    return api_mallinfo();
}

void quarry_malloc_stats(void) {
    api_malloc_stats();
}

int quarry_malloc_info(int options, FILE *stream) {
    return api_malloc_info(options, stream);
}
