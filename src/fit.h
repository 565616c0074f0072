/* SPDX-License-Identifier: MIT
 *
 * fit.h: the extents of free pages of a region, found by length or by the page beside them.
 *
 * Pure: the state is passed by pointer; no lock, no global, no system call.  Page numbers are
 * 0 .. BUDDY_PAGES-1.  The caller guards the state.  An extent is as long as it can be: pages of one
 * kind beside it are part of it.
 */
#ifndef QUARRY_FIT_H
#define QUARRY_FIT_H

#include "base.h"
#include "buddy.h"

enum fit_kind { FIT_DIRTY, FIT_CLEAN };

enum {
    FIT_EXACT = 64, /* lengths up to this have a list each */
    FIT_BINS = 120, /* then eight lists per doubling, up to BUDDY_PAGES */
    FIT_PAGES = 0x3fff,
    FIT_START = 0x4000,
    FIT_IS_CLEAN = 0x8000,
};

/* Of the first and the last page of an extent; else all 0. */
struct fit_node {
    uint16_t tag; /* its length, FIT_START at the first page, FIT_IS_CLEAN */
    /* First pages + 1 of others in the list; 0: none.  At the first page only. */
    uint16_t next, prev;
};

struct fit {
    uint64_t occupied[2][2];    /* by kind; bit b: list b has members */
    uint16_t list[2][FIT_BINS]; /* first page + 1 of the extent that came last, or 0 */
    struct fit_node node[BUDDY_PAGES];
};

struct fit_extent {
    unsigned first, count;
    enum fit_kind kind;
};

/* Forgets all extents; writes only where there is something to forget. */
void fit_clear(struct fit *fit);

/* Adds pages that are in no extent. */
void fit_insert(struct fit *fit, enum fit_kind kind, unsigned first, unsigned count);

/* Takes pages out of an extent that is there; what is left at its ends stays. */
void fit_remove(struct fit *fit, struct fit_extent extent, unsigned first, unsigned count);

/* The shortest extent of at least so many pages, the lowest of some that are alike; false if there is
 * none. */
bool fit_find(const struct fit *fit, enum fit_kind kind, unsigned pages, struct fit_extent *found);

/* The list that an extent of so many pages, 1 .. BUDDY_PAGES, is in, from 1 on; and the list of the longest
 * extent of a kind, 0 if there is none.  An extent is never shorter than those of the lists before its own. */
unsigned fit_list_for(unsigned pages);
static inline unsigned fit_longest(const struct fit *fit, enum fit_kind kind) {
    const uint64_t *occupied = fit->occupied[kind];
    if (UNLIKELY(occupied[1]))
        return 64 + bit_highest(occupied[1]) + 1;
    return occupied[0] ? bit_highest(occupied[0]) + 1 : 0;
}

/* The extent that begins or ends with the page; false if none does. */
bool fit_beside(const struct fit *fit, unsigned page, struct fit_extent *found);

/* The extent that a page lies in.  Slow where the page is far from its start. */
struct fit_extent fit_holding(const struct fit *fit, unsigned page);

/* The extents of a kind, longest lists first: the one after *walk; {0} before the first call. */
struct fit_walk {
    unsigned bins_done, page;
};
bool fit_next(const struct fit *fit, enum fit_kind kind, struct fit_walk *walk,
              struct fit_extent *found);

/* Empty string, or the name of the first invariant that does not hold. */
const char *fit_verify(const struct fit *fit, const struct buddy *dirty, const struct buddy *clean);

#endif
