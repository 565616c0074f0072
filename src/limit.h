/* SPDX-License-Identifier: MIT
 *
 * limit.h: a soft limit on what the allocator holds.
 */
#ifndef QUARRY_LIMIT_H
#define QUARRY_LIMIT_H

#include "base.h"

#define LIMIT_NONE SIZE_MAX

/* SIZE_MAX: none. */
void limit_set(size_t bytes);
size_t limit_get(void);

/* What counts against it. */
size_t limit_held_bytes(void);

/* The limit of the memory cgroup that the process is in, less a sixteenth for what is not heap;
 * LIMIT_NONE where there is none. */
size_t limit_of_cgroup(void);

bool limit_admits_slowly(size_t more_bytes);
extern size_t limit_bytes;

/* Whether more memory may be taken into use.  At the limit dirty pages are given back first.  Call it
 * without locks. */
static inline bool limit_admits(size_t more_bytes) {
    return LIKELY(LOAD_RELAXED(limit_bytes) == LIMIT_NONE) || limit_admits_slowly(more_bytes);
}

/* Whether so much more fits as things are; gives nothing back, and may be called with locks. */
bool limit_has_room(size_t more_bytes);

/* Where a request for so many bytes failed for good: counts it if the limit was why; true for the first. */
bool limit_count_failure(size_t more_bytes);
size_t limit_refusals(void);

#endif
