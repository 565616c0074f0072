/* SPDX-License-Identifier: MIT
 *
 * fork: detected, not announced.
 *
 * PURPOSE  Let the child of a process with many threads allocate and free, whatever the other
 *          threads were doing at that moment, with no handler and no lock held across fork.
 *
 * HOW      A page that the kernel wipes in the child (MADV_WIPEONFORK) holds 1; every slow path
 *          looks at it.  A child reads 0 and repairs before it goes on.  vfork children and others
 *          that share the memory still read 1, and are right to.
 *
 * REPAIR   A lock that is free, or held by the repairing thread, guards consistent data (or data
 *          that this thread is about to make consistent: a signal handler's fork).  A lock held by
 *          anybody else is broken: that thread does not exist here.  What the lock guards is
 *          rebuilt from what is authoritative, and the lock is freed:
 *
 *            lock       authoritative                  rebuilt
 *            page       head words                     buddy sets, counters, free descriptors
 *            class      words of the slabs             lists, counters
 *            mapping    the table                      counters
 *            quarantine the ring                       chains, sums
 *            meta       -                              free lists (forgotten)
 *            registry   the list                       -
 *            objects    the lists of slabs, their bits counters, lists of partial slabs
 *            heaps      the lists, by next             previous, sums
 *            path       the modes                      what follows from them (heap.c)
 *          What threads that are gone had cached goes back to slabs and page layer later (cache.c).
 *          Any thread of the child may be the one that repairs: fork, pthread_create and what goes
 *          by the fast paths do not come by here.
 *
 * FAILURE  A signal handler forks while its thread is in the allocator, the child returns from it
 *          and then needs a lock that yet another thread held: it waits for ever, as with any malloc.
 *
 * INVARIANT
 *   INV-FORK-1  A thing leaves its old place by one aligned store before it enters its new one.  A
 *               cut may leak it and never duplicates it.
 *
 * WHY NOT  pthread_atfork with locks taken in its prepare phase: fork then takes stdio's locks while
 *          holding ours, and a thread in stdio that allocates completes the deadlock.  _Fork and
 *          clone call no handlers at all.
 */
#include "fork.h"

#include "cache.h"
#include "heap.h"
#include "heaps.h"
#include "mapping.h"
#include "meta.h"
#include "objects.h"
#include "os.h"
#include "page.h"
#include "quarantine.h"
#include "slab.h"

#include <pthread.h>

enum { FORKED = 0, ALIVE = 1, REPAIRING = 2 };

static uint32_t fallback_word;

static void child_of_fork(void) {
    STORE_RELAXED(fallback_word, FORKED);
}

uint32_t *fork_watch(void) {
    uint32_t *word = os_fork_page();
    if (word)
        return word;
    fallback_word = ALIVE;
    return &fallback_word;
}

/* Without such a page (kernels before 4.14, emulators) fork's child handler does; _Fork is missed.
 * Registering allocates, so it comes after initialisation. */
void fork_watch_late(void) {
    if (fallback_word == ALIVE)
        pthread_atfork(NULL, NULL, child_of_fork);
}

void fork_repair(uint32_t *word) {
    uint32_t expected = FORKED;
    if (!__atomic_compare_exchange_n(word, &expected, REPAIRING, false, __ATOMIC_ACQUIRE,
                                     __ATOMIC_ACQUIRE)) {
        while (LOAD_ACQUIRE(*word) == REPAIRING)
            os_yield();
        return;
    }
    meta_repair();
    mapping_repair();
    page_repair();
    slab_repair();
    objects_repair();
    heaps_repair();
    quarantine_repair();
    cache_repair();
    heap_repair();
    STORE_RELEASE(*word, ALIVE);
}
