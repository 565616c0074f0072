/* SPDX-License-Identifier: MIT
 *
 * stats.h: one set of figures behind mallinfo, malloc_stats, malloc_info and the tools.
 */
#ifndef QUARRY_STATS_H
#define QUARRY_STATS_H

#include "cache.h"
#include "mapping.h"
#include "page.h"
#include "slab.h"

/* A shard's part: its slabs.  The first has all the rest, too, so that they add up. */
struct shard_stats {
    size_t system_bytes, free_bytes, free_chunks;
    size_t free_objects[CLASS_COUNT];
};

struct stats {
    struct page_counts page;
    struct mapping_counts mapping;
    struct cache_counts cache;
    struct slab_counts slab[CLASS_COUNT];
    size_t free_object_bytes; /* in slabs, not in caches */
    size_t free_bytes;        /* those and free runs */
    size_t free_chunks;       /* free objects and runs */
    size_t free_places;       /* free runs and slabs with free objects */
    size_t mapped_bytes;      /* mappings and their entries in the table */
    size_t system_bytes;      /* the zones, and the words of the page map for their pages */
    size_t peak_system_bytes;
    size_t metadata_bytes; /* mapped for tables */
};

/* Each layer's figures are consistent in themselves; between layers they drift by what other
 * threads do meanwhile.  Also fills in the first count shards (0: none), which are zero. */
void stats_read_shards(struct stats *stats, struct shard_stats *shards, uint32_t count);

static inline void stats_read(struct stats *stats) {
    stats_read_shards(stats, NULL, 0);
}

#endif
