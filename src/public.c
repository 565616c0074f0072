/* SPDX-License-Identifier: MIT
 *
 * public: quarry_public, the map of the allocator for those who look from outside.
 *
 * PURPOSE  Let a tool read the real structures of a running process (process_vm_readv, a core file)
 *          without stopping it and without any copy kept for its sake: this table says where they
 *          are and what they look like, in the version that runs.
 *
 * NAMES    address.*   where a variable lies          offset.S.f  of field f in structure S
 *          stride.S    bytes from one S to the next   count.*     constants
 *          docs/FORMATS.md describes each structure and how far it may be trusted while it changes.
 */
#include "cache.h"
#include "heaps.h"
#include "mapping.h"
#include "meta.h"
#include "page_internal.h"
#include "pagemap.h"
#include "sizeclass.h"
#include "slab.h"

#include <quarry.h>

#define ADDRESS(name, variable) \
    { "address." name, (uintptr_t) & (variable) }
#define OFFSET(structure, field) \
    { "offset." #structure "." #field, offsetof(struct structure, field) }
#define STRIDE(structure) \
    { "stride." #structure, sizeof(struct structure) }
#define COUNT(name, number) \
    { "count." name, (number) }

static const struct quarry_public_field fields[] = {
    ADDRESS("region_chunks", pagemap_chunks),
    ADDRESS("region_count", pagemap_region_count),
    ADDRESS("window", pagemap_window),
    ADDRESS("page_state", page_state),
    ADDRESS("size_classes", size_classes),
    ADDRESS("slab_shards", slab_shards),
    ADDRESS("slab_shard_count", slab_shard_count),
    ADDRESS("caches", cache_registry),
    ADDRESS("mappings", mapping_table),
    ADDRESS("meta_chunks", meta_chunk_list),
    ADDRESS("meta_large_bytes", meta_large_total),
    ADDRESS("object_caches", object_caches),
    ADDRESS("heaps", heaps_list),
    COUNT("classes", CLASS_COUNT),
    COUNT("bins", BIN_COUNT),
    COUNT("orders", BUDDY_ORDERS),
    COUNT("page_bytes", PAGE_BYTES),
    COUNT("region_pages", REGION_PAGES),
    COUNT("chunk_regions", CHUNK_REGIONS),
    COUNT("slab_words", SLAB_WORDS),
    COUNT("head_shift", HEAD_SHIFT),
    COUNT("heap_caches", HEAP_CACHES),
    OFFSET(window, base),
    OFFSET(window, limit),
    OFFSET(window, class_map),
    OFFSET(region_chunk, region),
    OFFSET(region, base),
    OFFSET(region, slots_used),
    OFFSET(region, dirty),
    OFFSET(region, clean),
    OFFSET(region, head),
    OFFSET(region, slab),
    STRIDE(region),
    OFFSET(buddy, pages),
    OFFSET(buddy, free),
    STRIDE(buddy),
    OFFSET(slab, word),
    OFFSET(slab, base),
    OFFSET(slab, clean_pages),
    OFFSET(slab, free_count),
    OFFSET(slab, objects),
    OFFSET(slab, class_index),
    OFFSET(slab, shard),
    STRIDE(slab),
    OFFSET(size_class, size),
    OFFSET(size_class, objects),
    OFFSET(size_class, pages),
    OFFSET(size_class, small_objects),
    OFFSET(size_class, small_pages),
    STRIDE(size_class),
    OFFSET(slab_class, slabs),
    OFFSET(slab_class, objects),
    OFFSET(slab_class, free_objects),
    STRIDE(slab_class),
    OFFSET(cache, top),
    OFFSET(cache, end),
    OFFSET(cache, state),
    OFFSET(cache, next),
    OFFSET(cache, in_use),
    STRIDE(cache),
    OFFSET(bin_state, capacity),
    OFFSET(bin_state, drained),
    STRIDE(bin_state),
    OFFSET(mapping_table, slots),
    OFFSET(mapping_table, entry),
    OFFSET(mapping_entry, address),
    OFFSET(mapping_entry, bytes),
    STRIDE(mapping_entry),
    OFFSET(meta_chunk, next),
    OFFSET(meta_chunk, bytes),
    OFFSET(quarry_cache, next),
    OFFSET(quarry_cache, size),
    OFFSET(quarry_cache, objects),
    OFFSET(quarry_cache, run_bytes),
    OFFSET(quarry_cache, slab_count),
    OFFSET(quarry_cache, live),
    OFFSET(quarry_cache, name),
    STRIDE(quarry_cache),
    OFFSET(quarry_heap, next),
    OFFSET(quarry_heap, large_bytes),
    OFFSET(quarry_heap, cache),
    STRIDE(quarry_heap),
    OFFSET(page_state, zone_pages),
    OFFSET(page_state, dirty_pages),
    OFFSET(page_state, clean_pages),
    OFFSET(page_state, hot_pages),
    OFFSET(page_state, break_start),
    OFFSET(page_state, break_top),
    OFFSET(page_state, purged_total),
    OFFSET(page_state, trimmed_total),
};

const struct quarry_public quarry_public = {
    .magic = QUARRY_PUBLIC_MAGIC,
    .version = QUARRY_PUBLIC_VERSION,
    .field_count = sizeof fields / sizeof fields[0],
    .field = fields,
};
