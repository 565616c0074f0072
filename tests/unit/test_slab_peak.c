/* SPDX-License-Identifier: MIT
 *
 * test_slab_peak.c: where a heap grows to a peak, holes in the slabs of other sizes pay for it.
 *
 * There is no other time for holes: the clock stands still, and nothing is left of what was there at first.
 */
#include "unit_support.h"

#include "api.h"
#include "page_internal.h"
#include "purge.h"
#include "slab_internal.h"

enum { OLD_BYTES = 512, NEW_BYTES = 1024, PER_PAGE = (int)PAGE_BYTES / OLD_BYTES, PAGES = 4096 };

static unsigned old_class, new_class;
static void *old[PAGES * PER_PAGE];

static void take(unsigned class_index, void **out, size_t count) {
    while (count > 0) {
        unsigned got = slab_take(class_index, out, (unsigned)min_size(count, 128));
        must(got > 0);
        out += got;
        count -= got;
    }
}

static void give(void *object) {
    unsigned culprit;
    must(slab_give(old_class, &object, 1, &culprit) == SLAB_OK);
}

/* All that is due, a piece at a time. */
static size_t all_due(void) {
    size_t all = 0, due;
    while ((due = page_peak_due()) != 0) {
        must(due <= 256);
        all += due;
    }
    return all;
}

/* 16 MiB of the old size, as a peak that has been seen. */
static void use_much(void) {
    fake_os.clock_step_ns = 0;
    page_state.credit_ns = -(int64_t)BURST_NS * 1000; /* more than growing earns */
    slab_small_most = 0;
    old_class = sizeclass_for(OLD_BYTES);
    new_class = sizeclass_for(NEW_BYTES);
    take(old_class, old, COUNT_OF(old));
    must(all_due() > 0 && page_peak_due() == 0);
}

static bool slab_object_is_free(const void *object) {
    uintptr_t start;
    bool is_free = true;
    return slab_around((uintptr_t)object, &start, &is_free) == 0 || is_free;
}

static bool is_in_page(const void *object, unsigned of, unsigned first) {
    return ((uintptr_t)object >> PAGE_SHIFT) % of >= first;
}

static size_t page_in_slab(const void *object) {
    const struct slab *slab = slab_find(old_class, (uintptr_t)object);
    must(slab != NULL);
    return ((uintptr_t)object - slab->base) >> PAGE_SHIFT;
}

/* Frees what is in the last three of each slab's four pages. */
static void leave_holes(void) {
    must(size_classes[old_class].pages == 4);
    for (size_t i = 0; i < COUNT_OF(old); i++)
        if (page_in_slab(old[i]) >= 1)
            give(old[i]);
    must(slab_classes[old_class].free_objects == COUNT_OF(old) / 4 * 3);
    must(fake_os.count[FAKE_PURGE] == 0);
}

static size_t holes(void) {
    return slab_classes[old_class].holes_outstanding;
}

static void as_many_pages_go_as_came(void) {
    static void *more[4 * MIB / NEW_BYTES];
    use_much();
    leave_holes();
    must(all_due() == 0);
    take(new_class, more, COUNT_OF(more));
    size_t grown = all_due();
    must(grown * PAGE_BYTES >= 4 * MIB && grown * PAGE_BYTES < 4 * MIB + MIB);
    slab_trim_at_peak(grown);
    must(holes() >= grown && holes() < grown + SLAB_MAX_PAGES);
    must(all_due() == 0);
    must_be_sound();
}

static void searches_go_on_until_a_quarter_is_left(void) {
    use_much();
    leave_holes();
    slab_trim_at_peak(600);
    size_t first = holes();
    uint64_t calls = fake_os.count[FAKE_PURGE];
    must(first >= 600 && calls <= first / 3 + 1); /* three pages at a time, none twice */
    for (size_t i = 0; i < 20; i++)
        slab_trim_at_peak(600);
    must(holes() > first && fake_os.count[FAKE_PURGE] == holes() / 3);
    size_t left = PAGES / 4 * 3 - holes(); /* so much may stay free */
    must(left <= PAGES / 4 && left > PAGES / 4 - 600);
    must_be_sound();
}

/* Calls are dear where there are threads: a tenth of what came is all that there is time for. */
static void calls_take_time(void) {
    use_much();
    leave_holes();
    __libc_single_threaded = 0;
    slab_trim_at_peak(600);
    must(holes() > 0 && holes() < 300);
    must(fake_os.count[FAKE_PURGE] * 3 == holes());
    must_be_sound();
}

/* Else a class that lost and regained its slabs would never be searched again. */
static void holes_leave_with_their_slabs(void) {
    use_much();
    for (size_t round = 0; round < 3; round++) {
        uint64_t calls = fake_os.count[FAKE_PURGE];
        for (size_t i = 0; i < COUNT_OF(old); i++)
            if (page_in_slab(old[i]) >= 1)
                give(old[i]);
        for (size_t i = 0; i < 20; i++)
            slab_trim_at_peak(600);
        must(holes() > PAGES / 3 && fake_os.count[FAKE_PURGE] > calls + PAGES / 9);
        for (size_t i = 0; i < COUNT_OF(old); i++)
            if (!slab_object_is_free(old[i]))
                give(old[i]);
        must(holes() == 0 && slab_classes[old_class].slabs == 0);
        take(old_class, old, COUNT_OF(old));
        must_be_sound();
    }
}

/* What is in use like that is soon wanted again. */
static void classes_that_are_nearly_full_are_left_alone(void) {
    use_much();
    for (size_t i = 0; i < COUNT_OF(old); i++)
        if (is_in_page(old[i], 10, 9))
            give(old[i]);
    slab_trim_at_peak(1000);
    must(fake_os.count[FAKE_PURGE] == 0);
    for (size_t i = 0; i < COUNT_OF(old); i++)
        if (is_in_page(old[i], 10, 7) && !is_in_page(old[i], 10, 9))
            give(old[i]);
    slab_trim_at_peak(1000);
    must(fake_os.count[FAKE_PURGE] > 0);
    must_be_sound();
}

/* Half of the objects are free and no page is, but for the highest: it takes more time than there is for two pages. */
static void a_search_ends_with_its_time(void) {
    use_much();
    uintptr_t highest = 0;
    for (size_t i = 0; i < COUNT_OF(old); i++)
        highest = max_size(highest, round_down((uintptr_t)old[i], PAGE_BYTES));
    for (size_t i = 0; i < COUNT_OF(old); i++)
        if ((uintptr_t)old[i] / OLD_BYTES % 2 || (uintptr_t)old[i] >= highest)
            give(old[i]);
    size_t searches = 0;
    while (fake_os.count[FAKE_PURGE] == 0 && searches < 1000) {
        slab_trim_at_peak(2);
        searches++;
    }
    must(searches > 10 && searches < 1000);
    must(holes() == 1 && fake_resident_bytes((void *)highest, PAGE_BYTES) == 0);
    must_be_sound();
}

static void what_the_kernel_keeps_stays(void) {
    use_much();
    leave_holes();
    fake_os.fail_kinds = FAKE_BIT(FAKE_PURGE);
    slab_trim_at_peak(600);
    must(fake_os.count[FAKE_PURGE] > 0 && holes() == 0);
    must_be_sound();
}

static size_t resident_pages(void) {
    return page_state.zone_pages - page_state.clean_pages;
}

static size_t pages_to_the_next_peak(void) {
    static void *more[128];
    size_t before = resident_pages();
    do {
        take(new_class, more, COUNT_OF(more));
    } while (all_due() == 0);
    return resident_pages() - before;
}

/* A peak is a 32nd and 1 MiB above the last one. */
static void small_steps_are_no_peaks(void) {
    use_much();
    size_t pages = pages_to_the_next_peak();
    must(pages >= 256 && pages < 256 + 2 * SLAB_MAX_PAGES);
    must(page_run_take(64 * MIB >> PAGE_SHIFT, PAGE_BYTES, &(bool){false}));
    must(all_due() > 0);
    size_t share = resident_pages() / 32;
    pages = pages_to_the_next_peak();
    must(share > 512 && pages >= share && pages < share + 2 * SLAB_MAX_PAGES);
    must_be_sound();
}

/* Nobody may ever write to it. */
static void a_large_run_is_no_reason_for_much(void) {
    use_much();
    must(page_run_take(256 * MIB >> PAGE_SHIFT, PAGE_BYTES, &(bool){false}));
    must(all_due() * PAGE_BYTES == 16 * MIB);
    must_be_sound();
}

static void classes_with_little_are_left_alone(void) {
    use_much();
    static void *few[8 * PER_PAGE / 2]; /* eight pages, two slabs */
    take(new_class, few, COUNT_OF(few));
    old_class = new_class;
    for (size_t i = 0; i < COUNT_OF(few); i++)
        if (page_in_slab(few[i]) >= 1)
            give(few[i]);
    size_t free_bytes = slab_classes[new_class].free_objects * NEW_BYTES;
    must(free_bytes > 4 * PAGE_BYTES && free_bytes <= 8 * PAGE_BYTES);
    slab_trim_at_peak(1000);
    must(fake_os.count[FAKE_PURGE] == 0);
    must_be_sound();
}

static void who_sets_the_threshold_has_no_peaks(void) {
    use_much();
    page_set_trim_threshold(64 * MIB);
    static void *more[4 * MIB / NEW_BYTES];
    take(new_class, more, COUNT_OF(more));
    must(all_due() == 0);
    must_be_sound();
}

/* The same through the API. */
static void a_thread_that_allocates_sees_to_it(void) {
    use_much();
    for (size_t i = 0; i < COUNT_OF(old); i++)
        if (page_in_slab(old[i]) >= 2)
            give(old[i]);
    must(fake_os.count[FAKE_PURGE] == 0);
    for (size_t i = 0; i < 8 * MIB / NEW_BYTES; i++)
        must(api_malloc(NEW_BYTES) != NULL);
    must(holes() * PAGE_BYTES > 3 * MIB); /* of 8, and 4 are a quarter */
    must_be_sound();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        body_test(as_many_pages_go_as_came),
        body_test(searches_go_on_until_a_quarter_is_left),
        body_test(classes_that_are_nearly_full_are_left_alone),
        body_test(a_search_ends_with_its_time),
        body_test(what_the_kernel_keeps_stays),
        body_test(calls_take_time),
        body_test(holes_leave_with_their_slabs),
        body_test(small_steps_are_no_peaks),
        body_test(a_large_run_is_no_reason_for_much),
        body_test(classes_with_little_are_left_alone),
        body_test(who_sets_the_threshold_has_no_peaks),
        body_test(a_thread_that_allocates_sees_to_it),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
