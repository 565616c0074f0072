/* SPDX-License-Identifier: MIT
 *
 * store.h: the profile's file, and room for records in it.
 */
#ifndef PROFILE_STORE_H
#define PROFILE_STORE_H

#include <stdbool.h>
#include <stddef.h>

#include "format.h"

/* Creates the file of this process in the place of what is there. 0, or an error number: EEXIST where
 * that is no regular file. */
int store_open(const char *path, uint64_t rate);
/* In a child of fork: leaves the parent's file. */
void store_leave(void);

/* Valid while there is a file. */
struct profile_header *store_header(void);
void *store_at(profile_reference reference);
_Atomic profile_reference *store_slots(void);

/* Room for a record, zeros; 0: there is none. */
profile_reference store_allocate(size_t bytes);

#endif /* PROFILE_STORE_H */
