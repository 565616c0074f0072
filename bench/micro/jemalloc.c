/* SPDX-License-Identifier: MIT
 *
 * What only jemalloc has, through its header: mallocx, sized deallocation, its own statistics.
 * Nothing is linked: under another allocator the names are not there, and nothing is measured. */
#include "gbench.h"
#include <jemalloc/jemalloc.h>
#include <stdint.h>
#include <stdlib.h>

extern __typeof(mallocx) mallocx __attribute__((weak));
extern __typeof(sdallocx) sdallocx __attribute__((weak));
extern __typeof(mallctl) mallctl __attribute__((weak));

enum { TURN = 1000, BATCH = 20000 };

static void *blocks[BATCH];

static void sized_pair(gbench *bench, long size) {
    while (gbench_go(bench, TURN))
        for (int i = 0; i < TURN; i++)
            sdallocx(gbench_used(mallocx((size_t)size, 0)), (size_t)size, 0);
}

static void aligned_pair(gbench *bench, long alignment) {
    size_t size = (size_t)alignment * 3;
    int flags = MALLOCX_ALIGN((size_t)alignment);
    while (gbench_go(bench, TURN))
        for (int i = 0; i < TURN; i++)
            sdallocx(gbench_used(mallocx(size, flags)), size, flags);
}

static void sized_batch(gbench *bench, long size) {
    while (gbench_go(bench, BATCH)) {
        for (int i = 0; i < BATCH; i++)
            blocks[i] = gbench_used(mallocx((size_t)size, 0));
        for (int i = 0; i < BATCH; i++)
            sdallocx(blocks[i], (size_t)size, 0);
    }
}

/* One of jemalloc's own figures, brought up to date. */
static double statistic(const char *name) {
    uint64_t epoch = 1;
    size_t value = 0, size = sizeof(value);
    if (mallctl("epoch", NULL, NULL, &epoch, sizeof(epoch)) != 0 ||
        mallctl(name, &value, &size, NULL, 0) != 0)
        gbench_fail(name);
    return (double)value;
}

/* 4 MiB live in blocks of one size: what jemalloc itself says of its memory, in bytes per byte that
 * was asked for.  The time is that of reading one statistic. */
static void statistics(gbench *bench, long size) {
    static const char *const names[] = {"stats.allocated", "stats.active", "stats.metadata",
                                        "stats.resident", "stats.mapped"};
    enum { KINDS = sizeof(names) / sizeof(names[0]) };
    size_t count = (4 << 20) / (size_t)size;
    void **live = gbench_used(malloc(count * sizeof(*live)));
    double before[KINDS], after[KINDS] = {0}, reads = 0;
    for (int kind = 0; kind < KINDS; kind++)
        before[kind] = statistic(names[kind]);
    for (size_t i = 0; i < count; i++)
        live[i] = gbench_used(malloc((size_t)size));
    while (gbench_go(bench, KINDS)) {
        for (int kind = 0; kind < KINDS; kind++)
            after[kind] = statistic(names[kind]);
        reads += KINDS;
    }
    for (int kind = 0; kind < KINDS; kind++) /* gbench_figure divides by operations */
        gbench_figure(bench, names[kind] + sizeof("stats.") - 1,
                      (after[kind] - before[kind]) / (double)(count * (size_t)size) * reads);
    for (size_t i = 0; i < count; i++)
        free(live[i]);
    free(live);
}

void gbench_setup(void) {
    if (mallocx == NULL || sdallocx == NULL || mallctl == NULL)
        return;
    gbench_add("sdallocx-pair", sized_pair, 64);
    gbench_add("sdallocx-pair", sized_pair, 1024);
    gbench_add("sdallocx-pair", sized_pair, 8192);
    gbench_add("mallocx-aligned", aligned_pair, 4096);
    gbench_add("sdallocx-batch20000", sized_batch, 64);
    gbench_add("sdallocx-batch20000", sized_batch, 1024);
    gbench_add("mallctl", statistics, 100);
    gbench_add("mallctl", statistics, 5000);
}
