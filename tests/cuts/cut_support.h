/* SPDX-License-Identifier: MIT
 *
 * cut_support.h: stopping a thread before each of its stores inside the allocator.
 *
 * The library's objects call __sanitizer_cov_store* before every store, and cut_memcpy and cut_memset
 * in place of libc's.  A thread that has a cutter and is armed halts there, and before and after
 * every system call, until its controller lets it go on.  Its own stack and the blocks it was given
 * are no metadata, and stores to them do not count.
 */
#ifndef CUT_SUPPORT_H
#define CUT_SUPPORT_H

#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

enum cutter_state {
    CUTTER_RUNNING,
    CUTTER_READY, /* to be cut */
    CUTTER_AT_STORE,
    CUTTER_BLOCKED, /* about to sleep until another thread drops a lock */
    CUTTER_FINISHED,
};

/* One thread that can be cut. */
struct cutter {
    bool armed;
    bool ending;                             /* armed no more; it halts where it would sleep */
    unsigned stores;                         /* passed so far */
    unsigned stop_at;                        /* halt at the first store from this one on */
    void (*at_store)(struct cutter *cutter); /* called there; NULL: halt and tell the controller */
    uintptr_t pc, address;                   /* of the store it halts at */
    _Atomic(enum cutter_state) state;
    sem_t go;
};

#define NEVER_STOP UINT32_MAX

/* Posted whenever a cutter halts, and by whoever sees that its thread is finished. */
extern sem_t cut_event;

/* What the system refuses: a set of these. */
enum { REFUSE_RAISING_BREAK = 1, REFUSE_LOWERING_BREAK = 2, REFUSE_PURGING = 4 };
extern atomic_uint cut_refused;

/* A variable of the environment: if it is set from the start, no page is wiped in a fork child. */
#define CUT_UNWIPED "CUT_UNWIPED"

void cut_prepare(struct cutter *cutter);

/* The calling thread is this cutter's from now on; NULL: nobody's. */
void cut_attach(struct cutter *cutter);

/* Waits for the controller; from there on, up to cut_disarm, the calling thread's stores count.  A thread that has disarmed
 * ends, and may still wait for one that halts. */
void cut_arm(void);
void cut_disarm(void);

/* Lets a halted thread go on to the store stop_at. */
void cut_release(struct cutter *cutter, unsigned stop_at);

/* A code address as addr2line wants it. */
uintptr_t cut_offset(uintptr_t pc);

#endif /* CUT_SUPPORT_H */
