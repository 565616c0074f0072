/* SPDX-License-Identifier: MIT
 *
 * test_page.c: runs of pages: lengths, alignment, resizing, what is preferred, what is kept whole, what
 * is known to be zero.
 */
#include "run_support.h"

#include "page_internal.h"
#include "sizeclass.h"

static void any_length_is_handed_out_exactly(void) {
    size_t pages[700];
    uintptr_t run[700];
    for (size_t i = 0; i < COUNT_OF(run); i++) {
        bool zero = false;
        pages[i] = i < 690 ? i + 1 : 8186 + i - 690; /* around a whole region, too */
        run[i] = page_run_take(pages[i], PAGE_BYTES, &zero);
        must(run[i] && zero);
        must(page_run_pages(run[i]) == pages[i]);
        shadow_live_add((void *)run[i], pages[i] << PAGE_SHIFT);
    }
    must_be_sound();
    for (size_t i = 0; i < COUNT_OF(run); i++) {
        shadow_live_remove((void *)run[i]);
        must(page_run_give(run[i]));
        must(page_run_pages(run[i]) == 0);
    }
    must_be_sound();
    must(page_live_bytes() == 0);
}

static void alignment_up_to_1_gib_is_kept(void) {
    for (size_t align = PAGE_BYTES; align <= GIB; align *= 2) {
        bool zero;
        uintptr_t run = page_run_take(3, align, &zero);
        must(run && run % align == 0 && page_run_pages(run) == 3);
        must(page_verify()[0] == 0);
    }
    must_be_sound();
}

/* Some runs of random length at a time, each replaced by another, again and again: what they leave serves the next ones,
 * though no extent of one kind is long enough wherever it begins. */
static void replace_aligned(size_t align, size_t most_pages, size_t rounds) {
    enum { RUNS = 100 };
    uintptr_t run[RUNS] = {0};
    struct rng rng = {test_seed()};
    bool zero;
    for (size_t i = 0; i < rounds; i++) {
        size_t k = rng_below(&rng, RUNS), pages = 1 + rng_below(&rng, most_pages);
        must(!run[k] || page_run_give(run[k]));
        run[k] = page_run_take(pages, align, &zero);
        must(run[k] && run[k] % align == 0);
        if (i % 64 == 0)
            must(page_verify()[0] == 0);
    }
    for (size_t k = 0; k < RUNS; k++)
        must(!run[k] || page_run_give(run[k]));
    size_t slot = round_up(most_pages << PAGE_SHIFT, align);
    must(page_state.zone_pages << PAGE_SHIFT <= RUNS * slot * 5 / 4 + MIB);
    must_be_sound();
}

static void aligned_runs_find_what_others_left(void) {
    replace_aligned(8 * KIB, 25, 4000);
    replace_aligned(64 * KIB, 25, 4000);
    replace_aligned(64 * KIB, 25, 4000);
    replace_aligned(256 * KIB, 100, 4000);
}

static void widely_aligned_runs_find_what_others_left(void) {
    replace_aligned(2 * MIB, 25, 4000);
    replace_aligned(2 * MIB, 700, 2000); /* from a MiB on they may cross */
}

static void runs_aligned_to_more_than_a_region_find_what_others_left(void) {
    replace_aligned(64 * MIB, 25, 300);
}

static void a_run_below_a_mib_lies_in_one_region(void) {
    bool zero;
    for (size_t i = 0; i < 200; i++) {
        uintptr_t run = page_run_take(255, PAGE_BYTES, &zero);
        must(pagemap_region(run) == pagemap_region(run + (255 << PAGE_SHIFT) - 1));
    }
    must_be_sound();
}

/* A region's end costs longer ones nothing: they follow each other. */
static void runs_from_a_mib_on_may_cross(void) {
    bool zero, crossed = false;
    uintptr_t last = page_run_take(3000, PAGE_BYTES, &zero);
    for (size_t i = 0; i < 20; i++) {
        uintptr_t run = page_run_take(3000, PAGE_BYTES, &zero);
        must(run == last + (3000 << PAGE_SHIFT) && page_run_pages(run) == 3000);
        crossed |= pagemap_region(run) != pagemap_region(run + (3000 << PAGE_SHIFT) - 1);
        last = run;
    }
    must(crossed && page_run_extend(last, 9000) && page_run_shrink(last, 10));
    must_be_sound();
}

/* 150 free pages on each side of a border, and nothing else that is free for long; returns where they begin. */
static uintptr_t free_at_a_border(void) {
    bool zero;
    uintptr_t first = page_run_take(2 * REGION_PAGES, REGION_BYTES, &zero);
    uintptr_t start = first + REGION_BYTES - 150 * PAGE_BYTES;
    page_state.budget_pages = page_state.peak_zone_pages; /* so that nothing is purged */
    must(page_run_shrink(first, REGION_PAGES - 150));
    must_take(start, 300, false);
    must_take(start + 300 * PAGE_BYTES, REGION_PAGES - 150, false);
    take_all_free();
    must(page_run_give(start));
    hot_merge_all();
    fake_os.fail_kinds = 0; /* the heap might grow instead */
    return start;
}

static void what_is_free_at_both_sides_of_a_border_is_one(void) {
    uintptr_t start = free_at_a_border();
    must_take(start, 300, false);
    must_be_sound();
}

static void take_of_both_kinds(bool clean_first) {
    uintptr_t start = free_at_a_border(), border = start + 150 * PAGE_BYTES;
    uintptr_t clean = clean_first ? start : border;
    must(purge_hold((struct extent){clean, clean + 150 * PAGE_BYTES}) == 150);
    purge_let_go((struct extent){clean, clean + 150 * PAGE_BYTES}, false);
    must_take(start, 300, false);
    must_be_sound();
}

static void dirty_then_clean(void) {
    take_of_both_kinds(false);
}

static void clean_then_dirty(void) {
    take_of_both_kinds(true);
}

static void long_runs_cross_regions(void) {
    const size_t pages = 20000;
    uintptr_t run = take_dirty(pages), end = run + (pages << PAGE_SHIFT);
    must(pagemap_region(run) != pagemap_region(end - 1));
    for (uintptr_t at = run; at < end; at += 777 * PAGE_BYTES) {
        size_t found = 0;
        must(page_run_around(at + 5, &found) == run && found == pages);
    }
    must_be_sound();
    for (size_t left = pages * 2 / 3; left > 1; left = left * 2 / 3) {
        must(page_run_shrink(run, left));
        must(page_run_pages(run) == left);
        must_be_sound();
    }
    must(page_run_extend(run, pages)); /* all of it came from the break's top */
    must_be_sound();
    size_t found = 0;
    must(page_run_around(end - 1, &found) == run && found == pages);
    must(page_run_give(run));
    must_be_sound();
}

/* Any hole of n pages serves a run of n pages, wherever it lies and however its blocks fall:
 *   [first: k pages][hole: n][last: the rest] */
static void every_hole_is_found(void) {
    const size_t all = 400;
    uintptr_t first = take_dirty(all);
    take_all_free();
    for (size_t k = 1; k < 70; k++) {
        for (size_t n = 1; n < 300; n++) {
            uintptr_t hole = first + k * PAGE_BYTES;
            must(page_run_shrink(first, k));
            must_take(hole, all - k, false);
            must(page_run_shrink(hole, n));
            must_take(hole + n * PAGE_BYTES, all - k - n, false);
            must(page_run_give(hole));
            bool zero;
            must(page_run_take(n + 1, PAGE_BYTES, &zero) == 0);
            must_take(hole, n, false);
            must(page_run_give(hole + n * PAGE_BYTES) && page_run_give(hole));
            must(page_run_extend(first, all));
        }
        must_be_sound();
    }
}

/* ---- the choice of a place ------------------------------------------------------------------------ */

static void dirty_is_preferred_to_clean(void) {
    uintptr_t low = take_dirty(40), wall = take_dirty(1), high = take_dirty(40);
    take_dirty(1);
    must(page_run_give(low));
    page_trim(0); /* the lower one is clean now */
    must(page_run_give(high));
    uint64_t calls = fake_os.calls;
    must_take(high, 40, false);
    must_take(low, 40, true);
    must(fake_os.calls == calls);
    must(wall > low);
    must_be_sound();
}

static void partly_dirty_is_not_zero(void) {
    page_set_top_pad(0);
    uintptr_t run = take_dirty(64);
    take_dirty(1);
    must(page_run_give(run));
    page_trim(0);
    must_take(run, 64, true);
    must(page_run_shrink(run, 63)); /* one dirty page behind ... */
    must(page_run_give(run));
    must_take(run, 64, false);
    must(page_run_give(run));
    page_trim(0);
    must_take(run, 64, true);
    must_be_sound();
}

static void shrinking_frees_the_tail_at_once(void) {
    uintptr_t run = take_dirty(100);
    take_all_free();
    must(!page_run_shrink(run, 0) && !page_run_shrink(run, 100) && !page_run_shrink(run, 101));
    must(page_run_shrink(run, 37));
    must_take(run + 37 * PAGE_BYTES, 63, false);
    must_be_sound();
}

/* Who never gives back wants no fault: dirty pages elsewhere are better than clean ones beside. */
static void extending_prefers_dirty_pages_where_nothing_is_given_back(void) {
    page_set_headroom(0);
    page_set_trim_threshold(SIZE_MAX);
    uintptr_t dirty = take_dirty(100), fence = take_dirty(1), run = take_dirty(10);
    must(dirty < fence && fence < run && page_run_extend(run, 12)); /* there are no dirty pages */
    must(page_run_give(dirty));
    must(!page_run_extend(run, 20));
    bool zero;
    must(page_run_take(20, PAGE_BYTES, &zero) == dirty && !zero);
    must(page_run_extend(run, 90)); /* but 80 pages are too few */
    must_be_sound();
}

static void the_shortest_hole_is_taken_first(void) {
    uintptr_t runs = take_dirty(400), fence = runs + 128 * PAGE_BYTES;
    uintptr_t hole = fence + PAGE_BYTES, rest = hole + 70 * PAGE_BYTES;
    must(page_run_shrink(runs, 128)); /* one block, or several */
    must_take(fence, 1, false);
    must_take(hole, 70, false);
    must_take(rest, 201, false);
    must(page_run_give(runs) && page_run_give(hole));
    must_take(hole, 66, false); /* and not from the longer one, which stays whole */
    must_take(runs, 128, false);
    must_be_sound();
}

static void extending_takes_the_free_neighbour(void) {
    uintptr_t run = take_dirty(31), next = run + 10 * PAGE_BYTES;
    take_all_free();
    must(page_run_shrink(run, 10));
    must_take(next, 21, false);
    must(!page_run_extend(run, 11));
    must(page_run_give(next));
    must(!page_run_extend(run, 10) && !page_run_extend(run, 5));
    must(page_run_extend(run, 25));
    must(page_run_pages(run) == 25);
    must(!page_run_extend(run, 32));
    must(page_run_extend(run, 31));
    must(page_run_pages(run) == 31);
    must_be_sound();
}

static void extending_at_the_top_moves_the_break(void) {
    page_set_top_pad(0);
    uintptr_t run = take_dirty(10);
    must(run + 10 * PAGE_BYTES == fake_break());
    must(page_run_extend(run, 500));
    must(fake_os.count[FAKE_BREAK_GROW] == 2);
    must(all_zero((char *)run + 10 * PAGE_BYTES, 490 * PAGE_BYTES));
    fake_os.break_limit = 0;
    must(!page_run_extend(run, 501));
    must(page_run_pages(run) == 500);
    must_be_sound();
}

/* The break was somebody else's when we raised it: what we got does not adjoin. */
static void extending_at_the_end_of_a_region_moves_the_break(void) {
    page_set_top_pad(0);
    uintptr_t start = take_dirty(1) + PAGE_BYTES;
    must(start == fake_break());
    size_t pages = (REGION_BYTES - start % REGION_BYTES) >> PAGE_SHIFT;
    must(pages << PAGE_SHIFT >= RUN_CROSS_BYTES);
    must_take(start, pages, true);
    must(fake_break() % REGION_BYTES == 0); /* nothing is known of what comes next */
    must(page_run_extend(start, pages + 3));
    must(page_run_pages(start) == pages + 3);
    must_be_sound();
}

/* What becomes a slab has all of its heads in one region. */
static void a_short_run_never_crosses_a_region(void) {
    enum { BEFORE = 3, LONG = RUN_CROSS_BYTES >> PAGE_SHIFT };
    page_set_top_pad(0);
    uintptr_t start = take_dirty(1) + PAGE_BYTES;
    must_take(start, ((REGION_BYTES - start % REGION_BYTES) >> PAGE_SHIFT) - BEFORE, true);
    uintptr_t run = take_dirty(LONG);
    must(run % REGION_BYTES == REGION_BYTES - BEFORE * PAGE_BYTES);
    for (size_t pages = BEFORE + 1; pages < LONG; pages++)
        must(!page_run_shrink(run, pages));
    must(page_run_pages(run) == LONG);
    must(page_run_shrink(run, BEFORE) && page_run_pages(run) == BEFORE);
    must(page_run_give(run) && page_run_give(start));
    must_be_sound();
}

static void extending_stops_at_foreign_memory(void) {
    page_set_top_pad(0);
    uintptr_t run = take_dirty(10);
    fake_os.foreign_sbrk_bytes = 5 * PAGE_BYTES;
    must(!page_run_extend(run, 500));
    must(page_run_pages(run) == 10);
    must_be_sound();
    must_hold(page_map_matches_books());
}

static void a_roomy_run_and_the_one_before_it_may_grow(void) {
    page_set_top_pad(0);
    uintptr_t before = take_dirty(10);
    uintptr_t roomy = page_run_take_roomy(100);
    must(roomy && page_run_pages(roomy) == 100);
    uint64_t calls = fake_os.calls;
    must(page_run_extend(before, 10 + 25) && !page_run_extend(before, 10 + 26));
    must(page_run_extend(roomy, 100 + 25));
    must(fake_os.calls == calls);
    must_be_sound();
}

/* A hole with room to spare is used as well as what the heap would grow by. */
static void a_roomy_run_goes_to_the_middle_of_a_hole(void) {
    uintptr_t hole = take_dirty(150);
    take_dirty(1);
    must(page_run_give(hole));
    must(page_run_take_roomy(100) == hole + 25 * PAGE_BYTES);
    must_be_sound();
}

static void a_roomy_run_below_a_mib_lies_in_one_region(void) {
    static const size_t pages[] = {100, 200, 254, 255};
    for (size_t i = 0; i < 400; i++) {
        size_t length = pages[i / 100];
        uintptr_t run = page_run_take_roomy(length);
        must(run && page_run_pages(run) == length);
        must(pagemap_region(run) == pagemap_region(run + (length << PAGE_SHIFT) - 1));
    }
    must(page_run_take_roomy(256) != 0);
    must_be_sound();
}

static void there_may_be_no_roomy_place(void) {
    uintptr_t run = take_dirty(12);
    take_all_free(); /* from here on the system refuses, and nothing is given back */
    must(page_run_give(run));
    must(page_run_take_roomy(8) == 0);
    page_set_trim_threshold(MIB);
    must(page_run_take_roomy(9) == 0); /* it would take 13 */
    must(page_run_take_roomy(8) == run + 2 * PAGE_BYTES);
    fake_os.fail_kinds = 0;
    must(page_run_take_roomy(PAGE_RUN_MAX) == 0);
    must_be_sound();
}

static void what_is_no_run_is_refused(void) {
    static int foreign;
    uintptr_t run = take_dirty(10), given = take_dirty(3);
    must(page_run_give(given));
    const uintptr_t wrong[] = {0,
                               run + PAGE_BYTES,
                               run + 16,
                               given,
                               given + PAGE_BYTES,
                               run - PAGE_BYTES,
                               run + GIB,
                               (uintptr_t)&foreign & ~(PAGE_BYTES - 1),
                               UINTPTR_MAX & ~(PAGE_BYTES - 1)};
    for (size_t i = 0; i < COUNT_OF(wrong); i++) {
        size_t pages = 0;
        must(page_run_pages(wrong[i]) == 0);
        must(!page_run_give(wrong[i]));
        must(!page_run_shrink(wrong[i], 1));
        must(!page_run_extend(wrong[i], 20));
        uintptr_t around = page_run_around(wrong[i], &pages);
        must(around == (wrong[i] - run < 10 * PAGE_BYTES ? run : 0));
    }
    must(page_run_pages(run) == 10);
    must_be_sound();
}

static void impossible_requests_are_refused(void) {
    bool zero;
    must(page_run_take(PAGE_RUN_MAX + 1, PAGE_BYTES, &zero) == 0);
    must(page_run_take(SIZE_MAX, PAGE_BYTES, &zero) == 0);
    fake_os.space_limit = 64 * GIB;
    must(page_run_take(PAGE_RUN_MAX, PAGE_BYTES, &zero) == 0);
    must(page_run_take(1, (size_t)1 << 46, &zero) == 0);
    must(page_run_take(1, (size_t)1 << 63, &zero) == 0);
    must(!page_run_extend(take_dirty(1), PAGE_RUN_MAX + 1));
    must_be_sound();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        body_test(any_length_is_handed_out_exactly),
        body_test(alignment_up_to_1_gib_is_kept),
        body_test(aligned_runs_find_what_others_left),
        body_test(widely_aligned_runs_find_what_others_left),
        body_test(runs_aligned_to_more_than_a_region_find_what_others_left),
        body_test(a_run_below_a_mib_lies_in_one_region),
        body_test(runs_from_a_mib_on_may_cross),
        body_test(what_is_free_at_both_sides_of_a_border_is_one),
        body_test(dirty_then_clean),
        body_test(clean_then_dirty),
        body_test(long_runs_cross_regions),
        body_test(every_hole_is_found),
        body_test(dirty_is_preferred_to_clean),
        body_test(partly_dirty_is_not_zero),
        body_test(shrinking_frees_the_tail_at_once),
        body_test(extending_takes_the_free_neighbour),
        body_test(extending_prefers_dirty_pages_where_nothing_is_given_back),
        body_test(the_shortest_hole_is_taken_first),
        body_test(extending_at_the_top_moves_the_break),
        body_test(extending_at_the_end_of_a_region_moves_the_break),
        body_test(a_short_run_never_crosses_a_region),
        body_test(extending_stops_at_foreign_memory),
        body_test(a_roomy_run_and_the_one_before_it_may_grow),
        body_test(a_roomy_run_goes_to_the_middle_of_a_hole),
        body_test(a_roomy_run_below_a_mib_lies_in_one_region),
        body_test(there_may_be_no_roomy_place),
        body_test(what_is_no_run_is_refused),
        body_test(impossible_requests_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
