/* SPDX-License-Identifier: MIT
 *
 * xmalloc: some threads only allocate, the others only free.
 *
 * After Lever and Boreham, "malloc() performance in a multithreaded Linux environment", 2000. The
 * allocating threads put batches of small blocks into a queue of bounded length, the others take
 * them out. Every free is one of another thread's block, and no memory ever comes back by itself
 * to the thread that needs it.
 */
#include <pthread.h>

#include "workload.h"

#define BATCH 120
#define QUEUE 64
#define BATCHES 120000
#define LEAST 16
#define MOST 256

struct batch {
    void *blocks[BATCH];
};

static struct {
    pthread_mutex_t lock;
    pthread_cond_t not_full, not_empty;
    struct batch *ring;
    size_t first, filled, to_come;
} queue = {.lock = PTHREAD_MUTEX_INITIALIZER,
           .not_full = PTHREAD_COND_INITIALIZER,
           .not_empty = PTHREAD_COND_INITIALIZER};

static unsigned producers(void) {
    return settings.threads / 2;
}

static size_t batches_each(void) {
    return workload_scaled(BATCHES) / producers() + 1;
}

static void setup(void) {
    queue.ring = workload_reserve(QUEUE * sizeof *queue.ring);
    queue.to_come = batches_each() * producers();
}

static void put(const struct batch *batch) {
    pthread_mutex_lock(&queue.lock);
    while (queue.filled == QUEUE) {
        pthread_cond_wait(&queue.not_full, &queue.lock);
    }
    queue.ring[(queue.first + queue.filled++) % QUEUE] = *batch;
    queue.to_come--;
    pthread_cond_signal(&queue.not_empty);
    if (queue.to_come == 0) {
        pthread_cond_broadcast(&queue.not_empty);
    }
    pthread_mutex_unlock(&queue.lock);
}

/* False if there will be no more. */
static bool take(struct batch *batch) {
    pthread_mutex_lock(&queue.lock);
    while (queue.filled == 0 && queue.to_come > 0) {
        pthread_cond_wait(&queue.not_empty, &queue.lock);
    }
    bool found = queue.filled > 0;
    if (found) {
        *batch = queue.ring[queue.first++ % QUEUE];
        queue.filled--;
        pthread_cond_signal(&queue.not_full);
    }
    pthread_mutex_unlock(&queue.lock);
    return found;
}

static void work(struct worker *worker) {
    struct batch batch;
    if (worker->index < producers()) {
        for (size_t i = 0; i < batches_each(); i++) {
            for (unsigned j = 0; j < BATCH; j++) {
                batch.blocks[j] = block_new(worker, draw_size(worker, LEAST, MOST));
            }
            put(&batch);
        }
        return;
    }
    while (take(&batch)) {
        for (unsigned j = 0; j < BATCH; j++) {
            block_drop(worker, batch.blocks[j]);
        }
    }
}

const struct workload workload = {
    .name = "xmalloc",
    .about = "Half of the threads allocate blocks, the others free them.",
    .threads = 2,
    .minimum = 2,
    .setup = setup,
    .work = work,
};
