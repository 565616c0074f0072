/* SPDX-License-Identifier: MIT
 *
 * test_aligned.c: memalign, aligned_alloc, posix_memalign, valloc and pvalloc.
 */
#include "support.h"

#include "api_under_test.h"

static void check_aligned_block(void *block, size_t alignment, size_t size) {
    if (block == NULL || !is_aligned(block, alignment) || !is_aligned(block, 16) ||
        t_malloc_usable_size(block) < size)
        fail_msg("alignment %zu, size %zu: got %p, usable %zu", alignment, size, block,
                 t_malloc_usable_size(block));
    unsigned char *bytes = block;
    if (size > 0) {
        bytes[0] = 1;
        bytes[size - 1] = 2;
    }
}

static void alignments_up_to_one_gib(void **state) {
    (void)state;
    for (size_t alignment = 1; alignment <= GIB; alignment *= 2) {
        const size_t sizes[] = {
            0, 1, alignment - 1, alignment, alignment + 1, alignment / 2 * 3, 100, 5000, 70000};
        for (size_t i = 0; i < COUNT_OF(sizes); i++) {
            void *first = t_memalign(alignment, sizes[i]);
            check_aligned_block(first, alignment, sizes[i]);
            void *second = t_aligned_alloc(alignment, sizes[i]);
            check_aligned_block(second, alignment, sizes[i]);
            assert_ptr_not_equal(first, second);
            t_free(first);
            void *third = NULL;
            if (alignment >= sizeof(void *)) {
                assert_int_equal(t_posix_memalign(&third, alignment, sizes[i]), 0);
                check_aligned_block(third, alignment, sizes[i]);
            }
            t_free(second);
            t_free(third);
        }
    }
}

#if !UNDER_SANITIZER && !ON_GLIBC /* COMPAT-15 */
/* What lies beside such a block is not kept for it. */
static void an_alignment_takes_no_address_space(void **state) {
    (void)state;
    t_free(t_memalign(GIB, 100));
    size_t before = virtual_bytes();
    void *block[4];
    for (size_t i = 0; i < COUNT_OF(block); i++)
        assert_non_null(block[i] = t_memalign(GIB, 100));
    assert_true(virtual_bytes() < before + MIB);
    for (size_t i = 0; i < COUNT_OF(block); i++)
        t_free(block[i]);
    assert_true(virtual_bytes() <= before + 64 * KIB);
}
#endif

/* glibc 2.36 rounds an alignment that is no power of two up to the next one (its manual says
 * EINVAL); aligned_alloc does the same up to 2.37. */
static void odd_alignments_are_rounded_up(void **state) {
    (void)state;
    static const size_t cases[][2] = {{0, 16},      {3, 16},        {17, 32},          {24, 32},
                                      {48, 64},     {100, 128},     {257, 512},        {4095, 4096},
                                      {4097, 8192}, {12288, 16384}, {3 << 20, 4 << 20}};
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        for (size_t size = 0; size <= 20000; size = size * 3 + 1) {
            void *block = t_memalign(cases[i][0], size);
            check_aligned_block(block, cases[i][1], size);
            t_free(block);
#if !(defined(TEST_LIBC) && __GLIBC_PREREQ(2, 38)) /* COMPAT-1 */
            block = t_aligned_alloc(cases[i][0], size);
            check_aligned_block(block, cases[i][1], size);
            t_free(block);
#endif
        }
    }
}

static void alignment_beyond_the_address_space_fails(void **state) {
    (void)state;
    errno = 0;
    assert_null(t_memalign(SIZE_MAX / 2 + 2, 1));
    assert_int_equal(errno, EINVAL);
    errno = 0;
    assert_null(t_memalign(SIZE_MAX, 1));
    assert_int_equal(errno, EINVAL);
    errno = 0;
    assert_null(t_aligned_alloc(SIZE_MAX / 2 + 2, 1));
    assert_int_equal(errno, EINVAL);
    errno = 0;
    assert_null(t_memalign(SIZE_MAX / 2 + 1, 1));
    assert_int_equal(errno, ENOMEM);
    errno = 0;
    assert_null(t_memalign((size_t)1 << 62, 1));
    assert_int_equal(errno, ENOMEM);
}

static void posix_memalign_errors_touch_nothing(void **state) {
    (void)state;
    static const size_t bad[] = {0, 1, 2, 4, 12, 24, 40, 4104, 3, SIZE_MAX, SIZE_MAX / 2 + 2};
    void *const untouched = &errno;
    for (size_t i = 0; i < COUNT_OF(bad); i++) {
        void *block = untouched;
        errno = 1234;
        assert_int_equal(t_posix_memalign(&block, bad[i], 100), EINVAL);
        assert_ptr_equal(block, untouched);
        assert_int_equal(errno, 1234);
    }
    void *block = untouched;
    assert_int_equal(t_posix_memalign(&block, 64, PTRDIFF_MAX), ENOMEM);
    assert_ptr_equal(block, untouched);
    assert_int_equal(t_posix_memalign(&block, SIZE_MAX / 2 + 1, 64), ENOMEM);
    assert_ptr_equal(block, untouched);
    errno = 1234;
    assert_int_equal(t_posix_memalign(&block, 64, 64), 0);
    assert_int_equal(errno, 1234);
    t_free(block);
}

static void pvalloc_rounds_up_to_pages(void **state) {
    (void)state;
    for (size_t size = 1; size < 40 * PAGE; size += size % PAGE < 3 ? 1 : 511) {
        void *block = t_pvalloc(size);
        check_aligned_block(block, PAGE, (size + PAGE - 1) / PAGE * PAGE);
        memset(block, 0xa5, (size + PAGE - 1) / PAGE * PAGE);
        t_free(block);
    }
}

/* Blocks of one alignment live side by side, each written in full, and are freed in random order. */
static void aligned_blocks_do_not_overlap(void **state) {
    (void)state;
    enum { BLOCKS = 200 };
    struct rng rng = {test_seed()};
    for (size_t alignment = 16; alignment <= 64 * KIB; alignment *= 2) {
        void *blocks[BLOCKS] = {0};
        size_t filled[BLOCKS] = {0};
        for (size_t step = 0; step < BLOCKS * 8; step++) {
            size_t i = rng_below(&rng, BLOCKS);
            if (blocks[i] != NULL) {
                assert_true(pattern_intact(blocks[i], filled[i], i, filled[i]));
                t_free(blocks[i]);
            }
            size_t size = rng_below(&rng, rng_below(&rng, 2) == 0 ? 200 : 20000);
            blocks[i] = t_memalign(alignment, size);
            check_aligned_block(blocks[i], alignment, size);
            filled[i] = t_malloc_usable_size(blocks[i]);
            pattern_fill(blocks[i], filled[i], i);
        }
        for (size_t i = 0; i < BLOCKS; i++) {
            assert_true(blocks[i] == NULL || pattern_intact(blocks[i], filled[i], i, filled[i]));
            t_free(blocks[i]);
        }
    }
}

/* What alignment costs: a block aligned to a page needs its page and little more. */
static void aligned_blocks_do_not_waste_memory(void **state) {
    (void)state;
    enum { BLOCKS = 2000 };
    static void *blocks[BLOCKS];
    (void)t_malloc_trim(0);
    size_t before = resident_bytes();
    for (size_t i = 0; i < BLOCKS; i++) {
        blocks[i] = t_memalign(PAGE, PAGE);
        check_aligned_block(blocks[i], PAGE, PAGE);
        memset(blocks[i], 1, PAGE);
    }
    size_t used = resident_bytes() - before;
    for (size_t i = 0; i < BLOCKS; i++)
        t_free(blocks[i]);
    printf("# %d blocks of a page, page-aligned, took %zu KiB\n", BLOCKS, used / KIB);
    size_t limit = ON_GLIBC ? BLOCKS * PAGE * 9 / 4 : BLOCKS * PAGE * 9 / 8; /* COMPAT-4 */
    assert_true(UNDER_SANITIZER || used <= limit);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(alignments_up_to_one_gib),
        cmocka_unit_test(odd_alignments_are_rounded_up),
        cmocka_unit_test(alignment_beyond_the_address_space_fails),
#if !UNDER_SANITIZER && !ON_GLIBC
        cmocka_unit_test(an_alignment_takes_no_address_space),
#endif
        cmocka_unit_test(posix_memalign_errors_touch_nothing),
        cmocka_unit_test(pvalloc_rounds_up_to_pages),
        cmocka_unit_test(aligned_blocks_do_not_overlap),
        cmocka_unit_test(aligned_blocks_do_not_waste_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
