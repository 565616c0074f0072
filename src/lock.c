/* SPDX-License-Identifier: MIT
 *
 * lock: a mutex for the slow paths.
 *
 * PURPOSE  Mutual exclusion that sleeps in the kernel when contended, costs plain stores while the
 *          process has one thread, and survives fork without any handler.
 *
 * STATES   word = 0            free
 *          word = T            held by the thread with the serial number T (T is even)
 *          word = T | 1        held, and someone may sleep on it
 *          In a fork child a word that names neither 0 nor the thread that repairs is BROKEN: its
 *          owner was cut off in mid-change.  fork.c rebuilds what it guards and frees it.
 *
 * LOCKING  Ranks (lock.h) order the locks; debug builds trap on a violation.  A thread that takes a
 *          lock it holds was interrupted inside the allocator by a signal handler that allocates:
 *          undefined by POSIX, a silent hang elsewhere, one line and abort here.
 *
 * WHY NOT  pthread_mutex: its owner is a thread id, which a fork child does not share, and glibc
 *          gives no way to ask for it.  The thread pointer as owner: a thread that a fork child
 *          starts lies on the stack of one that is gone, and has its pointer.  pthread_atfork: a lock held across fork's prepare phase
 *          deadlocks with stdio, and _Fork calls no handler.
 */
#include "lock.h"

#include "os.h"

enum { SPINS = 100 };

__thread uint64_t lock_serial;
static uint64_t last_serial;

#ifdef QUARRY_DEBUG
static __thread uint32_t held_ranks;

void lock_note(const struct lock *lock, bool taken) {
    if (taken) {
        quarry_assert((held_ranks >> lock->rank) == 0);
        held_ranks |= 1u << lock->rank;
    } else {
        quarry_assert(lock_held(lock));
        held_ranks &= ~(1u << lock->rank);
    }
}
#endif

uint64_t lock_number_thread(void) {
    lock_serial = lock_single_thread() ? (last_serial += 2)
                                       : __atomic_add_fetch(&last_serial, 2, __ATOMIC_RELAXED);
    return lock_serial;
}

/* The half of the word that the kernel compares: it holds the sleepers' bit. */
static uint32_t *futex_half(struct lock *lock) {
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    return (uint32_t *)&lock->word;
#else
    return (uint32_t *)&lock->word + 1;
#endif
}

static _Noreturn void die_of_recursion(void) {
    static const char line[] =
        "quarry: a signal handler called the allocator while it interrupted the allocator; "
        "handlers may use async-signal-safe functions only\n";
    os_write_error(line, sizeof line - 1);
    os_abort();
}

void lock_take_contended(struct lock *lock) {
    uint64_t self = lock_self();
    for (int i = 0; i < SPINS; i++) {
        if (LOAD_RELAXED(lock->word) == 0 && lock_try(lock, self))
            return;
        lock_pause();
    }
    /* From here on we may have slept, so we hold it with the sleepers' bit: others may sleep too. */
    while (!lock_try(lock, self | LOCK_SLEEPERS)) {
        uint64_t seen = LOAD_RELAXED(lock->word);
        if (seen == 0)
            continue;
        if ((seen & ~LOCK_SLEEPERS) == self)
            die_of_recursion();
        if (!(seen & LOCK_SLEEPERS) &&
            !__atomic_compare_exchange_n(&lock->word, &seen, seen | LOCK_SLEEPERS, false,
                                         __ATOMIC_RELAXED, __ATOMIC_RELAXED))
            continue;
        os_wait(futex_half(lock), (uint32_t)(seen | LOCK_SLEEPERS));
    }
}

void lock_wake(struct lock *lock) {
    os_wake(futex_half(lock), 1);
}

bool lock_held(const struct lock *lock) {
    return (LOAD_RELAXED(lock->word) & ~LOCK_SLEEPERS) == lock_self();
}

bool lock_broken(const struct lock *lock) {
    uint64_t owner = LOAD_RELAXED(lock->word) & ~LOCK_SLEEPERS;
    return owner != 0 && owner != lock_self();
}

void lock_repair(struct lock *lock) {
    STORE_RELEASE(lock->word, 0);
}
