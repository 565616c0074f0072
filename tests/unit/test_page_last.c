/* SPDX-License-Identifier: MIT
 *
 * test_page_last.c: the long run that came back last, which is kept whole.
 */
#include "run_support.h"

#include "page_internal.h"

#define LAST page_state.last

static void must_be_last(uintptr_t start, size_t pages) {
    must(LAST.start == start && last_pages() == pages);
    must(head_kind(pagemap_head(start)) == HEAD_FREE);
    must(page_state.hot_pages == pages && page_run_pages(start) == 0);
    must_be_sound();
}

static uintptr_t at(uintptr_t run, size_t pages) {
    return run + pages * PAGE_BYTES;
}

static void a_long_run_is_taken_whole(void) {
    uintptr_t run = take_dirty(200);
    uint64_t calls = fake_os.calls;
    for (int i = 0; i < 3; i++) {
        must(page_run_give(run) && page_live_bytes() == 0);
        must(dirty_bytes() == 200 * PAGE_BYTES); /* it is free, and dirty */
        must_be_last(run, 200);
        must(!page_run_give(run));
        must_take(run, 200, false);
        must(LAST.start == 0 && page_state.hot_pages == 0);
    }
    must(fake_os.calls == calls);
    must_be_sound();
}

static void a_short_run_is_not_kept_here(void) {
    uintptr_t run = take_dirty(HOT_MAX_PAGES);
    must(page_run_give(run) && LAST.start == 0);
    must_take(run, HOT_MAX_PAGES, false);
}

static void a_short_one_joins_what_it_was_cut_from(void) {
    uintptr_t run = take_dirty(200), other = take_dirty(20);
    take_dirty(1);
    must(page_run_shrink(run, 22));
    must_be_last(at(run, 22), 178);
    must(page_run_give(other)); /* behind it */
    must(page_state.hot_pages == 198 && page_run_give(run));
    must(LAST.start == run && last_pages() == 200 && page_state.hot_pages == 220);
    must_be_sound();
    must_take(run, 200, false);
    must_take(other, 20, false);
}

static void runs_are_cut_from_its_front_and_join_it(void) {
    uintptr_t run = take_dirty(250);
    take_dirty(1);
    must(page_run_give(run));
    must_take(run, 100, false);
    must_be_last(at(run, 100), 150);
    must_take(at(run, 100), 10, false);
    must_take(at(run, 110), 70, false);
    must_be_last(at(run, 180), 70);
    must(page_run_give(at(run, 110)));
    must_be_last(at(run, 110), 140);
    must_take(at(run, 110), 70, false);
    must(page_run_give(run)); /* no neighbour: it takes its place */
    must_be_last(run, 100);
    must(page_run_give(at(run, 110)));
    must_be_last(at(run, 110), 70); /* what was behind it is in the sets by now */
    must_take(at(run, 110), 140, false);
}

static void the_shorter_one_of_two_serves(void) {
    uintptr_t shorter = take_dirty(80);
    take_dirty(1);
    uintptr_t longer = take_dirty(150);
    take_dirty(1);
    must(page_run_give(longer) && page_run_give(shorter));
    must_be_last(shorter, 80);
    must_take(shorter, 70, false);
    must(page_run_give(shorter));
    must_take(longer, 150, false);
    must(page_run_give(longer)); /* now it is the last one */
    must_be_last(longer, 150);
    must_take(shorter, 70, false);
    must_take(longer, 150, false);
    must_be_sound();
}

static void another_alignment_is_found_elsewhere(void) {
    bool zero;
    uintptr_t base = page_run_take(256, 256 * PAGE_BYTES, &zero);
    must(page_run_shrink(base, 1));
    must_be_last(at(base, 1), 255);
    uintptr_t aligned = page_run_take(70, 128 * PAGE_BYTES, &zero);
    must(aligned % (128 * PAGE_BYTES) == 0);
    must_be_sound();
}

static void it_is_merged_before_more_is_asked_for(void) {
    uintptr_t run = take_dirty(300);
    take_all_free();
    page_set_trim_threshold(64 * MIB); /* where all is kept there is none */
    must(page_run_shrink(run, 100));
    must_be_last(at(run, 100), 200);
    must_take(at(run, 100), 100, false);
    must_take(at(run, 200), 100, false);
    must(page_run_give(run) && page_run_give(at(run, 200)));
    must_be_last(at(run, 200), 100);
    must(page_run_give(at(run, 100)));
    must_be_last(at(run, 100), 200);
    must_take(run, 300, false);
    must_be_sound();
}

static void a_run_extends_into_it(void) {
    uintptr_t run = take_dirty(300);
    take_all_free();
    page_set_trim_threshold(64 * MIB);
    must(page_run_shrink(run, 100));
    must(page_run_extend(run, 101) && page_run_pages(run) == 101);
    must_be_last(at(run, 101), 199);
    must(!page_run_extend(run, 301));
    must(page_run_extend(run, 300) && LAST.start == 0);
    must(page_run_give(run));
    must_be_last(run, 300);
    last_merge();
    must_be_sound();
}

/* Head words at the start of each region that such a run reaches into. */
static void it_may_cross_regions(void) {
    uintptr_t run = take_dirty(3 * REGION_PAGES);
    size_t before = (round_up(run, REGION_BYTES) - run) >> PAGE_SHIFT;
    take_dirty(1);
    page_set_trim_threshold(512 * MIB);
    must(page_run_give(run));
    must_be_last(run, 3 * REGION_PAGES);
    must_take(run, REGION_PAGES + 10, false);
    must_be_last(at(run, REGION_PAGES + 10), 2 * REGION_PAGES - 10);
    must(page_run_extend(run, 2 * REGION_PAGES));
    must_be_last(at(run, 2 * REGION_PAGES), REGION_PAGES);
    must(page_run_shrink(run, 1000));
    must_be_last(at(run, 1000), 3 * REGION_PAGES - 1000);
    must(page_run_give(run));
    must_be_last(run, 3 * REGION_PAGES);
    must_take(run, before + REGION_PAGES, false); /* up to a border */
    must_be_last(at(run, before + REGION_PAGES), 2 * REGION_PAGES - before);
    must(page_run_extend(run, 2 * REGION_PAGES));
    must(page_run_give(run));
    must_be_last(run, 3 * REGION_PAGES);
    last_merge();
    must_be_sound();
}

static void a_short_run_is_not_cut_across_a_border(void) {
    uintptr_t run = take_dirty(2 * REGION_PAGES);
    size_t before = (round_up(run, REGION_BYTES) - run) >> PAGE_SHIFT;
    take_dirty(1);
    page_set_trim_threshold(512 * MIB);
    must(page_run_give(run));
    must_take(run, before + REGION_PAGES - 5, false);
    bool zero;
    uintptr_t found = page_run_take(20, PAGE_BYTES, &zero);
    must(found / REGION_BYTES == (at(found, 20) - 1) / REGION_BYTES);
    must_be_sound();
}

static void none_is_kept_where_nothing_is_given_back(void) {
    uintptr_t run = take_dirty(300);
    page_set_trim_threshold(SIZE_MAX);
    must(page_run_give(run) && LAST.start == 0 && page_state.hot_pages == 0);
    must_be_sound();
}

static void it_is_free_again_after_a_repair(void) {
    uintptr_t run = take_dirty(2 * REGION_PAGES), wall = take_dirty(1);
    page_set_trim_threshold(512 * MIB);
    must(page_run_give(run));
    must_be_last(run, 2 * REGION_PAGES);
    page_state.lock.word = 0x1000; /* nobody's */
    page_repair();
    must(LAST.start == 0 && page_live_bytes() == PAGE_BYTES);
    must_be_sound();
    must_take(run, 2 * REGION_PAGES, false);
    must(page_run_give(wall));
}

int main(void) {
    static const struct CMUnitTest tests[] = {
        body_test(a_long_run_is_taken_whole),
        body_test(a_short_run_is_not_kept_here),
        body_test(a_short_one_joins_what_it_was_cut_from),
        body_test(runs_are_cut_from_its_front_and_join_it),
        body_test(the_shorter_one_of_two_serves),
        body_test(another_alignment_is_found_elsewhere),
        body_test(it_is_merged_before_more_is_asked_for),
        body_test(a_run_extends_into_it),
        body_test(it_may_cross_regions),
        body_test(a_short_run_is_not_cut_across_a_border),
        body_test(none_is_kept_where_nothing_is_given_back),
        body_test(it_is_free_again_after_a_repair),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
