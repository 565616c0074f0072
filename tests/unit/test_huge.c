/* SPDX-License-Identifier: MIT
 *
 * test_huge.c: pages that become resident as huge ones: never without being asked, never more of them
 * unused than the share says, and the kernel may refuse.
 */
#include "run_support.h"

#include "limit.h"
#include "page_internal.h"

enum { SHORT = 8 };

/* Takes runs as slabs do until so many pages are in use; none may start where another lies. */
static void grow_to(size_t pages) {
    while (page_live_bytes() < pages << PAGE_SHIFT)
        take_dirty(SHORT);
}

static size_t live_pages(void) {
    return page_live_bytes() >> PAGE_SHIFT;
}

/* Grows run by run; at each step what is free and resident is within the share. */
static void grow_within(size_t pages, size_t percent) {
    while (live_pages() < pages) {
        take_dirty(SHORT);
        must(purge_dirty_pages() * 100 <= live_pages() * percent);
    }
}

static void there_are_none_by_default(void) {
    grow_to(40000);
    must(fake_os.huge_bytes == 0);
}

static void a_large_heap_has_them_within_the_share(void) {
    page_set_huge_share(5);
    grow_within(40000, 5);
    /* From 512 pages in 5 % on, that is 40 MiB, all that is taken is huge. */
    size_t most = (40000 - 512 * 20) * PAGE_BYTES;
    must(fake_os.huge_bytes > most - 4 * MIB && fake_os.huge_bytes <= most + 2 * MIB);
    must_be_sound();
}

static void a_small_heap_has_none(void) {
    page_set_huge_share(5);
    grow_to(10000);
    must(fake_os.huge_bytes == 0);
}

/* What was filled is taken before any other page. */
static void what_is_filled_is_used_first(void) {
    page_set_huge_share(10);
    grow_to(20000);
    uint64_t filled = fake_os.huge_bytes;
    size_t left = purge_dirty_pages();
    must(filled > 0);
    for (size_t pages = 0; pages + SHORT <= left; pages += SHORT)
        take_dirty(SHORT);
    must(fake_os.huge_bytes == filled && purge_dirty_pages() < SHORT);
}

static void long_runs_fill_none(void) {
    page_set_huge_share(100);
    for (int i = 0; i < 100; i++)
        take_dirty(HUGE_RUN_PAGES + 1);
    must(fake_os.huge_bytes == 0);
    take_dirty(HUGE_RUN_PAGES);
    must(fake_os.huge_bytes == 2 * MIB);
}

/* More than the purge's bound would only be filled to go back. */
static void the_threshold_bounds_them(void) {
    page_set_huge_share(100);
    page_set_trim_threshold(MIB);
    grow_to(20000);
    must(fake_os.huge_bytes == 0);
    page_set_trim_threshold(2 * MIB);
    grow_to(30000);
    must(fake_os.huge_bytes > 0 && page_state.purged_total == 0);
}

static void a_trim_gives_back_what_nobody_used(void) {
    page_set_huge_share(10);
    grow_to(20000);
    must(purge_dirty_pages() > 0);
    page_trim(0);
    must(purge_dirty_pages() == 0);
    must_be_sound();
}

/* What was given back is wanted again, and earns the budget that keeps more the next time. */
static void what_a_purge_took_is_counted_as_wanted(void) {
    page_set_huge_share(10);
    grow_to(10000);
    while (purge_dirty_pages())
        take_dirty(min_size(SHORT, purge_dirty_pages()));
    uint64_t filled = fake_os.huge_bytes;
    page_state.purged_outstanding = 400;
    page_state.budget_pages = 0;
    take_dirty(SHORT);
    must(fake_os.huge_bytes == filled + 2 * MIB);
    must(page_state.purged_outstanding == 0 && page_state.budget_pages == 800);
}

static void the_limit_holds(void) {
    page_set_huge_share(100);
    grow_to(10000);
    uint64_t filled = fake_os.huge_bytes;
    take_dirty(purge_dirty_pages() ? purge_dirty_pages() : 1);
    limit_set(limit_held_bytes() + MIB);
    take_dirty(SHORT);
    must(fake_os.huge_bytes == filled && limit_held_bytes() <= limit_get());
}

/* The request is served, and the kernel is not asked at each run. */
static void the_kernel_may_refuse(void) {
    page_set_huge_share(10);
    fake_os.fail_kinds = FAKE_BIT(FAKE_HUGE);
    grow_to(30000);
    must(fake_os.huge_bytes == 0 && fake_os.count[FAKE_HUGE] == 1);
    must(purge_dirty_pages() == 0 && page_state.held_pages == 0);
    must_be_sound();
    page_trim(0);
    fake_os.fail_kinds = 0;
    grow_to(40000);
    must(fake_os.huge_bytes > 0);
}

/* The break grows from dirty pages that end where it does: they hold what they held, so that who wants
 * zeroes must not be told that they read as zero. */
static void what_was_dirty_stays_dirty_where_the_kernel_refuses(void) {
    grow_to(20000);
    bool zero;
    uintptr_t last = page_run_take(SHORT / 2, 2 * MIB, &zero);
    memset((void *)last, 1, SHORT / 2 * PAGE_BYTES);
    must(page_run_give(last) && hot_merge_all());
    page_set_huge_share(100);
    fake_os.fail_kinds = FAKE_BIT(FAKE_HUGE);
    lock_take(&page_state.lock);
    must(!huge_fill() && fake_os.count[FAKE_HUGE] == 1);
    lock_drop(&page_state.lock);
    const struct region *region = pagemap_region(last);
    for (unsigned i = 0; i < SHORT / 2; i++)
        must(buddy_has(&region->dirty, pagemap_page(region, last) + i));
    must_be_sound();
}

/* But for the page that is written to so that the kernel may make a huge one of it. */
static void what_was_clean_stays_clean_where_the_kernel_refuses(void) {
    grow_to(20000);
    page_set_huge_share(100);
    fake_os.fail_kinds = FAKE_BIT(FAKE_HUGE);
    size_t dirty_pages = purge_dirty_pages();
    lock_take(&page_state.lock);
    must(!huge_fill() && fake_os.count[FAKE_HUGE] == 1);
    lock_drop(&page_state.lock);
    must(dirty_pages == 0 && purge_dirty_pages() == 1 && page_state.held_pages == 0);
    must_be_sound();
}

/* Their huge pages have another size. */
static void larger_pages_have_none(void) {
    fake_os.page_bytes = 16 * KIB;
    page_set_huge_share(100);
    grow_to(20000);
    must(fake_os.count[FAKE_HUGE] == 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        body_test(there_are_none_by_default),
        body_test(a_large_heap_has_them_within_the_share),
        body_test(a_small_heap_has_none),
        body_test(what_is_filled_is_used_first),
        body_test(long_runs_fill_none),
        body_test(the_threshold_bounds_them),
        body_test(a_trim_gives_back_what_nobody_used),
        body_test(what_a_purge_took_is_counted_as_wanted),
        body_test(the_limit_holds),
        body_test(the_kernel_may_refuse),
        body_test(what_was_dirty_stays_dirty_where_the_kernel_refuses),
        body_test(what_was_clean_stays_clean_where_the_kernel_refuses),
        body_test(larger_pages_have_none),
    };
    return cmocka_run_group_tests_name("huge", tests, NULL, NULL);
}
