/* SPDX-License-Identifier: MIT
 *
 * run_support.h: what the tests of the page layer share.
 */
#ifndef RUN_SUPPORT_H
#define RUN_SUPPORT_H

#include "unit_support.h"

#include "page.h"

enum { MOMENT_NS = 100000000 };

/* What may be dirty under a threshold that was set, for a moment. */
static inline size_t with_moment(size_t threshold_bytes) {
    size_t quarter = threshold_bytes / PAGE_BYTES / 4 * PAGE_BYTES; /* goes at once in any case */
    quarter = quarter < MIB / 2 ? quarter : MIB / 2;
    return threshold_bytes < 64 * KIB ? threshold_bytes : threshold_bytes + MIB / 2 - quarter;
}

static inline void pass_the_moment(void) {
    fake_os.clock_ns += MOMENT_NS;
    page_settle_old();
}

/* A run that has been written to. */
static inline uintptr_t take_dirty(size_t pages) {
    bool zero;
    uintptr_t run = page_run_take(pages, PAGE_BYTES, &zero);
    must(run != 0);
    memset((void *)run, 0xa5, pages << PAGE_SHIFT);
    return run;
}

/* Takes a run, which has to be this one. */
static inline void must_take(uintptr_t expected, size_t pages, bool expect_zero) {
    bool zero = !expect_zero;
    must(page_run_take(pages, PAGE_BYTES, &zero) == expected);
    must(zero == expect_zero);
    must(!zero || all_zero((void *)expected, pages << PAGE_SHIFT));
}

/* Takes every free page, so that what is free from now on is what the test frees. */
static inline void take_all_free(void) {
    struct page_counts counts;
    page_set_top_pad(0);
    page_set_headroom(0);
    page_set_trim_threshold(SIZE_MAX);
    for (page_count(&counts); counts.clean_bytes + counts.dirty_bytes; page_count(&counts))
        take_dirty(1);
    fake_os.fail_kinds = FAKE_MEMORY;
}

static inline size_t dirty_bytes(void) {
    struct page_counts counts;
    page_count(&counts);
    return counts.dirty_bytes;
}

static inline uint64_t give_back_calls(void) {
    return fake_os.count[FAKE_PURGE] + fake_os.count[FAKE_BREAK_SHRINK];
}

#endif
