/* SPDX-License-Identifier: MIT
 *
 * test_page_keep.c: what a thread takes and gives in turn of long runs, which is kept for it.
 */
#include "keep_support.h"

static void a_length_given_often_is_kept(void) {
    uintptr_t run = keep(200);
    for (int i = 0; i < 3; i++) {
        must_be_kept(run, 200);
        must(!page_run_give(run)); /* it is nobody's */
        must(page_run_take_kept(201, PAGE_BYTES) == 0);
        must(page_run_take_kept(200, PAGE_BYTES) == run && page_run_pages(run) == 200);
        must(page_run_take_kept(200, PAGE_BYTES) == 0);
        must(page_run_give(run));
    }
    must_be_sound();
}

/* Whatever came between, it is earned from the start again. */
static void must_earn_again(uintptr_t run) {
    must(page_run_give(run));
    must_not_be_kept(200);
    for (int i = 0; i < EARNED; i++) {
        must_take(run, 200, false);
        must(page_run_give(run) && !keep_any);
    }
    must_take(run, 200, false);
    must(page_run_give(run));
    must_be_kept(run, 200);
}

static void another_one_in_between_ends_it(void) {
    uintptr_t run = earn(200), other = take_dirty(300);
    must(page_run_give(other));
    must_earn_again(run);
}

static void a_second_one_ends_it(void) {
    uintptr_t run = earn(200), other = take_dirty(200);
    take_dirty(1);
    must(page_run_give(other));
    must_earn_again(run);
}

static void whatever_their_lengths(void) {
    uintptr_t run = take_dirty(600);
    must(page_run_give(run));
    for (size_t i = 1; i < EARNED; i++) { /* that was the first */
        must_take(run, 200 + 20 * i, false);
        must(page_run_give(run) && !keep_any);
    }
    must_take(run, 500, false);
    must(page_run_give(run));
    must_be_kept(run, 500);
}

static void shorter_ones_are_cut_from_it_and_join_it(void) {
    uintptr_t run = keep(250), end = run + 250 * PAGE_BYTES;
    static const size_t lengths[] = {249, 100, 65, 250, 66};
    for (size_t i = 0; i < COUNT_OF(lengths); i++) {
        must(take_kept(lengths[i]) == run);
        if (lengths[i] != 250)
            must_be_kept(run + lengths[i] * PAGE_BYTES, 250 - lengths[i]);
        must_be_sound();
        must(page_run_give(run));
        must_be_kept(run, 250);
        must(head_kind(pagemap_head(run + 65 * PAGE_BYTES)) == HEAD_FREE);
        must_be_sound();
    }
    must(take_kept(70) == run && take_kept(80) == run + 70 * PAGE_BYTES);
    must_be_kept(end - 100 * PAGE_BYTES, 100);
    must(page_run_take_kept(101, PAGE_BYTES) == 0);
}

/* It goes back behind a run that is live. */
static void one_that_does_not_lie_beside_it_goes_the_usual_way(void) {
    uintptr_t run = keep(250);
    must(take_kept(70) == run && take_kept(80) == run + 70 * PAGE_BYTES);
    must(page_run_shrink(run + 70 * PAGE_BYTES, 79)); /* so that a page lies between */
    keep_note_taken(79);
    must(page_run_give(run + 70 * PAGE_BYTES) && page_run_pages(run + 70 * PAGE_BYTES) == 0);
    must_be_sound();
    must(page_run_give(run));
    must_be_sound();
}

/* A program that wants less from now on does not keep what it wanted before. */
static void what_is_more_than_twice_as_long_is_merged(void) {
    uintptr_t run = keep(300);
    for (int i = 0; i < 3; i++) {
        must(take_kept(i < 2 ? 160 : 140) == run && page_run_give(run));
        must(take_kept(100) == run && page_run_give(run));
        must_be_kept(run, 300);
        fake_os.clock_ns += SECOND_NS;
        page_settle_old();
    }
    must_not_be_kept(140);
}

static void it_may_cross_regions(void) {
    uintptr_t run = keep_crossing(), border = run + 300 * PAGE_BYTES;
    static const size_t lengths[] = {300, 301, 290, 700, 100};
    for (size_t i = 0; i < COUNT_OF(lengths); i++) {
        must(take_kept(lengths[i]) == run);
        uint32_t there = lengths[i] > 300 ? (uint32_t)lengths[i] - 300 : 700;
        must(pagemap_head(border) == head_make(HEAD_CONT, there));
        must_be_sound();
        must(page_run_give(run));
        must_be_kept(run, 1000);
        must(pagemap_head(border) == head_make(HEAD_CONT, 700));
        must_be_sound();
    }
    must(take_kept(200) == run);
    must(page_run_take_kept(110, PAGE_BYTES) == 0); /* too short to cross */
    must(take_kept(100) == border - 100 * PAGE_BYTES);
    must(take_kept(110) == border);
}

static void the_longest_is_cut_as_well(void) {
    page_state.budget_pages = 3 * REGION_PAGES;
    keep_again(4096);
    uintptr_t run = take_kept(4096);
    must(page_run_give(run) && take_kept(100) == run && page_run_give(run));
    must_be_kept(run, 4096);
    must_be_sound();
}

static void it_grows_no_longer(void) {
    page_state.budget_pages = 3 * REGION_PAGES;
    uintptr_t before = take_dirty(200), run = before + 200 * PAGE_BYTES;
    keep_again(4096);
    must_be_kept(run, 4096);
    keep_note_taken(200);
    must(page_run_give(before) && last_pages() == 200);
    must_be_kept(run, 4096);
    must_be_sound();
}

static void those_freed_one_after_the_other_are_not_kept(void) {
    uintptr_t run[EARNED + 4];
    for (size_t i = 0; i < COUNT_OF(run); i++)
        run[i] = take_dirty(100);
    for (size_t i = 0; i < COUNT_OF(run); i++)
        must(page_run_give(run[i]) && !keep_any);
}

static void short_runs_and_very_long_ones_are_not_kept(void) {
    static const size_t lengths[] = {1, HOT_MAX_PAGES, 4097, 5000};
    fake_os.clock_step_ns = 0;
    for (size_t i = 0; i < COUNT_OF(lengths); i++) {
        bool zero;
        for (int times = 0; times < EARNED + 3; times++) {
            uintptr_t run = page_run_take(lengths[i], PAGE_BYTES, &zero);
            must(run != 0 && page_run_give(run));
        }
        must(!keep_any);
        must_not_be_kept(lengths[i]);
    }
}

static void the_shortest_and_the_longest_are_kept(void) {
    static const size_t lengths[] = {HOT_MAX_PAGES + 1, 4096};
    for (size_t i = 0; i < COUNT_OF(lengths); i++) {
        uintptr_t run = 0;
        bool zero;
        for (int times = 0; times <= EARNED; times++) {
            run = page_run_take(lengths[i], PAGE_BYTES, &zero);
            must(run != 0 && page_run_give(run));
        }
        must_be_kept(run, lengths[i]);
        must(page_run_take_kept(lengths[i], PAGE_BYTES) == run);
        must(page_run_pages(run) == lengths[i]);
        must_be_sound();
    }
}

static void an_alignment_that_it_has_not_is_not_served(void) {
    bool zero;
    uintptr_t first = page_run_take(256, 256 * PAGE_BYTES, &zero);
    must(page_run_shrink(first, 1));
    uintptr_t run = keep(200);
    must(run % (256 * PAGE_BYTES) != 0);
    must(page_run_take_kept(200, 256 * PAGE_BYTES) == 0);
    must(page_run_take_kept(200, PAGE_BYTES) == run);
}

static void threads_have_their_own(void) {
    as_thread(1);
    uintptr_t run = earn(200);
    as_thread(2);
    uintptr_t other = keep(200);
    as_thread(1);
    must_not_be_kept(200);
    must(page_run_give(run));
    must_be_kept(run, 200);
    must_be_kept(other, 200);
    must(page_run_take_kept(200, PAGE_BYTES) == run);
    as_thread(10); /* the second one's slot */
    must(page_run_take_kept(200, PAGE_BYTES) == other);
    must_be_sound();
}

/* By another thread that has the same slot, say. */
static void a_slot_in_use_takes_no_second_one(void) {
    uintptr_t other = take_dirty(200);
    take_dirty(1);
    uintptr_t run = keep(200);
    must_take(run, 200, false);
    must(page_run_give(run));
    keep_note_taken(200);
    must(page_run_give(other));
    must_be_kept(run, 200);
    must(last_pages() == 200 && page_run_take_kept(200, PAGE_BYTES) == 0);
    must_take_exactly(run, 200);
    must_not_be_kept(200);
    must_take_exactly(other, 200);
}

static void it_is_merged_before_clean_pages_are_taken(void) {
    uintptr_t run = keep(200);
    must_take(run, 30, false); /* nothing else is dirty */
    must(!keep_any);
    must_not_be_kept(200);
}

static void other_dirty_pages_come_first(void) {
    uintptr_t hole = take_dirty(80);
    take_dirty(1);
    uintptr_t run = keep(200);
    must(page_run_give(hole));
    must(last_merge());
    must_take(hole, 40, false);
    must_be_kept(run, 200);
}

static void what_the_thread_wants_in_its_place_is_cut_from_it(void) {
    uintptr_t run = keep(200);
    must_take(run, 150, false);
    must_not_be_kept(200);
    must(last_pages() == 50);
}

static void a_run_extends_into_it(void) {
    uintptr_t run = take_dirty(300);
    take_all_free();
    page_set_trim_threshold(64 * MIB);
    must(page_run_shrink(run, 100));
    page_state.trim_threshold_set = false; /* as if it had never been set */
    uintptr_t next = keep(200);
    must(next == run + 100 * PAGE_BYTES);
    must(page_run_extend(run, 250) && page_run_pages(run) == 250);
    must_not_be_kept(200);
}

static void figures_have_it_among_what_is_dirty(void) {
    keep(200);
    must(page_live_bytes() == 200 * PAGE_BYTES && dirty_bytes() == 200 * PAGE_BYTES);
    must(page_live_bytes() == 0);
    must_not_be_kept(200);
}

static void a_trim_gives_it_back(void) {
    keep(200);
    must(page_trim(0) >= 200 * PAGE_BYTES && page_live_bytes() == 0 && dirty_bytes() == 0);
    must(page_run_give(take_dirty(200)) && page_live_bytes() == 200 * PAGE_BYTES);
    page_purge(PAGE_BYTES);
    must(dirty_bytes() == 199 * PAGE_BYTES && page_live_bytes() == 0);
    must_not_be_kept(200);
}

static void none_is_kept_under_a_threshold(void) {
    uintptr_t run = keep(200);
    page_set_trim_threshold(64 * MIB);
    must(page_live_bytes() == 0 && dirty_bytes() == 200 * PAGE_BYTES);
    for (int i = 0; i < EARNED + 3; i++) {
        must_take(run, 200, false);
        must(page_run_give(run));
    }
    must_not_be_kept(200);
    must_take(run, 200, false);
    must(page_run_shrink(run, 100) && !keep_any && page_live_bytes() == 100 * PAGE_BYTES);
}

static void what_is_not_wanted_for_a_second_is_merged(void) {
    uintptr_t run = keep(200);
    fake_os.clock_ns += SECOND_NS;
    must(page_run_take_kept(200, PAGE_BYTES) == run && page_run_give(run));
    page_settle_old(); /* it was taken before this look, */
    must_be_kept(run, 200);
    fake_os.clock_ns += SECOND_NS / 2;
    page_settle_old();
    must_be_kept(run, 200);
    fake_os.clock_ns += SECOND_NS / 2;
    page_settle_old(); /* and not since */
    must(page_live_bytes() == 0);
    must_not_be_kept(200);
}

/* By what takes pages, where nothing is purged: in its time that is made up for. */
static void what_was_merged_does_not_stay_for_good(void) {
    for (int i = 0; i < 2; i++) {
        keep_again(1000);
        page_state.budget_pages = 0; /* what it earned on the way */
        must_take_any(i == 0 ? 1 : 100);
        must(dirty_bytes() > page_trim_bound());
        page_settle_old();
        must(dirty_bytes() > page_trim_bound());
        fake_os.clock_ns += SECOND_NS;
        page_settle_old();
        must(dirty_bytes() <= page_trim_bound() && page_trim_bound() < 2 * MIB);
    }
}

static void it_stays_when_the_page_layer_is_repaired(void) {
    uintptr_t run = keep(200);
    page_state.lock.word = 0x1000; /* nobody's */
    page_repair();
    must_be_kept(run, 200);
    must(page_run_take_kept(200, PAGE_BYTES) == run);
    must_be_sound();
}

int main(void) {
    static const struct CMUnitTest tests[] = {
        body_test(a_length_given_often_is_kept),
        body_test(another_one_in_between_ends_it),
        body_test(a_second_one_ends_it),
        body_test(whatever_their_lengths),
        body_test(shorter_ones_are_cut_from_it_and_join_it),
        body_test(one_that_does_not_lie_beside_it_goes_the_usual_way),
        body_test(what_is_more_than_twice_as_long_is_merged),
        body_test(it_may_cross_regions),
        body_test(the_longest_is_cut_as_well),
        body_test(it_grows_no_longer),
        body_test(those_freed_one_after_the_other_are_not_kept),
        body_test(short_runs_and_very_long_ones_are_not_kept),
        body_test(the_shortest_and_the_longest_are_kept),
        body_test(an_alignment_that_it_has_not_is_not_served),
        body_test(threads_have_their_own),
        body_test(a_slot_in_use_takes_no_second_one),
        body_test(it_is_merged_before_clean_pages_are_taken),
        body_test(other_dirty_pages_come_first),
        body_test(what_the_thread_wants_in_its_place_is_cut_from_it),
        body_test(a_run_extends_into_it),
        body_test(figures_have_it_among_what_is_dirty),
        body_test(a_trim_gives_it_back),
        body_test(none_is_kept_under_a_threshold),
        body_test(what_is_not_wanted_for_a_second_is_merged),
        body_test(what_was_merged_does_not_stay_for_good),
        body_test(it_stays_when_the_page_layer_is_repaired),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
