/* SPDX-License-Identifier: MIT
 *
 * test_contract.c: what each function of the API promises for one call or two: zero sizes, limits,
 * errno, zeroed memory, the sized frees.  See also test_aligned.c and test_realloc.c.
 */
#include "support.h"

#include "api_under_test.h"

/* ---- All ways to get a block of a given size ---------------------------------------------------- */

static void *by_malloc(size_t size) {
    return t_malloc(size);
}

static void *by_calloc(size_t size) {
    return t_calloc(1, size);
}

static void *by_calloc_bytes(size_t size) {
    return t_calloc(size, 1);
}

static void *by_realloc(size_t size) {
    return t_realloc(NULL, size);
}

static void *by_memalign(size_t size) {
    return t_memalign(32, size);
}

static void *by_aligned_alloc(size_t size) {
    return t_aligned_alloc(256, size);
}

static void *by_posix_memalign(size_t size) {
    void *block = NULL;
    int error = t_posix_memalign(&block, 64, size);
    if (error != 0)
        errno = error;
    return block;
}

static void *by_valloc(size_t size) {
    return t_valloc(size);
}

static void *by_pvalloc(size_t size) {
    return t_pvalloc(size);
}

static const struct way {
    const char *name;
    void *(*allocate)(size_t size);
    size_t alignment;
} ways[] = {
    {"malloc", by_malloc, 16},
    {"calloc(1, n)", by_calloc, 16},
    {"calloc(n, 1)", by_calloc_bytes, 16},
    {"realloc(NULL, n)", by_realloc, 16},
    {"memalign(32, n)", by_memalign, 32},
    {"aligned_alloc(256, n)", by_aligned_alloc, 256},
    {"posix_memalign(64, n)", by_posix_memalign, 64},
    {"valloc", by_valloc, 4096},
    {"pvalloc", by_pvalloc, 4096},
};

static void zero_size_gives_unique_block(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT_OF(ways); i++) {
        void *blocks[20];
        for (size_t k = 0; k < COUNT_OF(blocks); k++) {
            blocks[k] = ways[i].allocate(0);
            if (blocks[k] == NULL || !is_aligned(blocks[k], ways[i].alignment))
                fail_msg("%s of size 0 gave %p", ways[i].name, blocks[k]);
            for (size_t j = 0; j < k; j++)
                assert_ptr_not_equal(blocks[j], blocks[k]);
        }
        for (size_t k = 0; k < COUNT_OF(blocks); k++)
            t_free(blocks[k]);
    }
    void *block = t_calloc(7, 0);
    assert_non_null(block);
    t_free(block);
    block = t_calloc(0, 7);
    assert_non_null(block);
    t_free(block);
}

/* Each block stays live for a while, so that neighbours in the same page are seen, and is written
 * over its whole usable size, so that a size that lies shows up in the neighbour. */
static void every_size_is_aligned_and_usable(void **state) {
    (void)state;
    struct {
        unsigned char *block;
        size_t usable;
        uint64_t seed;
    } ring[64] = {{0}};
    for (size_t i = 0; i < COUNT_OF(ways); i++) {
        for (size_t size = 0; size <= 70000; size += size < 4200 ? 1 : 61) {
            size_t slot = size % COUNT_OF(ring);
            if (ring[slot].block != NULL) {
                if (!pattern_intact(ring[slot].block, ring[slot].usable, ring[slot].seed,
                                    ring[slot].usable))
                    fail_msg("%s: a block of %zu usable bytes was overwritten", ways[i].name,
                             ring[slot].usable);
                t_free(ring[slot].block);
            }
            unsigned char *block = ways[i].allocate(size);
            size_t usable = t_malloc_usable_size(block);
            if (block == NULL || !is_aligned(block, ways[i].alignment) || usable < size)
                fail_msg("%s(%zu) gave %p with %zu usable bytes", ways[i].name, size, (void *)block,
                         usable);
            ring[slot].block = block;
            ring[slot].usable = usable;
            ring[slot].seed = size;
            pattern_fill(block, usable, size);
            assert_int_equal(t_malloc_usable_size(block), usable);
        }
    }
    for (size_t slot = 0; slot < COUNT_OF(ring); slot++)
        t_free(ring[slot].block);
}

static void impossible_sizes_fail_with_enomem(void **state) {
    (void)state;
    static const size_t sizes[] = {
        PTRDIFF_MAX,          (size_t)PTRDIFF_MAX + 1, PTRDIFF_MAX - 4096, SIZE_MAX / 2 + 4097,
        SIZE_MAX - 64 * 1024, SIZE_MAX - 4095,         SIZE_MAX - 15,      SIZE_MAX};
    for (size_t i = 0; i < COUNT_OF(ways); i++) {
        for (size_t k = 0; k < COUNT_OF(sizes); k++) {
            errno = 0;
            void *block = ways[i].allocate(sizes[k]);
            if (block != NULL || errno != ENOMEM)
                fail_msg("%s(%zu) gave %p, errno %d", ways[i].name, sizes[k], block, errno);
        }
    }
}

static void calloc_overflow_fails_with_enomem(void **state) {
    (void)state;
    static const size_t factors[][2] = {
        {SIZE_MAX, SIZE_MAX},         {SIZE_MAX / 2 + 1, 2},        {2, SIZE_MAX / 2 + 1},
        {(size_t)1 << 33, 1ul << 33}, {(size_t)1 << 32, 1ul << 32}, {SIZE_MAX / 16 + 2, 16},
        {3, SIZE_MAX / 3 + 1},
    };
    for (size_t i = 0; i < COUNT_OF(factors); i++) {
        errno = 0;
        void *block = t_calloc(factors[i][0], factors[i][1]);
        if (block != NULL || errno != ENOMEM)
            fail_msg("calloc(%zu, %zu) gave %p, errno %d", factors[i][0], factors[i][1], block,
                     errno);
    }
}

/* ---- errno -------------------------------------------------------------------------------------- */

static void free_preserves_errno(void **state) {
    (void)state;
    errno = 1234;
    t_free(NULL);
    assert_int_equal(errno, 1234);
    static const size_t sizes[] = {0, 1, 100, 5000, 100000, MIB, 40 * MIB, 200 * MIB};
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        for (size_t k = 0; k < COUNT_OF(ways); k++) {
            void *block = ways[k].allocate(sizes[i]);
            assert_non_null(block);
            errno = 1234;
            t_free(block);
            assert_int_equal(errno, 1234);
        }
        void *block = t_malloc(sizes[i]);
        errno = 1234;
        t_free_sized(block, sizes[i]);
        assert_int_equal(errno, 1234);
        block = t_aligned_alloc(64, sizes[i]);
        errno = 1234;
        t_free_aligned_sized(block, 64, sizes[i]);
        assert_int_equal(errno, 1234);
    }
}

static void success_leaves_errno_alone(void **state) {
    (void)state;
    for (size_t i = 0; i < COUNT_OF(ways); i++) {
        for (size_t size = 0; size < 64 * MIB; size = size * 2 + 1) {
            errno = 1234;
            void *block = ways[i].allocate(size);
            size_t usable = t_malloc_usable_size(block);
            assert_int_equal(errno, 1234);
            assert_true(usable >= size);
            t_free(block);
        }
    }
}

/* ---- calloc ------------------------------------------------------------------------------------- */

/* Leaves freed memory dirty in many shapes before calloc may take it again: the same size, the runs
 * of larger blocks, and what remains of a block after a shrinking realloc. */
static void dirty_the_heap(size_t size) {
    void *blocks[24];
    for (size_t i = 0; i < COUNT_OF(blocks); i++) {
        blocks[i] = t_malloc(i % 3 == 0 ? size * 2 + 4096 : size);
        assert_non_null(blocks[i]);
        memset(blocks[i], 0xff, t_malloc_usable_size(blocks[i]));
        if (i % 4 == 3)
            blocks[i] = t_realloc(blocks[i], size / 2 + 1);
    }
    for (size_t i = 0; i < COUNT_OF(blocks); i++)
        t_free(blocks[i]);
}

static void calloc_is_zero_after_dirtying(void **state) {
    (void)state;
    for (size_t size = 1; size <= 2 * MIB; size += size < 2048 ? 13 : size / 7) {
        dirty_the_heap(size);
        void *blocks[20];
        for (size_t i = 0; i < COUNT_OF(blocks); i++) {
            blocks[i] = i % 2 == 0 ? t_calloc(size, 1) : t_calloc((size + 2) / 3, 3);
            if (!all_zero(blocks[i], size))
                fail_msg("calloc of %zu bytes gave dirty memory", size);
            memset(blocks[i], 0xee, t_malloc_usable_size(blocks[i]));
        }
        for (size_t i = 0; i < COUNT_OF(blocks); i++)
            t_free(blocks[i]);
    }
}

static void calloc_of_mappings_is_zero(void **state) {
    (void)state;
    for (size_t size = 4 * MIB; size <= 64 * MIB; size *= 2) {
        for (int round = 0; round < 3; round++) {
            unsigned char *block = t_calloc(size / 8, 8);
            assert_non_null(block);
            assert_true(all_zero(block, size));
            memset(block, 0xdd, size);
            t_free(block);
        }
    }
}

/* ---- The sized frees and the usable size ----------------------------------------------------------- */

static void sized_frees_accept_the_size_asked_for(void **state) {
    (void)state;
    t_free_sized(NULL, 0);
    t_free_sized(NULL, 100);
    t_free_aligned_sized(NULL, 64, 100);
    for (size_t size = 0; size <= 3 * MIB; size += size < 3000 ? 1 : size / 50) {
        t_free_sized(t_malloc(size), size);
        t_free_sized(t_calloc(1, size), size);
        t_free_sized(t_realloc(NULL, size), size);
        for (size_t alignment = 1; alignment <= 65536; alignment *= 8)
            t_free_aligned_sized(t_aligned_alloc(alignment, size), alignment, size);
        for (size_t odd = 0; odd <= 5000; odd = odd * 3 + 3) /* COMPAT-1 */
            t_free_aligned_sized(t_memalign(odd, size), odd, size);
    }
    for (size_t size = 8 * MIB; size <= 128 * MIB; size *= 4) {
        t_free_sized(t_malloc(size), size);
        t_free_aligned_sized(t_aligned_alloc(4 * MIB, size), 4 * MIB, size);
    }
}

/* The size to be passed is that of the last realloc, whether the block moved or not. */
static void free_sized_accepts_the_size_of_a_realloc(void **state) {
    (void)state;
    static const size_t sizes[] = {1,    15,   16,    17,    100,    1000,   1024,    4096,
                                   5000, 8192, 16385, 50000, 131072, 500000, 3 * MIB, 40 * MIB};
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        for (size_t k = 0; k < COUNT_OF(sizes); k++) {
            void *block = t_realloc(t_malloc(sizes[i]), sizes[k]);
            assert_non_null(block);
            t_free_sized(block, sizes[k]);
            if (sizes[k] < 2)
                continue;
            block = t_realloc(t_malloc(sizes[i]), sizes[k] - 1);
            assert_non_null(block);
            t_free_sized(block, sizes[k] - 1);
        }
    }
}

static void usable_size_of_null_is_zero(void **state) {
    (void)state;
    assert_int_equal(t_malloc_usable_size(NULL), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(zero_size_gives_unique_block),
        cmocka_unit_test(every_size_is_aligned_and_usable),
        cmocka_unit_test(impossible_sizes_fail_with_enomem),
        cmocka_unit_test(calloc_overflow_fails_with_enomem),
        cmocka_unit_test(free_preserves_errno),
        cmocka_unit_test(success_leaves_errno_alone),
        cmocka_unit_test(calloc_is_zero_after_dirtying),
        cmocka_unit_test(calloc_of_mappings_is_zero),
        cmocka_unit_test(sized_frees_accept_the_size_asked_for),
        cmocka_unit_test(free_sized_accepts_the_size_of_a_realloc),
        cmocka_unit_test(usable_size_of_null_is_zero),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
