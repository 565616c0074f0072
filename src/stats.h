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
 * threads do meanwhile. */
void stats_read(struct stats *stats);

#endif
