/* SPDX-License-Identifier: MIT
 *
 * One block at a time: allocated and freed again. */
#include "gbench.h"
#include <stdlib.h>
#include <string.h>

enum { TURN = 1000, LIVE = 64, LENGTHS = 4096 };

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

/* Lengths from an eighth of the longest to the longest, by a fixed sequence. */
static size_t lengths[LENGTHS];

static void draw_lengths(long longest) {
    unsigned state = 1;
    for (int i = 0; i < LENGTHS; i++) {
        state = state * 1664525 + 1013904223;
        lengths[i] = (size_t)longest / 8 + (state >> 8) % ((size_t)longest * 7 / 8);
    }
}

static void varied(gbench *bench, long longest) {
    draw_lengths(longest);
    unsigned next = 0;
    while (gbench_go(bench, TURN))
        for (int i = 0; i < TURN; i++) {
            char *block = gbench_used(malloc(lengths[next++ % LENGTHS]));
            *block = 1;
            free(block);
        }
}

/* Some blocks live; one is freed and taken anew with another length, and all of its pages written. */
static void replaced(gbench *bench, long longest) {
    static char *live[LIVE];
    draw_lengths(longest);
    unsigned next = 0;
    while (gbench_go(bench, TURN))
        for (int i = 0; i < TURN; i++) {
            size_t length = lengths[next++ % LENGTHS], slot = length / 16 % LIVE;
            free(live[slot]);
            live[slot] = gbench_used(malloc(length));
            for (size_t at = 0; at < length; at += 4096)
                live[slot][at] = 1;
        }
    for (int i = 0; i < LIVE; i++) {
        free(live[i]);
        live[i] = NULL;
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
    for (long longest = 1024; longest <= 1 << 20; longest *= 8) {
        gbench_add("varied", varied, longest);
        gbench_add("replaced", replaced, longest);
    }
    for (long size = 64; size <= 4 << 20; size *= 16)
        gbench_add("calloc", zeroed, size);
    for (long alignment = 32; alignment <= 4 << 20; alignment *= 16)
        gbench_add("aligned", aligned, alignment);
    for (long size = 65536; size <= 64 << 20; size *= 8)
        gbench_add("touched", touched, size);
}
