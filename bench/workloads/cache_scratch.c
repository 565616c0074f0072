/* SPDX-License-Identifier: MIT
 *
 * cache-scratch: does the allocator put two threads' blocks into one cache line?
 *
 * After Berger, McKinley, Blumofe and Wilson, "Hoard", 2000: passive false sharing. The first
 * thread allocates one small block per worker, side by side; each worker frees the one it was
 * given, and from then on allocates a block of that size, writes to it many times, and frees it.
 * An allocator that hands each worker a piece of the common line makes them slow each other down.
 */
#include "workload.h"

#define BLOCK_BYTES 8
#define ROUNDS 24000
#define WRITES 60000

static _Atomic(void *) *given;

static void setup(void) {
    given = workload_reserve(settings.threads * sizeof *given);
}

static void work(struct worker *worker) {
    size_t rounds = workload_scaled(ROUNDS) / settings.threads + 1;
    if (worker->index == 0) {
        for (unsigned i = 0; i < settings.threads; i++) {
            atomic_store(&given[i], block_new(worker, BLOCK_BYTES));
        }
    }
    void *mine = NULL;
    while ((mine = atomic_load(&given[worker->index])) == NULL) {
    }
    block_drop(worker, mine);
    for (size_t i = 0; i < rounds; i++) {
        volatile uint64_t *block = block_new(worker, BLOCK_BYTES);
        uint64_t content = *block;
        for (unsigned j = 0; j < WRITES; j++) {
            *block = content ^ j;
        }
        *block = content;
        block_drop(worker, (void *)block);
    }
}

const struct workload workload = {
    .name = "cache-scratch",
    .about = "Passive false sharing: workers inherit blocks that lie side by side.",
    .threads = 2,
    .minimum = 1,
    .setup = setup,
    .work = work,
};
