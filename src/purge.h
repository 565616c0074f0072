/* SPDX-License-Identifier: MIT
 *
 * purge.h: the budget of time that giving memory back by itself may take (credit.c); shared by the page and the
 * slab layer.  What the user asks for is not limited by it: malloc_trim, and runs under a trim threshold.
 */
#ifndef QUARRY_PURGE_H
#define QUARRY_PURGE_H

#include "base.h"

/* What things cost.  Constants rather than a clock around the work, which would charge the budget
 * what other processes take. */
#define PURGE_CALL_NS ((uint64_t)700)      /* a system call that purges */
#define SHOOTDOWN_NS ((uint64_t)12 * 1000) /* the same, where other processors are interrupted */
#define PURGE_NS ((uint64_t)230)           /* a page purged */
#define FAULT_NS ((uint64_t)1350)          /* a page touched for the first time */

#define CREDIT_FIRST_NS ((uint64_t)2 * 1000 * 1000)
#define GROWTH_NS ((uint64_t)800)             /* earned by a page that the heap grows by ... */
#define BURST_NS ((uint64_t)33 * 1000 * 1000) /* ... up to this; and what may be earned at once */

/* What is to be purged.  Holes leave RUNS_NS for runs: a nanosecond gives back ten times as much there. */
enum purge_kind { PURGE_RUNS, PURGE_HOLES, PURGE_KINDS };
#define RUNS_NS ((uint64_t)5 * 1000 * 1000)

void purge_spend(uint64_t ns);

/* What system calls cost that purge so many pages together; and charges that. */
uint64_t purge_calls_ns(size_t calls, size_t pages);
void purge_spend_calls(size_t calls, size_t pages);

/* Charges pages that were purged and are wanted again. */
void purge_spend_faults(size_t pages);

/* Whether there is credit left for this.  Lock-free. */
bool purge_affordable(enum purge_kind kind);

/* Fork repair: what is resident now is the peak. */
void purge_begin_peaks(void);

/* The heap is larger than ever, by so many pages. */
void purge_earn_growth(size_t pages);

#endif
