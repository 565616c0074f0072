/* SPDX-License-Identifier: MIT
 *
 * buddy.h: a set of free pages, seen as naturally aligned blocks of 2^order pages.
 *
 * Pure: the state is passed by pointer; no lock, no global, no system call.  Page numbers are
 * 0 .. BUDDY_PAGES-1.  The caller guards the state and hands in only pages that are not in the set.
 */
#ifndef QUARRY_BUDDY_H
#define QUARRY_BUDDY_H

#include "base.h"

enum {
    BUDDY_MAX_ORDER = 13, /* 8 192 pages: the largest block is a whole set, 32 MiB */
    BUDDY_ORDERS = BUDDY_MAX_ORDER + 1,
    BUDDY_PAGES = 1 << BUDDY_MAX_ORDER,
    BUDDY_WORDS = BUDDY_PAGES / 64,
    BUDDY_EIGHTS = BUDDY_WORDS / 8,
};

struct buddy {
    uint32_t pages;    /* in the set */
    uint64_t whole[2]; /* bit w: all pages of free[w] are in the set */
    union {
        uint8_t of[BUDDY_WORDS]; /* bit o: free[w] has a block of order o, 0 to 6 */
        uint64_t eight[BUDDY_EIGHTS];
    } orders;
    uint64_t free[BUDDY_WORDS]; /* bit i of free[w]: page 64 w + i is in the set */
};

/* Adds count pages from first on. */
void buddy_insert(struct buddy *set, unsigned first, unsigned count);

/* Takes count pages from first on out of the set, which holds them all. */
void buddy_remove(struct buddy *set, unsigned first, unsigned count);

static inline bool buddy_has(const struct buddy *set, unsigned page) {
    return (set->free[page / 64] >> page % 64) & 1;
}

/* Bit o: the set has a block of order o. */
uint32_t buddy_orders(const struct buddy *set);

/* How many blocks there are, of all orders. */
unsigned buddy_blocks(const struct buddy *set);

/* The first page of the smallest block of at least min_order, lowest address first, and its order;
 * -1 if there is none. */
int buddy_find(const struct buddy *set, unsigned min_order, unsigned *order);

/* The first page of the lowest block of exactly this order at or above page from; or -1. */
int buddy_next(const struct buddy *set, unsigned order, unsigned from);

/* The first page of the highest block of exactly this order; the set has one. */
unsigned buddy_last(const struct buddy *set, unsigned order);

/* The smallest order of a block that holds count pages; count is 1 or more. */
unsigned buddy_order_for(size_t count);

/* Empty string, or the name of the first invariant that does not hold. */
const char *buddy_verify(const struct buddy *set);

#endif
