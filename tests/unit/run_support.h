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

#endif
