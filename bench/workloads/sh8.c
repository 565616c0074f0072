/* SPDX-License-Identifier: MIT
 *
 * sh8: a mix of sizes, orders of freeing and kinds of calls, in several threads.
 *
 * In the manner of the SmartHeap benchmark: small sizes by far the most frequent, blocks freed in
 * the order of allocation, in the opposite one, and at random; some grow by realloc, some come from
 * calloc, a few are aligned.
 */
#include "workload.h"

#define HELD 3000
#define ROUNDS 18000
#define BURST 400

static void **held_of_all;

static void setup(void) {
    held_of_all = workload_reserve(sizeof *held_of_all * settings.threads * HELD);
}

static size_t draw_mixed(struct worker *worker) {
    uint32_t luck = draw_below(worker, 1000);
    if (luck < 600) {
        return BLOCK_LEAST + draw_below(worker, 120);
    }
    if (luck < 900) {
        return 128 + draw_below(worker, 896);
    }
    return luck < 995 ? 1024 + draw_below(worker, 7168) : 8192 + draw_below(worker, 57344);
}

static void *allocate(struct worker *worker) {
    uint32_t kind = draw_below(worker, 100);
    size_t size = draw_mixed(worker);
    if (kind < 80) {
        return block_new(worker, size);
    }
    if (kind < 97) {
        return block_new_zeroed(worker, size);
    }
    return block_new_aligned(worker, (size_t)32 << draw_below(worker, 6), size);
}

/* Frees the blocks from..from+count-1 in one of three orders; leaves their places empty. */
static void drop_burst(struct worker *worker, void **held, size_t from, size_t count) {
    uint32_t order = draw_below(worker, 3);
    for (size_t i = 0; i < count; i++) {
        size_t last = count - 1 - i;
        if (order == 2) {
            size_t other = draw_below(worker, (uint32_t)last + 1);
            void *chosen = held[from + other];
            held[from + other] = held[from + last];
            held[from + last] = chosen;
        }
        void **place = &held[from + (order == 0 ? i : last)];
        block_drop(worker, *place);
        *place = NULL;
    }
}

static void work(struct worker *worker) {
    void **held = held_of_all + (size_t)worker->index * HELD;
    size_t rounds = workload_scaled(ROUNDS) / settings.threads + 1;
    for (size_t round = 0; round < rounds; round++) {
        size_t from = draw_below(worker, HELD - BURST + 1);
        drop_burst(worker, held, from, BURST);
        for (size_t i = from; i < from + BURST; i++) {
            held[i] = allocate(worker);
        }
        for (unsigned i = 0; i < BURST / 20; i++) {
            void **place = &held[draw_below(worker, HELD)];
            if (*place != NULL) {
                *place = block_resize(worker, *place, draw_mixed(worker));
            }
        }
    }
}

static void finish(struct worker *worker) {
    for (size_t i = 0; i < (size_t)settings.threads * HELD; i++) {
        block_drop(worker, held_of_all[i]);
    }
}

const struct workload workload = {
    .name = "sh8",
    .about = "A mix of sizes, orders of freeing and threads.",
    .threads = 8,
    .minimum = 1,
    .setup = setup,
    .work = work,
    .finish = finish,
};
