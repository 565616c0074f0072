/* SPDX-License-Identifier: MIT
 *
 * heap.h: routes a request by its size to a cache, a run or a mapping, and a pointer back to where
 * it came from.  Everything here is the slow path behind cache_pop and cache_push.
 *
 * No function sets errno.  function is the name to print when the pointer is wrong; where that does not
 * abort (report.h), nothing is done, and the answer is NULL, 0 or false.
 */
#ifndef QUARRY_HEAP_H
#define QUARRY_HEAP_H

#include "base.h"
#include "cache.h"
#include "sizeclass.h"

/* Must be passed before any state is looked at: initialises on the first call of the process and
 * repairs after a fork.  One load and one branch otherwise. */
extern uint32_t *heap_state_word;
void heap_attend(void);

static ALWAYS_INLINE void heap_enter(void) {
    if (UNLIKELY(LOAD_ACQUIRE(*heap_state_word) != 1))
        heap_attend();
}

/* A block of at least size bytes; NULL where there is no memory or size is above PTRDIFF_MAX. */
void *heap_allocate(size_t size);
void *heap_allocate_zero(size_t size);
void *heap_allocate_aligned(size_t align, size_t size); /* align: a power of two */

/* Classes of which objects serve requests that have a smaller class, for the sake of an alignment; 0: runs do. */
extern uint8_t heap_serves_aligned[BIN_COUNT];

static ALWAYS_INLINE void heap_note_aligned(unsigned class_index, size_t size) {
    if (size <= SMALL_MAX && sizeclass_for(size) != class_index)
        STORE_RELAXED(heap_serves_aligned[class_index], 1);
}

/* A run for that many bytes from the thread's cache; NULL where it has none, or the size has no class. */
static ALWAYS_INLINE void *heap_pop_run(size_t size) {
    return sizeclass_has_run(size) ? cache_pop(sizeclass_for_run(size)) : NULL;
}

/* Whether that is one: not NULL, and not an address inside a run that was freed as if it began there. */
static ALWAYS_INLINE bool heap_is_run(const void *run) {
    return run && ((uintptr_t)run & (PAGE_BYTES - 1)) == 0;
}

/* Reports such an address. */
void heap_report_inside(const void *address);

void heap_free(void *block, const char *function);
void *heap_resize(void *block, size_t size); /* block is not NULL, size is not 0 */
size_t heap_usable(const void *block, const char *function);

/* A run of pages for a part of the library, of as many bytes as asked for; NULL as above. */
void *heap_take_pages(size_t bytes, size_t align);

/* The usable size of an object by its class, where it is known without a look at the block; 0: ask
 * heap_usable.  Under QUARRY_CHECK and in the hardened modes none is known. */
extern uint16_t heap_usable_known[BIN_COUNT] __attribute__((visibility("hidden")));

/* Whether QUARRY_FOREIGN has free take a pointer that is no part of this heap. */
bool heap_passes_on(const void *block);

/* Whether a block may have been asked for with this size / alignment; reports it if not. */
bool heap_check_size(void *block, size_t size, const char *function);
bool heap_check_alignment(void *block, size_t align, size_t size, const char *function);

/* Gives back what can be given back; returns how many bytes that were. */
size_t heap_trim(size_t pad);

/* Parameters, see option.c. */
void heap_set_mmap_threshold(size_t bytes);
void heap_set_mmap_max(size_t count);
void heap_set_guard(size_t from_bytes); /* such blocks are mappings, whatever the threshold */
void heap_set_check(bool on);
void heap_set_foreign(size_t policy);                  /* 0: abort, 1: leak, 2: hand to libc */
void heap_set_foreign_free(void (*libc_free)(void *)); /* where libc's name leads here */
void heap_end_dynamic_threshold(void);
size_t heap_mmap_threshold(void);

/* Fork repair: finishes a change of the modes, if another thread was cut in it. */
void heap_repair(void);

#endif
