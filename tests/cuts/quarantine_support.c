/* SPDX-License-Identifier: MIT */
#include "ledger_support.h"
#include "scenario_support.h"

#include <quarry.h>

/* Half of what is freed below waits. */
void setup_quarantine(void) {
    for (unsigned i = 0; i < 40; i++)
        ledger_take(LEDGER_SETUP + i, 16 + i * 500);
    quarry_mallopt(QUARRY_M_QUARANTINE, 100000);
}

void run_quarantine(unsigned first) {
    ledger_take_many(first, 20, 3000);
    ledger_take(first + 20, 200000); /* a mapping, too large to wait */
    ledger_take(first + 21, 20000);
    ledger_take_aligned(first + 22, 4096, 50000);
    ledger_give_many(first, 23, 1);
    ledger_take_many(first, 10, 3000);
    ledger_resize(first, 5000);
    ledger_give_many(first, 10, 2);
    quarry_malloc_trim(0);
}

/* Threads cache nothing from then on. */
void run_mode(unsigned first) {
    quarry_mallopt(QUARRY_M_ZERO, 1);
    ledger_give_many(first, 5, 1);
}
