/* SPDX-License-Identifier: MIT
 *
 * test_page_zone.c: where pages come from: the break, a break that others move, mappings at hints
 * and anywhere; and how the break goes down again.
 */
#include "unit_support.h"

#include "page_internal.h"

#include <limits.h>

static uintptr_t take(size_t pages) {
    bool zero;
    uintptr_t run = page_run_take(pages, PAGE_BYTES, &zero);
    must(run != 0);
    must(!zero || all_zero((void *)run, pages << PAGE_SHIFT));
    memset((void *)run, 0x5a, pages << PAGE_SHIFT);
    return run;
}

static void must_match_the_books(void) {
    must_be_sound();
    must_hold(page_map_matches_books());
}

static bool in_break(uintptr_t address) {
    return shadow_at(address) == OWNER_BREAK;
}

/* Free pages are found in whichever region they are. */
static void a_heap_of_hundreds_of_regions(void) {
    enum { RUNS = 2 * CHUNK_REGIONS + 40 };
    static const unsigned given[] = {RUNS - 2, CHUNK_REGIONS, 2 * CHUNK_REGIONS - 1, 3};
    uintptr_t run[RUNS];
    bool zero;
    for (unsigned i = 0; i < RUNS; i++)
        must((run[i] = page_run_take(REGION_PAGES, REGION_BYTES, &zero)) != 0);
    must(pagemap_region_count >= RUNS);
    for (unsigned i = 0; i < COUNT_OF(given); i++)
        must(page_run_give(run[given[i]]));
    size_t zone_pages = page_state.zone_pages;
    uintptr_t found[COUNT_OF(given)] = {0};
    for (unsigned i = 0; i < COUNT_OF(given); i++)
        must((found[i] = page_run_take(REGION_PAGES, REGION_BYTES, &zero)) != 0);
    for (unsigned i = 0; i < COUNT_OF(given); i++) {
        bool same = false;
        for (unsigned k = 0; k < COUNT_OF(given); k++)
            same |= found[k] == run[given[i]];
        must(same);
    }
    must(page_state.zone_pages == zone_pages);
    must_match_the_books();
}

/* ---- the break --------------------------------------------------------------------------------- */

static void the_break_comes_first(void) {
    uintptr_t start = fake_break();
    uintptr_t run = take(10);
    must(run == start && in_break(run));
    must(fake_break() == start + 10 * PAGE_BYTES + 128 * KIB);
    must(fake_os.count[FAKE_BREAK_GROW] == 1);
    take(32); /* of the pad */
    must(fake_os.count[FAKE_BREAK_GROW] == 1);
    must_match_the_books();
}

static void the_pad_is_what_was_asked_for(void) {
    uintptr_t start = fake_break();
    page_set_top_pad(0);
    take(10);
    must(fake_break() == start + 10 * PAGE_BYTES);
    page_set_top_pad(MIB + 1);
    take(10);
    must(fake_break() == start + 21 * PAGE_BYTES + MIB);
    must_match_the_books();
}

/* glibc's is an int, and what is asked for plus it might be less than what is asked for. */
static void a_negative_pad_is_none(void) {
    static const long pads[] = {-1, -65536, -1024 * 1024, -4 * 1024 * 1024, LONG_MIN};
    uintptr_t start = fake_break();
    for (size_t i = 0; i < COUNT_OF(pads); i++) {
        page_set_top_pad((size_t)pads[i]);
        take(10);
        must(fake_break() == start + (i + 1) * 10 * PAGE_BYTES);
    }
    fake_os.fail_kinds = FAKE_BIT(FAKE_BREAK_GROW);
    for (size_t i = 0; i < COUNT_OF(pads); i++) {
        page_set_top_pad((size_t)pads[i]);
        must(!in_break(take(5000)));
    }
    must_match_the_books();
}

/* What is too much with the pad may be possible without it. */
static void a_pad_that_is_refused_is_done_without(void) {
    page_set_top_pad(64 * MIB);
    fake_os.break_limit = 10 * MIB;
    must(in_break(take(1000)));
    must(fake_os.count[FAKE_MAP_AT] == 1); /* the class map */
    must_match_the_books();
}

static void an_odd_break_is_rounded_up(void) {
    fake_foreign_sbrk(24);
    uintptr_t run = take(3);
    must(run % PAGE_BYTES == 0 && in_break(run));
    must(fake_break() % PAGE_BYTES == 0);
    must_match_the_books();
}

static void larger_pages_are_not_split(void) {
    fake_os.page_bytes = 64 * KIB;
    uintptr_t run = take(3);
    must(run % (64 * KIB) == 0);
    must(fake_break() % (64 * KIB) == 0);
    page_set_trim_threshold(0);
    must(page_run_give(run));
    must_match_the_books();
}

/* ---- others move the break ---------------------------------------------------------------------- */

static void foreign_memory_stays_foreign(void) {
    page_set_top_pad(0);
    uintptr_t first = take(10), foreign = fake_break();
    fake_foreign_sbrk(3 * PAGE_BYTES + 100);
    uintptr_t second = take(10);
    must(second >= foreign + 3 * PAGE_BYTES + 100 && in_break(second));
    for (uintptr_t at = foreign; at < second; at += PAGE_BYTES)
        must(head_kind(pagemap_head(at)) == HEAD_ABSENT);
    must_match_the_books();
    must(page_run_give(first) && page_run_give(second));
    must_match_the_books();
}

static void a_shared_break_never_shrinks(void) {
    uintptr_t run = take(1000);
    fake_foreign_sbrk(PAGE_BYTES);
    uintptr_t top = fake_break();
    must(page_run_give(run));
    page_trim(0);
    must(fake_break() == top);
    uintptr_t second = take(2000); /* of it the end lies above the foreign page */
    must(page_run_give(second));
    page_trim(0);
    must(fake_break() > top && fake_os.count[FAKE_BREAK_SHRINK] == 0);
    must(fake_resident_bytes((void *)second, 2000 * PAGE_BYTES) == 0);
    must_match_the_books();
}

static void growth_goes_on_beside_a_foreign_sbrk(void) {
    fake_os.foreign_sbrk_bytes = 24;
    for (size_t i = 1; i < 60; i++)
        must(page_run_pages(take(i * 7)) == i * 7);
    must_match_the_books();
}

/* The program lowers the break into our free pages, as it must not, and we take them again. */
static void no_page_is_entered_twice(void) {
    must(page_run_give(take(100)));
    fake_foreign_sbrk(-(intptr_t)(8 * PAGE_BYTES));
    shadow_forget_violation();
    uintptr_t run = take(400);
    must(page_run_pages(run) == 400);
    must_match_the_books();
}

/* ---- mapped zones ------------------------------------------------------------------------------- */

static void without_a_break_zones_are_mapped_at_hints(void) {
    fake_os.break_limit = 0;
    uintptr_t first = take(10), last = first;
    must(shadow_at(first) == OWNER_MAP && first % REGION_BYTES == 0);
    must(first >= fake_break() + GIB && first < fake_break() + 2 * GIB);
    for (size_t i = 0; i < 50; i++)
        last = take(100);
    must(last - first < 64 * MIB); /* each zone begins where the last one ended */
    must(pagemap_class((void *)last) == 0);
    must((last - pagemap_window.base) >> PAGE_SHIFT < pagemap_window.limit);
    must_match_the_books();
}

static void zones_follow_when_the_break_is_at_its_limit(void) {
    fake_os.break_limit = MIB;
    uintptr_t low = take(100), high = take(1000);
    must(in_break(low) && shadow_at(high) == OWNER_MAP);
    must(page_run_give(high) && page_run_give(low));
    page_trim(0);
    must_match_the_books();
}

static void an_occupied_hint_is_passed_over(void) {
    fake_os.break_limit = 0;
    uintptr_t hint = round_up(fake_break() + GIB, REGION_BYTES);
    for (uintptr_t at = hint - 64 * MIB; at < hint + 128 * MIB; at += 32 * MIB)
        must(fake_foreign_map(at + PAGE_BYTES, PAGE_BYTES));
    uintptr_t run = take(100);
    must(shadow_at(run) == OWNER_MAP && run > hint && run < hint + 512 * GIB);
    must(page_run_give(run));
    must_match_the_books();
}

/* Hints are for places that are taken. */
static void where_no_memory_is_left_few_calls_are_made(void) {
    fake_os.break_limit = 0;
    bool zero;
    take(100);
    fake_os.fail_kinds = FAKE_MEMORY;
    uint64_t calls = fake_os.calls;
    must(page_run_take(20000, PAGE_BYTES, &zero) == 0);
    must(fake_os.calls - calls <= 10);
    must_match_the_books();
}

static void without_hints_zones_are_anywhere(void) {
    fake_os.break_limit = 0;
    fake_os.fail_kinds = FAKE_BIT(FAKE_MAP_AT);
    uintptr_t small = take(10), large = take(20000);
    must(small - fake_break() > (uintptr_t)1 << 40); /* beyond what the class map can reach */
    bool zero;
    const struct size_class *shape = &size_classes[1];
    struct slab *slab = page_slab_open(page_run_take(shape->pages, PAGE_BYTES, &zero), shape->pages,
                                       1, 0, shape->objects, zero);
    must(slab && pagemap_class((void *)slab->base) == 0);
    must(pagemap_slab(pagemap_region(slab->base), pagemap_head(slab->base)) == slab);
    must_hold(page_verify());
    page_slab_close(slab, shape->pages);
    must(page_run_give(small) && page_run_give(large));
    must_match_the_books();
}

static void aligned_runs_fit_into_mapped_zones(void) {
    fake_os.break_limit = 0;
    for (size_t align = PAGE_BYTES; align <= GIB; align *= 2) {
        bool zero;
        uintptr_t run = page_run_take(5000, align, &zero);
        must(run && run % align == 0);
        must(page_run_pages(run) == 5000);
    }
    must_match_the_books();
}

/* ---- lowering the break -------------------------------------------------------------------------- */

static void trim_lowers_the_break_to_the_pad(void) {
    page_set_headroom(0);
    page_set_trim_threshold(SIZE_MAX);
    uintptr_t low = take(10), high = take(2000), end = low + 10 * PAGE_BYTES;
    must(page_run_give(high));
    const size_t pads[] = {4 * MIB, MIB + 1, MIB, 100, 1, 0};
    for (size_t i = 0; i < COUNT_OF(pads); i++) {
        uintptr_t before = fake_break();
        size_t dirty = page_trim(pads[i]);
        must(fake_break() == end + round_up(pads[i], PAGE_BYTES));
        must(dirty >= before - fake_break());
        must_match_the_books();
    }
    must(fake_break() == end);
    take(2000);
    must_match_the_books();
}

static void trim_stops_at_what_is_live(void) {
    take(100);
    uintptr_t top = fake_break();
    uintptr_t free_from = take(10) + 10 * PAGE_BYTES;
    size_t bytes = page_trim(0);
    must(bytes == top - fake_break() && fake_break() == free_from);
    must(page_trim(0) == 0);
    must_match_the_books();
}

static void a_whole_heap_can_go_and_come(void) {
    uintptr_t start = fake_break();
    for (size_t i = 0; i < 5; i++) {
        uintptr_t run = take(3000);
        must(page_run_give(run));
        page_trim(0);
        must(fake_break() == start);
        must(head_kind(pagemap_head(run)) == HEAD_ABSENT);
        struct page_counts counts;
        page_count(&counts);
        must(counts.zone_bytes == 0 && counts.dirty_bytes == 0 && counts.clean_bytes == 0);
        must_match_the_books();
    }
}

static void a_break_that_does_not_go_down_is_kept(void) {
    page_set_headroom(0);
    page_set_trim_threshold(SIZE_MAX);
    uintptr_t run = take(1000), top = fake_break();
    must(page_run_give(run));
    fake_os.fail_kinds = FAKE_BIT(FAKE_BREAK_SHRINK) | FAKE_BIT(FAKE_PURGE);
    must(page_trim(0) == 0);
    must(fake_break() == top);
    must_match_the_books();
    bool zero = true;
    uintptr_t again = page_run_take(1000, PAGE_BYTES, &zero);
    must(again >= run && again < top && !zero);
    must(page_run_give(again));
    fake_os.fail_kinds = 0;
    must(page_trim(0) == top - fake_break() && fake_break() == run);
    must_match_the_books();
}

/* ---- refusals ------------------------------------------------------------------------------------ */

static void a_refused_growth_leaves_nothing_behind(void) {
    size_t owned = fake_owned_bytes();
    bool zero;
    fake_os.fail_kinds = FAKE_MEMORY;
    must(page_run_take(1, PAGE_BYTES, &zero) == 0);
    must(fake_owned_bytes() == owned);
    fake_os.fail_kinds = FAKE_BIT(FAKE_MAP); /* no tables */
    must(page_run_take(1, PAGE_BYTES, &zero) == 0);
    must(fake_owned_bytes() == owned);
    must_match_the_books();
    fake_os.fail_kinds = 0;
    take(1);
    must_match_the_books();
}

/* Each call of a growth fails once, and all that come after it. */
static void growth_fails_at_every_call(void) {
    for (unsigned every = 0; every < 2; every++) {
        for (uint64_t k = 1; k < 30; k++) {
            bool zero;
            fake_os.fail_first = fake_os.calls + k;
            fake_os.fail_count = every ? 100 : 1;
            uintptr_t run = page_run_take(9000, PAGE_BYTES, &zero);
            fake_os.fail_count = 0;
            must(!run || page_run_pages(run) == 9000);
            must_match_the_books();
            if (k % 3 == 0 && run)
                must(page_run_give(run));
        }
    }
    take(1000);
    must_match_the_books();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        body_test(a_heap_of_hundreds_of_regions),
        body_test(the_break_comes_first),
        body_test(the_pad_is_what_was_asked_for),
        body_test(a_negative_pad_is_none),
        body_test(a_pad_that_is_refused_is_done_without),
        body_test(an_odd_break_is_rounded_up),
        body_test(larger_pages_are_not_split),
        body_test(foreign_memory_stays_foreign),
        body_test(a_shared_break_never_shrinks),
        body_test(growth_goes_on_beside_a_foreign_sbrk),
        body_test(no_page_is_entered_twice),
        body_test(without_a_break_zones_are_mapped_at_hints),
        body_test(zones_follow_when_the_break_is_at_its_limit),
        body_test(an_occupied_hint_is_passed_over),
        body_test(where_no_memory_is_left_few_calls_are_made),
        body_test(without_hints_zones_are_anywhere),
        body_test(aligned_runs_fit_into_mapped_zones),
        body_test(trim_lowers_the_break_to_the_pad),
        body_test(trim_stops_at_what_is_live),
        body_test(a_whole_heap_can_go_and_come),
        body_test(a_break_that_does_not_go_down_is_kept),
        body_test(a_refused_growth_leaves_nothing_behind),
        body_test(growth_fails_at_every_call),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
