/* SPDX-License-Identifier: MIT
 *
 * test_page_keep_resize.c: a long run that changes its length beside what is kept for its thread.
 */
#include "keep_support.h"

static void its_end_is_kept_where_it_shrinks(void) {
    uintptr_t run = earn(250);
    must(page_run_shrink(run, 150) && page_run_pages(run) == 150);
    must_be_kept(run + 150 * PAGE_BYTES, 100); /* nothing was kept */
    must(page_run_shrink(run, 65) && page_run_pages(run) == 65);
    must_be_kept(run + 65 * PAGE_BYTES, 185); /* what was lay behind it */
    must(head_kind(pagemap_head(run + 150 * PAGE_BYTES)) == HEAD_FREE);
    must_be_sound();
    must(page_run_give(run));
    must_be_kept(run, 250);
    must(head_kind(pagemap_head(run + 65 * PAGE_BYTES)) == HEAD_FREE);
    must_be_sound();
}

static void it_grows_into_what_is_kept(void) {
    uintptr_t run = keep(250);
    must(take_kept(100) == run);
    must(page_run_extend(run, 160) && page_run_pages(run) == 160);
    must_be_kept(run + 160 * PAGE_BYTES, 90);
    must(head_kind(pagemap_head(run + 100 * PAGE_BYTES)) == HEAD_FREE);
    must_be_sound();
    must(page_run_extend(run, 250) && page_run_pages(run) == 250); /* all of it */
    must(head_kind(pagemap_head(run + 160 * PAGE_BYTES)) == HEAD_FREE);
    must(page_run_take_kept(65, PAGE_BYTES) == 0);
    must_be_sound();
    must(page_run_give(run));
    must_be_kept(run, 250);
}

static void beyond_it_the_usual_way(void) {
    uintptr_t run = keep(250);
    must(take_kept(100) == run);
    must(page_run_extend(run, 251) && page_run_pages(run) == 251 && !keep_any);
    must_be_sound();
    must(page_run_give(run));
    must_be_kept(run, 251); /* in turn all the same */
    must(take_kept(251) == run && page_run_shrink(run, 64));
    must_not_be_kept(65);
    must(page_run_pages(run) == 64 && page_live_bytes() == 64 * PAGE_BYTES);
    must_be_sound();
}

static void one_that_changes_its_length_the_usual_way_is_in_turn(void) {
    uintptr_t run = take_dirty(300);
    must(page_run_give(run));
    for (int i = 1; i < EARNED; i++) { /* that was the first */
        must_take(run, 200, false);
        must(page_run_extend(run, 280) && page_run_shrink(run, 150) && page_run_pages(run) == 150);
        must(page_run_give(run) && !keep_any);
    }
    must_take(run, 200, false);
    must(page_run_give(run));
    must_be_kept(run, 200);
}

/* As long as the one that is open, it lies elsewhere. */
static void another_one_changes_its_length_the_usual_way(void) {
    as_thread(2);
    uintptr_t other = take_dirty(100), longer = take_dirty(120);
    as_thread(1);
    uintptr_t run = keep(250);
    must(take_kept(100) == run && page_run_shrink(longer, 90) && page_run_give(run));
    must_be_kept(run, 250); /* as if nothing had been */
    must(take_kept(100) == run);
    must(page_run_shrink(other, 80) && page_run_pages(other) == 80);
    must_be_kept(run + 100 * PAGE_BYTES, 150);
    must(head_kind(pagemap_head(other + 80 * PAGE_BYTES)) == HEAD_FREE);
    must(page_run_extend(other, 90) && page_run_pages(other) == 90);
    must_be_sound();
}

static void what_it_grows_by_is_wanted(void) {
    uintptr_t run = keep(300);
    for (int i = 0; i < 3; i++) {
        must(take_kept(100) == run && page_run_extend(run, 280) && page_run_give(run));
        fake_os.clock_ns += SECOND_NS;
        page_settle_old();
        must_be_kept(run, 300);
    }
}

static void across_the_border_of_regions(void) {
    uintptr_t run = keep_crossing(), border = run + 300 * PAGE_BYTES;
    static const size_t changes[] = {301, 290, 310, 700, 1000, 320, 300};
    must(take_kept(280) == run);
    for (size_t i = 0, now = 280; i < COUNT_OF(changes); now = changes[i++]) {
        must(changes[i] > now ? page_run_extend(run, changes[i])
                              : page_run_shrink(run, changes[i]));
        uint32_t there = changes[i] > 300 ? (uint32_t)changes[i] - 300 : 700;
        must(pagemap_head(border) == head_make(HEAD_CONT, there));
        must(keep_any && page_run_pages(run) == changes[i]);
        must_be_sound();
    }
    must(page_run_shrink(run, 200) && take_kept(100) == border - 100 * PAGE_BYTES);
    must(!page_run_extend(border - 100 * PAGE_BYTES, 110)); /* too short to cross */
    must_be_kept(border, 700);
    must_be_sound();
}

int main(void) {
    static const struct CMUnitTest tests[] = {
        body_test(its_end_is_kept_where_it_shrinks),
        body_test(it_grows_into_what_is_kept),
        body_test(beyond_it_the_usual_way),
        body_test(one_that_changes_its_length_the_usual_way_is_in_turn),
        body_test(another_one_changes_its_length_the_usual_way),
        body_test(what_it_grows_by_is_wanted),
        body_test(across_the_border_of_regions),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
