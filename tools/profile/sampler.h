/* SPDX-License-Identifier: MIT
 *
 * sampler.h: which blocks are samples, and what becomes of them.
 *
 * A call that allocates asks sampler_due first. If that is true, sampler_take has to follow, with
 * the block or NULL. Nothing here changes errno, allocates, or waits.
 */
#ifndef PROFILE_SAMPLER_H
#define PROFILE_SAMPLER_H

#include <stdbool.h>

#include "blocks.h"

struct sampler_thread {
    uint64_t left; /* bytes before the next sample; at first 0 */
    uint64_t random;
    uint32_t process; /* of which fork */
    bool inside;      /* one of the calls below */
};
extern _Thread_local struct sampler_thread sampler_self __attribute__((tls_model("initial-exec")));

bool sampler_due_slow(size_t size);

/* True for nearly every call: it is no sample, and the functions of the allocator are known. */
static inline bool sampler_passes(size_t size) {
    uint64_t left = sampler_self.left;
    if (__builtin_expect(size < left, true)) {
        sampler_self.left = left - size;
        return true;
    }
    return false;
}

static inline bool sampler_due(size_t size) {
    return !sampler_passes(size) && sampler_due_slow(size);
}

/* caller: the return address of the program's call. Returns the block. */
void *sampler_take(void *block, size_t size, const void *caller);

/* Before a block is given back, where blocks_may_have says so. True if it was a sample: it is none
 * from now on, and either sampler_gone or sampler_back has to follow. */
bool sampler_hold(const void *block, struct block_sample *sample);
void sampler_gone(const struct block_sample *sample);
void sampler_back(const void *block, const struct block_sample *sample);

/* libgcc's unwinder takes a lock from now on. */
void sampler_unwinder_locks(void);

#endif /* PROFILE_SAMPLER_H */
