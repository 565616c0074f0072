/* SPDX-License-Identifier: MIT
 *
 * mappings.h: which files the program's code is from.
 */
#ifndef PROFILE_MAPPINGS_H
#define PROFILE_MAPPINGS_H

#include <stdint.h>

/* Makes sure that the mappings with these return addresses are in the profile. */
void mappings_note(const uint64_t *frames, uint32_t depth);
/* In a child of fork. */
void mappings_leave(void);

#endif /* PROFILE_MAPPINGS_H */
