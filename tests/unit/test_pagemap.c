/* SPDX-License-Identifier: MIT
 *
 * test_pagemap.c: regions, head words, the class map and its window, descriptors of slabs.
 *
 * Every body runs in a child, so each begins with a page map that covers nothing.
 */
#include "unit_support.h"

#include "meta.h"
#include "os.h"
#include "pagemap.h"

/* Obtains memory and covers it. */
static uintptr_t covered(uintptr_t at, size_t bytes) {
    uintptr_t start = (uintptr_t)os_map_at((void *)at, bytes);
    must(start == at);
    must(pagemap_cover(start, start + bytes));
    return start;
}

static uintptr_t in_window(void) {
    return pagemap_window.base + GIB;
}

static void cover_makes_regions(void) {
    uintptr_t start = covered(in_window() + 5 * PAGE, 70 * MIB), end = start + 70 * MIB;
    uint32_t count = pagemap_region_count;
    must(count == 3);
    for (uintptr_t at = start; at < end; at += PAGE) {
        struct region *region = pagemap_region(at);
        must(region && region->base == round_down(at, REGION_BYTES));
        must(pagemap_ranked(region->rank) == region);
        must(region->base + ((uintptr_t)pagemap_page(region, at) << PAGE_SHIFT) == at);
    }
    must(pagemap_cover(start, end));
    must(pagemap_region_count == count);
    must_hold(shadow_violation());
}

static void nothing_is_known_of_other_addresses(void) {
    static int foreign;
    uintptr_t start = covered(in_window(), MIB);
    const uintptr_t others[] = {0,
                                1,
                                PAGE,
                                (uintptr_t)&foreign,
                                start - 1,
                                start + REGION_BYTES,
                                start + 100 * GIB,
                                ((uintptr_t)1 << ADDRESS_BITS) - 1,
                                (uintptr_t)1 << ADDRESS_BITS,
                                UINTPTR_MAX - PAGE,
                                UINTPTR_MAX};
    for (size_t i = 0; i < COUNT_OF(others); i++) {
        must(pagemap_region(others[i]) == NULL);
        must(pagemap_head(others[i]) == head_make(HEAD_ABSENT, 0));
        must(pagemap_class((void *)others[i]) == 0);
    }
}

static void heads_are_kept_per_page(void) {
    uintptr_t start = covered(in_window() + REGION_BYTES - 2 * PAGE, 4 * PAGE);
    for (unsigned i = 0; i < 4; i++) {
        struct region *region = pagemap_region(start + i * PAGE);
        pagemap_set_head(region, pagemap_page(region, start + i * PAGE),
                         head_make(HEAD_RUN, HEAD_ARGUMENT - i));
    }
    for (unsigned i = 0; i < 4; i++) {
        uint32_t head = pagemap_head(start + i * PAGE + 77);
        must(head_kind(head) == HEAD_RUN && head_argument(head) == HEAD_ARGUMENT - i);
    }
    must(pagemap_head(start - 1) == 0 && pagemap_head(start + 4 * PAGE) == 0);
}

static void classes_are_kept_per_page(void) {
    uintptr_t start = covered(in_window(), MIB);
    pagemap_set_class(start + 3 * PAGE, 5, 64);
    for (uintptr_t at = start; at < start + MIB; at += 512)
        must(pagemap_class((void *)at) ==
             (at >= start + 3 * PAGE && at < start + 8 * PAGE ? 64 : 0));
    pagemap_set_class(start + 3 * PAGE, 5, 0);
    must(pagemap_class((void *)(start + 3 * PAGE)) == 0);
}

/* The class map grows in place, with what it says. */
static void window_grows_with_the_heap(void) {
    uintptr_t base = pagemap_window.base;
    size_t limit = pagemap_window.limit;
    const uint8_t *map = pagemap_window.class_map;
    must(base % REGION_BYTES == 0 && base <= fake_break());
    uintptr_t low = covered(base + 100 * MIB, MIB);
    pagemap_set_class(low, 1, 9);
    uintptr_t high = covered(base + 3 * GIB, 33 * MIB);
    must(pagemap_window.limit >= (3 * GIB + 33 * MIB) / PAGE && pagemap_window.limit > limit);
    must(pagemap_window.class_map == map && pagemap_window.base == base);
    must(pagemap_class((void *)low) == 9 && pagemap_class((void *)high) == 0);
    pagemap_set_class(high + 33 * MIB - PAGE, 1, 17);
    must(pagemap_class((void *)(high + 33 * MIB - 1)) == 17);
    must_hold(shadow_violation());
}

/* Where the map cannot grow the window stays, and pages beyond it are known by their heads. */
static void a_window_that_cannot_grow_stays(void) {
    size_t limit = pagemap_window.limit;
    must(fake_foreign_map((uintptr_t)pagemap_window.class_map + limit, MIB));
    uintptr_t high = covered(pagemap_window.base + 3 * GIB, MIB);
    must(pagemap_window.limit == limit);
    pagemap_set_class(high, 10, 5);
    must(pagemap_class((void *)high) == 0);
    must(pagemap_region(high) != NULL);
}

/* It must not grow later either, over pages whose classes it has passed over (INV-MAP-1). */
static void a_window_that_once_could_not_grow_stays(void) {
    uintptr_t high = pagemap_window.base + 3 * GIB;
    must(os_map_at((void *)high, 2 * MIB) != NULL);
    fake_os.fail_kinds = FAKE_BIT(FAKE_MAP_AT);
    must(pagemap_cover(high, high + MIB));
    pagemap_set_class(high, 1, 5);
    fake_os.fail_kinds = 0;
    must(pagemap_cover(high + MIB, high + 2 * MIB));
    must(((high - pagemap_window.base) >> PAGE_SHIFT) >= pagemap_window.limit ||
         pagemap_class((void *)high) == 5);
}

static void addresses_beyond_the_window_work(void) {
    uintptr_t far = (uintptr_t)os_map(MIB), below = pagemap_window.base - 32 * MIB;
    size_t limit = pagemap_window.limit;
    must(far - pagemap_window.base > (uintptr_t)1 << 40);
    must(pagemap_cover(far, far + MIB));
    covered(below, MIB);
    must(pagemap_window.limit == limit);
    pagemap_set_class(far, 256, 3);
    pagemap_set_class(below, 256, 3);
    must(pagemap_class((void *)far) == 0 && pagemap_class((void *)below) == 0);
    must(pagemap_region(far) && pagemap_region(below));
}

static void a_refused_region_is_reported(void) {
    uintptr_t start = in_window();
    must(os_map_at((void *)start, 64 * MIB) != NULL);
    for (unsigned k = 0; k < 2; k++) { /* the tree's leaf is one call, each region another */
        fake_os.fail_first = fake_os.calls + 1 + k;
        fake_os.fail_count = 1;
        must(!pagemap_cover(start, start + 64 * MIB));
        fake_os.fail_count = 0;
    }
    must(pagemap_cover(start, start + 64 * MIB));
    must(pagemap_region_count == 2);
    must_hold(shadow_violation());
}

static void regions_fill_chunk_after_chunk(void) {
    enum { REGIONS = 2 * CHUNK_REGIONS + 5 };
    for (uint32_t i = 0; i < REGIONS; i++) {
        uintptr_t at = covered(in_window() + i * REGION_BYTES, PAGE);
        must(pagemap_region_count == i + 1 && pagemap_region(at)->rank == i);
    }
    for (uint32_t i = 0; i < REGIONS; i++)
        must(pagemap_ranked(i)->base == in_window() + i * REGION_BYTES &&
             pagemap_ranked(i)->rank == i);
    must_hold(shadow_violation());
}

static void a_refused_chunk_is_reported(void) {
    for (uint32_t i = 0; i < CHUNK_REGIONS; i++)
        covered(in_window() + i * REGION_BYTES, PAGE);
    uintptr_t next = in_window() + CHUNK_REGIONS * REGION_BYTES;
    must(os_map_at((void *)next, PAGE) != NULL);
    fake_os.fail_kinds = FAKE_MEMORY;
    while (meta_take(64)) /* what is left for tables */
        ;
    fake_os.fail_kinds = 0;
    fake_os.fail_first = fake_os.calls + 1;
    fake_os.fail_count = 1;
    must(!pagemap_cover(next, next + PAGE));
    must(pagemap_region_count == CHUNK_REGIONS && !pagemap_region(next));
    must(pagemap_cover(next, next + PAGE));
    must(pagemap_ranked(CHUNK_REGIONS) == pagemap_region(next));
}

static void descriptors_are_taken_lowest_first(void) {
    struct region *region = pagemap_region(covered(in_window(), MIB));
    for (unsigned i = 0; i < REGION_PAGES; i++)
        must(pagemap_slot_take(region) == &region->slab[i]);
    must(pagemap_slot_take(region) == NULL);
    const unsigned given[] = {8191, 63, 64, 4095, 4096, 0, 777};
    const unsigned sorted[] = {0, 63, 64, 777, 4095, 4096, 8191};
    for (size_t i = 0; i < COUNT_OF(given); i++)
        pagemap_slot_give(region, &region->slab[given[i]]);
    for (size_t i = 0; i < COUNT_OF(sorted); i++)
        must(pagemap_slot_take(region) == &region->slab[sorted[i]]);
    must(pagemap_slot_take(region) == NULL);
}

/* Heads are authoritative: what none of them names is free again. */
static void descriptors_are_rebuilt_from_heads(void) {
    struct region *region = pagemap_region(covered(in_window(), MIB));
    for (unsigned i = 0; i < 100; i++)
        pagemap_slot_take(region)->class_index = 1;
    pagemap_set_head(region, 5, head_make(HEAD_SLAB, 0));
    pagemap_set_head(region, 6, head_make(HEAD_SLAB, 99));
    pagemap_set_head(region, 7, head_make(HEAD_RUN, 3)); /* not a slab: names no descriptor */
    pagemap_repair_slots(region);
    must(region->slab[0].class_index == 1 && region->slab[99].class_index == 1);
    for (unsigned i = 1; i < 99; i++)
        must(pagemap_slot_take(region) == &region->slab[i] && region->slab[i].class_index == 0);
    must(pagemap_slot_take(region) == &region->slab[100]);
}

static void tables_are_counted(void) {
    size_t owned = fake_owned_bytes(), mapped = pagemap_mapped_bytes();
    covered(in_window() + 5 * GIB, 40 * MIB);
    size_t tables = fake_owned_bytes() - owned - 40 * MIB;
    size_t leaves = 128 * KIB; /* these are counted by meta */
    must(pagemap_mapped_bytes() - mapped <= tables);
    must(pagemap_mapped_bytes() - mapped + leaves >= tables);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        body_test(cover_makes_regions),
        body_test(nothing_is_known_of_other_addresses),
        body_test(heads_are_kept_per_page),
        body_test(classes_are_kept_per_page),
        body_test(window_grows_with_the_heap),
        body_test(a_window_that_cannot_grow_stays),
        body_test(a_window_that_once_could_not_grow_stays),
        body_test(addresses_beyond_the_window_work),
        body_test(a_refused_region_is_reported),
        body_test(regions_fill_chunk_after_chunk),
        body_test(a_refused_chunk_is_reported),
        body_test(descriptors_are_taken_lowest_first),
        body_test(descriptors_are_rebuilt_from_heads),
        body_test(tables_are_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
