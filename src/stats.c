/* SPDX-License-Identifier: MIT
 *
 * stats: figures collected from the layers.
 */
#include "stats.h"

#include "meta.h"
#include "pagemap.h"

/* What is not in the others is the first one's; where slabs were made since the zones were measured,
 * that may be nothing. */
static void fill_first_shard(const struct stats *stats, struct shard_stats *shards,
                             uint32_t count) {
    struct shard_stats *first = &shards[0];
    first->system_bytes = stats->system_bytes;
    first->free_bytes = stats->free_bytes;
    first->free_chunks = stats->free_chunks;
    for (unsigned i = 1; i < CLASS_COUNT; i++)
        first->free_objects[i] = stats->slab[i].free_objects;
    for (uint32_t shard = 1; shard < count; shard++) {
        first->system_bytes -= min_size(first->system_bytes, shards[shard].system_bytes);
        first->free_bytes -= min_size(first->free_bytes, shards[shard].free_bytes);
        first->free_chunks -= shards[shard].free_chunks;
        for (unsigned i = 1; i < CLASS_COUNT; i++)
            first->free_objects[i] -= shards[shard].free_objects[i];
    }
}

/* A head word and a class for each page. */
static size_t with_map(size_t zone_bytes) {
    return zone_bytes + (zone_bytes >> PAGE_SHIFT) * (sizeof(uint32_t) + sizeof(uint8_t));
}

static void note_shard(struct shard_stats *shard, unsigned class_index,
                       const struct slab_counts *counts) {
    const struct size_class *shape = &size_classes[class_index];
    shard->system_bytes += counts->pages << PAGE_SHIFT;
    shard->free_bytes += counts->free_objects * shape->size;
    shard->free_chunks += counts->free_objects;
    shard->free_objects[class_index] = counts->free_objects;
}

static void read_class(struct slab_counts *sum, unsigned class_index, struct shard_stats *shards,
                       uint32_t count) {
    *sum = (struct slab_counts){0};
    for (uint32_t shard = 0; shard < LOAD_ACQUIRE(slab_shard_count); shard++) {
        struct slab_counts counts;
        slab_count_in(shard, class_index, &counts);
        slab_counts_add(sum, &counts);
        if (shard > 0 && shard < count)
            note_shard(&shards[shard], class_index, &counts);
    }
}

void stats_read_shards(struct stats *stats, struct shard_stats *shards, uint32_t count) {
    page_count(&stats->page);
    mapping_count(&stats->mapping);
    cache_count(&stats->cache);
    stats->free_object_bytes = 0;
    stats->free_chunks = stats->free_places = stats->page.run_blocks;
    for (unsigned i = 1; i < CLASS_COUNT; i++) {
        read_class(&stats->slab[i], i, shards, count);
        stats->free_object_bytes += stats->slab[i].free_objects * size_classes[i].size;
        stats->free_chunks += stats->slab[i].free_objects;
        stats->free_places += stats->slab[i].partial_slabs;
    }
    stats->free_bytes = /* a slab that moved meanwhile may count twice */
        min_size(stats->free_object_bytes + stats->page.dirty_bytes + stats->page.clean_bytes,
                 stats->page.zone_bytes);
    stats->mapped_bytes =
        stats->mapping.bytes + stats->mapping.count * sizeof(struct mapping_entry);
    stats->system_bytes = with_map(stats->page.zone_bytes);
    stats->peak_system_bytes = with_map(stats->page.peak_zone_bytes);
    stats->metadata_bytes = meta_mapped_bytes() + pagemap_mapped_bytes();
    if (count > 0)
        fill_first_shard(stats, shards, count);
}
