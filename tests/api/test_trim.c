/* SPDX-License-Identifier: MIT
 *
 * test_trim.c: what is given back to the kernel, when, and what M_TRIM_THRESHOLD makes of it.
 *
 * Each test runs in a child, for settings last and resident sizes must start from a quiet heap.
 * Resident sizes mean nothing beside the shadow memory of sanitizers; with those, only the tests
 * that look at return values and contents are compiled.
 */
#include "support.h"

#include "api_under_test.h"

enum { SKIPPED = 77 };

/* A heap of many small blocks, in a table outside of the heap. */
static struct {
    void **blocks;
    size_t count;
    size_t before; /* resident bytes when it was empty */
} heap;

static size_t mixed_size(size_t i) {
    return 16 + i * i * 31 % 1000;
}

static size_t run_size(size_t i) {
    return 20000 + i * i * 31 % 80000;
}

/* Mostly small, some in page runs of their own. */
static size_t any_size(size_t i) {
    return i % 16 == 0 ? run_size(i) : mixed_size(i);
}

static void fill_heap(size_t bytes, size_t (*size_of)(size_t)) {
    enum { MOST = 400000 };
    heap.blocks = map_table(MOST * sizeof *heap.blocks);
    memset(heap.blocks, 0, MOST * sizeof *heap.blocks);
    heap.before = resident_bytes();
    size_t total = 0;
    for (heap.count = 0; total < bytes; heap.count++) {
        must(heap.count < MOST);
        size_t size = size_of(heap.count);
        heap.blocks[heap.count] = t_malloc(size);
        must(heap.blocks[heap.count] != NULL);
        pattern_fill(heap.blocks[heap.count], size, heap.count);
        total += size;
    }
}

static void empty_heap(void) {
    for (size_t i = 0; i < heap.count; i++) {
        t_free(heap.blocks[i]);
        heap.blocks[i] = NULL;
    }
}

/* ---- Return values and contents ------------------------------------------------------------------ */

static void run_return_values(void) {
    fill_heap(8 * MIB, mixed_size);
    must(t_mallopt(M_TRIM_THRESHOLD, -1) == 1);
    empty_heap();
    errno = 1234;
    must(t_malloc_trim(0) == 1);
    must(errno == 1234);
#if !ON_GLIBC /* COMPAT-9 */
    must(t_malloc_trim(0) == 0);
    must(t_malloc_trim(MIB) == 0);
    must(errno == 1234);
#endif
}

static void trim_returns_one_only_if_it_released_memory(void **state) {
    (void)state;
    assert_child_succeeds(run_return_values);
}

/* Pages that were given back are zero and others are not: calloc must know which. */
static void run_contents(void) {
    struct rng rng = {1};
    fill_heap(16 * MIB, any_size);
    for (int round = 0; round < 10; round++) {
        for (size_t i = 0; i < heap.count; i++) {
            if (rng_below(&rng, 3) == 0)
                continue;
            must(heap.blocks[i] == NULL ||
                 pattern_intact(heap.blocks[i], any_size(i), i, any_size(i)));
            t_free(heap.blocks[i]);
            heap.blocks[i] = NULL;
        }
        (void)t_malloc_trim(0);
        for (size_t i = 0; i < heap.count; i++) {
            if (heap.blocks[i] != NULL)
                continue;
            heap.blocks[i] = t_calloc(1, any_size(i));
            must(all_zero(heap.blocks[i], any_size(i)));
            pattern_fill(heap.blocks[i], any_size(i), i);
        }
    }
    empty_heap();
}

static void live_blocks_and_calloc_survive_trimming(void **state) {
    (void)state;
    assert_child_succeeds(run_contents);
}

/* Locked memory cannot be given back; what is freed stays dirty, and calloc must clear it. */
static void run_locked(void) {
    if (mlockall(MCL_CURRENT | MCL_FUTURE) != 0)
        _exit(SKIPPED);
    must(t_mallopt(M_TRIM_THRESHOLD, 65536) == 1);
    run_contents();
    void *block = t_malloc(3 * MIB);
    memset(block, 1, 3 * MIB);
    t_free(block);
    (void)t_malloc_trim(0);
    block = t_calloc(1, 3 * MIB);
    must(all_zero(block, 3 * MIB));
    t_free(block);
}

static void locked_memory_is_no_trouble(void **state) {
    (void)state;
    int status = run_in_child(run_locked);
    if (WIFEXITED(status) && WEXITSTATUS(status) == SKIPPED)
        skip();
    assert_int_equal(status, 0);
}

#if !UNDER_SANITIZER && !ON_GLIBC
/* Whether this kernel gives locked pages back (5.18). */
static bool locked_pages_can_go(void) {
    enum { DONTNEED_LOCKED = 24 };
    void *page = map_table(PAGE);
    bool can = mlock(page, PAGE) == 0 && madvise(page, PAGE, DONTNEED_LOCKED) == 0;
    munmap(page, PAGE);
    return can;
}

/* One page that was not unlocked before its block was freed. */
static void run_locked_page(void) {
    enum { COUNT = 100, BYTES = 100000 };
    static char *block[COUNT];
    if (!locked_pages_can_go())
        _exit(SKIPPED);
    size_t before = resident_bytes();
    for (size_t i = 0; i < COUNT; i++) {
        must((block[i] = t_malloc(BYTES)) != NULL);
        memset(block[i], 1, BYTES);
    }
    must(mlock(block[COUNT / 2] + PAGE, 1) == 0);
    for (size_t i = 0; i < COUNT; i++)
        t_free(block[i]);
    must(resident_bytes() < before + 3 * MIB);
    (void)t_malloc_trim(0);
    must(resident_bytes() < before + MIB / 2);
    char *again = t_calloc(1, 3 * MIB);
    must(all_zero(again, 3 * MIB));
}

static void a_locked_page_does_not_keep_the_others(void **state) {
    (void)state;
    int status = run_in_child(run_locked_page);
    if (WIFEXITED(status) && WEXITSTATUS(status) == SKIPPED)
        skip();
    assert_int_equal(status, 0);
}
#endif

/* ---- Resident sizes ------------------------------------------------------------------------------ */

#if !UNDER_SANITIZER
static size_t equal_size(size_t i) {
    (void)i;
    return 512;
}

static void expect_resident(const char *when, size_t least, size_t most) {
    size_t resident = resident_bytes();
    size_t used = resident > heap.before ? resident - heap.before : 0;
    printf("# resident %s: %zu KiB above the empty heap\n", when, used / KIB);
    fflush(stdout);
    must(used >= least);
    must(used <= most);
}

static void run_never_trim(void) {
    must(t_mallopt(M_TRIM_THRESHOLD, -1) == 1);
    fill_heap(64 * MIB, mixed_size);
    empty_heap();
    expect_resident("after frees that keep everything", 60 * MIB, 96 * MIB);
    must(t_malloc_trim(0) == 1);
    expect_resident("after malloc_trim", 0, 2 * MIB);
}

static void threshold_minus_one_keeps_everything_until_trim(void **state) {
    (void)state;
    assert_child_succeeds(run_never_trim);
}

static void run_small_threshold(size_t (*size_of)(size_t)) {
    must(t_mallopt(M_TRIM_THRESHOLD, 64 << 10) == 1);
    fill_heap(64 * MIB, size_of);
    empty_heap();
    expect_resident("after frees with a small threshold", 0, 2 * MIB);
}

static void run_small_threshold_small_blocks(void) {
    run_small_threshold(mixed_size);
}

static void run_small_threshold_runs(void) {
    run_small_threshold(run_size);
}

static void a_small_threshold_returns_memory_on_free(void **state) {
    (void)state;
    assert_child_succeeds(run_small_threshold_small_blocks);
    assert_child_succeeds(run_small_threshold_runs);
}

static void run_default(void) {
    fill_heap(64 * MIB, mixed_size);
    empty_heap();
    expect_resident("after frees with default settings", 0, 4 * MIB);
}

static void a_heap_that_empties_is_returned_by_default(void **state) {
    (void)state;
    assert_child_succeeds(run_default);
}

/* Bytes of the pages that live blocks lie on. */
static size_t live_page_bytes(size_t size) {
    size_t pages = 0;
    uintptr_t highest = 0;
    unsigned char *seen = map_table(GIB);
    uintptr_t base = UINTPTR_MAX;
    for (size_t i = 0; i < heap.count; i++) {
        if (heap.blocks[i] != NULL && (uintptr_t)heap.blocks[i] < base)
            base = (uintptr_t)heap.blocks[i] & ~(PAGE - 1);
    }
    for (size_t i = 0; i < heap.count; i++) {
        uintptr_t start = (uintptr_t)heap.blocks[i];
        for (uintptr_t at = start; heap.blocks[i] != NULL && at < start + size; at += 16) {
            size_t page = (at - base) / PAGE;
            must(page < GIB);
            pages += !seen[page];
            seen[page] = 1;
            highest = at > highest ? at : highest;
        }
    }
    munmap(seen, GIB);
    return pages * PAGE;
}

/* Frees 95 of 100 blocks at random: two thirds of the pages inside the slabs become free. */
static void make_holes(void) {
    struct rng rng = {42};
    for (size_t i = 0; i < heap.count; i++) {
        if (rng_below(&rng, 100) < 95) {
            t_free(heap.blocks[i]);
            heap.blocks[i] = NULL;
        }
    }
}

static void expect_only_live_pages(const char *when) {
    size_t live = live_page_bytes(512);
    must(live < 20 * MIB);
    expect_resident(when, live, live + live / 10 + MIB);
    for (size_t i = 0; i < heap.count; i++)
        must(heap.blocks[i] == NULL || pattern_intact(heap.blocks[i], 512, i, 512));
}

static void run_holes_with_trim(void) {
    must(t_mallopt(M_TRIM_THRESHOLD, -1) == 1);
    fill_heap(40 * MIB, equal_size);
    make_holes();
    expect_resident("with holes inside slabs", 38 * MIB, 60 * MIB);
    must(t_malloc_trim(0) == 1);
    expect_only_live_pages("after malloc_trim");
    empty_heap();
}

static void trim_returns_holes_between_live_blocks(void **state) {
    (void)state;
    assert_child_succeeds(run_holes_with_trim);
}

#if !ON_GLIBC /* COMPAT-10: glibc gives such pages back in malloc_trim only. */
static void run_holes_with_threshold(void) {
    must(t_mallopt(M_TRIM_THRESHOLD, 64 << 10) == 1);
    fill_heap(40 * MIB, equal_size);
    make_holes();
    expect_only_live_pages("with holes and a small threshold");
    empty_heap();
}

/* A quarter of the pages: searched for when an eighth of what was live is free. */
static void run_few_holes_with_threshold(void) {
    must(t_mallopt(M_TRIM_THRESHOLD, 64 << 10) == 1);
    fill_heap(40 * MIB, equal_size);
    for (size_t i = 0; i < heap.count; i++)
        if (i / (PAGE / 512) % 4 == 0) {
            t_free(heap.blocks[i]);
            heap.blocks[i] = NULL;
        }
    size_t live = live_page_bytes(512);
    must(live < 33 * MIB);
    expect_resident("with few holes and a small threshold", live, live + live / 8 + MIB);
    empty_heap();
}

static void a_small_threshold_returns_holes_on_free(void **state) {
    (void)state;
    assert_child_succeeds(run_holes_with_threshold);
    assert_child_succeeds(run_few_holes_with_threshold);
}

static void run_late_threshold(void) {
    must(t_mallopt(M_TRIM_THRESHOLD, -1) == 1);
    fill_heap(64 * MIB, mixed_size);
    empty_heap();
    expect_resident("after frees that keep everything", 60 * MIB, 96 * MIB);
    must(t_mallopt(M_TRIM_THRESHOLD, 64 << 10) == 1);
    t_free(t_malloc(100000));
    expect_resident("after the threshold was lowered", 0, 2 * MIB);
}

static void a_lowered_threshold_takes_effect(void **state) {
    (void)state;
    assert_child_succeeds(run_late_threshold);
}

/* It has fallen by a third: what is not wanted again within a second goes, though nothing is freed then. */
static void run_old_excess(void) {
    enum { SMALL = 20000 };
    fill_heap(60 * MIB, run_size);
    for (size_t i = 0; i < heap.count; i += 3)
        t_free(heap.blocks[i]);
    usleep(1100000);
    for (size_t i = 0; i < SMALL; i++)
        must(t_malloc(64) != NULL);
    expect_resident("after a second and some small blocks", 39 * MIB, 50 * MIB);
}

static void an_old_excess_goes_while_small_blocks_are_allocated(void **state) {
    (void)state;
    assert_child_succeeds(run_old_excess);
}
#endif

static void run_mappings(void) {
    heap.before = resident_bytes();
    must(t_mallopt(M_TRIM_THRESHOLD, -1) == 1);
    for (int i = 0; i < 5; i++) {
        char *block = t_malloc(64 * MIB);
        memset(block, 1, 64 * MIB);
        t_free(block);
        expect_resident("after a mapping was freed", 0, MIB);
        block = t_malloc(64 * MIB);
        memset(block, 1, 64 * MIB);
        block = t_realloc(block, 40 * MIB);
        expect_resident("after a mapping was cut", 39 * MIB, 41 * MIB);
        t_free(block);
    }
}

static void mappings_are_returned_at_once(void **state) {
    (void)state;
    assert_child_succeeds(run_mappings);
}
#endif

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(trim_returns_one_only_if_it_released_memory),
        cmocka_unit_test(live_blocks_and_calloc_survive_trimming),
        cmocka_unit_test(locked_memory_is_no_trouble),
#if !UNDER_SANITIZER && !ON_GLIBC
        cmocka_unit_test(a_locked_page_does_not_keep_the_others),
#endif
#if !UNDER_SANITIZER
        cmocka_unit_test(threshold_minus_one_keeps_everything_until_trim),
        cmocka_unit_test(a_small_threshold_returns_memory_on_free),
        cmocka_unit_test(a_heap_that_empties_is_returned_by_default),
        cmocka_unit_test(trim_returns_holes_between_live_blocks),
#if !ON_GLIBC
        cmocka_unit_test(a_small_threshold_returns_holes_on_free),
        cmocka_unit_test(a_lowered_threshold_takes_effect),
        cmocka_unit_test(an_old_excess_goes_while_small_blocks_are_allocated),
#endif
        cmocka_unit_test(mappings_are_returned_at_once),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
