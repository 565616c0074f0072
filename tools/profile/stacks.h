/* SPDX-License-Identifier: MIT
 *
 * stacks.h: call stacks, and what was allocated from each.
 */
#ifndef PROFILE_STACKS_H
#define PROFILE_STACKS_H

#include "format.h"

/* The stack's record, added if it is new; that of the others where there is no room. */
profile_reference stacks_find(const uint64_t *frames, uint32_t depth);

/* One sampled block of a stack. */
void stacks_count_allocated(profile_reference stack, uint64_t size);
void stacks_count_freed(profile_reference stack, uint64_t size);

#endif /* PROFILE_STACKS_H */
