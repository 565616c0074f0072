/* SPDX-License-Identifier: MIT
 *
 * lock.h: a futex lock whose word names its owner, so that a fork child can tell which locks
 * belonged to threads that do not exist any more.  See the theory in lock.c.
 */
#ifndef QUARRY_LOCK_H
#define QUARRY_LOCK_H

#include "base.h"

/* Lock order: a thread takes locks in increasing rank only (checked in debug builds). */
enum lock_rank {
    LOCK_INIT = 1,
    LOCK_PATH,
    LOCK_REGISTRY,
    LOCK_OBJECTS,
    LOCK_MAPPING,
    LOCK_CLASS,
    LOCK_PAGE,
    LOCK_QUARANTINE,
    LOCK_META
};

struct lock {
    uint64_t word; /* 0: free; else the owner's serial number, bit 0: there may be sleepers */
    enum lock_rank rank;
};

#define LOCK_INITIALISER(r) \
    { 0, (r) }

/* For locks that lie in zeroed memory; only debug builds look at ranks. */
static inline void lock_set_rank(struct lock *lock, enum lock_rank rank) {
#ifdef QUARRY_DEBUG
    lock->rank = rank;
#else
    (void)lock, (void)rank;
#endif
}

#define LOCK_SLEEPERS ((uint64_t)1)

/* True while the process has never had a second thread: read-modify-writes need not be atomic. */
extern char __libc_single_threaded __attribute__((weak));
static inline bool lock_single_thread(void) {
    return &__libc_single_threaded != NULL && __libc_single_threaded;
}

/* The calling thread's serial: no other thread of this process, or of those it descends from, has it.
 * It is even; 0: not numbered yet. */
extern __thread uint64_t lock_serial
    __attribute__((tls_model("initial-exec"), visibility("hidden")));
uint64_t lock_number_thread(void);

static inline uint64_t lock_self(void) {
    return LIKELY(lock_serial != 0) ? lock_serial : lock_number_thread();
}

static inline bool lock_try(struct lock *lock, uint64_t value) {
    uint64_t expected = 0;
    return __atomic_compare_exchange_n(&lock->word, &expected, value, false, __ATOMIC_ACQUIRE,
                                       __ATOMIC_RELAXED);
}

void lock_take_contended(struct lock *lock);
void lock_wake(struct lock *lock);
void lock_note(const struct lock *lock, bool taken); /* debug builds: checks the order */

static inline void lock_pause(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

/* Takes a lock that nobody holds; false where somebody does.  Whoever does not sleep closes no circle, so
 * this goes in any order, and lock_let_go, not lock_drop, ends it. */
static inline bool lock_grab(struct lock *lock) {
    if (lock_single_thread() && LIKELY(LOAD_RELAXED(lock->word) == 0)) {
        STORE_RELAXED(lock->word, lock_self());
        return true;
    }
    return LIKELY(lock_try(lock, lock_self()));
}

/* As lock_take where nobody holds the lock; else false. */
static inline bool lock_take_free(struct lock *lock) {
    bool taken = lock_grab(lock);
#ifdef QUARRY_DEBUG
    if (taken)
        lock_note(lock, true);
#endif
    return taken;
}

static inline void lock_take(struct lock *lock) {
    if (LIKELY(lock_take_free(lock)))
        return;
    lock_take_contended(lock);
#ifdef QUARRY_DEBUG
    lock_note(lock, true);
#endif
}

static inline void lock_let_go(struct lock *lock) {
    if (lock_single_thread())
        STORE_RELAXED(lock->word, 0);
    else if (UNLIKELY(__atomic_exchange_n(&lock->word, 0, __ATOMIC_RELEASE) & LOCK_SLEEPERS))
        lock_wake(lock);
}

static inline void lock_drop(struct lock *lock) {
#ifdef QUARRY_DEBUG
    lock_note(lock, false);
#endif
    lock_let_go(lock);
}

/* True if the calling thread holds the lock. */
bool lock_held(const struct lock *lock);

/* In a fork child: true if the lock was held by a thread that this process does not have. */
bool lock_broken(const struct lock *lock);

/* Makes a broken lock free again; the caller has rebuilt what it guards. */
void lock_repair(struct lock *lock);

#endif
