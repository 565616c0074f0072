/* SPDX-License-Identifier: MIT
 *
 * blocks.h: the sampled blocks that are live, by address.
 */
#ifndef PROFILE_BLOCKS_H
#define PROFILE_BLOCKS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct block_sample {
    size_t size;
    uint32_t stack;
};

#define BLOCKS_FILTER_BITS 14
extern _Atomic uint16_t blocks_filter[1 << BLOCKS_FILTER_BITS];

static inline uint64_t blocks_hash(const void *block) {
    return ((uintptr_t)block >> 4) * 0x9e3779b97f4a7c15ull;
}

/* False for nearly every block that is not there: the whole cost of a free that is none of ours. */
static inline bool blocks_may_have(const void *block) {
    uint64_t place = blocks_hash(block) >> (64 - BLOCKS_FILTER_BITS);
    return atomic_load_explicit(&blocks_filter[place], memory_order_relaxed) != 0;
}

/* Once, before the others. False: no memory. */
bool blocks_start(void);
/* For a block that the caller has and no other thread knows. False: no room. */
bool blocks_add(const void *block, struct block_sample sample);
/* For a block that the caller may free. False: it was not sampled. */
bool blocks_remove(const void *block, struct block_sample *sample);
/* In a child of fork, before its first sample. */
void blocks_forget_all(void);

#endif /* PROFILE_BLOCKS_H */
