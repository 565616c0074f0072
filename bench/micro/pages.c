/* SPDX-License-Identifier: MIT
 *
 * What pages cost.  First the kernel's prices, which no allocator changes, one for each way to get a
 * page and to give it back; then what the allocator makes of them.  One operation is one page of
 * 4 KiB; "faults" are minor faults per page. */
#include "gbench.h"
#include <malloc.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

enum { PAGE = 4096, HUGE = 2 << 20, AREA = 8 << 20, PAGES = AREA / PAGE, HEAP = 32 << 20 };
/* Each trim has a heap built for it, which takes far longer. */
static const long TRIM_PAGES = 5L * (HEAP / PAGE);
enum policy { PLAIN, POPULATE, HUGE_PAGES, COLLAPSE };

static long faults(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_minflt;
}

static void touch(char *area, size_t size) {
    for (size_t at = 0; at < size; at += PAGE)
        area[at] = 1;
}

/* An area that begins at a multiple of a huge page; *whole is what to unmap. */
static char *map_area(int flags, char **whole) {
    *whole =
        mmap(NULL, AREA + HUGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
    if (*whole == MAP_FAILED)
        gbench_fail("mmap");
    return *whole + (HUGE - (uintptr_t)*whole % HUGE) % HUGE;
}

/* The first touch of fresh memory. */
static void fresh(gbench *bench, enum policy policy) {
    long before = faults();
    while (gbench_go(bench, PAGES)) {
        char *whole;
        char *area = map_area(policy == POPULATE ? MAP_POPULATE : 0, &whole);
        if (policy == HUGE_PAGES && madvise(area, AREA, MADV_HUGEPAGE) != 0) {
            munmap(whole, AREA + HUGE);
            gbench_skip(bench, "this kernel has no MADV_HUGEPAGE");
            return;
        }
        touch(area, AREA);
        if (policy == COLLAPSE && madvise(area, AREA, MADV_COLLAPSE) != 0) {
            munmap(whole, AREA + HUGE);
            gbench_skip(bench, "MADV_COLLAPSE is not possible here");
            return;
        }
        munmap(whole, AREA + HUGE);
    }
    gbench_figure(bench, "faults", (double)(faults() - before));
}

static void fresh_plain(gbench *bench, long unused) {
    (void)unused;
    fresh(bench, PLAIN);
}

static void fresh_populate(gbench *bench, long unused) {
    (void)unused;
    fresh(bench, POPULATE);
}

static void fresh_huge(gbench *bench, long unused) {
    (void)unused;
    fresh(bench, HUGE_PAGES);
}

static void fresh_collapse(gbench *bench, long unused) {
    (void)unused;
    fresh(bench, COLLAPSE);
}

/* Memory given back by advice and touched again. */
static void advised(gbench *bench, long advice) {
    char *whole;
    char *area = map_area(0, &whole);
    touch(area, AREA);
    long before = faults();
    while (gbench_go(bench, PAGES)) {
        if (madvise(area, AREA, (int)advice) != 0)
            gbench_fail("madvise");
        touch(area, AREA);
    }
    gbench_figure(bench, "faults", (double)(faults() - before));
    munmap(whole, AREA + HUGE);
}

/* ---- The allocator ---- */

/* A heap of small blocks, built and dropped: how many of its pages fault each time? */
static void rebuilt(gbench *bench, long size) {
    size_t count = HEAP / (size_t)size;
    void **blocks = gbench_used(malloc(count * sizeof(*blocks)));
    long before = faults();
    while (gbench_go(bench, HEAP / PAGE)) {
        for (size_t i = 0; i < count; i++)
            memset(blocks[i] = gbench_used(malloc((size_t)size)), 1, (size_t)size);
        for (size_t i = 0; i < count; i++)
            free(blocks[i]);
    }
    gbench_figure(bench, "faults", (double)(faults() - before));
    free(blocks);
}

/* malloc_trim of a heap of which one block in keep_every is left (0: none); the heap is built anew
 * outside of the time.  Allocators without a malloc_trim of their own answer with glibc's, which
 * finds nothing to do. */
static void trimmed(gbench *bench, long keep_every) {
    enum { SIZE = 200 };
    size_t count = HEAP / SIZE;
    void **blocks = gbench_used(malloc(count * sizeof(*blocks)));
    while (gbench_go(bench, HEAP / PAGE)) {
        gbench_pause(bench);
        for (size_t i = 0; i < count; i++)
            memset(blocks[i] = gbench_used(malloc(SIZE)), 1, SIZE);
        for (size_t i = 0; i < count; i++)
            if (keep_every == 0 || i % (size_t)keep_every != 0)
                free(blocks[i]);
        gbench_resume(bench);
        malloc_trim(0);
        gbench_pause(bench);
        for (size_t i = 0; i < count; i++)
            if (keep_every != 0 && i % (size_t)keep_every == 0)
                free(blocks[i]);
        gbench_resume(bench);
    }
    free(blocks);
}

void gbench_setup(void) {
    gbench_add("kernel-fresh-plain", fresh_plain, AREA);
    gbench_add("kernel-fresh-populate", fresh_populate, AREA);
    gbench_add("kernel-fresh-huge", fresh_huge, AREA);
    gbench_add("kernel-fresh-collapse", fresh_collapse, AREA);
    gbench_add("kernel-dontneed", advised, MADV_DONTNEED);
    gbench_add("kernel-free", advised, MADV_FREE);
    gbench_add("rebuilt-heap", rebuilt, 100);
    gbench_add("rebuilt-heap", rebuilt, 5000);
    gbench_add("rebuilt-heap", rebuilt, 100000);
    gbench_add_fixed("trim-keeping-one-in", trimmed, 0, TRIM_PAGES);
    gbench_add_fixed("trim-keeping-one-in", trimmed, 100, TRIM_PAGES);
}
