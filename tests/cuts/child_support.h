/* SPDX-License-Identifier: MIT
 *
 * child_support.h: what has to hold in a fork child, wherever the fork cut the other threads.
 */
#ifndef CHILD_SUPPORT_H
#define CHILD_SUPPORT_H

#include <stddef.h>

struct expectation {
    unsigned variant;  /* which call is the child's first */
    size_t focus;      /* a size of which many blocks are taken */
    size_t leak_bytes; /* what cut threads may have held in their hands: pages that stay in use */
};

/* The structures are whole; every live block is intact and can be freed once; new blocks overlap
 * none; all memory but what leaked comes back.  Ends the process with status 1 where not so. */
void child_check(const struct expectation *expectation);

/* Allocates, resizes, frees and trims with a ledger of its own; any number of threads at once, each
 * with an index of its own. */
void child_use_heap(size_t focus, unsigned thread);

/* The invariants hold. */
void child_verify(void);

/* Bytes of runs, slabs and mappings that are in use. */
size_t child_bytes_in_use(void);

/* In a child: the first call into the slow paths of the allocator, by variant. */
void child_first_call(unsigned variant);

#endif /* CHILD_SUPPORT_H */
