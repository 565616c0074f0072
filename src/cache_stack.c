/* SPDX-License-Identifier: MIT
 *
 * cache_stack.c: the memory of the bins' stacks.
 */
#include "cache_internal.h"

#include "meta.h"

#include <string.h>

/* A deep stack has room for all that it may ever hold.  It touches what it uses, and growing moves nothing: stacks that
 * double leave as much behind as they are. */
static bool is_deep(unsigned capacity) {
    return capacity > CAPACITY_STEADY_THREADS;
}

static size_t stack_bytes(unsigned class_index, unsigned capacity) {
    size_t most = CAPACITY_MAX_BYTES / size_classes[class_index].size;
    size_t slots = is_deep(capacity) ? min_size(CAPACITY_MAX, most) : capacity;
    return (slots + 1) * sizeof(void *);
}

/* Moves the objects of a bin to a stack that can hold them.  Meanwhile it is empty: a cut loses them. */
static bool move_bin(struct cache *cache, unsigned class_index, unsigned capacity) {
    void ***bin_top = &cache->top[class_index];
    unsigned old_capacity = cache->state[class_index].capacity;
    void **old = cache_slots(cache, class_index);
    void **fresh = capacity ? meta_take_ready(stack_bytes(class_index, capacity)) : cache_no_slots;
    if (!fresh)
        return false;
    size_t depth = (size_t)(*bin_top - old);
    STORE_RELEASE(*bin_top, fresh);
    memcpy(fresh + 1, old + 1, depth * sizeof *fresh);
    STORE_RELAXED(cache->end[class_index], fresh + capacity);
    STORE_RELEASE(*bin_top, fresh + depth);
    if (old_capacity)
        meta_give(old, stack_bytes(class_index, old_capacity));
    return true;
}

bool cache_resize_bin(struct cache *cache, unsigned class_index, unsigned capacity) {
    struct bin_state *state = &cache->state[class_index];
    unsigned old_capacity = state->capacity;
    if (is_deep(old_capacity) && is_deep(capacity))
        STORE_RELAXED(cache->end[class_index], cache_slots(cache, class_index) + capacity);
    else if (!move_bin(cache, class_index, capacity))
        return false;
    STORE_RELAXED(state->capacity, (uint16_t)capacity);
    state->slow_ops = 0;
    state->regret = 0;
    cache_add_capacity(class_index, cache_held_bytes(class_index, capacity) -
                                        cache_held_bytes(class_index, old_capacity));
    return true;
}
