/* SPDX-License-Identifier: MIT */
#include "ledger_support.h"
#include "scenario_support.h"

#include <malloc.h>
#include <quarry.h>

/* The thread that forks has full bins, and sleeps while another drains them. */
void setup_drain(void) {
    static const struct {
        unsigned count;
        size_t size;
    } cached[] = {{90, 64}, {40, 272}, {4, 20000}};
    quarry_mallopt(M_MMAP_MAX, 0);
    for (unsigned round = 0; round < 4; round++)
        for (unsigned i = 0; i < COUNT_OF(cached); i++) {
            ledger_take_many(LEDGER_SETUP, cached[i].count, cached[i].size);
            ledger_give_many(LEDGER_SETUP, cached[i].count, 1);
        }
    ledger_take_many(LEDGER_SETUP, 30, 64);
}

void run_drain(unsigned first) {
    (void)first;
    quarry_malloc_trim(0);
}
