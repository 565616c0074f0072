/* SPDX-License-Identifier: MIT
 *
 * cache_rules: what the options allow the threads' caches to hold.
 *
 * LOCKING  Words, each for itself.  Whoever narrows the rules counts a change; threads compare the count
 *          with what they have followed at each slow operation (cache.c).
 */
#include "cache_internal.h"

#include "page.h"

struct cache_rules cache_rules = {
    .enabled = true,
    .capacity_max = CAPACITY_MAX,
    .size_max = RUN_MAX,
    .uncached_from = SIZE_MAX,
    .deep_max = RUN_MAX,
};
#define R cache_rules

bool cache_may_hold(unsigned class_index) {
    size_t size = size_classes[class_index].size;
    return LOAD_RELAXED(R.enabled) && size <= LOAD_RELAXED(R.size_max) &&
           size < LOAD_RELAXED(R.uncached_from) &&
           !(sizeclass_is_run(class_index) && page_trim_threshold_set());
}

unsigned cache_capacity_limit(unsigned class_index, size_t count, size_t bytes) {
    if (!cache_may_hold(class_index))
        return 0;
    size_t size = size_classes[class_index].size;
    size_t least = sizeclass_is_run(class_index) ? 1 : CAPACITY_FIRST;
    size_t objects = min_size(count, max_size(least, bytes / size));
    return (unsigned)min_size(LOAD_RELAXED(R.capacity_max), objects);
}

void cache_set_capacity_limit(size_t objects) {
    STORE_RELAXED(R.capacity_max, min_size(objects, CAPACITY_MAX));
}

void cache_set_size_limit(size_t bytes) {
    STORE_RELAXED(R.size_max, bytes);
}

void cache_set_uncached_from(size_t bytes) {
    STORE_RELAXED(R.uncached_from, bytes);
    cache_rules_changed();
}

void cache_set_enabled(bool on) {
    STORE_RELAXED(R.enabled, on);
    cache_rules_changed();
}

void cache_set_deep_limit(size_t bytes) {
    STORE_RELAXED(R.deep_max, bytes);
}
