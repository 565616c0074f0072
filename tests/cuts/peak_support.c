/* SPDX-License-Identifier: MIT */
#include "cache.h"
#include "ledger_support.h"
#include "page.h"
#include "page_internal.h"
#include "scenario_support.h"
#include "slab.h"

#include <malloc.h>
#include <quarry.h>

/* Much of a class is free, in whole pages. */
void setup_peak(void) {
    quarry_mallopt(M_MMAP_MAX, 0);
    ledger_take_many(LEDGER_SETUP, 450, 500);
    for (unsigned i = 0; i < 450; i++)
        if (((uintptr_t)ledger_address(LEDGER_SETUP + i) >> PAGE_SHIFT) % 4 != 0)
            ledger_give(LEDGER_SETUP + i);
    cache_flush();
}

void run_peak(unsigned first) {
    (void)first;
    page_state.next_peak_pages = page_state.peak_pages = 0;
    must(page_peak_due() > 0);
    struct slab_counts before, after;
    slab_count(sizeclass_for(500), &before);
    slab_trim_at_peak(3);
    slab_count(sizeclass_for(500), &after);
    must(after.clean_bytes >= before.clean_bytes + 3 * PAGE_BYTES);
}
