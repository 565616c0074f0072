/* SPDX-License-Identifier: MIT
 *
 * heap_internal.h: what heap.c, resize.c, harden.c and refusal.c share.  Nobody else includes it.
 */
#ifndef QUARRY_HEAP_INTERNAL_H
#define QUARRY_HEAP_INTERNAL_H

#include "heap.h"

/* The class of the slab that an address lies in, wherever its zone is; else 0. */
unsigned heap_class_of(const void *block);

/* Whether a pointer is the start of an object that may be live; reports it if not. */
bool heap_check_object(const void *block, const char *function);

/* Requests of at least so many bytes are not plain: above PTRDIFF_MAX, or all (0) in the hardened modes. */
extern size_t heap_plain_below __attribute__((visibility("hidden")));

/* Around each change of the modes: mallopt and the control thread may meet.  The end makes the above, and what
 * the caches may do, follow. */
void heap_begin_change(void);
void heap_end_change(void);

/* The routes without what harden.c adds.  Sizes and their sum with align are at most PTRDIFF_MAX; *zero:
 * whether the block is known to read as zero. */
void *heap_take(size_t size, size_t align, bool *zero);
void heap_give(void *block, const char *function);

/* The bytes from the start of a block to the end of what the heap gave for it; 0, and reported, where it is
 * none. */
size_t heap_place(const void *block, const char *function);

/* To be called where a request for so many bytes failed for good: counts it if the limit was why, and tells
 * of the first one who wants to know. */
void heap_refuse(size_t more_bytes);

/* Makes room where the kernel refuses memory or a limit is reached; false where that is in vain. */
bool heap_relieve(size_t size);

/* Whether a block of so many bytes becomes a mapping. */
bool heap_wants_mapping(size_t size);

/* Whether the user wants a block of so many bytes to be a mapping, which goes back when it is freed. */
bool heap_must_map(size_t size);

/* How many mappings of their own blocks may be. */
size_t heap_mmap_max(void);

/* The length of the run for so many bytes. */
size_t heap_run_pages(size_t size);

#endif
