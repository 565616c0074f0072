/* SPDX-License-Identifier: MIT
 *
 * ledger_support.h: which blocks are live, and what they must hold.
 *
 * A block is marked live after it was filled, and no longer live before it is freed or resized.  So
 * wherever a fork cuts a thread, a block that is marked is live, and belongs to nobody else.
 */
#ifndef LEDGER_SUPPORT_H
#define LEDGER_SUPPORT_H

#include "quarry.h"
#include "support.h"

/* Slots: those of the set-up, of the threads that are cut, and of the child. */
enum {
    LEDGER_SETUP = 0,
    LEDGER_CUT = 500,
    LEDGER_CUT_EACH = 500, /* of each of two threads */
    LEDGER_CHILD = 1500,
    LEDGER_SLOTS = 3000,
};

void ledger_take(unsigned slot, size_t size);
void ledger_take_zero(unsigned slot, size_t size);
void ledger_take_aligned(unsigned slot, size_t align, size_t size);
void ledger_resize(unsigned slot, size_t size);
void ledger_give(unsigned slot);

void ledger_take_many(unsigned first, unsigned count, size_t size);
void ledger_give_many(unsigned first, unsigned count, unsigned step);

/* Frees all live blocks from first up to, not including, end. */
void ledger_give_live(unsigned first, unsigned end);

bool ledger_live(unsigned slot);
void *ledger_address(unsigned slot);

/* All live blocks hold what they must, and the allocator knows them. */
void ledger_check(void);

#endif /* LEDGER_SUPPORT_H */
