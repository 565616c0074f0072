/* SPDX-License-Identifier: MIT
 *
 * heaps.h: first-class heaps, for those who repair them and who look from outside.  The rest is public:
 * quarry.h.
 */
#ifndef QUARRY_HEAPS_H
#define QUARRY_HEAPS_H

#include "objects.h"

enum { HEAP_CACHES = 56 };

struct quarry_heap {
    struct lock lock;
    struct quarry_heap *next; /* of all heaps */
    struct large *large;
    size_t large_bytes;
    struct quarry_cache cache[HEAP_CACHES]; /* by size class, less one; of size 0: none */
};

extern struct quarry_heap *heaps_list; /* newest first */

/* Fork repair: rebuilds the heaps that another thread was cut in. */
void heaps_repair(void);

#endif
