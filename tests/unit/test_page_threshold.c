/* SPDX-License-Identifier: MIT
 *
 * test_page_threshold.c: how much is dirty, and for how long, under a threshold that the user has set.
 */
#include "run_support.h"

#include "page_internal.h"

static void a_threshold_is_kept_after_every_operation(void) {
    const size_t thresholds[] = {0, 1, PAGE_BYTES, 64 * KIB - 1, 64 * KIB, 300 * KIB, 4 * MIB};
    uintptr_t runs[64] = {0};
    fake_os.clock_step_ns = 0;
    for (size_t t = 0; t < COUNT_OF(thresholds); t++) {
        page_set_trim_threshold(thresholds[t]); /* one that is lowered counts at once */
        must(dirty_bytes() <= thresholds[t]);
        size_t most = with_moment(thresholds[t]), reached = 0;
        for (size_t i = 0; i < 400; i++) {
            size_t slot = i * 37 % COUNT_OF(runs);
            if (runs[slot])
                must(page_run_give(runs[slot]));
            must(dirty_bytes() <= most);
            runs[slot] = take_dirty(1 + i % 60);
            must(page_run_pages(runs[slot]) < 10 || page_run_shrink(runs[slot], 5));
            must(dirty_bytes() <= most);
            reached = max_size(reached, dirty_bytes());
        }
        must((reached > thresholds[t]) ==
             (thresholds[t] == 64 * KIB || thresholds[t] == 300 * KIB));
        pass_the_moment();
        must(dirty_bytes() <= thresholds[t]);
        must_be_sound();
    }
}

/* 24 KiB each; none lies beside another. */
static void give_runs(uintptr_t *runs, size_t from, size_t to) {
    for (size_t i = from; i < to; i++)
        must(page_run_give(runs[2 * i]));
}

static void a_threshold_of_64_kib_may_be_exceeded_for_a_moment(void) {
    enum { EACH = 6 * PAGE_BYTES, WITHIN = (128 + 512 - 32) * KIB / EACH };
    static uintptr_t runs[4 * WITHIN];
    fake_os.clock_step_ns = 0;
    page_set_trim_threshold(128 * KIB);
    for (size_t i = 0; i < COUNT_OF(runs); i++)
        runs[i] = take_dirty(6);
    give_runs(runs, 0, WITHIN);
    must(dirty_bytes() == WITHIN * EACH && give_back_calls() == 0);
    fake_os.clock_ns += MOMENT_NS - 1;
    page_settle_old();
    must(give_back_calls() == 0 && !purge_is_due());
    fake_os.clock_ns++;
    must(purge_is_due());
    page_settle_old();
    must(dirty_bytes() <= 96 * KIB && !purge_is_due());
    give_runs(runs, WITHIN, WITHIN + 1); /* a new moment; but what is too much goes at once */
    uint64_t calls = give_back_calls();
    give_runs(runs, WITHIN + 1, 2 * WITHIN - 6);
    must(give_back_calls() == calls && dirty_bytes() > MIB / 2);
    give_runs(runs, 2 * WITHIN - 6, 2 * WITHIN - 3);
    must(give_back_calls() > calls && dirty_bytes() <= 96 * KIB);
    must_be_sound();
}

/* A quarter of it is as much as the moment allows for. */
static void above_2_mib_there_is_no_moment(void) {
    enum { RUNS = 300 };
    uintptr_t runs[2 * RUNS];
    fake_os.clock_step_ns = 0;
    page_set_trim_threshold(3 * MIB);
    for (size_t i = 0; i < COUNT_OF(runs); i++)
        runs[i] = take_dirty(6);
    for (size_t i = 0; i < RUNS; i++) {
        give_runs(runs, i, i + 1);
        must(dirty_bytes() <= 3 * MIB);
    }
    must(give_back_calls() > 0);
    must_be_sound();
}

/* The moment is for heaps that go on: no more is kept than is in use. */
static void a_heap_that_empties_has_no_moment(void) {
    enum { RUNS = 50, LEFT = 10 };
    uintptr_t runs[RUNS];
    fake_os.clock_step_ns = 0;
    page_set_trim_threshold(128 * KIB);
    for (size_t i = 0; i < RUNS; i++)
        runs[i] = take_dirty(6);
    for (size_t i = 0; i < RUNS - LEFT; i++)
        must(page_run_give(runs[i]));
    must(dirty_bytes() <= 128 * KIB + LEFT * 6 * PAGE_BYTES);
    for (size_t i = RUNS - LEFT; i < RUNS; i++)
        must(page_run_give(runs[i]));
    must(dirty_bytes() <= 128 * KIB);
    must_be_sound();
}

/* So that the next few frees are cheap; the last block that is purged goes whole. */
static void a_lower_threshold_counts_at_once(void) {
    fake_os.clock_step_ns = 0;
    uintptr_t run = take_dirty(100), wall = take_dirty(200);
    must(page_run_give(run) && dirty_bytes() == 100 * PAGE_BYTES);
    page_set_trim_threshold(128 * KIB); /* what is free is within its moment */
    must(dirty_bytes() <= 128 * KIB);
    must(page_run_give(wall));
    must_be_sound();
}

static void purging_leaves_about_three_quarters(void) {
    page_set_trim_threshold(4 * MIB);
    uintptr_t run = take_dirty(1024 + 200), wall = take_dirty(1);
    must(page_run_give(run));
    pass_the_moment();
    must(dirty_bytes() <= 3 * MIB && dirty_bytes() >= 2 * MIB);
    must(page_run_give(wall));
    must_be_sound();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        body_test(a_threshold_is_kept_after_every_operation),
        body_test(a_threshold_of_64_kib_may_be_exceeded_for_a_moment),
        body_test(above_2_mib_there_is_no_moment),
        body_test(a_heap_that_empties_has_no_moment),
        body_test(a_lower_threshold_counts_at_once),
        body_test(purging_leaves_about_three_quarters),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
