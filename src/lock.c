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

#include <sys/single_threaded.h>

#define SLEEPERS ((uint64_t)1)
enum { SPINS = 100 };

#pragma weak __libc_single_threaded

static __thread uint64_t self_serial; /* 0: not numbered yet */
static uint64_t last_serial;

#ifdef QUARRY_DEBUG
static __thread uint32_t held_ranks;
#endif

bool lock_single_thread(void) {
    return &__libc_single_threaded != NULL && __libc_single_threaded;
}

uint64_t lock_self(void) {
    if (UNLIKELY(self_serial == 0))
        self_serial = lock_single_thread() ? (last_serial += 2)
                                           : __atomic_add_fetch(&last_serial, 2, __ATOMIC_RELAXED);
    return self_serial;
}

static void note_taken(const struct lock *lock) {
#ifdef QUARRY_DEBUG
    quarry_assert((held_ranks >> lock->rank) == 0);
    held_ranks |= 1u << lock->rank;
#else
    (void)lock;
#endif
}

static void note_dropped(const struct lock *lock) {
#ifdef QUARRY_DEBUG
    held_ranks &= ~(1u << lock->rank);
#else
    (void)lock;
#endif
}

/* The half of the word that the kernel compares: it holds the sleepers' bit. */
static uint32_t *futex_half(struct lock *lock) {
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    return (uint32_t *)&lock->word;
#else
    return (uint32_t *)&lock->word + 1;
#endif
}

static bool try_take(struct lock *lock, uint64_t value) {
    uint64_t expected = 0;
    return __atomic_compare_exchange_n(&lock->word, &expected, value, false, __ATOMIC_ACQUIRE,
                                       __ATOMIC_RELAXED);
}

static _Noreturn void die_of_recursion(void) {
    static const char line[] =
        "quarry: a signal handler called the allocator while it interrupted the allocator; "
        "handlers may use async-signal-safe functions only\n";
    os_write_error(line, sizeof line - 1);
    os_abort();
}

static NOINLINE void take_contended(struct lock *lock, uint64_t self) {
    for (int i = 0; i < SPINS; i++) {
        if (LOAD_RELAXED(lock->word) == 0 && try_take(lock, self))
            return;
#if defined(__x86_64__) || defined(__i386__)
        __builtin_ia32_pause();
#endif
    }
    /* From here on we may have slept, so we hold it with the sleepers' bit: others may sleep too. */
    while (!try_take(lock, self | SLEEPERS)) {
        uint64_t seen = LOAD_RELAXED(lock->word);
        if (seen == 0)
            continue;
        if ((seen & ~SLEEPERS) == self)
            die_of_recursion();
        if (!(seen & SLEEPERS) &&
            !__atomic_compare_exchange_n(&lock->word, &seen, seen | SLEEPERS, false,
                                         __ATOMIC_RELAXED, __ATOMIC_RELAXED))
            continue;
        os_wait(futex_half(lock), (uint32_t)(seen | SLEEPERS));
    }
}

void lock_take(struct lock *lock) {
    uint64_t self = lock_self();
    if (lock_single_thread() && LOAD_RELAXED(lock->word) == 0)
        STORE_RELAXED(lock->word, self);
    else if (!try_take(lock, self))
        take_contended(lock, self);
    note_taken(lock);
}

void lock_drop(struct lock *lock) {
    quarry_assert(lock_held(lock));
    note_dropped(lock);
    if (lock_single_thread()) {
        STORE_RELAXED(lock->word, 0);
        return;
    }
    uint64_t old = __atomic_exchange_n(&lock->word, 0, __ATOMIC_RELEASE);
    if (old & SLEEPERS)
        os_wake(futex_half(lock), 1);
}

bool lock_held(const struct lock *lock) {
    return (LOAD_RELAXED(lock->word) & ~SLEEPERS) == lock_self();
}

bool lock_broken(const struct lock *lock) {
    uint64_t owner = LOAD_RELAXED(lock->word) & ~SLEEPERS;
    return owner != 0 && owner != lock_self();
}

void lock_repair(struct lock *lock) {
    STORE_RELEASE(lock->word, 0);
}
