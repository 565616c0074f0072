/* SPDX-License-Identifier: MIT
 *
 * run_support.h: what the tests of the page layer share.
 */
#ifndef RUN_SUPPORT_H
#define RUN_SUPPORT_H

#include "unit_support.h"

#include "page.h"

/* A run that has been written to. */
static inline uintptr_t take_dirty(size_t pages) {
    bool zero;
    uintptr_t run = page_run_take(pages, PAGE_BYTES, &zero);
    must(run != 0);
    memset((void *)run, 0xa5, pages << PAGE_SHIFT);
    return run;
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
