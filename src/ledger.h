/* SPDX-License-Identifier: MIT
 *
 * ledger.h: what each resident page of the allocator is resident for.
 */
#ifndef QUARRY_LEDGER_H
#define QUARRY_LEDGER_H

#include "base.h"

/* Bytes on resident pages, each counted once, and what is live on pages that are not resident. */
struct ledger {
    size_t live;      /* taken objects (cached ones included), runs, mappings */
    size_t free;      /* free objects on pages that hold taken ones, and the tails of slabs */
    size_t dirty;     /* pages that nobody uses */
    size_t metadata;  /* the allocator's own tables */
    size_t untouched; /* live and not resident */
    size_t runs_resident, runs_untouched; /* what of these two is on pages of runs */
};

/* Asks the kernel about every page of the heap.  Takes no lock for longer than it copies a few
 * mappings; what other threads do meanwhile makes it drift. */
void ledger_read(struct ledger *ledger);

#endif
