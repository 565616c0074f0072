/* SPDX-License-Identifier: MIT */
#include "ledger_support.h"
#include "scenario_support.h"

#include <malloc.h>
#include <quarry.h>

/* All that is in use may be dirty as well, up to 4 MiB; nothing is. */
void setup_huge(void) {
    quarry_mallopt(M_MMAP_MAX, 0);
    quarry_mallopt(M_TRIM_THRESHOLD, 4 << 20);
    for (unsigned i = 0; i < 40; i++)
        ledger_take(LEDGER_SETUP + i, 80000);
    quarry_malloc_trim(0);
    quarry_mallopt(QUARRY_M_HUGE_SHARE, 100);
}

void run_huge(unsigned first) {
    ledger_take_many(first, 3, 100000);
    ledger_give_many(first, 3, 1);
}
