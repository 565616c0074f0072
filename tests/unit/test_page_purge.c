/* SPDX-License-Identifier: MIT
 *
 * test_page_purge.c: what is given back to the system, and when: the bound, the threshold and the
 * pad that users set, the budget, memory that cannot be purged.
 */
#include "run_support.h"

#include "page_internal.h"

static struct page_counts now;

/* ---- the default ------------------------------------------------------------------------------- */

static void dirty_bytes_stay_below_a_mib_or_an_eighth(void) {
    enum { RUNS = 400 };
    page_state.credit_ns = INT64_MAX / 2; /* there is time enough */
    uintptr_t runs[RUNS];
    for (size_t i = 0; i < RUNS; i++)
        runs[i] = take_dirty(1 + i % 90);
    must(page_trim_bound() == (page_live_bytes() / 8 & ~(PAGE_BYTES - 1)));
    page_note_fall();
    for (size_t i = 0; i < RUNS; i++) {
        must(page_run_give(runs[i * 7 % RUNS]));
        size_t bound = page_live_bytes() / 8;
        must(dirty_bytes() <= (bound > MIB ? bound : MIB));
        must_hold(shadow_violation());
    }
    must(page_trim_bound() == MIB);
    must_be_sound();
}

static void little_is_never_given_back(void) {
    uintptr_t run = take_dirty(256);
    uint64_t calls = give_back_calls();
    for (size_t i = 0; i < 100; i++) {
        must(page_run_give(run));
        must(dirty_bytes() == MIB);
        run = take_dirty(256);
    }
    must(give_back_calls() == calls);
    must_be_sound();
}

/* What is freed is what is taken again, whatever lies beside it. */
static void a_loop_of_one_size_makes_no_calls(void) {
    const size_t sizes[] = {1, 3, 31, 100, 129, 200, 255};
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        uintptr_t first = take_dirty(sizes[i]);
        uint64_t calls = fake_os.calls;
        for (size_t k = 0; k < 50; k++) {
            must(page_run_give(first));
            must(take_dirty(sizes[i]) == first);
        }
        must(fake_os.calls == calls);
        must(page_run_give(first));
        page_trim(0);
    }
    must_be_sound();
}

/* However long a free extent is, no more of it goes than must. */
static void a_long_extent_goes_in_part(void) {
    page_set_trim_threshold(4 * MIB);
    for (size_t pages = 1100; pages < 6000; pages += 700) {
        uintptr_t run = take_dirty(pages), above = take_dirty(1);
        must(page_run_give(run));
        pass_the_moment();
        must(dirty_bytes() == (pages << PAGE_SHIFT > 4 * MIB ? 3 * MIB : pages << PAGE_SHIFT));
        must(page_run_give(above));
        page_trim(0);
        must_be_sound();
    }
}

/* Clean pages below the dirty ones at the top of the break are not kept in their stead. */
static void the_top_goes_by_what_is_dirty(void) {
    page_set_trim_threshold(4 * MIB);
    bool zero;
    uintptr_t run = page_run_take(6000, REGION_BYTES, &zero); /* before it there are clean pages */
    must(run != 0);
    must(page_run_give(run));
    must(dirty_bytes() == 3 * MIB);
    must(fake_break() == run + 3 * MIB);
    must_be_sound();
}

/* ---- the budget -------------------------------------------------------------------------------- */

enum { SECOND_NS = 1000000000 };

static void breathe(size_t times, size_t pages) {
    for (size_t i = 0; i < times; i++)
        must(page_run_give(take_dirty(pages)));
}

static void a_heap_that_breathes_earns_a_budget(void) {
    breathe(1, 4096);
    must(page_trim_bound() == MIB);
    breathe(60, 4096);
    size_t bound = page_trim_bound();
    page_count(&now);
    must(bound > MIB && bound <= now.peak_zone_bytes);
    must(dirty_bytes() > MIB);
    breathe(100, 4096);
    must(page_trim_bound() <= now.peak_zone_bytes);
    must_be_sound();
}

/* A heap of 16 MiB that has breathed so often that all of it may stay dirty; and is, as a second begins.  Returns the bound. */
static size_t earn_the_whole_heap(void) {
    fake_os.clock_step_ns = 0;
    breathe(100, 4096);
    fake_os.clock_ns += SECOND_NS;
    page_settle_old();
    must(page_trim_bound() >= 16 * MIB && dirty_bytes() == 16 * MIB);
    return page_trim_bound();
}

/* Half of what stays dirty throughout a second, though no page is taken or given meanwhile. */
static void a_budget_that_is_not_wanted_is_lost(void) {
    for (size_t bound = earn_the_whole_heap(); bound > 2 * MIB; bound = page_trim_bound()) {
        fake_os.clock_ns += SECOND_NS - 1;
        must(!purge_is_due());
        page_settle_old();
        must(page_trim_bound() == bound);
        size_t dirty_pages = dirty_bytes() / PAGE_BYTES;
        fake_os.clock_ns++;
        must(purge_is_due());
        page_settle_old();
        must(page_trim_bound() == bound - (dirty_pages + 1) / 2 * PAGE_BYTES &&
             dirty_bytes() <= page_trim_bound());
    }
    must_be_sound();
}

static void many_seconds_count_as_such(void) {
    size_t bound = earn_the_whole_heap();
    fake_os.clock_ns += 3 * (uint64_t)SECOND_NS;
    page_settle_old();
    must(page_trim_bound() == bound - 14 * MIB && dirty_bytes() <= page_trim_bound());
    must_be_sound();
}

/* However seldom the heap breathes, as long as each second sees its pages in use. */
static void a_budget_that_is_wanted_stays(void) {
    size_t bound = earn_the_whole_heap();
    uint64_t calls = give_back_calls();
    for (size_t seconds = 0; seconds < 20; seconds++) {
        fake_os.clock_ns += SECOND_NS;
        breathe(1, 4096);
        must(page_trim_bound() == bound);
    }
    must(give_back_calls() == calls);
    must_be_sound();
}

/* Only what was dirty all the while counts as unwanted. */
static void what_is_wanted_in_part_is_lost_in_part(void) {
    size_t bound = earn_the_whole_heap();
    breathe(1, 3072);
    fake_os.clock_ns += SECOND_NS;
    breathe(1, 1); /* sees the time */
    must(page_trim_bound() == bound - 2 * MIB);
    must_be_sound();
}

static void a_budget_is_left_alone_where_it_keeps_nothing(void) {
    size_t bound = earn_the_whole_heap();
    uintptr_t run = take_dirty(2048), other = take_dirty(2048 - 256); /* two at once are not kept */
    fake_os.clock_ns += 2 * (uint64_t)SECOND_NS;
    must(dirty_bytes() == MIB && !purge_is_due());
    must(page_run_give(run) && page_run_give(other));
    must(page_trim_bound() ==
         bound - MIB / 4 * 3); /* when R > 1 MiB again: of what was dirty all the while */
    page_set_trim_threshold(32 * MIB);
    fake_os.clock_ns += 2 * (uint64_t)SECOND_NS;
    must(dirty_bytes() > MIB && !purge_is_due());
    must_be_sound();
}

/* While the clock stands still, what giving back may cost is soon used up; as it goes on, the bound
 * is in force again. */
static void giving_back_takes_a_share_of_the_time(void) {
    fake_os.clock_step_ns = 0;
    uint64_t calls = 0;
    size_t rounds = 0;
    do {
        calls = give_back_calls();
        page_state.budget_pages = page_state.purged_outstanding = 0;
        breathe(1, 8000);
        must(++rounds < 1000);
    } while (give_back_calls() > calls);
    must(rounds > 1 && dirty_bytes() > page_trim_bound());
    must_be_sound();
    fake_os.clock_ns += 60000000000; /* a minute */
    breathe(1, 8000);
    must(dirty_bytes() <= page_trim_bound());
    must_be_sound();
}

/* No CPU time passes, and none is left to be credited. */
static void stop_time(int64_t credit_ns) {
    fake_os.clock_step_ns = 0;
    page_state.credited_cpu_ns = UINT64_MAX;
    page_state.credit_ns = credit_ns;
}

/* Frees runs of four pages in an order that joins few of them, and tells what stays dirty. */
static size_t empty_a_heap(int64_t credit_ns) {
    enum { RUNS = 2000 };
    static uintptr_t runs[RUNS];
    for (size_t i = 0; i < RUNS; i++)
        runs[i] = take_dirty(4);
    stop_time(credit_ns);
    for (size_t i = 0; i < RUNS; i++)
        must(page_run_give(runs[i * 1237 % RUNS]));
    must_be_sound();
    return dirty_bytes();
}

static void a_heap_that_empties_is_swept_on_credit(void) {
    must(empty_a_heap(0) <= 2 * MIB);
    must(give_back_calls() <= 500); /* one by one it would be 2 000 */
}

static void a_debt_ends_the_sweeps(void) {
    must(empty_a_heap(-(int64_t)BURST_NS) > 30 * MIB);
    must(give_back_calls() == 0);
}

static void a_debt_ends_a_sweep_that_has_begun(void) {
    must(empty_a_heap(1 - (int64_t)BURST_NS) > 20 * MIB);
    must(give_back_calls() == 1);
}

/* What the user has set is kept at any price. */
static void a_threshold_is_worth_any_time(void) {
    fake_os.clock_step_ns = 0;
    page_set_trim_threshold(MIB);
    for (size_t i = 0; i < 30; i++) {
        breathe(1, 8000);
        must(dirty_bytes() <= MIB);
    }
    must_be_sound();
}

static void the_top_keeps_the_pad(void) {
    page_set_top_pad(MIB);
    page_set_trim_threshold(2 * MIB);
    uintptr_t low = take_dirty(10), high = take_dirty(3000), end = low + 10 * PAGE_BYTES;
    must(page_run_give(high));
    must(fake_break() == end + 3 * MIB / 2);
    must(dirty_bytes() == 3 * MIB / 2);
    page_set_top_pad(7 * MIB / 4);
    must(page_run_give(take_dirty(3000)));
    must(fake_break() == end + 7 * MIB / 4);
    must_be_sound();
}

static void minus_one_keeps_everything(void) {
    page_set_headroom(0);
    page_set_trim_threshold((size_t)-1);
    uint64_t calls = give_back_calls();
    breathe(50, 5000);
    must(give_back_calls() == calls);
    must(dirty_bytes() == 5000 * PAGE_BYTES);
    page_trim(0);
    must(dirty_bytes() == 0);
    must(give_back_calls() > calls);
    must_be_sound();
}

/* ---- trim -------------------------------------------------------------------------------------- */

static void trim_returns_what_it_gave_back(void) {
    page_set_headroom(0);
    page_set_trim_threshold(SIZE_MAX);
    uintptr_t hole = take_dirty(700), wall = take_dirty(1), top = take_dirty(300);
    must(page_run_give(hole) && page_run_give(top));
    page_count(&now);
    must(now.dirty_bytes == 1000 * PAGE_BYTES && now.purged_bytes == 0 && now.trimmed_bytes == 0);
    size_t bytes = page_trim(0), top_bytes = now.top_bytes;
    page_count(&now);
    must(bytes == 700 * PAGE_BYTES + top_bytes);
    must(now.purged_bytes == 700 * PAGE_BYTES && now.trimmed_bytes == top_bytes);
    must(now.dirty_bytes == 0 && now.clean_bytes == 700 * PAGE_BYTES && now.top_bytes == 0);
    must(fake_resident_bytes((void *)hole, 700 * PAGE_BYTES) == 0);
    must(page_trim(0) == 0);
    must(page_run_give(wall));
    must_be_sound();
}

static void neighbours_go_in_one_call(void) {
    page_set_headroom(0);
    page_set_trim_threshold(SIZE_MAX);
    uintptr_t run = take_dirty(1000), wall = take_dirty(1);
    must(page_run_give(run));
    page_trim(0);
    must(fake_os.count[FAKE_PURGE] == 1);
    must(page_run_give(wall));
    must_be_sound();
}

/* ---- memory that cannot be purged ---------------------------------------------------------------- */

static void refused_pages_stay_dirty_and_the_bound_rests(void) {
    fake_os.fail_kinds = FAKE_BIT(FAKE_PURGE);
    uintptr_t run = take_dirty(1000), wall = take_dirty(1);
    must(page_run_give(run));
    must(dirty_bytes() == 1000 * PAGE_BYTES && page_state.purge_refused);
    uint64_t purges = fake_os.count[FAKE_PURGE];
    bool zero = true;
    must(page_run_take(1000, PAGE_BYTES, &zero) == run && !zero);
    must(page_run_give(run));
    must(fake_os.count[FAKE_PURGE] == purges); /* it is not tried again and again */
    must_be_sound();
    fake_os.clock_ns += 10 * (uint64_t)1000000000; /* but after a while */
    must_take(run, 1000, false);
    must(page_run_give(run) && fake_os.count[FAKE_PURGE] == ++purges);
    must_take(run, 1000, false);
    must(page_run_give(run) && fake_os.count[FAKE_PURGE] == purges);
    page_trim(0); /* and when asked to */
    must(fake_os.count[FAKE_PURGE] == purges + 1 && dirty_bytes() == 1000 * PAGE_BYTES);
    fake_os.fail_kinds = 0;
    must(page_trim(0) >= 1000 * PAGE_BYTES);
    must(dirty_bytes() == 0 && !page_state.purge_refused);
    must(page_run_give(wall));
    must_be_sound();
}

static void parts_of_larger_pages_stay_dirty(void) {
    fake_os.page_bytes = 64 * KIB;
    page_set_trim_threshold(0);
    uintptr_t run = take_dirty(64), rest = run + 3 * PAGE_BYTES;
    must(run % (64 * KIB) == 0);
    must(page_run_shrink(run, 3)); /* 61 pages: 3 whole system pages and 13 granules */
    must(dirty_bytes() == 13 * PAGE_BYTES);
    must(fake_resident_bytes((void *)rest, 13 * PAGE_BYTES) == 13 * PAGE_BYTES);
    must_be_sound();
}

static struct extent in_purge;

static void purge_begins(struct extent extent) {
    in_purge = extent;
    page_state.held_pages = (extent.end - extent.start) >> PAGE_SHIFT;
    extent_remove(extent);
}

static void purge_ends(void) {
    fake_os.on_yield = NULL;
    page_state.held_pages = 0;
    extent_insert(in_purge, false);
}

/* What another thread gives back just now is nobody's, and will be free again. */
static void who_finds_nothing_waits_for_a_purge(void) {
    uintptr_t run = take_dirty(200);
    take_dirty(1);
    must(page_run_give(run) && last_merge());
    fake_os.fail_kinds = FAKE_MEMORY;
    fake_os.fail_count = UINT64_MAX;
    bool zero;
    size_t free_bytes = page_free_bytes();
    purge_begins(extent_holding(run));
    must(page_state.held_pages >= 200 && page_free_bytes() == free_bytes);
    must(page_run_take(150, PAGE_BYTES, &zero) == 0); /* it takes too long */
    must(fake_os.yields > 0);
    fake_os.on_yield = purge_ends;
    must(page_run_take(150, PAGE_BYTES, &zero) != 0);
    must(fake_os.on_yield == NULL);
    must_be_sound();
}

/* As in glibc: who asks for a pad wants no fault there. */
static void trim_leaves_the_pad_resident(void) {
    page_set_headroom(0);
    page_set_top_pad(0);
    page_set_trim_threshold(SIZE_MAX);
    uintptr_t low = take_dirty(100), keep = take_dirty(1), run = take_dirty(4096);
    must(page_run_give(low) && page_run_give(run));
    must(fake_break() == run + 16 * MIB);
    page_trim(4 * MIB);
    must(fake_break() == run + 4 * MIB && dirty_bytes() == 4 * MIB);
    must(fake_resident_bytes((void *)run, 4 * MIB) == 4 * MIB);
    must(fake_resident_bytes((void *)low, 100 * PAGE_BYTES) == 0);
    must(page_trim(4 * MIB) == 0 && take_dirty(1024) == run);
    must(page_run_give(run) && page_trim(0) == 4 * MIB && dirty_bytes() == 0);
    must(page_run_give(keep));
    must_be_sound();
}

/* A signal handler forks while its thread purges: the child forgets what is held, and goes on purging. */
static void what_is_held_in_a_repair_is_not_held_twice(void) {
    uintptr_t run = take_dirty(100), wall = take_dirty(1);
    must(page_run_give(run) && last_merge());
    lock_take(&page_state.lock);
    struct extent extent = {run, run + 100 * PAGE_BYTES};
    must(purge_hold(extent) == 100 && page_state.held_pages == 100);
    lock_drop(&page_state.lock);
    page_repair();
    lock_take(&page_state.lock);
    purge_let_go(extent, true);
    must(page_state.held_pages == 0);
    lock_drop(&page_state.lock);
    must(page_live_bytes() == PAGE_BYTES && page_run_give(wall));
    must_be_sound();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        body_test(dirty_bytes_stay_below_a_mib_or_an_eighth),
        body_test(little_is_never_given_back),
        body_test(a_loop_of_one_size_makes_no_calls),
        body_test(a_long_extent_goes_in_part),
        body_test(the_top_goes_by_what_is_dirty),
        body_test(a_heap_that_breathes_earns_a_budget),
        body_test(a_budget_that_is_not_wanted_is_lost),
        body_test(many_seconds_count_as_such),
        body_test(a_budget_that_is_wanted_stays),
        body_test(what_is_wanted_in_part_is_lost_in_part),
        body_test(a_budget_is_left_alone_where_it_keeps_nothing),
        body_test(giving_back_takes_a_share_of_the_time),
        body_test(a_heap_that_empties_is_swept_on_credit),
        body_test(a_debt_ends_the_sweeps),
        body_test(a_debt_ends_a_sweep_that_has_begun),
        body_test(a_threshold_is_worth_any_time),
        body_test(the_top_keeps_the_pad),
        body_test(minus_one_keeps_everything),
        body_test(trim_leaves_the_pad_resident),
        body_test(who_finds_nothing_waits_for_a_purge),
        body_test(trim_returns_what_it_gave_back),
        body_test(neighbours_go_in_one_call),
        body_test(what_is_held_in_a_repair_is_not_held_twice),
        body_test(refused_pages_stay_dirty_and_the_bound_rests),
        body_test(parts_of_larger_pages_stay_dirty),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
