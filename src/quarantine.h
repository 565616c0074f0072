/* SPDX-License-Identifier: MIT
 *
 * quarantine.h: freed blocks that wait before their memory serves again.  Thread-safe.
 *
 * It knows addresses and lengths, and touches no block.
 */
#ifndef QUARRY_QUARANTINE_H
#define QUARRY_QUARANTINE_H

#include "base.h"

struct quarantined {
    uintptr_t address;
    size_t bytes; /* a multiple of 16 */
    uint8_t fill; /* what the caller has filled it with */
    bool mapped;  /* it is a mapping */
};

/* How many bytes may wait.  What is too much then is to be taken out. */
void quarantine_set_limit(size_t bytes);

enum quarantine_answer {
    QUARANTINE_KEPT,
    QUARANTINE_KNOWN,  /* it waits already */
    QUARANTINE_REFUSED /* larger than the whole, or there is no room in the table */
};

enum quarantine_answer quarantine_add(const struct quarantined *block);

bool quarantine_holds(const void *block);

/* Takes out the block that has waited longest: where too much waits, or in any case (all).  False where
 * there is none. */
bool quarantine_take(struct quarantined *out, bool all);

/* How many mappings wait; a relaxed read. */
size_t quarantine_mappings(void);

/* Fork repair: rebuilds what is found by address from the order, if another thread was cut in here. */
void quarantine_repair(void);

#endif
