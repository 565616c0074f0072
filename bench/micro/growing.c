/* SPDX-License-Identifier: MIT
 *
 * realloc: strings that grow, alone or with others between, and that shrink. */
#include "gbench.h"
#include <stdlib.h>

enum { STRINGS = 16 };

/* From one step to 1000 of them; one operation is one call. */
static void by_steps(gbench *bench, long step) {
    while (gbench_go(bench, 1000)) {
        char *text = NULL;
        for (long length = step; length <= 1000 * step; length += step) {
            text = gbench_used(realloc(text, (size_t)length));
            text[length - 1] = 1;
        }
        free(text);
    }
}

/* Several grow in turns, so that none has room behind it. */
static void together(gbench *bench, long step) {
    while (gbench_go(bench, 100L * STRINGS)) {
        char *texts[STRINGS] = {NULL};
        for (long length = step; length <= 100 * step; length += step) {
            for (int i = 0; i < STRINGS; i++) {
                texts[i] = gbench_used(realloc(texts[i], (size_t)length));
                texts[i][length - 1] = 1;
            }
        }
        for (int i = 0; i < STRINGS; i++)
            free(texts[i]);
    }
}

/* A vector: from 16 bytes to the limit, twice as large each time. */
static void doubling(gbench *bench, long limit) {
    long calls = 0;
    for (long size = 16; size <= limit; size *= 2)
        calls++;
    while (gbench_go(bench, calls)) {
        char *vector = NULL;
        for (long size = 16; size <= limit; size *= 2) {
            vector = gbench_used(realloc(vector, (size_t)size));
            vector[size - 1] = 1;
        }
        free(vector);
    }
}

static void shrinking(gbench *bench, long size) {
    while (gbench_go(bench, 1))
        free(gbench_used(realloc(gbench_used(malloc((size_t)size)), (size_t)size / 3)));
}

void gbench_setup(void) {
    gbench_add("grow-by", by_steps, 16);
    gbench_add("grow-by", by_steps, 256);
    gbench_add("grow-by", by_steps, 4096);
    gbench_add("grow-together-by", together, 16);
    gbench_add("grow-together-by", together, 1024);
    gbench_add("grow-together-by", together, 32768);
    gbench_add("doubling-to", doubling, 4096);
    gbench_add("doubling-to", doubling, 1 << 20);
    gbench_add("doubling-to", doubling, 64 << 20);
    gbench_add("shrink", shrinking, 300);
    gbench_add("shrink", shrinking, 30000);
    gbench_add("shrink", shrinking, 3000000);
}
