/* SPDX-License-Identifier: MIT
 *
 * heap_internal.h: what heap.c and resize.c share.  Nobody else includes it.
 */
#ifndef QUARRY_HEAP_INTERNAL_H
#define QUARRY_HEAP_INTERNAL_H

#include "heap.h"

/* The class of the slab that an address lies in, wherever its zone is; else 0. */
unsigned heap_class_of(const void *block);

/* Whether a pointer is the start of an object that may be live; reports it if not. */
bool heap_check_object(const void *block, const char *function);

/* Makes room where the kernel refuses memory or a limit is reached; false where that is in vain. */
bool heap_relieve(size_t size);

/* Whether the user wants a block of so many bytes to be a mapping, which goes back when it is freed. */
bool heap_must_map(size_t size);

/* The length of the run for so many bytes at an alignment. */
size_t heap_run_pages(size_t size, size_t align);

#endif
