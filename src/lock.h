/* SPDX-License-Identifier: MIT
 *
 * lock.h: a futex lock whose word names its owner, so that a fork child can tell which locks
 * belonged to threads that do not exist any more.  See the theory in lock.c.
 */
#ifndef QUARRY_LOCK_H
#define QUARRY_LOCK_H

#include "base.h"

/* Lock order: a thread takes locks in increasing rank only (checked in debug builds). */
enum lock_rank { LOCK_INIT = 1, LOCK_REGISTRY, LOCK_MAPPING, LOCK_CLASS, LOCK_PAGE, LOCK_META };

struct lock {
    uint64_t word; /* 0: free; else the owner's serial number, bit 0: there may be sleepers */
    enum lock_rank rank;
};

#define LOCK_INITIALISER(r) \
    { 0, (r) }

void lock_take(struct lock *lock);
void lock_drop(struct lock *lock);

/* True if the calling thread holds the lock. */
bool lock_held(const struct lock *lock);

/* In a fork child: true if the lock was held by a thread that this process does not have. */
bool lock_broken(const struct lock *lock);

/* Makes a broken lock free again; the caller has rebuilt what it guards. */
void lock_repair(struct lock *lock);

/* True while the process has never had a second thread: read-modify-writes need not be atomic. */
bool lock_single_thread(void);

/* The calling thread's serial number: even, never 0, never given to another thread of this process
 * or of its fork children, and kept by the thread that forks. */
uint64_t lock_self(void);

#endif
