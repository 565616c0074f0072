/* SPDX-License-Identifier: MIT
 *
 * test_headroom.c: free memory beyond the peak, where nothing is ever given back: how much, when it is
 * obtained, and what refuses it; and that what was free before becomes resident.
 */
#include "run_support.h"

#include "limit.h"
#include "meta.h"
#include "option.h"
#include "page_internal.h"

#include <quarry.h>

/* Pages that can be in use without a fault. */
static size_t pool_pages(void) {
    return (page_live_bytes() + page_dirty_bytes()) >> PAGE_SHIFT;
}

static void keep_all(void) {
    page_set_trim_threshold(SIZE_MAX);
}

/* At least a sixth; with the step not much more. */
static void must_have_headroom(size_t peak_pages) {
    must(pool_pages() >= peak_pages + peak_pages / 6);
    must(pool_pages() <= peak_pages + peak_pages / 5 + 100);
    must_be_sound();
}

static void there_is_none_by_default(void) {
    take_dirty(3000);
    must(fake_os.populated_bytes == 0 && page_dirty_bytes() == 0);
    page_set_headroom(100);
    page_set_trim_threshold(100 * MIB);
    take_dirty(3000);
    must(fake_os.populated_bytes == 0 && page_dirty_bytes() == 0);
}

static void one_run_brings_it(void) {
    keep_all();
    uintptr_t run = take_dirty(12000);
    must_have_headroom(12000);
    must(fake_os.populated_bytes == page_dirty_bytes());
    must(page_run_give(run));
    must_have_headroom(12000);
}

/* What M_TOP_PAD asks for comes with headroom as with every other growth, beyond it and clean. */
static void a_pad_that_was_set_comes_with_it(void) {
    size_t pad = 256;
    page_set_top_pad(pad << PAGE_SHIFT);
    keep_all();
    take_dirty(12000);
    must_have_headroom(12000);
    must(page_state.clean_pages == pad);
}

static void without_one_it_is_exact(void) {
    keep_all();
    take_dirty(12000);
    must_have_headroom(12000);
    must(page_state.clean_pages == 0);
}

/* Up to the peak there is no call, whatever the lengths. */
static void below_the_peak_nothing_happens(void) {
    enum { RUNS = 100 };
    uintptr_t runs[RUNS] = {0};
    keep_all();
    must(page_run_give(take_dirty(12000)));
    uint64_t calls = fake_os.calls;
    size_t live = 0, clean = page_state.clean_pages;
    for (size_t i = 0; i < 20000; i++) {
        size_t k = i * 37 % RUNS, pages = 1 + i * i % 250;
        if (runs[k]) {
            live -= page_run_pages(runs[k]);
            must(page_run_give(runs[k]));
            runs[k] = 0;
        }
        if (live + pages <= 10500) {
            runs[k] = take_dirty(pages);
            live += pages;
        }
    }
    must(fake_os.calls == calls && page_state.clean_pages == clean);
    must_be_sound();
}

static void short_runs_bring_it_in_few_calls(void) {
    keep_all();
    uint64_t calls = fake_os.calls;
    for (size_t i = 0; i < 12000; i++)
        take_dirty(1);
    must_have_headroom(12000);
    must(fake_os.calls - calls < 1200);
}

static void a_run_that_is_extended_brings_it(void) {
    keep_all();
    uintptr_t run = take_dirty(100);
    for (size_t pages = 200; pages <= 12000; pages += 100)
        must(page_run_extend(run, pages));
    must_have_headroom(12000);
}

static void a_run_that_is_not_to_be_had_brings_none(void) {
    keep_all();
    take_dirty(1000);
    size_t pool = pool_pages(), owned = fake_owned_bytes();
    bool zero;
    fake_os.fail_kinds = FAKE_MEMORY;
    must(page_run_take(5000, PAGE_BYTES, &zero) == 0);
    must(pool_pages() == pool && fake_owned_bytes() == owned);
    must_be_sound();
}

/* The threshold is set when the heap has grown, and has given back. */
static void setting_the_threshold_brings_it(void) {
    uintptr_t hole = take_dirty(3000);
    take_dirty(9000);
    must(page_run_give(hole));
    page_trim(0);
    must(page_dirty_bytes() == 0);
    keep_all();
    must_have_headroom(9000);
    must(page_free_bytes() >= 3000 * PAGE_BYTES); /* what was there has been used */
}

static void the_percentage_is_set(void) {
    page_set_headroom(0);
    keep_all();
    take_dirty(1000);
    must(page_dirty_bytes() == 0);
    page_set_headroom(50);
    must(pool_pages() >= 1500 && pool_pages() < 1700);
    page_set_headroom(100);
    must(pool_pages() >= 2000 && pool_pages() < 2200);
    must_be_sound();
}

/* What was in use once and is free now counts. */
static void the_percentage_is_of_the_peak(void) {
    keep_all();
    page_set_headroom(0);
    must(page_run_give(take_dirty(9000)));
    page_set_headroom(50);
    must(pool_pages() >= 13500 && pool_pages() < 14000);
    must_be_sound();
}

static void setting_the_threshold_again_changes_nothing(void) {
    keep_all();
    must(page_run_give(take_dirty(9000)));
    size_t pool = pool_pages();
    keep_all();
    take_dirty(9000);
    must(pool_pages() == pool);
}

static void the_option_sets_it(void) {
    fake_os.environment[0] = "QUARRY_HEADROOM=50";
    fake_os.environment[1] = "MALLOC_TRIM_THRESHOLD_=-1";
    option_init();
    take_dirty(1000);
    must(pool_pages() >= 1500 && pool_pages() < 1700);
    must(option_set(QUARRY_M_HEADROOM, 101) == 0 && option_set(QUARRY_M_HEADROOM, -1) == 0);
    must(pool_pages() < 1700);
    must(option_set(QUARRY_M_HEADROOM, 100) == 1 && pool_pages() >= 2000);
}

/* It is tried again a step later, not each time. */
static void what_is_refused_is_missing(void) {
    keep_all();
    page_set_headroom(0);
    must(page_run_give(take_dirty(5000)));
    fake_os.fail_kinds = FAKE_MEMORY;
    take_dirty(3000);
    page_set_headroom(100);
    size_t pool = pool_pages();
    uint64_t calls = fake_os.calls;
    for (size_t i = 0; i < 1000; i++)
        take_dirty(1);
    must(pool_pages() == pool && fake_os.calls - calls < 1000);
    fake_os.fail_kinds = 0;
    take_dirty(1500);
    must(pool_pages() >= 2 * 5500);
    must_be_sound();
}

static void pages_are_touched_where_they_cannot_be_populated(void) {
    keep_all();
    fake_os.fail_kinds = FAKE_BIT(FAKE_POPULATE);
    uintptr_t run = take_dirty(12000), top = page_state.break_top;
    must_have_headroom(12000);
    size_t resident = fake_resident_bytes((void *)run, top - run);
    must(resident >= 12000 * PAGE_BYTES + page_dirty_bytes());
}

static void a_limit_is_kept(void) {
    keep_all();
    take_dirty(1000);
    size_t pool = pool_pages();
    limit_set(page_live_bytes() + page_dirty_bytes() + 4 * MIB);
    take_dirty(1000);
    must(pool_pages() <= pool + 1000);
    must(!limit_admits(4 * MIB));
    limit_set(LIMIT_NONE);
    take_dirty(100);
    must_have_headroom(2100);
}

/* Headroom that leaves requests no room would be given back for them. */
static void a_limit_leaves_room_for_requests(void) {
    keep_all();
    limit_set(2500 * PAGE_BYTES);
    take_dirty(2000);
    must(page_dirty_bytes() == 0 && limit_admits(100 * PAGE_BYTES));
    limit_set(LIMIT_NONE);
}

/* Who gives back by hand counts anew. */
static void a_trim_lets_it_go(void) {
    keep_all();
    must(page_run_give(take_dirty(12000)));
    take_dirty(100);
    page_trim(0);
    must(pool_pages() == 100);
    take_dirty(1000);
    must_have_headroom(1100);
}

/* ---- what is there before real time is asked for ------------------------------------------------- */

/* As option.c does.  Where the kernel cannot populate, pages are touched: that is to be seen. */
static void begin_real_time(void) {
    fake_os.fail_kinds = FAKE_BIT(FAKE_POPULATE);
    keep_all();
    meta_reserve(CACHE_LINE);
    slab_make_resident();
    page_make_resident();
}

/* Whoever has an object next may write to all of it. */
static void slabs_become_resident(void) {
    enum { BYTES = 3000, OBJECTS = 5 * 64 + 1 };
    void *object[OBJECTS];
    unsigned class_index = sizeclass_for(BYTES), culprit;
    struct slab_counts counts;
    for (unsigned i = 0; i < OBJECTS; i++)
        must(slab_take(class_index, &object[i], 1) == 1);
    for (unsigned i = 0; i < OBJECTS; i += 3)
        must(slab_give(class_index, &object[i], 1, &culprit) == SLAB_OK);
    slab_count(class_index, &counts);
    must(counts.clean_bytes > 0);
    size_t resident = 0;
    for (unsigned i = 0; i < OBJECTS; i++)
        resident += fake_resident_bytes((void *)round_down((uintptr_t)object[i], PAGE_BYTES), 1);
    must(resident == 0);
    begin_real_time();
    for (unsigned i = 0; i < OBJECTS; i++)
        must(fake_resident_bytes((void *)round_down((uintptr_t)object[i], PAGE_BYTES),
                                 (uintptr_t)object[i] % PAGE_BYTES + BYTES) >= BYTES);
    slab_count(class_index, &counts);
    must(counts.clean_bytes == 0 && counts.free_objects > 0);
    must_be_sound();
}

static void freed_runs_become_resident(void) {
    bool zero;
    uintptr_t run = page_run_take(20, PAGE_BYTES, &zero); /* hot, when it is given back */
    must(run && page_run_take(1, PAGE_BYTES, &zero));     /* which keeps it from the top */
    must(page_run_give(run));
    must(fake_resident_bytes((void *)run, 20 * PAGE_BYTES) == 0 && page_dirty_bytes() > 0);
    begin_real_time();
    must(fake_resident_bytes((void *)run, 20 * PAGE_BYTES) == 20 * PAGE_BYTES);
    must_be_sound();
}

static void tables_become_resident(void) {
    char *table = meta_take(META_BLOCK_MAX), *page = table + PAGE_BYTES;
    page -= (uintptr_t)page % PAGE_BYTES;
    must(fake_resident_bytes(page, 2 * PAGE_BYTES) == 0);
    begin_real_time();
    must(fake_resident_bytes(page, 2 * PAGE_BYTES) == 2 * PAGE_BYTES);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        body_test(there_is_none_by_default),
        body_test(one_run_brings_it),
        body_test(a_pad_that_was_set_comes_with_it),
        body_test(without_one_it_is_exact),
        body_test(below_the_peak_nothing_happens),
        body_test(short_runs_bring_it_in_few_calls),
        body_test(a_run_that_is_extended_brings_it),
        body_test(a_run_that_is_not_to_be_had_brings_none),
        body_test(setting_the_threshold_brings_it),
        body_test(the_percentage_is_set),
        body_test(the_percentage_is_of_the_peak),
        body_test(setting_the_threshold_again_changes_nothing),
        body_test(the_option_sets_it),
        body_test(what_is_refused_is_missing),
        body_test(pages_are_touched_where_they_cannot_be_populated),
        body_test(a_limit_is_kept),
        body_test(a_limit_leaves_room_for_requests),
        body_test(a_trim_lets_it_go),
        body_test(slabs_become_resident),
        body_test(freed_runs_become_resident),
        body_test(tables_become_resident),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
