/* SPDX-License-Identifier: MIT
 *
 * Many blocks at a time, freed in three orders.  A batch of 100 stays in a thread's cache; one of
 * 20000 runs through it: refill and flush. */
#include "gbench.h"
#include <stdlib.h>

enum { SHORT = 100, LONG = 20000 };
enum order { LAST_FIRST, FIRST_FIRST, RANDOM };

static void *blocks[LONG];
static int places[LONG];

/* A permutation that is the same each time. */
static void choose_places(int count, enum order order) {
    unsigned state = 1;
    for (int i = 0; i < count; i++)
        places[i] = order == LAST_FIRST ? count - 1 - i : i;
    for (int i = count - 1; order == RANDOM && i > 0; i--) {
        int other = (int)(gbench_random(&state) % (unsigned)(i + 1));
        int place = places[i];
        places[i] = places[other];
        places[other] = place;
    }
}

static void run(gbench *bench, long size, int count, enum order order) {
    choose_places(count, order);
    while (gbench_go(bench, count)) {
        for (int i = 0; i < count; i++)
            blocks[i] = gbench_used(malloc((size_t)size));
        for (int i = 0; i < count; i++)
            free(blocks[places[i]]);
    }
}

static void short_last(gbench *bench, long size) {
    run(bench, size, SHORT, LAST_FIRST);
}

static void short_first(gbench *bench, long size) {
    run(bench, size, SHORT, FIRST_FIRST);
}

static void short_random(gbench *bench, long size) {
    run(bench, size, SHORT, RANDOM);
}

static void long_last(gbench *bench, long size) {
    run(bench, size, LONG, LAST_FIRST);
}

static void long_first(gbench *bench, long size) {
    run(bench, size, LONG, FIRST_FIRST);
}

static void long_random(gbench *bench, long size) {
    run(bench, size, LONG, RANDOM);
}

/* Every other block stays: what is refilled lies scattered. */
static void half_kept(gbench *bench, long size) {
    static void *kept[LONG];
    for (int i = 0; i < LONG; i++) {
        blocks[i] = gbench_used(malloc((size_t)size));
        kept[i] = gbench_used(malloc((size_t)size));
    }
    while (gbench_go(bench, LONG)) {
        for (int i = 0; i < LONG; i++)
            free(blocks[i]);
        for (int i = 0; i < LONG; i++)
            blocks[i] = gbench_used(malloc((size_t)size));
    }
    for (int i = 0; i < LONG; i++) {
        free(blocks[i]);
        free(kept[i]);
    }
}

void gbench_setup(void) {
    static const long sizes[] = {64, 1024};
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        gbench_add("batch100-last-first", short_last, sizes[i]);
        gbench_add("batch100-first-first", short_first, sizes[i]);
        gbench_add("batch100-random", short_random, sizes[i]);
        gbench_add("batch20000-last-first", long_last, sizes[i]);
        gbench_add("batch20000-first-first", long_first, sizes[i]);
        gbench_add("batch20000-random", long_random, sizes[i]);
        gbench_add("half-kept", half_kept, sizes[i]);
    }
}
