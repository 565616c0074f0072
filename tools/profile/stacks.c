/* SPDX-License-Identifier: MIT
 *
 * stacks.c
 *
 * LAYOUT   A hash table of references to records of any length, with linear probing; nothing is
 *          ever removed.
 *
 * LOCKING  None: a record is complete before its reference takes an empty slot, and where two threads
 *          add the same stack, the second one finds that of the first and leaves its own unused.
 *
 * FAILURE  Without a slot nearby, or room in the file, a stack is counted among the others.
 */
#include "stacks.h"

#include <stdbool.h>
#include <string.h>

#include "estimate.h"
#include "mappings.h"
#include "store.h"

#define PROBES_MOST 64

static uint32_t hash_of(const uint64_t *frames, uint32_t depth) {
    uint64_t hash = depth;
    for (uint32_t i = 0; i < depth; i++) {
        hash = (hash ^ frames[i]) * 0x9e3779b97f4a7c15ull;
        hash ^= hash >> 32;
    }
    return (uint32_t)hash;
}

static bool is_stack(profile_reference reference, uint32_t hash, const uint64_t *frames,
                     uint32_t depth) {
    const struct profile_stack *stack = store_at(reference);
    return stack->hash == hash && stack->depth == depth &&
           memcmp(stack->frames, frames, depth * sizeof *frames) == 0;
}

static profile_reference add(uint32_t hash, const uint64_t *frames, uint32_t depth) {
    profile_reference reference =
        store_allocate(sizeof(struct profile_stack) + depth * sizeof *frames);
    if (reference != 0) {
        struct profile_stack *stack = store_at(reference);
        stack->depth = depth;
        stack->hash = hash;
        memcpy(stack->frames, frames, depth * sizeof *frames);
        mappings_note(frames, depth);
    }
    return reference;
}

profile_reference stacks_find(const uint64_t *frames, uint32_t depth) {
    _Atomic profile_reference *slots = store_slots();
    profile_reference added = 0;
    uint32_t hash = hash_of(frames, depth);
    for (uint32_t probe = 0; probe < PROBES_MOST; probe++) {
        _Atomic profile_reference *slot = &slots[(hash + probe) % PROFILE_SLOTS];
        profile_reference there = atomic_load_explicit(slot, memory_order_acquire);
        if (there == 0) {
            added = added != 0 ? added : add(hash, frames, depth);
            if (added == 0) {
                break;
            }
            if (atomic_compare_exchange_strong(slot, &there, added)) {
                return added;
            }
        }
        if (is_stack(there, hash, frames, depth)) {
            return there;
        }
    }
    return store_header()->others;
}

static void count(struct profile_tally *tally, uint64_t size) {
    double blocks = estimate_blocks(store_header()->rate, size);
    uint64_t estimated = (uint64_t)(blocks * (double)size + 0.5);
    atomic_fetch_add_explicit(&tally->samples, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&tally->bytes, size, memory_order_relaxed);
    atomic_fetch_add_explicit(&tally->blocks_256, (uint64_t)(blocks * 256 + 0.5),
                              memory_order_relaxed);
    atomic_fetch_add_explicit(&tally->estimated, estimated, memory_order_relaxed);
}

void stacks_count_allocated(profile_reference stack, uint64_t size) {
    count(&((struct profile_stack *)store_at(stack))->allocated, size);
}

void stacks_count_freed(profile_reference stack, uint64_t size) {
    count(&((struct profile_stack *)store_at(stack))->freed, size);
}
