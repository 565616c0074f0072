/* SPDX-License-Identifier: MIT
 *
 * test_realloc.c: realloc keeps content, fails without harm, and moves only where it may.
 */
#include "support.h"

#include "api_under_test.h"

static const size_t sizes[] = {1,       8,       16,      17,       24,      100,    128,    129,
                               1000,    1024,    1025,    4095,     4096,    5000,   8192,   8193,
                               16384,   16400,   40000,   65536,    131071,  131072, 300000, MIB,
                               MIB + 1, 3 * MIB, 8 * MIB, 33 * MIB, 70 * MIB};

static void content_survives_between_all_sizes(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        for (size_t k = 0; k < COUNT_OF(sizes); k++) {
            size_t kept = sizes[i] < sizes[k] ? sizes[i] : sizes[k];
            void *block = t_malloc(sizes[i]);
            assert_non_null(block);
            pattern_fill(block, sizes[i], i);
            void *other = t_malloc(100);
            block = t_realloc(block, sizes[k]);
            assert_non_null(block);
            assert_true(is_aligned(block, 16));
            assert_true(t_malloc_usable_size(block) >= sizes[k]);
            if (!pattern_intact(block, sizes[i], i, kept))
                fail_msg("realloc from %zu to %zu lost bytes", sizes[i], sizes[k]);
            pattern_fill(block, sizes[k], k);
            t_free(other);
            t_free(block);
        }
    }
}

/* The usual growth of a vector, by a few bytes or by doubling, with other blocks in its way. */
static void growing_step_by_step_keeps_content(void **state) {
    (void)state;
    enum { VECTORS = 5 };
    unsigned char *vector[VECTORS] = {0};
    size_t size[VECTORS] = {0};
    for (size_t step = 0; step < 4000; step++) {
        size_t i = step % VECTORS;
        size_t larger = step < 2000 ? size[i] + 1 + step % 97 : size[i] + size[i] / 16 + 1;
        if (larger > 4 * MIB)
            larger = 1 + step % 1000;
        size_t kept = size[i] < larger ? size[i] : larger;
        vector[i] = t_realloc(vector[i], larger);
        assert_non_null(vector[i]);
        assert_true(pattern_intact(vector[i], size[i], i, kept));
        size[i] = larger;
        pattern_fill(vector[i], larger, i);
    }
    for (size_t i = 0; i < VECTORS; i++)
        t_free(vector[i]);
}

static void size_zero_frees_and_returns_null(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        void *block = t_malloc(sizes[i]);
        errno = 1234;
        assert_null(t_realloc(block, 0));
        assert_int_equal(errno, 1234);
    }
    void *block = t_memalign(4096, 10);
    assert_null(t_realloc(block, 0));
}

/* If the blocks were not freed this would need 40 GiB. */
static void size_zero_really_frees(void **state) {
    (void)state;
    for (int i = 0; i < 40000; i++) {
        unsigned char *block = t_malloc(MIB);
        assert_non_null(block);
        block[0] = block[MIB - 1] = 1;
        assert_null(t_realloc(block, 0));
    }
}

static void failure_keeps_the_block(void **state) {
    (void)state;
    static const size_t impossible[] = {PTRDIFF_MAX, (size_t)PTRDIFF_MAX + 1, SIZE_MAX,
                                        SIZE_MAX - 4095, PTRDIFF_MAX - 4096};
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        void *block = t_malloc(sizes[i]);
        size_t usable = t_malloc_usable_size(block);
        pattern_fill(block, usable, i);
        for (size_t k = 0; k < COUNT_OF(impossible); k++) {
            errno = 0;
            assert_null(t_realloc(block, impossible[k]));
            assert_int_equal(errno, ENOMEM);
            assert_int_equal(t_malloc_usable_size(block), usable);
            assert_true(pattern_intact(block, usable, i, usable));
        }
        t_free(block);
    }
}

static void same_size_changes_nothing(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        void *block = t_malloc(sizes[i]);
        size_t usable = t_malloc_usable_size(block);
        pattern_fill(block, sizes[i], i);
        errno = 1234;
        assert_ptr_equal(t_realloc(block, sizes[i]), block);
        assert_int_equal(errno, 1234);
        assert_int_equal(t_malloc_usable_size(block), usable);
        assert_true(pattern_intact(block, sizes[i], i, sizes[i]));
        t_free(block);
    }
}

/* The same for blocks of the aligned functions, where they were not given more than twice what they
 * need: realloc takes the size asked for as a wish to shrink the others. */
static void same_size_of_an_aligned_block_changes_nothing(void **state) {
    (void)state;
    for (size_t alignment = 32; alignment <= 64 * KIB; alignment *= 2) {
        for (size_t i = 0; i < COUNT_OF(sizes); i++) {
            void *block = t_memalign(alignment, sizes[i]);
            bool fits = sizes[i] * 2 >= t_malloc_usable_size(block);
            void *resized = t_realloc(block, sizes[i]);
            if (fits && resized != block)
                fail_msg("memalign(%zu, %zu) moved", alignment, sizes[i]);
            t_free(resized);
        }
    }
}

static void growing_within_usable_size_does_not_move(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        if (ON_GLIBC && sizes[i] >= 128 * KIB) /* COMPAT-2 */
            continue;
        void *block = t_malloc(sizes[i]);
        size_t usable = t_malloc_usable_size(block);
        pattern_fill(block, usable, i);
        for (size_t size = sizes[i]; size < usable; size += 1 + (usable - size) / 2)
            assert_ptr_equal(t_realloc(block, size), block);
        assert_ptr_equal(t_realloc(block, usable), block);
        assert_int_equal(t_malloc_usable_size(block), usable);
        assert_true(pattern_intact(block, usable, i, usable));
        t_free(block);
    }
}

/* realloc keeps all usable bytes, not only those that were asked for. */
static void all_usable_bytes_survive_a_move(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        void *block = t_malloc(sizes[i]);
        size_t usable = t_malloc_usable_size(block);
        pattern_fill(block, usable, i);
        block = t_realloc(block, usable * 3 + 100);
        assert_non_null(block);
        assert_true(pattern_intact(block, usable, i, usable));
        t_free(block);
    }
}

/* Aligned blocks may lose their alignment but nothing else. */
static void aligned_blocks_can_be_resized(void **state) {
    (void)state;
    for (size_t alignment = 16; alignment <= 4 * MIB; alignment *= 4) {
        for (size_t i = 0; i < COUNT_OF(sizes); i += 3) {
            for (size_t k = 0; k < COUNT_OF(sizes); k += 2) {
                size_t kept = sizes[i] < sizes[k] ? sizes[i] : sizes[k];
                void *block = t_aligned_alloc(alignment, sizes[i]);
                assert_non_null(block);
                pattern_fill(block, sizes[i], i);
                block = t_realloc(block, sizes[k]);
                assert_non_null(block);
                assert_true(is_aligned(block, 16));
                assert_true(pattern_intact(block, sizes[i], i, kept));
                t_free(block);
            }
        }
    }
}

/* A large block that shrinks to almost nothing must not keep its memory. */
static void shrinking_gives_memory_back(void **state) {
    (void)state;
    enum { BLOCKS = 64 };
    void *blocks[BLOCKS];
    for (size_t i = 0; i < BLOCKS; i++) {
        blocks[i] = t_malloc(16 * MIB);
        assert_non_null(blocks[i]);
        pattern_fill(blocks[i], 1000, i);
        blocks[i] = t_realloc(blocks[i], 1000);
        assert_non_null(blocks[i]);
        assert_true(t_malloc_usable_size(blocks[i]) < MIB);
        assert_true(pattern_intact(blocks[i], 1000, i, 1000));
    }
    for (size_t i = 0; i < BLOCKS; i++)
        t_free(blocks[i]);
}

/* Who sets the threshold expects that what is freed above it goes back at once, however it grew. */
static void run_across_the_threshold(void) {
    must(t_mallopt(M_MMAP_THRESHOLD, 128 * KIB) == 1);
    size_t before = t_mallinfo2().hblks;
    unsigned char *block = t_malloc(100000);
    must(block != NULL);
    if (getenv("QUARRY_GUARD")) /* then it is one already */
        _exit(0);
    must(t_mallinfo2().hblks == before);
    pattern_fill(block, 100000, 1);
    block = t_realloc(block, 4 * MIB);
    must(ON_GLIBC || t_mallinfo2().hblks == before + 1); /* COMPAT-14 */
    must(pattern_intact(block, 100000, 1, 100000));
    block = t_realloc(block, 8 * MIB);
    must(ON_GLIBC || t_mallinfo2().hblks == before + 1);
    must(pattern_intact(block, 100000, 1, 100000));
    t_free(block);
    must(t_mallinfo2().hblks == before);
}

static void growing_across_a_threshold_maps(void **state) {
    (void)state;
    assert_child_succeeds(run_across_the_threshold);
}

/* In a process that has asked for no alignment: else the block might stand there for that. */
static void run_shrinking(void) {
    for (size_t size = 256; size <= 64 * KIB; size += size / 5) {
        for (size_t part = 4; part < 8; part++) {
            size_t less = size * part / 8;
            unsigned char *block = t_malloc(size), *smaller;
            must(block != NULL);
            pattern_fill(block, size, size);
            smaller = t_realloc(block, less);
            must(smaller != NULL && pattern_intact(smaller, size, size, less));
            size_t most = less > 16 * KIB ? less + 5 * PAGE : less + less / 4 + 16;
            must(t_malloc_usable_size(smaller) <= most);
            t_free(smaller);
        }
    }
}

static void what_shrinks_has_little_more_than_it_needs(void **state) {
    (void)state;
    assert_child_succeeds(run_shrinking);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_shrinks_has_little_more_than_it_needs), /* first */
        cmocka_unit_test(content_survives_between_all_sizes),
        cmocka_unit_test(growing_step_by_step_keeps_content),
        cmocka_unit_test(size_zero_frees_and_returns_null),
        cmocka_unit_test(size_zero_really_frees),
        cmocka_unit_test(failure_keeps_the_block),
        cmocka_unit_test(same_size_changes_nothing),
        cmocka_unit_test(same_size_of_an_aligned_block_changes_nothing),
        cmocka_unit_test(growing_within_usable_size_does_not_move),
        cmocka_unit_test(all_usable_bytes_survive_a_move),
        cmocka_unit_test(aligned_blocks_can_be_resized),
        cmocka_unit_test(shrinking_gives_memory_back),
        cmocka_unit_test(growing_across_a_threshold_maps),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
