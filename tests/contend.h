/* SPDX-License-Identifier: MIT
 *
 * contend.h: a thread that takes and gives objects while somebody else holds the lock of its class:
 * it has to wait each time, whatever the scheduler does, for the lock is let go when it sleeps.
 */
#ifndef CONTEND_H
#define CONTEND_H

#include "../src/slab_internal.h"

#include <pthread.h>
#include <sched.h>
#include <semaphore.h>

enum { CONTENDED_CLASS = 6 };

struct contender {
    pthread_t thread;
    sem_t go, done;
    uint32_t shard; /* where it will take the next object */
    bool ends, failed;
};

static inline void *contender_work(void *argument) {
    struct contender *contender = (struct contender *)argument;
    for (;;) {
        void *object;
        unsigned culprit;
        while (sem_wait(&contender->go) != 0)
            continue;
        if (contender->ends)
            return NULL;
        if (slab_take(CONTENDED_CLASS, &object, 1) != 1 ||
            slab_give(CONTENDED_CLASS, &object, 1, &culprit) != SLAB_OK)
            contender->failed = true;
        contender->shard = slab_home.shard;
        sem_post(&contender->done);
    }
}

static inline bool contender_start(struct contender *contender) {
    *contender = (struct contender){0};
    return sem_init(&contender->go, 0, 0) == 0 && sem_init(&contender->done, 0, 0) == 0 &&
           pthread_create(&contender->thread, NULL, contender_work, contender) == 0;
}

/* Makes it wait once. */
static inline void contend(struct contender *contender) {
    struct slab_class *class = slab_class_in(contender->shard, CONTENDED_CLASS);
    lock_take(&class->lock);
    sem_post(&contender->go);
    while (!(LOAD_RELAXED(class->lock.word) & LOCK_SLEEPERS))
        sched_yield();
    lock_drop(&class->lock);
    while (sem_wait(&contender->done) != 0)
        continue;
}

/* Ends it; false if anything went wrong in it. */
static inline bool contender_end(struct contender *contender) {
    contender->ends = true;
    sem_post(&contender->go);
    return pthread_join(contender->thread, NULL) == 0 && !contender->failed;
}

#endif
