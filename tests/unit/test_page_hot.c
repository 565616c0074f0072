/* SPDX-License-Identifier: MIT
 *
 * test_page_hot.c: runs given back a moment ago, which are kept whole.
 */
#include "run_support.h"

#include "page_internal.h"

static void a_hot_run_is_taken_whole(void) {
    uintptr_t runs[HOT_RUNS + 4];
    for (size_t i = 0; i < COUNT_OF(runs); i++)
        runs[i] = take_dirty(1 + i % 2);
    uint64_t calls = fake_os.calls;
    for (size_t i = 0; i < COUNT_OF(runs); i++)
        must(page_run_give(runs[i]));
    must_be_sound();
    must(page_live_bytes() == 0); /* hot is free, and dirty */
    struct page_counts counts;
    page_count(&counts);
    must(counts.dirty_bytes == (1 + 2) * PAGE_BYTES * COUNT_OF(runs) / 2);
    for (size_t i = COUNT_OF(runs); i-- > COUNT_OF(runs) - HOT_RUNS;)
        must_take(runs[i], 1 + i % 2, false); /* the newest of its length first */
    must(fake_os.calls == calls);
    must_be_sound();
}

/* With the class of their length; all that are, or as many as are asked for, and none that is not whole. */
static void hot_runs_are_taken_many_at_once(void) {
    void *runs[4] = {NULL}, *more[8] = {NULL};
    for (size_t i = 0; i < COUNT_OF(runs); i++) {
        runs[i] = (void *)take_dirty(5);
        pagemap_set_class((uintptr_t)runs[i], 1, sizeclass_of_run(5));
    }
    must(page_runs_give(5, runs, 4) == 4 && page_live_bytes() == 0);
    must(pagemap_class(runs[0]) == 0 && page_run_pages((uintptr_t)runs[0]) == 0);
    must(page_runs_take(6, more, 8) == 0 && page_runs_take(RUN_MAX_PAGES + 1, more, 8) == 0);
    must(page_runs_take(5, more, 3) == 3 && page_live_bytes() == 3 * 5 * PAGE_BYTES);
    must(page_runs_take(5, more + 3, 5) == 1 && page_runs_take(5, more + 4, 4) == 0);
    for (size_t i = 0; i < 4; i++) /* the newest first */
        must(more[i] == runs[3 - i] && pagemap_class(more[i]) == sizeclass_of_run(5));
    must_be_sound();
}

static void many_runs_are_given_up_to_a_wrong_one(void) {
    void *runs[3];
    for (size_t i = 0; i < COUNT_OF(runs); i++)
        runs[i] = (void *)take_dirty(5 + i / 2);
    must(page_runs_give(5, runs, 3) == 2); /* of another length */
    must(page_runs_give(5, runs, 3) == 0); /* free already */
    must(page_run_pages((uintptr_t)runs[2]) == 6 && page_live_bytes() == 6 * PAGE_BYTES);
    must_be_sound();
}

/* The newest of them stay, wherever in the ring they are. */
static void hot_runs_leave_room_below_the_bound(void) {
    uintptr_t runs[25];
    for (size_t round = 0; round < 5; round++) {
        for (size_t i = 0; i < COUNT_OF(runs); i++)
            runs[i] = take_dirty(10);
        for (size_t i = 0; i < COUNT_OF(runs); i++) {
            must(page_run_give(runs[i]));
            size_t hot = page_state.hot_pages / 10;
            must(hot >= 1 && page_state.hot_pages <= purge_bound_pages() / 2);
            for (size_t k = 0; k < hot; k++)
                must(pagemap_head(runs[i - k]) == head_make(HEAD_CONT, 10));
            must_be_sound();
        }
    }
}

static void a_hot_run_of_another_alignment_is_not_taken(void) {
    bool zero;
    uintptr_t base = page_run_take(8, 8 * PAGE_BYTES, &zero);
    take_all_free();
    page_set_trim_threshold(64 * MIB); /* where all is kept none is hot */
    must(page_run_shrink(base, 1));
    must(page_run_take(7, PAGE_BYTES, &zero) == base + PAGE_BYTES);
    must(page_run_shrink(base + PAGE_BYTES, 3));
    must(page_run_give(base + PAGE_BYTES) &&
         page_state.hot_pages == 3); /* at no multiple of 4 pages */
    must(page_run_take(3, 4 * PAGE_BYTES, &zero) == base + 4 * PAGE_BYTES);
    must(page_run_take(3, PAGE_BYTES, &zero) == base + PAGE_BYTES);
    must_be_sound();
}

/* Hot neighbours are merged before the system is asked, and where a run wants to extend. */
static void hot_runs_merge_when_they_are_needed(void) {
    uintptr_t first = take_dirty(60), second = first + 20 * PAGE_BYTES;
    uintptr_t third = second + 20 * PAGE_BYTES;
    take_all_free();
    page_set_trim_threshold(64 * MIB); /* where all is kept none is hot */
    must(page_run_shrink(first, 20));
    must_take(second, 40, false);
    must(page_run_shrink(second, 20));
    must_take(third, 20, false);
    must(page_run_give(second) && page_run_give(third) && page_state.hot_pages == 40);
    must_take(second, 40, false);
    must(page_run_give(second));
    must(page_run_extend(first, 60));
    must_be_sound();
}

int main(void) {
    static const struct CMUnitTest tests[] = {
        body_test(a_hot_run_is_taken_whole),
        body_test(hot_runs_are_taken_many_at_once),
        body_test(many_runs_are_given_up_to_a_wrong_one),
        body_test(hot_runs_leave_room_below_the_bound),
        body_test(a_hot_run_of_another_alignment_is_not_taken),
        body_test(hot_runs_merge_when_they_are_needed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
