/* SPDX-License-Identifier: MIT
 *
 * stats: figures collected from the layers.
 */
#include "stats.h"

#include "meta.h"
#include "pagemap.h"

/* A head word and a class for each page. */
static size_t with_map(size_t zone_bytes) {
    return zone_bytes + (zone_bytes >> PAGE_SHIFT) * (sizeof(uint32_t) + sizeof(uint8_t));
}

void stats_read(struct stats *stats) {
    page_count(&stats->page);
    mapping_count(&stats->mapping);
    cache_count(&stats->cache);
    stats->free_object_bytes = 0;
    stats->free_chunks = stats->free_places = stats->page.run_blocks;
    for (unsigned i = 1; i < CLASS_COUNT; i++) {
        slab_count(i, &stats->slab[i]);
        stats->free_object_bytes += stats->slab[i].free_objects * size_classes[i].size;
        stats->free_chunks += stats->slab[i].free_objects;
        stats->free_places += stats->slab[i].partial_slabs;
    }
    stats->free_bytes =
        stats->free_object_bytes + stats->page.dirty_bytes + stats->page.clean_bytes;
    stats->mapped_bytes =
        stats->mapping.bytes + stats->mapping.count * sizeof(struct mapping_entry);
    stats->system_bytes = with_map(stats->page.zone_bytes);
    stats->peak_system_bytes = with_map(stats->page.peak_zone_bytes);
    stats->metadata_bytes = meta_mapped_bytes() + pagemap_mapped_bytes();
}
