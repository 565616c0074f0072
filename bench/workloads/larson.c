/* SPDX-License-Identifier: MIT
 *
 * larson: a server whose blocks outlive its threads.
 *
 * After Larson and Krishnan, "Memory allocation for long-running server applications", 1998: each
 * chain of threads owns a set of blocks; a thread replaces random ones for a while, then starts a
 * successor, hands the set over and ends. So most blocks are freed by another thread than the one
 * that allocated them, and threads come and go all the time.
 */
#include <pthread.h>
#include <string.h>

#include "workload.h"

#define BLOCKS 5000
#define REPLACED_PER_THREAD 20000
#define GENERATIONS 600
#define LEAST 10
#define MOST 500

struct chain {
    struct worker *worker;
    void **blocks;
};

static void **sets;

static void setup(void) {
    sets = workload_reserve(sizeof *sets * settings.threads * BLOCKS);
}

static size_t draw_uniform(struct worker *worker) {
    return LEAST + draw_below(worker, MOST - LEAST + 1);
}

static void *live_one_generation(void *argument) {
    struct chain *chain = argument;
    for (unsigned i = 0; i < REPLACED_PER_THREAD; i++) {
        void **victim = &chain->blocks[draw_below(chain->worker, BLOCKS)];
        block_drop(chain->worker, *victim);
        *victim = block_new(chain->worker, draw_uniform(chain->worker));
    }
    return NULL;
}

static void work(struct worker *worker) {
    struct chain chain = {worker, sets + (size_t)worker->index * BLOCKS};
    /* The whole work is the same for any number of chains. */
    size_t generations = workload_scaled(GENERATIONS) / settings.threads;
    for (unsigned i = 0; i < BLOCKS; i++) {
        chain.blocks[i] = block_new(worker, draw_uniform(worker));
    }
    for (size_t i = 0; i < generations + 1; i++) {
        pthread_t successor;
        int error = pthread_create(&successor, NULL, live_one_generation, &chain);
        if (error != 0) {
            workload_fail("cannot start a thread: %s", strerror(error));
        }
        pthread_join(successor, NULL);
    }
}

static void finish(struct worker *worker) {
    for (size_t i = 0; i < (size_t)settings.threads * BLOCKS; i++) {
        block_drop(worker, sets[i]);
    }
}

const struct workload workload = {
    .name = "larson",
    .about = "A server whose blocks pass from each thread to its successor.",
    .threads = 2,
    .minimum = 1,
    .setup = setup,
    .work = work,
    .finish = finish,
};
