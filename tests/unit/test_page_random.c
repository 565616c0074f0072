/* SPDX-License-Identifier: MIT
 *
 * test_page_random.c: random runs beside a model, with a kind system, a greedy one and broken ones.
 *
 * After each operation everything that can be verified is, and the figures must agree with the
 * model: what is neither live, dirty nor clean was lost or made up.
 */
#include "run_support.h"

#include "os.h"
#include "page_internal.h"

enum { SLOTS = 60, STEPS = 700 };

struct run {
    uintptr_t start;
    size_t pages;
    uint64_t seed;
};

struct scenario {
    size_t max_pages;  /* of most runs; a few are larger */
    size_t live_pages; /* at most */
    bool flaky;        /* calls fail at random */
    bool bounded;      /* dirty bytes never exceed bound, but for a moment */
    size_t bound;
};

static struct rng rng;
static struct run runs[SLOTS];
static size_t live_pages;
static const struct scenario *scenario;
static bool gave; /* the last step made pages free */

static void put_pattern(struct run *run) {
    run->seed = rng_next(&rng);
    pattern_fill((void *)run->start, run->pages << PAGE_SHIFT, run->seed);
    shadow_live_add((void *)run->start, run->pages << PAGE_SHIFT);
}

static void check_pattern(const struct run *run, size_t pages) {
    must(pattern_intact((void *)run->start, run->pages << PAGE_SHIFT, run->seed,
                        pages << PAGE_SHIFT));
    shadow_live_remove((void *)run->start);
}

static size_t random_pages(void) {
    size_t dice = rng_below(&rng, 100);
    if (dice < 50)
        return rng_between(&rng, 1, 20);
    return rng_between(&rng, 1, dice < 97 ? scenario->max_pages : 4 * scenario->max_pages);
}

static size_t random_align(void) {
    size_t dice = rng_below(&rng, 100);
    return dice < 80 ? PAGE_BYTES : PAGE_BYTES << rng_below(&rng, dice < 98 ? 8 : 15);
}

static void take(struct run *run) {
    size_t pages = random_pages(), align = random_align();
    bool zero = false;
    if (live_pages + pages > scenario->live_pages)
        return;
    if (align == PAGE_BYTES && rng_below(&rng, 8) == 0)
        run->start = page_run_take_roomy(pages); /* where there is such a place */
    if (!run->start)
        run->start = page_run_take(pages, align, &zero);
    must(run->start || scenario->flaky);
    if (!run->start)
        return;
    must(run->start % align == 0);
    must(!zero || all_zero((void *)run->start, pages << PAGE_SHIFT));
    run->pages = pages;
    live_pages += pages;
    put_pattern(run);
}

static void give(struct run *run) {
    check_pattern(run, run->pages);
    must(page_run_give(run->start));
    gave = true;
    live_pages -= run->pages;
    *run = (struct run){0};
}

/* Short runs lie in one region: what crosses a border does not become one. */
static bool may_have(const struct run *run, size_t pages) {
    uintptr_t last = run->start + (pages << PAGE_SHIFT) - 1;
    return pages << PAGE_SHIFT >= RUN_CROSS_BYTES ||
           round_down(run->start, REGION_BYTES) == round_down(last, REGION_BYTES);
}

static void shrink(struct run *run) {
    size_t pages = rng_between(&rng, 0, run->pages + 1);
    check_pattern(run, run->pages);
    bool possible = page_run_shrink(run->start, pages);
    must(possible == (pages != 0 && pages < run->pages && may_have(run, pages)));
    gave = possible;
    if (possible) {
        live_pages -= run->pages - pages;
        run->pages = pages;
    }
    put_pattern(run);
}

static void extend(struct run *run) {
    size_t pages = run->pages + rng_below(&rng, scenario->max_pages);
    check_pattern(run, run->pages);
    if (page_run_extend(run->start, pages)) {
        must(pages > run->pages);
        must(pattern_intact((void *)run->start, run->pages << PAGE_SHIFT, run->seed,
                            run->pages << PAGE_SHIFT));
        live_pages += pages - run->pages;
        run->pages = pages;
    }
    put_pattern(run);
}

/* Questions about addresses in and around a run. */
static void look_at(const struct run *run) {
    size_t pages = 0, bytes = run->pages << PAGE_SHIFT;
    uintptr_t inside = run->start + rng_below(&rng, bytes);
    must(page_run_pages(run->start) == run->pages);
    must(page_run_around(inside, &pages) == run->start && pages == run->pages);
    if (inside != run->start)
        must(page_run_pages(inside) == 0 && !page_run_give(inside));
}

static void step(void) {
    struct run *run = &runs[rng_below(&rng, SLOTS)];
    gave = false;
    size_t dice = rng_below(&rng, 100);
    if (scenario->flaky)
        fake_os.fail_kinds = rng_below(&rng, 3) ? 0 : (unsigned)rng_next(&rng) & FAKE_ALL;
    if (dice == 0)
        page_trim(rng_below(&rng, 2 * MIB));
    else if (!run->start)
        take(run);
    else if (dice < 50)
        give(run);
    else if (dice < 65)
        shrink(run);
    else if (dice < 90)
        extend(run);
    else
        look_at(run);
}

/* No clean page is resident: it was never touched, or is gone. */
static const char *clean_is_not_resident(void) {
    for (uint32_t rank = 0; rank < pagemap_region_count; rank++) {
        const struct region *region = pagemap_ranked(rank);
        for (unsigned order = 0; order < BUDDY_ORDERS; order++)
            for (int page = buddy_next(&region->clean, order, 0); page >= 0;
                 page = buddy_next(&region->clean, order, (unsigned)page + (1u << order)))
                if (fake_resident_bytes((char *)region->base + ((size_t)page << PAGE_SHIFT),
                                        PAGE_BYTES << order) != 0)
                    return "a clean page is resident";
    }
    return "";
}

static void check_all(void) {
    struct page_counts counts;
    must_hold(shadow_violation());
    must_hold(page_verify());
    page_count(&counts);
    must(counts.zone_bytes == counts.dirty_bytes + counts.clean_bytes + (live_pages << PAGE_SHIFT));
    must(page_live_bytes() == live_pages << PAGE_SHIFT);
    must(counts.peak_zone_bytes >= counts.zone_bytes);
    must(!scenario->bounded || counts.dirty_bytes <= with_moment(scenario->bound));
    /* blocks smaller than a system page cannot go back */
    if (counts.purge_refused || os_page_bytes() != PAGE_BYTES)
        return;
    /* Where pages are taken the bound may fall, with time; the excess is noted then. */
    bool noted = !gave && page_state.excess_ns != 0;
    must(noted || counts.dirty_bytes <= max_size(page_trim_bound(), page_live_bytes()));
    if (rng_below(&rng, 8) > 0)
        return;
    page_note_fall();
    page_count(&counts);
    size_t most = scenario->bounded ? with_moment(scenario->bound) : page_trim_bound();
    must(counts.dirty_bytes <= most || counts.purge_refused);
    page_state.fallen_ns = 0;
    fake_os.clock_ns += rng_below(&rng, 2000000000);
}

static void play(const struct scenario *chosen) {
    scenario = chosen;
    rng.state = test_seed();
    page_state.credit_ns = INT64_MAX / 2; /* there is time enough to give everything back */
    for (size_t i = 0; i < STEPS; i++) {
        step();
        check_all();
        if (i % 50 == 0) {
            must_hold(page_map_matches_books());
            must_hold(clean_is_not_resident());
        }
    }
    fake_os.fail_kinds = 0;
    for (size_t i = 0; i < SLOTS; i++)
        if (runs[i].start)
            give(&runs[i]);
    page_trim(0);
    check_all();
    must(live_pages == 0);
    must_hold(page_map_matches_books());
    must_hold(clean_is_not_resident());
}

/* ---- scenarios --------------------------------------------------------------------------------- */

static const struct scenario usual = {.max_pages = 300, .live_pages = 6000};
static const struct scenario huge = {.max_pages = 9000, .live_pages = 60000};
static const struct scenario flaky = {.max_pages = 300, .live_pages = 6000, .flaky = true};

static void on_a_kind_system(void) {
    play(&usual);
}

static void of_runs_longer_than_regions(void) {
    play(&huge);
}

static void without_a_break(void) {
    fake_os.break_limit = 0;
    play(&usual);
}

static void without_break_and_hints(void) {
    fake_os.break_limit = 0;
    fake_os.fail_kinds = FAKE_BIT(FAKE_MAP_AT);
    play(&usual);
}

static void with_a_short_break(void) {
    fake_os.break_limit = 5 * MIB + 123;
    play(&usual);
}

static void beside_a_foreign_sbrk(void) {
    fake_os.foreign_sbrk_bytes = 3 * PAGE_BYTES + 24;
    play(&usual);
}

static void with_pages_of_16_kib(void) {
    fake_os.page_bytes = 16 * KIB;
    play(&usual);
}

static void with_pages_of_64_kib(void) {
    fake_os.page_bytes = 64 * KIB;
    fake_os.break_limit = 5 * MIB;
    play(&usual);
}

static void where_nothing_is_purged(void) {
    fake_os.fail_kinds = FAKE_BIT(FAKE_PURGE);
    play(&usual);
}

static void where_anything_fails_at_times(void) {
    play(&flaky);
}

static void where_anything_fails_beside_a_foreign_sbrk(void) {
    fake_os.foreign_sbrk_bytes = 24;
    fake_os.page_bytes = 16 * KIB;
    play(&flaky);
}

static void with_a_threshold_of_0(void) {
    static const struct scenario bounded = {.max_pages = 300, .live_pages = 6000, .bounded = true};
    page_set_trim_threshold(0);
    play(&bounded);
}

static void with_a_threshold_and_a_pad(void) {
    static const struct scenario bounded = {
        .max_pages = 300, .live_pages = 6000, .bounded = true, .bound = 600 * KIB};
    page_set_trim_threshold(600 * KIB);
    page_set_top_pad(500 * KIB);
    play(&bounded);
}

static void with_huge_pages(void) {
    static const struct scenario bounded = {
        .max_pages = 300, .live_pages = 6000, .bounded = true, .bound = 4 * MIB};
    page_set_trim_threshold(4 * MIB);
    page_set_huge_share(100);
    play(&bounded);
    must(fake_os.huge_bytes > 0);
}

static void with_huge_pages_where_anything_fails(void) {
    page_set_huge_share(100);
    play(&flaky);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        body_test(on_a_kind_system),
        body_test(of_runs_longer_than_regions),
        body_test(without_a_break),
        body_test(without_break_and_hints),
        body_test(with_a_short_break),
        body_test(beside_a_foreign_sbrk),
        body_test(with_pages_of_16_kib),
        body_test(with_pages_of_64_kib),
        body_test(where_nothing_is_purged),
        body_test(where_anything_fails_at_times),
        body_test(where_anything_fails_beside_a_foreign_sbrk),
        body_test(with_a_threshold_of_0),
        body_test(with_a_threshold_and_a_pad),
        body_test(with_huge_pages),
        body_test(with_huge_pages_where_anything_fails),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
