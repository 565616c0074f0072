/* SPDX-License-Identifier: MIT */
#include "ledger_support.h"
#include "scenario_support.h"

void run_moves(unsigned first) {
    static const size_t size[] = {10, 200, 5000, 30000, 200000, 900000, 150000, 9000, 70};
    ledger_take(first + 50, 1);
    for (unsigned i = 0; i < COUNT_OF(size); i++)
        ledger_resize(first + 50, size[i]);
    ledger_give(first + 50);
}

void run_anything(unsigned first) {
    struct rng rng = {20};
    for (unsigned i = 0; i < 100; i++) {
        unsigned slot = first + (unsigned)rng_below(&rng, 40);
        size_t size = rng_below(&rng, (size_t)16 << rng_below(&rng, 14)) + 1;
        if (!ledger_live(slot))
            ledger_take(slot, size);
        else if (i % 4 == 0)
            ledger_resize(slot, size);
        else
            ledger_give(slot);
    }
}
