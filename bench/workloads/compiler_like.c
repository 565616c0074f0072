/* SPDX-License-Identifier: MIT
 *
 * compiler-like: many small blocks per unit of translation, all dropped at its end.
 *
 * A compiler reads a file into trees of small nodes and tables that grow, works on one function
 * after another with pools of its own that it takes and gives back in large pieces, writes the
 * result, and forgets everything but a few symbols. Blocks are freed in the order in which they
 * were allocated, long after their lines have left the processor's caches.
 */
#include "workload.h"

#define UNITS 50
#define NODES 120000
#define FUNCTIONS 60
#define POOLS 24
#define SYMBOLS 30000

static void **nodes;
static void **symbols;
static size_t node_count;

static void setup(void) {
    nodes = workload_reserve(NODES * sizeof *nodes);
    symbols = workload_reserve(SYMBOLS * sizeof *symbols);
}

/* The sizes of a tree's nodes are few: statements, expressions, types, names. */
static size_t draw_node_size(struct worker *worker) {
    static const uint16_t usual[] = {16, 24, 32, 32, 40, 40, 48, 48, 56, 64, 72, 80, 96, 128, 200};
    uint32_t kind = draw_below(worker, sizeof usual / sizeof *usual + 1);
    return kind < sizeof usual / sizeof *usual ? usual[kind] : 8 + draw_below(worker, 60);
}

static void parse(struct worker *worker, size_t wanted) {
    void *list = block_new(worker, 64);
    for (size_t i = 0; i < wanted; i++) {
        nodes[node_count++] = block_new(worker, draw_node_size(worker));
        if (draw_below(worker, 12) == 0) {
            size_t size = block_size(list);
            bool full = size >= 8192;
            list = block_resize(worker, list, full ? 64 : size * 2);
        }
        if (draw_below(worker, 100) == 0) {
            void **place = &symbols[draw_below(worker, SYMBOLS)];
            block_drop(worker, *place);
            *place = block_new(worker, 16 + draw_below(worker, 48));
        }
    }
    block_drop(worker, list);
}

/* Bit sets, work lists and a table for one function, and pools that are bumped through. */
static void optimise(struct worker *worker) {
    void *pools[POOLS];
    unsigned many = 1 + draw_below(worker, POOLS);
    void *table = block_new_zeroed(worker, draw_size(worker, 256, 16384));
    for (unsigned i = 0; i < many; i++) {
        pools[i] = block_new(worker, i < 4 ? 4064 : 65504);
    }
    for (unsigned i = 0; i < 400; i++) {
        void *set = block_new_zeroed(worker, 8 + 8 * (size_t)draw_below(worker, 64));
        void *work_list = block_new(worker, draw_size(worker, 32, 1024));
        block_drop(worker, set);
        block_drop(worker, work_list);
    }
    while (many > 0) {
        block_drop(worker, pools[--many]);
    }
    block_drop(worker, table);
}

static void translate(struct worker *worker) {
    /* Units differ in length by a factor of four. */
    parse(worker, NODES / 4 + draw_below(worker, NODES * 3 / 4));
    for (unsigned i = 0; i < FUNCTIONS; i++) {
        optimise(worker);
    }
    for (size_t i = 0; i < node_count; i++) {
        block_drop(worker, nodes[i]);
    }
    node_count = 0;
}

static void work(struct worker *worker) {
    size_t units = workload_scaled(UNITS);
    for (size_t unit = 0; unit < units; unit++) {
        translate(worker);
    }
}

static void finish(struct worker *worker) {
    for (size_t i = 0; i < SYMBOLS; i++) {
        block_drop(worker, symbols[i]);
    }
}

const struct workload workload = {
    .name = "compiler-like",
    .about = "Many small blocks per unit of translation, all dropped at its end.",
    .threads = 1,
    .minimum = 1,
    .maximum = 1,
    .setup = setup,
    .work = work,
    .finish = finish,
};
