/* SPDX-License-Identifier: MIT
 *
 * test_limits.c: the kernel refuses memory.  Every call then fails with ENOMEM, every live block is
 * intact, and what is freed can be used again for other sizes.
 *
 * Sanitizers map terabytes for their shadow and cannot run under such limits; there only the test
 * that asks for more than any machine has is compiled.
 */
#include "support.h"

#include <sys/resource.h>

#include "api_under_test.h"

static void **blocks;
enum { BLOCKS_MOST = 1 << 21 };

#if !UNDER_SANITIZER
#define LIMIT_BYTES (128 * MIB)

/* Allows the process LIMIT_BYTES more than it has. */
static void limit_address_space(void) {
    blocks = map_table(BLOCKS_MOST * sizeof *blocks);
    struct rlimit limit = {virtual_bytes() + LIMIT_BYTES, RLIM_INFINITY};
    must(setrlimit(RLIMIT_AS, &limit) == 0);
}

static void limit_data(void) {
    blocks = map_table(BLOCKS_MOST * sizeof *blocks);
    char text[8192];
    read_proc("/proc/self/status", text, sizeof text);
    const char *line = strstr(text, "VmData:");
    must(line != NULL);
    struct rlimit limit = {strtoul(line + 7, NULL, 10) * KIB + LIMIT_BYTES, RLIM_INFINITY};
    must(setrlimit(RLIMIT_DATA, &limit) == 0);
}

/* Allocates blocks of a size until there is no more; returns how many. */
static size_t exhaust(size_t size) {
    size_t count = 0;
    for (;; count++) {
        must(count < BLOCKS_MOST);
        errno = 0;
        blocks[count] = count % 2 == 0 ? t_malloc(size) : t_calloc(1, size);
        if (blocks[count] == NULL)
            break;
        pattern_fill(blocks[count], size, count);
    }
    must(errno == ENOMEM);
    return count;
}

/* Everything else fails as well, and harms nothing. */
static void check_failures(void) {
    errno = 0;
    must(t_memalign(4096, 40 * MIB) == NULL && errno == ENOMEM);
    errno = 0;
    must(t_calloc(40, MIB) == NULL && errno == ENOMEM);
    errno = 0;
    must(t_realloc(blocks[0], 130 * MIB) == NULL && errno == ENOMEM);
    void *untouched = &errno;
    must(t_posix_memalign(&untouched, 64, 40 * MIB) == ENOMEM && untouched == &errno);
}

static void release_all(size_t count, size_t size) {
    for (size_t i = 0; i < count; i++) {
        must(pattern_intact(blocks[i], size, i, size));
        errno = 1234;
        t_free(blocks[i]);
        must(errno == 1234);
    }
}

/* Each size in its turn gets at least half of what there is, whatever size had it before: large
 * blocks can leave up to half of a power of two unused. */
static void use_up_in_all_sizes(void) {
    static const size_t sizes[] = {1000, 4 * MIB, 100000, 200, 20 * KIB, 5000, 12 * MIB, 100};
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        size_t count = exhaust(sizes[i]);
        printf("# of %zu MiB, blocks of %zu bytes got %zu MiB\n", LIMIT_BYTES / MIB, sizes[i],
               count * sizes[i] / MIB);
        fflush(stdout);
        check_failures();
        must(count * sizes[i] >= LIMIT_BYTES / 2);
        release_all(count, sizes[i]);
    }
}

static void run_address_space(void) {
    limit_address_space();
    use_up_in_all_sizes();
}

static void address_space_is_limited(void **state) {
    (void)state;
    assert_child_succeeds(run_address_space);
}

static void run_data(void) {
    limit_data();
    use_up_in_all_sizes();
}

static void data_is_limited(void **state) {
    (void)state;
    assert_child_succeeds(run_data);
}

/* Random calls at the edge: thousands of them fail, and no block may notice. */
static void run_at_the_edge(void) {
    enum { SLOTS = 4000, OPERATIONS = 200000 };
    static size_t sizes[SLOTS];
    struct rng rng = {number_from_environment("QUARRY_TEST_SEED", 7)};
    size_t failures = 0;
    limit_address_space();
    for (size_t i = 0; i < OPERATIONS; i++) {
        size_t slot = rng_below(&rng, SLOTS);
        size_t size = rng_below(&rng, rng_below(&rng, 10) == 0 ? MIB : 30 * KIB) + 1;
        void *old = blocks[slot];
        must(pattern_intact(old, sizes[slot], slot, sizes[slot]));
        if (old != NULL && rng_below(&rng, 3) == 0) {
            t_free(old);
            blocks[slot] = NULL;
            sizes[slot] = 0;
            continue;
        }
        errno = 0;
        void *block = t_realloc(old, size);
        failures += block == NULL;
        must(block != NULL || errno == ENOMEM);
        if (block == NULL)
            continue;
        must(pattern_intact(block, sizes[slot], slot, size < sizes[slot] ? size : sizes[slot]));
        blocks[slot] = block;
        sizes[slot] = size;
        pattern_fill(block, size, slot);
    }
    printf("# %zu of %d calls failed\n", failures, OPERATIONS);
    fflush(stdout);
    must(failures > 0);
    for (size_t i = 0; i < SLOTS; i++)
        t_free(blocks[i]);
#if !ON_GLIBC /* COMPAT-12 */
    void *block = t_malloc(32 * MIB);
    must(block != NULL);
    t_free(block);
#endif
}

static void random_calls_at_the_limit(void **state) {
    (void)state;
    assert_child_succeeds(run_at_the_edge);
}
#endif

/* Address space itself ends: 128 TiB cannot hold this many, nor can any allocator's tables. */
static void run_out_of_addresses(void) {
    blocks = map_table(BLOCKS_MOST * sizeof *blocks);
    size_t count = 0;
    errno = 0;
    while (count < 300 && (blocks[count] = t_malloc((size_t)1 << 40)) != NULL)
        count++;
    must(count < 300 && errno == ENOMEM);
    void *small = t_malloc(1000);
    must(small != NULL);
    for (size_t i = 0; i < count; i++)
        t_free(blocks[i]);
    t_free(small);
}

static void address_space_ends(void **state) {
    (void)state;
    assert_child_succeeds(run_out_of_addresses);
}

int main(void) {
    const struct CMUnitTest tests[] = {
#if !UNDER_SANITIZER
        cmocka_unit_test(address_space_is_limited),
        cmocka_unit_test(data_is_limited),
        cmocka_unit_test(random_calls_at_the_limit),
#endif
        cmocka_unit_test(address_space_ends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
