/* SPDX-License-Identifier: MIT
 *
 * phases: a heap that grows, shrinks to a twentieth, and grows again with other sizes.
 *
 * What an editor, a batch job or a game level does. The survivors of a phase lie scattered over the
 * memory it used, so what is free lies in between; the next phase wants other sizes. At the end a
 * twentieth is live while the program rests: how much of the rest has the kernel got back?
 */
#include "workload.h"

#define PHASES 5
#define BYTES (100u << 20)
#define SURVIVORS_ONE_IN 20
#define BLOCKS_MOST 2000000

static void **blocks;
static size_t block_count, blocks_most;

static const struct {
    size_t least, most;
} sizes[PHASES] = {{16, 512}, {400, 4096}, {16, 128}, {2048, 65536}, {32, 2048}};

static void setup(void) {
    blocks_most = workload_scaled(BLOCKS_MOST);
    blocks = workload_reserve(blocks_most * sizeof(void *));
}

static void grow(struct worker *worker, size_t phase, size_t bytes) {
    for (size_t grown = 0; grown < bytes && block_count < blocks_most;) {
        size_t size = draw_size(worker, sizes[phase].least, sizes[phase].most);
        blocks[block_count++] = block_new(worker, size);
        grown += size;
    }
}

/* While it is large, the program replaces some of what it holds since the phase began. */
static void replace_some(struct worker *worker, size_t phase, size_t from) {
    size_t count = block_count - from;
    for (size_t i = 0; i < count / 4; i++) {
        void **place = &blocks[from + draw_below(worker, (uint32_t)count)];
        block_drop(worker, *place);
        *place = block_new(worker, draw_size(worker, sizes[phase].least, sizes[phase].most));
    }
}

/* Others have been allocated in between, so they go in no particular order. */
static void shrink(struct worker *worker) {
    for (size_t i = block_count; i > 1; i--) {
        size_t other = draw_below(worker, (uint32_t)i);
        void *chosen = blocks[other];
        blocks[other] = blocks[i - 1];
        blocks[i - 1] = chosen;
    }
    size_t left = block_count / SURVIVORS_ONE_IN;
    while (block_count > left) {
        block_drop(worker, blocks[--block_count]);
    }
}

static void work(struct worker *worker) {
    size_t bytes = workload_scaled(BYTES);
    for (size_t phase = 0; phase < PHASES; phase++) {
        size_t before = block_count;
        grow(worker, phase, bytes);
        replace_some(worker, phase, before);
        shrink(worker);
    }
}

static void finish(struct worker *worker) {
    while (block_count > 0) {
        block_drop(worker, blocks[--block_count]);
    }
}

const struct workload workload = {
    .name = "phases",
    .about = "A heap that grows, shrinks to a twentieth, and grows again with other sizes.",
    .threads = 1,
    .minimum = 1,
    .maximum = 1,
    .setup = setup,
    .work = work,
    .finish = finish,
};
