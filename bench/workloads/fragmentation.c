/* SPDX-License-Identifier: MIT
 *
 * fragmentation: one heap whose live set drifts in size and lifetime.
 *
 * What Johnstone and Wilson found in real programs ("The memory fragmentation problem: solved?",
 * 1998): nine requests of ten go to a handful of exact sizes, which change with the phases of the
 * program, and blocks that were allocated together die together, except for some that stay. The
 * figure of interest is the RSS per live byte, for an allocator that cannot fill the gaps of the
 * last phase with the sizes of the next grows and grows.
 */
#include "workload.h"

#define GROUPS 256
#define GROUP_BLOCKS 700
#define PHASES 45
#define GROUPS_PER_PHASE 260
#define DOMINANT 6
#define STAYING 20000

static void **groups;
static void **staying;

static void setup(void) {
    groups = workload_reserve(sizeof *groups * GROUPS * GROUP_BLOCKS);
    staying = workload_reserve(STAYING * sizeof *staying);
}

static void drop_group(struct worker *worker, void **group) {
    for (size_t i = 0; i < GROUP_BLOCKS; i++) {
        block_drop(worker, group[i]);
        group[i] = NULL;
    }
}

static void fill_group(struct worker *worker, void **group, const size_t *dominant) {
    for (size_t i = 0; i < GROUP_BLOCKS; i++) {
        bool usual = draw_below(worker, 10) != 0;
        size_t size = usual ? dominant[draw_below(worker, DOMINANT)] : draw_size(worker, 8, 16384);
        void *block = block_new(worker, size);
        if (draw_below(worker, 25) == 0) {
            void **place = &staying[draw_below(worker, STAYING)];
            block_drop(worker, *place);
            *place = block;
        } else {
            group[i] = block;
        }
    }
}

static void work(struct worker *worker) {
    size_t phases = workload_scaled(PHASES);
    for (size_t phase = 0; phase < phases; phase++) {
        size_t dominant[DOMINANT];
        for (unsigned i = 0; i < DOMINANT; i++) {
            dominant[i] = draw_size(worker, 16, 1024);
        }
        /* Some phases hold much, others little: what they leave behind is what hurts. */
        size_t limit = GROUPS / ((size_t)1 << draw_below(worker, 4));
        for (size_t i = 0; i < GROUPS_PER_PHASE; i++) {
            size_t chosen = draw_below(worker, GROUPS);
            drop_group(worker, groups + chosen * GROUP_BLOCKS);
            if (chosen < limit) {
                fill_group(worker, groups + chosen * GROUP_BLOCKS, dominant);
            }
        }
    }
    for (size_t i = 0; i < GROUPS; i++) {
        drop_group(worker, groups + i * GROUP_BLOCKS);
    }
}

static void finish(struct worker *worker) {
    for (size_t i = 0; i < STAYING; i++) {
        block_drop(worker, staying[i]);
    }
}

const struct workload workload = {
    .name = "fragmentation",
    .about = "One heap whose live set drifts in size and lifetime.",
    .threads = 1,
    .minimum = 1,
    .maximum = 1,
    .setup = setup,
    .work = work,
    .finish = finish,
};
