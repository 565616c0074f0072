/* SPDX-License-Identifier: MIT
 *
 * test_page_young.c: what exceeds the default bound is left alone for a second, if it is no more than what is in
 * use and the heap does not empty.
 */
#include "run_support.h"

#include "api.h"
#include "page_internal.h"
#include "slab.h"

enum { SECOND_NS = 1000000000, RUNS = 64, RUN_PAGES = 256 };

static uintptr_t runs[RUNS];

/* 64 MiB in runs of 1 MiB, while the clock stands still and there is time enough. */
static void use_much(void) {
    fake_os.clock_step_ns = 0;
    page_state.credit_ns = INT64_MAX / 2;
    for (size_t i = 0; i < RUNS; i++)
        runs[i] = take_dirty(RUN_PAGES);
    must(page_trim_bound() == 8 * MIB);
}

/* Every second one, so that none has a free neighbour. */
static void give(size_t first, size_t count) {
    for (size_t i = 0; i < count; i++)
        must(page_run_give(runs[first + 2 * i]));
}

static void pass(uint64_t ns) {
    fake_os.clock_ns += ns;
}

static void an_excess_is_left_alone_for_a_second(void) {
    use_much();
    give(0, 20);
    must(dirty_bytes() == 20 * MIB && give_back_calls() == 0);
    pass(SECOND_NS - 1);
    must(!purge_is_due());
    page_settle_old();
    must(dirty_bytes() == 20 * MIB && give_back_calls() == 0);
    pass(1);
    must(purge_is_due());
    page_settle_old(); /* nothing need be freed */
    must(dirty_bytes() == page_trim_bound() / 4 * 3 && !purge_is_due());
    must_be_sound();
}

/* Of a thread, before it has earned a bin; no pages are taken or given. */
static void work_slowly(void) {
    for (size_t i = 0; i < 16; i++)
        api_free(api_malloc(40));
}

static void slow_operations_look_for_an_old_excess(void) {
    use_much();
    void *kept = api_malloc(40); /* so that its slab stays */
    give(0, 20);
    pass(SECOND_NS - 1);
    work_slowly();
    must(dirty_bytes() >= 20 * MIB - PAGE_BYTES);
    pass(1);
    work_slowly();
    must(kept && dirty_bytes() <= page_trim_bound());
    must_be_sound();
}

static void an_excess_above_what_is_in_use_goes_at_once(void) {
    use_much();
    for (size_t i = 0; i < RUNS / 2; i++)
        must(page_run_give(runs[i]));
    must(dirty_bytes() == 32 * MIB && give_back_calls() == 0);
    must(page_run_give(runs[RUNS - 1]));
    must(dirty_bytes() <= page_trim_bound() && page_trim_bound() < 4 * MIB);
    must_be_sound();
}

/* The places that growing runs have left are too short for such as grow. */
static void an_excess_that_does_not_serve_growing_runs_goes_at_once(void) {
    use_much();
    give(0, 20);
    must(page_run_take_roomy(RUN_PAGES / 4)); /* one of them serves */
    must(give_back_calls() == 0);
    must(page_run_take_roomy(RUN_PAGES));
    must(dirty_bytes() == page_trim_bound() / 4 * 3);
    must_be_sound();
}

static void without_an_excess_growing_runs_give_nothing_back(void) {
    use_much();
    give(0, 6);
    must(page_run_take_roomy(RUN_PAGES));
    must(dirty_bytes() == 6 * MIB && give_back_calls() == 0);
    must(page_state.fallen_ns == 0);
    must_be_sound();
}

/* What the heap has earned by wanting pages back becomes less with time: also while it only takes. */
static void an_excess_that_comes_of_a_falling_bound_is_noted(void) {
    use_much();
    page_state.budget_pages = 20 * MIB / PAGE_BYTES;
    page_state.budget_ns = fake_os.clock_ns;
    page_state.purged_outstanding = 1;
    give(0, 20);
    must(dirty_bytes() == page_trim_bound() && page_state.excess_ns == 0);
    page_state.unwanted_pages = page_state.budget_pages;
    pass(10 * (uint64_t)SECOND_NS);
    take_dirty(4 * RUN_PAGES); /* fits nowhere in what is dirty */
    must(dirty_bytes() == 20 * MIB && page_trim_bound() < 10 * MIB);
    must(page_state.excess_ns != 0 && !purge_is_due());
    pass(SECOND_NS);
    must(purge_is_due());
    page_settle_old();
    must(dirty_bytes() <= page_trim_bound());
    must_be_sound();
}

/* After each of these what is free next is a new excess, and young. */
static void take_it_again(void) {
    for (size_t i = 0; i < 20; i++)
        runs[2 * i] = take_dirty(RUN_PAGES);
}

static void extend_into_it(void) {
    for (size_t i = 0; i < 19; i++)
        must(page_run_extend(runs[2 * i + 1], 2 * RUN_PAGES));
}

static void trim_it(void) {
    must(page_trim(0) >= 20 * MIB);
}

static void purge_it(void) {
    page_purge(20 * MIB);
}

static void set_a_threshold(void) {
    page_set_trim_threshold(64 * MIB);
}

static void let_it_grow_old(void) {
    pass(SECOND_NS);
    page_settle_old();
}

static void an_excess_that_ended_is_forgotten(void) {
    static void (*const ends[])(void) = {take_it_again, extend_into_it,  trim_it,
                                         purge_it,      let_it_grow_old, set_a_threshold};
    use_much();
    for (size_t i = 0; i < COUNT_OF(ends); i++) {
        give(0, 20);
        must(dirty_bytes() == 20 * MIB);
        pass(SECOND_NS / 2);
        ends[i]();
        must(dirty_bytes() <= page_trim_bound() && !page_state.excess_ns);
        pass(SECOND_NS);
        page_state.budget_pages = 0; /* which is no excess's */
        must(!purge_is_due());
        if (ends[i] == extend_into_it)
            for (size_t k = 0; k < 19; k++) {
                must(page_run_shrink(runs[2 * k + 1], RUN_PAGES));
                must(give_back_calls() == 0);
            }
        if (ends[i] != take_it_again)
            take_it_again();
        must_be_sound();
    }
}

static void in_a_heap_that_empties_none_is_young(void) {
    use_much();
    give(0, 20);
    page_note_fall();
    must(dirty_bytes() == page_trim_bound() / 4 * 3);
    pass(SECOND_NS - 1);
    give(40, 10);
    must(dirty_bytes() <= page_trim_bound());
    pass(1);
    uint64_t calls = give_back_calls();
    give(1, 10);
    must(dirty_bytes() > 10 * MIB && give_back_calls() == calls);
    must_be_sound();
}

/* Three quarters of its objects are freed, of each slab. */
static void a_class_that_falls_tells_of_it(void) {
    enum { CLASS = 40, COUNT = 4096 };
    static void *objects[COUNT];
    unsigned culprit;
    size_t taken = 0;
    use_much();
    while (taken < COUNT)
        taken += slab_take(CLASS, objects + taken, (unsigned)min_size(COUNT - taken, 64));
    give(0, 20);
    must(dirty_bytes() >= 20 * MIB && page_state.fallen_ns == 0);
    for (size_t i = 0; i < COUNT; i++)
        must(i % 4 == 0 || slab_give(CLASS, &objects[i], 1, &culprit) == SLAB_OK);
    must(page_state.fallen_ns == fake_os.clock_ns && dirty_bytes() <= page_trim_bound());
    must_be_sound();
}

static void with_a_threshold_none_is_young(void) {
    use_much();
    page_set_trim_threshold(8 * MIB);
    give(0, 20);
    must(dirty_bytes() <= 8 * MIB && give_back_calls() > 0 && !page_state.excess_ns);
    must_be_sound();
}

/* Pages that are locked stay; nobody is to look at the clock for their sake. */
static void what_cannot_go_does_not_grow_old(void) {
    use_much();
    fake_os.fail_kinds = FAKE_BIT(FAKE_PURGE);
    give(0, 20);
    pass(SECOND_NS);
    must(purge_is_due());
    page_settle_old();
    must(page_state.purge_refused && !purge_is_due());
    fake_os.fail_kinds = 0;
    must_be_sound();
}

/* Without time for giving back: when what is in use has fallen to half of its peak. */
static void a_young_excess_is_swept_at_half(void) {
    use_much();
    page_state.credited_cpu_ns = UINT64_MAX;
    page_state.credit_ns = 0;
    for (size_t i = 0; i < RUNS / 2; i++)
        must(page_run_give(runs[i]));
    must(dirty_bytes() == 32 * MIB);
    must(page_run_give(runs[RUNS - 1]));
    must(dirty_bytes() < 4 * MIB);
    must_be_sound();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        body_test(an_excess_is_left_alone_for_a_second),
        body_test(slow_operations_look_for_an_old_excess),
        body_test(an_excess_above_what_is_in_use_goes_at_once),
        body_test(an_excess_that_does_not_serve_growing_runs_goes_at_once),
        body_test(without_an_excess_growing_runs_give_nothing_back),
        body_test(an_excess_that_comes_of_a_falling_bound_is_noted),
        body_test(an_excess_that_ended_is_forgotten),
        body_test(in_a_heap_that_empties_none_is_young),
        body_test(a_class_that_falls_tells_of_it),
        body_test(with_a_threshold_none_is_young),
        body_test(what_cannot_go_does_not_grow_old),
        body_test(a_young_excess_is_swept_at_half),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
