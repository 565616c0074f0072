/* SPDX-License-Identifier: MIT
 *
 * test_heap.c: which route serves a request, what another route does where one is refused, what is
 * not touched, and the dynamic mmap threshold.
 */
#include "unit_support.h"

#include "api.h"
#include "cache.h"
#include "mapping.h"

#include <malloc.h>

enum route { OBJECT, RUN, MAPPING };

static enum route route_of(const void *block) {
    unsigned class_index = pagemap_class(block);
    if (class_index && !sizeclass_is_run(class_index))
        return OBJECT;
    if (page_run_pages((uintptr_t)block))
        return RUN;
    must(mapping_bytes(block) != 0);
    return MAPPING;
}

static void *take(size_t size, enum route route) {
    void *block = api_malloc(size);
    must(block && route_of(block) == route);
    must(api_malloc_usable_size(block) >= size);
    memset(block, 0x77, size);
    return block;
}

static void size_decides_the_route(void) {
    take(0, OBJECT);
    take(1, OBJECT);
    take(SMALL_MAX, OBJECT);
    take(SMALL_MAX + 1, RUN);
    take(128 * KIB - 1, RUN);
    take(128 * KIB, MAPPING);
    take(100 * MIB, MAPPING);
    must(api_malloc_usable_size(take(20000, RUN)) == 20480);
    must(api_malloc_usable_size(take(200000, MAPPING)) == 200704);
    must_be_sound();
}

static void impossible_sizes_make_no_calls(void) {
    take(1, OBJECT);
    uint64_t calls = fake_os.calls;
    static const size_t sizes[] = {(size_t)PTRDIFF_MAX + 1, SIZE_MAX - PAGE, SIZE_MAX - 1,
                                   SIZE_MAX};
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        errno = 0;
        must(api_malloc(sizes[i]) == NULL && errno == ENOMEM);
        must(api_calloc(sizes[i], 1) == NULL && api_calloc(1, sizes[i]) == NULL);
        must(api_calloc(sizes[i] / 2 + 1, 4) == NULL);
        must(api_memalign(64, sizes[i]) == NULL);
        must(api_memalign(GIB, sizes[i] - GIB) == NULL);
        must(api_pvalloc(sizes[i]) == NULL && api_valloc(sizes[i]) == NULL);
    }
    must(fake_os.calls == calls);
    must_be_sound();
}

/* ---- one route for another ----------------------------------------------------------------------- */

static void a_run_serves_where_no_mapping_does(void) {
    take(1, OBJECT);
    fake_os.fail_kinds = FAKE_BIT(FAKE_MAP) | FAKE_BIT(FAKE_MAP_AT);
    void *block = take(MIB, RUN); /* by the break */
    fake_os.fail_kinds = 0;
    api_free(block);
    must_be_sound();
}

static void a_mapping_serves_where_no_run_does(void) {
    fake_os.fail_kinds = FAKE_BIT(FAKE_BREAK_GROW) | FAKE_BIT(FAKE_MAP_AT);
    fake_os.space_limit = fake_owned_bytes() + 500 * KIB; /* a zone needs a region's tables, too */
    void *block = take(100 * KIB, MAPPING);
    api_free(block);
    must(mapping_live() == 0);
    must_be_sound();
}

/* One mapping more might be the last that the kernel allows, and end the break's growth with it. */
static void runs_serve_while_mappings_are_crowded(void) {
    void *blocks[40];
    must(api_mallopt(M_MMAP_THRESHOLD, 128 * KIB) == 1);
    for (size_t i = 0; i < 40; i++)
        blocks[i] = take(MIB, MAPPING);
    fake_os.fail_kinds = FAKE_BIT(FAKE_UNMAP);
    api_free(blocks[39]);
    fake_os.fail_kinds = 0;
    void *run = take(MIB, RUN), *grown = api_realloc(take(100 * KIB, RUN), 200 * KIB);
    must(route_of(grown) == RUN);
    fake_os.fail_kinds = FAKE_BIT(FAKE_BREAK_GROW) | FAKE_BIT(FAKE_MAP_AT);
    fake_os.space_limit =
        fake_owned_bytes() + 4 * MIB + 500 * KIB; /* no room for a region's tables */
    api_free(take(4 * MIB, MAPPING));             /* where no run does, it is tried all the same */
    fake_os.fail_kinds = 0;
    fake_os.space_limit = SIZE_MAX;
    for (size_t i = 0; i < 39; i++)
        api_free(blocks[i]);
    take(MIB, MAPPING);
    api_free(run);
    api_free(grown);
    must_be_sound();
}

static void realloc_copies_where_remapping_is_refused(void) {
    unsigned char *block = take(MIB, MAPPING);
    pattern_fill(block, MIB, 3);
    fake_os.fail_kinds = FAKE_BIT(FAKE_REMAP);
    block = api_realloc(block, 3 * MIB);
    must(block && route_of(block) == MAPPING && pattern_intact(block, MIB, 3, MIB));
    must(mapping_live() == 1);
    block = api_realloc(block, 512 * KIB);
    must(block && pattern_intact(block, MIB, 3, 512 * KIB));
    must(mapping_live() == (route_of(block) == MAPPING));
    must_be_sound();
}

static void realloc_goes_between_all_routes(void) {
    static const size_t sizes[] = {100, 20000, 200000, 5000, 2000000, 30000, 16, 150000, 10};
    size_t old = sizes[COUNT_OF(sizes) - 1];
    unsigned char *block = api_malloc(old);
    pattern_fill(block, old, 9);
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        block = api_realloc(block, sizes[i]);
        size_t kept = min_size(old, sizes[i]) & ~(size_t)7;
        must(block && (old <= sizes[i] ? pattern_intact(block, old, 9, old)
                                       : pattern_intact(block, old, 9, kept)));
        pattern_fill(block, sizes[i], 9);
        old = sizes[i];
    }
    must(mapping_live() == 0);
    must_be_sound();
}

static void a_refused_realloc_leaves_the_block(void) {
    static const size_t sizes[] = {16, 5000, 20000, 200000};
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        unsigned char *block = api_malloc(sizes[i]);
        pattern_fill(block, sizes[i], i);
        fake_os.fail_kinds = FAKE_MEMORY;
        errno = 0;
        must(api_realloc(block, 64 * MIB) == NULL && errno == ENOMEM);
        must(api_realloc(block, SIZE_MAX) == NULL);
        must(pattern_intact(block, sizes[i], i, sizes[i]));
        fake_os.fail_kinds = 0;
        api_free(block);
        must_be_sound();
    }
}

/* ---- runs that grow ------------------------------------------------------------------------------- */

/* Resizes a run, which keeps its route and its bytes; whether it moved. */
static bool grow(char **block, size_t old, size_t size) {
    char *moved = api_realloc(*block, size);
    must(moved && route_of(moved) == RUN);
    for (size_t i = 0; i < old; i++)
        must(moved[i] == 0x77);
    memset(moved + old, 0x77, size - old);
    bool has_moved = moved != *block;
    *block = moved;
    return has_moved;
}

/* Of 50 steps each, what grows by a quarter before it moves again moves eight times. */
static void what_grows_by_small_steps_moves_seldom(void) {
    char *blocks[2] = {take(20 * KIB, RUN), take(20 * KIB, RUN)};
    unsigned moves = 0;
    for (size_t size = 22 * KIB; size <= 120 * KIB; size += 2 * KIB)
        for (size_t i = 0; i < 2; i++)
            moves += grow(&blocks[i], size - 2 * KIB, size);
    must(moves >= 1 && moves <= 16);
    api_free(blocks[0]);
    api_free(blocks[1]);
    must_be_sound();
}

/* A run that has moved once because it grew, with another one behind it, whose end is told. */
static char *take_grown(char **end) {
    char *block = take(40 * KIB, RUN), *last = take(20 * KIB, RUN);
    must(grow(&block, 40 * KIB, 48 * KIB));
    must(block == last + 20 * KIB); /* where any other would lie */
    *end = (char *)take(20 * KIB, RUN) + 20 * KIB;
    return block;
}

static void what_grows_again_gets_room(void) {
    char *end, *block = take_grown(&end);
    must(grow(&block, 48 * KIB, 56 * KIB));
    must(block == end + 12 * KIB);           /* a quarter is free before it, */
    must(!grow(&block, 56 * KIB, 64 * KIB)); /* and behind it */
    must_be_sound();
}

static void what_grew_where_it_was_gets_room(void) {
    char *block = take(40 * KIB, RUN);
    must(!grow(&block, 40 * KIB, 48 * KIB));
    char *last = take(20 * KIB, RUN);
    must(grow(&block, 48 * KIB, 56 * KIB));
    must(block == last + 20 * KIB + 12 * KIB);
    must_be_sound();
}

static void what_grows_by_large_steps_gets_no_room(void) {
    char *end, *block = take_grown(&end);
    must(grow(&block, 48 * KIB, 64 * KIB));
    must(block == end);
    must_be_sound();
}

static void what_has_room_may_be_cached(void) {
    char *end, *block = take_grown(&end);
    must(grow(&block, 48 * KIB, 56 * KIB));
    must(pagemap_class(block) == sizeclass_for_run(56 * KIB));
    must_be_sound();
}

/* ---- what is not touched ------------------------------------------------------------------------- */

static void calloc_does_not_touch_what_is_zero(void) {
    static const size_t sizes[] = {100 * KIB, 10 * MIB};
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        unsigned char *block = api_calloc(1, sizes[i]);
        must(block && fake_resident_bytes(block, sizes[i]) == 0);
        must(all_zero(block, sizes[i]));
    }
    must_be_sound();
}

static void calloc_clears_what_was_used(void) {
    static const size_t sizes[] = {10, 3000, 16384, 100000, 300000};
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        for (size_t round = 0; round < 40; round++) {
            unsigned char *block = api_calloc(1, sizes[i]);
            must(block && all_zero(block, sizes[i]));
            memset(block, 0xff, sizes[i]);
            api_free(block);
        }
    }
    must_be_sound();
}

/* ---- the dynamic threshold ------------------------------------------------------------------------ */

static void a_freed_mapping_raises_the_threshold(void) {
    must(heap_mmap_threshold() == 128 * KIB);
    api_free(take(MIB, MAPPING));
    must(heap_mmap_threshold() == MIB + 1);
    api_free(take(MIB, RUN)); /* the same size again */
    api_free(take(200 * KIB, RUN));
    api_free(take(32 * MIB, MAPPING));
    must(heap_mmap_threshold() == 32 * MIB + 1);
    api_free(take(33 * MIB, MAPPING)); /* too large to learn from */
    must(heap_mmap_threshold() == 32 * MIB + 1);
    must_be_sound();
}

static void any_of_four_parameters_fixes_the_threshold(void) {
    static const int parameters[] = {M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX};
    for (size_t i = 0; i < COUNT_OF(parameters); i++) {
        fflush(NULL);
        pid_t pid = fork();
        if (pid == 0) {
            must(api_mallopt(parameters[i], 150000) == 1);
            size_t threshold = heap_mmap_threshold();
            api_free(take(MIB, MAPPING));
            must(heap_mmap_threshold() == threshold);
            _exit(0);
        }
        must(wait_for(pid) == 0);
    }
}

/* ---- trim ---------------------------------------------------------------------------------------- */

static void trim_empties_a_heap_that_is_free(void) {
    static void *blocks[2000];
    uintptr_t start = fake_break();
    for (size_t i = 0; i < COUNT_OF(blocks); i++)
        blocks[i] = take(i * 7, i * 7 > SMALL_MAX ? RUN : OBJECT);
    for (size_t i = 0; i < COUNT_OF(blocks); i++)
        api_free(blocks[i]);
    must(api_malloc_trim(0) == 1);
    must(fake_break() == start && page_live_bytes() == 0);
    must(api_malloc_trim(0) == 0); /* nothing is left to give back */
    must_be_sound();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        body_test(size_decides_the_route),
        body_test(impossible_sizes_make_no_calls),
        body_test(a_run_serves_where_no_mapping_does),
        body_test(a_mapping_serves_where_no_run_does),
        body_test(runs_serve_while_mappings_are_crowded),
        body_test(realloc_copies_where_remapping_is_refused),
        body_test(realloc_goes_between_all_routes),
        body_test(a_refused_realloc_leaves_the_block),
        body_test(what_grows_by_small_steps_moves_seldom),
        body_test(what_grows_again_gets_room),
        body_test(what_grew_where_it_was_gets_room),
        body_test(what_grows_by_large_steps_gets_no_room),
        body_test(what_has_room_may_be_cached),
        body_test(calloc_does_not_touch_what_is_zero),
        body_test(calloc_clears_what_was_used),
        body_test(a_freed_mapping_raises_the_threshold),
        body_test(any_of_four_parameters_fixes_the_threshold),
        body_test(trim_empties_a_heap_that_is_free),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
