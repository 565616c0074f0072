/* SPDX-License-Identifier: MIT
 *
 * The long run that came back last: taken whole, cut, joined on both sides, extended into, replaced and merged; and the one
 * that is kept for a thread.
 */
#include "scenario_support.h"

#include "ledger_support.h"

void setup_last(void) {
    quarry_mallopt(M_MMAP_MAX, 0);
    quarry_mallopt(M_TRIM_THRESHOLD, 64 * MIB); /* where all is kept there is none */
    ledger_take_many(LEDGER_SETUP, 20, 20000);
    ledger_give_many(LEDGER_SETUP, 10, 2);
}

void warm_last(unsigned first) {
    ledger_take_many(first, 3, 600000);
}

/* What takes its place lies below it, with a live block between them. */
void run_last(unsigned first) {
    ledger_give(first + 2);
    ledger_give(first);
    ledger_take(first, 600000);
    ledger_take(first + 2, 600000);
    ledger_give(first + 1);
    ledger_take(first + 1, 600000);
    ledger_give(first + 1);
    ledger_take(first + 1, 300000);
    ledger_resize(first + 1, 400000);
    ledger_resize(first + 1, 200000);
    ledger_give_many(first, 2, 1);
    ledger_take(first, 700000);
    ledger_give(first + 2);
    ledger_take(first + 1, 2 * MIB);
}

void setup_last_crossing(void) {
    quarry_mallopt(M_MMAP_MAX, 0);
    quarry_mallopt(M_TRIM_THRESHOLD, 512 * MIB);
    void *block = quarry_malloc(80 * MIB);
    must(block != NULL);
    quarry_free(block);
}

void run_last_crossing(unsigned first) {
    ledger_take(first, 40 * MIB);
    ledger_resize(first, 50 * MIB);
    ledger_resize(first, 30 * MIB);
    ledger_give(first);
    ledger_take_many(first, 3, 10 * MIB);
    ledger_give_many(first, 3, 1);
}

void setup_kept(void) {
    quarry_mallopt(M_MMAP_MAX, 0);
    ledger_take_many(LEDGER_SETUP, 20, 20000);
    ledger_give_many(LEDGER_SETUP, 10, 2);
}

static void take_in_turn(unsigned slot, unsigned times, size_t size) {
    for (unsigned i = 0; i < times; i++) {
        ledger_take(slot, size);
        ledger_give(slot);
    }
}

/* Behind the live run lies what is kept, or was. */
void warm_kept(unsigned first) {
    take_in_turn(first, 16, 400000);
    ledger_take(first + 1, 300000);
}

/* Kept, taken, cut, joined, cut and extended in place, extended into, given up for another, and merged. */
void run_kept(unsigned first) {
    take_in_turn(first, 3, 400000);
    ledger_take(first, 390000);
    ledger_resize(first, 300000);
    ledger_resize(first, 350000);
    ledger_give(first);
    take_in_turn(first, 2, 280000); /* cut from it, and joined */
    ledger_resize(first + 1, 320000);
    take_in_turn(first, 2, 400000);
    ledger_take(first + 2, 300000);
    ledger_give(first + 2);
    take_in_turn(first, 18, 400000);
    quarry_malloc_trim(0);
}
