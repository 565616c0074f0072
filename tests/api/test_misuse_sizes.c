/* SPDX-License-Identifier: MIT
 *
 * test_misuse_sizes.c: a wrong size or alignment in the sized frees is reported, and a double free
 * in a class that is hot is found before the block could be handed out twice.
 */
#include "misuse_support.h"

/* ---- Sizes and alignments of free_sized and free_aligned_sized ------------------------------------ */

static void wrong_size(size_t size, size_t claimed) {
    char *block = block_of(size);
    expect("free_sized", block, "size %zu does not fit a block of %zu bytes", claimed,
           t_malloc_usable_size(block));
    t_free_sized(block, claimed);
}

static void size_too_large_small(const struct use *use) {
    (void)use;
    wrong_size(100, 5000);
}

static void size_too_large_by_one(const struct use *use) {
    (void)use;
    wrong_size(128, 129);
}

static void size_too_small_small(const struct use *use) {
    (void)use;
    wrong_size(4096, 16);
}

static void size_too_large_run(const struct use *use) {
    (void)use;
    wrong_size(100000, 300000);
}

static void size_too_small_run(const struct use *use) {
    (void)use;
    wrong_size(100000, 100);
}

static void size_too_large_mapping(const struct use *use) {
    (void)use;
    wrong_size(70 * MIB, 71 * MIB);
}

static void size_impossible(const struct use *use) {
    (void)use;
    wrong_size(100, SIZE_MAX);
}

static void aligned_size_wrong(const struct use *use) {
    (void)use;
    char *block = t_aligned_alloc(64, 100);
    expect("free_aligned_sized", block, "size %zu does not fit a block of %zu bytes", (size_t)9000,
           t_malloc_usable_size(block));
    t_free_aligned_sized(block, 64, 9000);
}

static void wrong_alignment(char *block, size_t size, size_t alignment) {
    expect("free_aligned_sized", block, "alignment %zu does not fit this block", alignment);
    t_free_aligned_sized(block, alignment, size);
}

/* The first power of two to which the address is not aligned. */
static size_t alignment_above(const char *block) {
    return ((uintptr_t)block & -(uintptr_t)block) * 2;
}

static void alignment_wrong_small(const struct use *use) {
    (void)use;
    char *block = t_aligned_alloc(64, 100);
    wrong_alignment(block, 100, alignment_above(block));
}

static void alignment_wrong_run(const struct use *use) {
    (void)use;
    char *block = t_aligned_alloc(4096, 100000);
    wrong_alignment(block, 100000, alignment_above(block));
}

/* aligned_alloc takes 4097 for 8192. */
static void alignment_no_power_of_two(const struct use *use) {
    (void)use;
    char *block = t_aligned_alloc(4096, 100);
    if ((uintptr_t)block % 8192 == 0)
        block = t_aligned_alloc(4096, 100);
    wrong_alignment(block, 100, 4097);
}

static void alignment_impossible(const struct use *use) {
    (void)use;
    wrong_alignment(t_aligned_alloc(64, 100), 100, SIZE_MAX / 2 + 2);
}

/* ---- Hot classes --------------------------------------------------------------------------------- */

enum { HOT_PAIRS = 1000, BLOCKS_UNTIL_REPORT = 256 };

/* The block may lie in the cache twice; it must be found before it can be allocated twice. */
static void hot_double_free(size_t size) {
    for (size_t i = 0; i < HOT_PAIRS; i++)
        t_free(block_of(size));
    char *others[BLOCKS_UNTIL_REPORT];
    for (size_t i = 0; i < BLOCKS_UNTIL_REPORT; i++)
        others[i] = block_of(size);
    char *block = block_of(size);
    expect("free", block, FREED);
    t_free(block);
    t_free(block);
    for (size_t i = 0; i < BLOCKS_UNTIL_REPORT; i++)
        t_free(others[i]);
}

static void hot_double_free_small(const struct use *use) {
    (void)use;
    hot_double_free(200);
}

static void hot_double_free_tiny(const struct use *use) {
    (void)use;
    hot_double_free(16);
}

static void hot_double_free_medium(const struct use *use) {
    (void)use;
    hot_double_free(4000);
}

static void hot_double_free_run(const struct use *use) {
    (void)use;
    hot_double_free(100000);
}

static const struct misuse misuses[] = {
    MISUSE(size_too_large_small, 100, 0),      MISUSE(size_too_large_by_one, 128, 0),
    MISUSE(size_too_small_small, 4096, 0),     MISUSE(size_too_large_run, 100000, 0),
    MISUSE(size_too_small_run, 100000, 0),     MISUSE(size_too_large_mapping, 100, 0),
    MISUSE(size_impossible, 100, 0),           MISUSE(aligned_size_wrong, 100, 0),
    MISUSE(alignment_wrong_small, 100, 0),     MISUSE(alignment_wrong_run, 100000, 0),
    MISUSE(alignment_no_power_of_two, 100, 0), MISUSE(alignment_impossible, 100, 0),
    MISUSE(hot_double_free_small, 200, 0),     MISUSE(hot_double_free_tiny, 16, ON_GLIBC_TOO),
    MISUSE(hot_double_free_medium, 4000, 0),   MISUSE(hot_double_free_run, 100000, 0),
};

int main(int argc, char **argv) {
    return run_misuses(argc, argv, misuses, COUNT_OF(misuses));
}
