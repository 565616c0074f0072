/* SPDX-License-Identifier: MIT
 *
 * bin_support.h: use of the calling thread's bins, and what they hold.
 */
#ifndef BIN_SUPPORT_H
#define BIN_SUPPORT_H

#include "unit_support.h"

#include "api.h"
#include "cache_internal.h"

static inline struct cache *own_bins(void) {
    return cache_is_watched() ? cache_watched : cache_tls;
}

static inline unsigned capacity_of(unsigned class_index) {
    return cache_registry ? own_bins()->state[class_index].capacity : 0; /* no cache, no state */
}

static inline size_t depth_of(unsigned class_index) {
    size_t depth = 0;
    for (void **slot = own_bins()->top[class_index]; *slot; slot--)
        depth++;
    return depth;
}

static inline void *take(unsigned class_index) {
    void *object = api_malloc(size_classes[class_index].size);
    must(object && pagemap_class(object) == class_index);
    return object;
}

/* So many pairs that all miss: each object is taken and given past an empty or full bin. */
static inline void use_slowly(unsigned class_index, size_t pairs) {
    for (size_t i = 0; i < pairs; i++) {
        void *object = cache_take(class_index);
        must(object && cache_give(class_index, object) == SLAB_OK);
    }
}

static inline void use_batch(unsigned class_index, size_t count) {
    static __thread void *objects[5000];
    must(count <= COUNT_OF(objects));
    for (size_t i = 0; i < count; i++)
        objects[i] = take(class_index);
    for (size_t i = 0; i < count; i++)
        api_free(objects[i]);
}

/* Uses a bin until it has all that use earns, and fills it. */
static inline void warm_up(unsigned class_index) {
    for (size_t i = 0; i < 3; i++) {
        use_slowly(class_index, 100);
        use_batch(class_index, 30);
    }
}

#endif /* BIN_SUPPORT_H */
