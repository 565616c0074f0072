/* SPDX-License-Identifier: MIT
 *
 * mapping.h: blocks that are mappings of their own.  Thread-safe.  A block is known by its address;
 * its size is a multiple of the system page where there are no guards.
 */
#ifndef QUARRY_MAPPING_H
#define QUARRY_MAPPING_H

#include "base.h"

/* The table of all blocks; entries whose address is 0 or 1 hold none.  Replaced when it grows. */
struct mapping_entry {
    uintptr_t address;
    size_t bytes;
};

struct mapping_table {
    size_t slots; /* a power of two */
    size_t used;  /* entries that are not 0, the forgotten included */
    struct mapping_entry entry[];
};

extern struct mapping_table *mapping_table;

/* From the first block on: each ends at an inaccessible page, as far as its alignment permits, and its size
 * is what was asked for. */
void mapping_guard_all(void);

/* A zeroed block of at least bytes at a multiple of align (a power of two); NULL on failure. */
void *mapping_take(size_t bytes, size_t align);

/* The size of the block that starts at an address; 0 if none does. */
size_t mapping_bytes(const void *block);

/* Makes a block inaccessible and takes its memory; it stays a block.  False, and nothing done, on failure. */
bool mapping_seal(const void *block);

/* Unmaps a block; returns its size, 0 (and nothing done) if none starts there. */
size_t mapping_give(void *block);

/* Resizes a block without a guard, moving it if need be; NULL, and the block is untouched, on failure. */
void *mapping_resize(void *block, size_t bytes);

/* The start and size of the block that holds an address; 0 if none does.  Slow, takes the lock. */
uintptr_t mapping_around(uintptr_t address, size_t *bytes);

/* Copies up to max blocks from *slot of the table on and moves *slot behind them; returns how many,
 * 0 at the end.  Start with *slot = 0.  Where the table is replaced meanwhile some may be missed. */
size_t mapping_copy(size_t *slot, struct mapping_entry *out, size_t max);

struct mapping_counts {
    size_t count, bytes;           /* live */
    size_t peak_count, peak_bytes; /* since start */
};

void mapping_count(struct mapping_counts *counts);
size_t mapping_live(void); /* blocks; a relaxed read, as the next one */
size_t mapping_live_bytes(void);

/* The kernel refused to split a mapping, and not a quarter of the blocks has been given since: a new one
 * might take the last mapping that the process may have.  Relaxed reads. */
bool mapping_crowded(void);

void mapping_repair(void);

#endif
