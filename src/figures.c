/* SPDX-License-Identifier: MIT
 *
 * figures: the public statistics.
 *
 * PURPOSE  One snapshot behind every output: the structure, text, JSON, OpenMetrics, malloc_stats and
 *          malloc_info.  docs/STATS.md has a line for each row of the table; a test compares them.
 */
#include "figures.h"

#include "heap.h"
#include "ledger.h"
#include "limit.h"
#include "stats.h"

#include <string.h>

#define FIGURE(field, kind, help) \
    { #field, kind, offsetof(struct quarry_stats, field), help }

const struct figure figure_table[] = {
    FIGURE(heap_bytes, FIGURE_BYTES, "obtained for the zones: the break and mapped zones"),
    FIGURE(heap_peak_bytes, FIGURE_BYTES, "the most that this has been"),
    FIGURE(live_bytes, FIGURE_BYTES, "of the heap, held by the program, with rounding"),
    FIGURE(cached_bytes, FIGURE_BYTES, "of the heap, objects and runs in threads' caches"),
    FIGURE(free_object_bytes, FIGURE_BYTES, "of the heap, free objects in slabs"),
    FIGURE(dirty_bytes, FIGURE_BYTES, "of the heap, free pages that were used before"),
    FIGURE(clean_bytes, FIGURE_BYTES, "of the heap, free pages that are not resident"),
    FIGURE(top_bytes, FIGURE_BYTES, "of the free pages, those at the top of the break"),
    FIGURE(mapped_bytes, FIGURE_BYTES, "in blocks that are mappings of their own"),
    FIGURE(mapped_peak_bytes, FIGURE_BYTES, "the most that this has been"),
    FIGURE(mapped_blocks, FIGURE_COUNT, "blocks that are mappings of their own"),
    FIGURE(mapped_peak_blocks, FIGURE_COUNT, "the most that there have been"),
    FIGURE(metadata_bytes, FIGURE_BYTES, "mapped for the allocator's tables, resident or not"),
    FIGURE(caches, FIGURE_COUNT, "threads that have a cache"),
    FIGURE(cache_capacity_bytes, FIGURE_BYTES, "what all caches may hold when they are full"),
    FIGURE(bound_bytes, FIGURE_BYTES, "free resident memory that is tolerated now"),
    FIGURE(purged_bytes, FIGURE_BYTES_EVER, "given back page by page since the start"),
    FIGURE(trimmed_bytes, FIGURE_BYTES_EVER, "given back by lowering the break since the start"),
    FIGURE(purge_refused, FIGURE_COUNT, "1: the kernel keeps pages (mlockall), the bound is void"),
    FIGURE(resident_live_bytes, FIGURE_BYTES, "resident, held by the program"),
    FIGURE(resident_cached_bytes, FIGURE_BYTES, "resident, objects and runs in threads' caches"),
    FIGURE(resident_free_bytes, FIGURE_BYTES, "resident, free beside what is held on the page"),
    FIGURE(resident_dirty_bytes, FIGURE_BYTES, "resident, whole pages that nobody holds"),
    FIGURE(resident_metadata_bytes, FIGURE_BYTES, "resident, the allocator's tables"),
    FIGURE(resident_bytes, FIGURE_BYTES, "resident, the sum of these five"),
    FIGURE(untouched_bytes, FIGURE_BYTES, "held by the program and not resident"),
    FIGURE(limit_bytes, FIGURE_BYTES, "what the allocator may hold; 0: no limit"),
    FIGURE(limit_refusals, FIGURE_COUNT_EVER, "requests that failed because of the limit"),
};

const unsigned figure_count = sizeof figure_table / sizeof figure_table[0];

uint64_t figure_value(const struct figure *figure, const struct quarry_stats *stats) {
    uint64_t value;
    memcpy(&value, (const char *)stats + figure->offset, sizeof value);
    return value;
}

static void fill_heap(struct quarry_stats *out, const struct stats *stats) {
    size_t used = stats->page.zone_bytes - stats->free_bytes;
    out->heap_bytes = stats->page.zone_bytes;
    out->heap_peak_bytes = stats->page.peak_zone_bytes;
    out->cached_bytes = min_size(stats->cache.cached_bytes, used);
    out->live_bytes = used - out->cached_bytes;
    out->free_object_bytes = stats->free_object_bytes;
    out->dirty_bytes = stats->page.dirty_bytes;
    out->clean_bytes = stats->page.clean_bytes;
    out->top_bytes = stats->page.top_bytes;
    out->mapped_bytes = stats->mapping.bytes;
    out->mapped_peak_bytes = stats->mapping.peak_bytes;
    out->mapped_blocks = stats->mapping.count;
    out->mapped_peak_blocks = stats->mapping.peak_count;
    out->metadata_bytes = stats->metadata_bytes;
    out->caches = stats->cache.caches;
    out->cache_capacity_bytes = stats->cache.capacity_bytes;
    out->bound_bytes = page_trim_bound();
    out->purged_bytes = stats->page.purged_bytes;
    out->trimmed_bytes = stats->page.trimmed_bytes;
    out->limit_bytes = limit_get() == LIMIT_NONE ? 0 : limit_get();
    out->limit_refusals = limit_refusals();
    out->purge_refused = stats->page.purge_refused;
}

/* The share of all runs that is not resident, of the cached ones. */
static size_t absent_of(const struct ledger *ledger, size_t cached_runs) {
    size_t absent = ledger->runs_untouched >> PAGE_SHIFT;
    size_t all = (ledger->runs_resident >> PAGE_SHIFT) + absent;
    return all ? ((cached_runs >> PAGE_SHIFT) * absent / all) << PAGE_SHIFT : 0;
}

/* That a cached object is resident is an estimate, and a good one: it was used a moment ago. */
static void fill_ledger(struct quarry_stats *out, size_t cached_runs) {
    struct ledger ledger;
    ledger_read(&ledger);
    cached_runs = min_size(cached_runs, out->cached_bytes);
    size_t absent = absent_of(&ledger, cached_runs);
    out->resident_cached_bytes = min_size(out->cached_bytes - absent, ledger.live);
    out->resident_live_bytes = ledger.live - out->resident_cached_bytes;
    out->resident_free_bytes = ledger.free;
    out->resident_dirty_bytes = ledger.dirty;
    out->resident_metadata_bytes = ledger.metadata;
    out->resident_bytes = ledger.live + ledger.free + ledger.dirty + ledger.metadata;
    out->untouched_bytes = ledger.untouched - min_size(absent, ledger.untouched);
}

void figures_read(struct quarry_stats *out, struct stats *stats, struct shard_stats *shards,
                  uint32_t count) {
    heap_enter();
    *out = (struct quarry_stats){.version = QUARRY_STATS_VERSION, .bytes = sizeof *out};
    stats_read_shards(stats, shards, count);
    fill_heap(out, stats);
    fill_ledger(out, stats->cache.run_bytes);
}

size_t quarry_stats(struct quarry_stats *stats, size_t bytes) {
    struct quarry_stats all;
    struct stats heap;
    figures_read(&all, &heap, NULL, 0);
    all.bytes = (uint32_t)min_size(bytes, sizeof all);
    memcpy(stats, &all, all.bytes);
    return all.bytes;
}

void quarry_set_limit(size_t bytes) {
    heap_enter();
    limit_set(bytes ? bytes : LIMIT_NONE);
}

/* What is free in slabs and not resident has gone already. */
int quarry_trim(size_t pad, struct quarry_trim_report *report, size_t bytes) {
    struct quarry_trim_report all = {.released_bytes = heap_trim(pad)};
    struct quarry_stats stats;
    quarry_stats(&stats, sizeof stats);
    all.cached_elsewhere_bytes = stats.cached_bytes;
    all.free_beside_live_bytes = stats.resident_free_bytes;
    all.refused_bytes = stats.resident_dirty_bytes;
    memcpy(report, &all, min_size(bytes, sizeof all));
    return all.released_bytes != 0;
}

size_t quarry_class_stats(struct quarry_class_stats *classes, size_t count) {
    struct cache_counts cached;
    heap_enter();
    cache_count(&cached);
    for (unsigned i = 1; i < CLASS_COUNT && i <= count; i++) {
        struct slab_counts slab;
        slab_count(i, &slab);
        classes[i - 1] = (struct quarry_class_stats){
            .size = size_classes[i].size,
            .slabs = slab.slabs,
            .partial_slabs = slab.partial_slabs,
            .taken_objects = slab.objects - slab.free_objects,
            .free_objects = slab.free_objects,
        };
        classes[i - 1].cached_objects = min_size(cached.objects[i], classes[i - 1].taken_objects);
    }
    return CLASS_COUNT - 1;
}
