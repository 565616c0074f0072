/* SPDX-License-Identifier: MIT
 *
 * mstress: threads that keep, swap and drop blocks, in rounds.
 *
 * The behaviour that allocator authors use to find their own races: in every round each thread
 * allocates many blocks of skewed sizes, keeps some, drops others at once, and swaps some with
 * blocks that other threads have left in shared slots. At the end of a round a thread drops most of
 * what it kept; the rest stays for the rounds to come.
 */
#include "workload.h"

#define SLOTS 1024
#define KEPT 4096
#define ROUNDS 60
#define BLOCKS_PER_ROUND 90000

static _Atomic(void *) *slots;
static void **kept_of_all;

static void setup(void) {
    slots = workload_reserve(SLOTS * sizeof *slots);
    kept_of_all = workload_reserve(sizeof *kept_of_all * settings.threads * KEPT);
}

/* Mostly small; one in a hundred larger than a page, one in some ten thousand than 128 KiB. */
static size_t draw_skewed(struct worker *worker) {
    uint32_t luck = draw_below(worker, 20000);
    if (luck == 0) {
        return draw_size(worker, 128 << 10, 512 << 10);
    }
    return luck < 200 ? draw_size(worker, 4096, 32768) : draw_size(worker, BLOCK_LEAST, 1000);
}

static void swap_with_others(struct worker *worker, void **mine) {
    *mine = atomic_exchange(&slots[draw_below(worker, SLOTS)], *mine);
    if (*mine != NULL) {
        block_check(*mine);
    }
}

static void do_round(struct worker *worker, void **kept, size_t blocks) {
    for (size_t i = 0; i < blocks; i++) {
        void **place = &kept[draw_below(worker, KEPT)];
        block_drop(worker, *place);
        *place = block_new(worker, draw_skewed(worker));
        if (draw_below(worker, 10) == 0) {
            swap_with_others(worker, place);
        }
        if (draw_below(worker, 4) == 0) {
            block_drop(worker, block_new(worker, draw_skewed(worker)));
        }
    }
    for (size_t i = 0; i < KEPT; i++) {
        if (draw_below(worker, 8) != 0) {
            block_drop(worker, kept[i]);
            kept[i] = NULL;
        }
    }
}

static void work(struct worker *worker) {
    void **kept = kept_of_all + (size_t)worker->index * KEPT;
    size_t blocks = workload_scaled(BLOCKS_PER_ROUND) / settings.threads + 1;
    for (unsigned round = 0; round < ROUNDS; round++) {
        do_round(worker, kept, blocks);
    }
}

static void finish(struct worker *worker) {
    for (size_t i = 0; i < (size_t)settings.threads * KEPT; i++) {
        block_drop(worker, kept_of_all[i]);
    }
    for (size_t i = 0; i < SLOTS; i++) {
        block_drop(worker, atomic_load(&slots[i]));
    }
}

const struct workload workload = {
    .name = "mstress",
    .about = "Threads that keep, swap and drop blocks of skewed sizes.",
    .threads = 2,
    .minimum = 1,
    .setup = setup,
    .work = work,
    .finish = finish,
};
