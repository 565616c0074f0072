/* SPDX-License-Identifier: MIT
 *
 * meta.h: memory for the allocator's own tables, apart from the heap it manages.
 *
 * meta_take returns zeroed memory aligned to a cache line, or NULL; meta_give takes it back with
 * the same size.  Thread-safe.  Blocks up to META_BLOCK_MAX are cut from chunks and recycled by
 * size; larger ones are mappings of their own.  Nothing goes back to the kernel but the latter.
 */
#ifndef QUARRY_META_H
#define QUARRY_META_H

#include "base.h"
#include "lock.h"

#define META_BLOCK_MAX ((size_t)16384)
#define META_CHUNK ((size_t)64 * 1024)

void *meta_take(size_t bytes);
void meta_give(void *block, size_t bytes);

/* As meta_take for a block of at most META_BLOCK_MAX, but once memory was reserved NULL where that
 * would take a system call: for what can be done without. */
void *meta_take_ready(size_t bytes);

/* Makes the next bytes that are taken resident now; called again it does nothing, until the end: from then on more may
 * be mapped when they are wanted. */
void meta_reserve(size_t bytes);
void meta_end_reserve(void);

/* Bytes mapped for tables taken through this module. */
size_t meta_mapped_bytes(void);

/* The chunks that blocks are cut from, newest first, and the bytes of the larger blocks.  Readers
 * from outside find both through quarry_public. */
struct meta_chunk {
    struct meta_chunk *next;
    size_t bytes; /* from this header on */
};

extern struct meta_chunk *meta_chunk_list; /* never unmapped: read without the lock */
extern size_t meta_large_total;

const struct meta_chunk *meta_chunks(void);
size_t meta_large_bytes(void);

/* Fork repair: forgets the free lists (their blocks leak) if another thread was cut in here. */
void meta_repair(void);

#endif
