/* SPDX-License-Identifier: MIT
 *
 * One block at a time: allocated and freed again. */
#include "gbench.h"
#include <stdlib.h>
#include <string.h>

enum { TURN = 1000 };

static void pair(gbench *bench, long size) {
    while (gbench_go(bench, TURN))
        for (int i = 0; i < TURN; i++)
            free(gbench_used(malloc((size_t)size)));
}

static void zeroed(gbench *bench, long size) {
    while (gbench_go(bench, TURN / 10))
        for (int i = 0; i < TURN / 10; i++)
            free(gbench_used(calloc(1, (size_t)size)));
}

static void aligned(gbench *bench, long alignment) {
    while (gbench_go(bench, TURN))
        for (int i = 0; i < TURN; i++)
            free(gbench_used(aligned_alloc((size_t)alignment, (size_t)alignment * 3)));
}

/* Every page written to: what a large block really costs is its faults. */
static void touched(gbench *bench, long size) {
    while (gbench_go(bench, 1)) {
        char *block = gbench_used(malloc((size_t)size));
        for (long at = 0; at < size; at += 4096)
            block[at] = 1;
        free(block);
    }
}

void gbench_setup(void) {
    /* Four sizes to each doubling would be every size class; two show the same. */
    for (long size = 16; size <= 16384; size *= 2) {
        gbench_add("pair", pair, size);
        if (size < 16384)
            gbench_add("pair", pair, size + size / 2);
    }
    for (long size = 32768; size <= 16 << 20; size *= 8)
        gbench_add("pair", pair, size);
    for (long size = 64; size <= 4 << 20; size *= 16)
        gbench_add("calloc", zeroed, size);
    for (long alignment = 32; alignment <= 4 << 20; alignment *= 16)
        gbench_add("aligned", aligned, alignment);
    for (long size = 65536; size <= 64 << 20; size *= 8)
        gbench_add("touched", touched, size);
}
