/* SPDX-License-Identifier: MIT
 *
 * test_stats.c: mallopt, mallinfo, malloc_stats and malloc_info, as glibc's own users read them.
 * What is given back to the kernel is in test_trim.c.
 */
#include "support.h"

#include <ctype.h>
#include <regex.h>

#include "api_under_test.h"

/* ---- mallopt ---------------------------------------------------------------------------------- */

static void mallopt_accepts_what_glibc_accepts(void) {
    static const int any_value[] = {M_NLBLKS,     M_GRAIN,     M_KEEP,         M_TRIM_THRESHOLD,
                                    M_TOP_PAD,    M_PERTURB,   M_CHECK_ACTION, M_MMAP_THRESHOLD,
                                    M_ARENA_TEST, M_ARENA_MAX, M_MMAP_MAX,     12345,
                                    -12345};
    static const int values[] = {0, 1, 7, -1, 128 * 1024, 64 * 1024 * 1024, 1 << 30};
    for (size_t i = 0; i < COUNT_OF(any_value); i++) {
        for (size_t k = 0; k < COUNT_OF(values); k++)
            must(t_mallopt(any_value[i], values[k]) == 1);
    }
    must(t_mallopt(M_MXFAST, 0) == 1);
    must(t_mallopt(M_MXFAST, 64) == 1);
    must(t_mallopt(M_MXFAST, 160) == 1);
    must(t_mallopt(M_MXFAST, 161) == 0);
    must(t_mallopt(M_MXFAST, -1) == 0);
    t_free(t_malloc(100));
}

static void mallopt_returns_one_for_what_is_accepted(void **state) {
    (void)state;
    assert_child_succeeds(mallopt_accepts_what_glibc_accepts);
}

static bool all_bytes_are(const unsigned char *bytes, size_t size, unsigned char value) {
    return size == 0 || (bytes[0] == value && memcmp(bytes, bytes + 1, size - 1) == 0);
}

static void perturb_fills_memory(void) {
    enum { VALUE = 0x5a };
    must(t_mallopt(M_PERTURB, VALUE) == 1);
    static const size_t sizes[] = {24, 100, 1000, 8000, 50000, 100000, 3 * MIB};
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        for (int k = 0; ON_GLIBC && k < 7; k++) /* what its cache holds it does not fill */
            must(t_malloc(sizes[i]) != NULL);
        unsigned char *block = t_malloc(sizes[i]);
        must(all_bytes_are(block, sizes[i], VALUE ^ 0xff));
        t_free(block);
        block = t_memalign(64, sizes[i]);
        must(all_bytes_are(block, sizes[i], VALUE ^ 0xff));
        t_free(block);
        block = t_calloc(1, sizes[i]);
        must(all_zero(block, sizes[i]));
        t_free(block);
    }
    /* Freed blocks that still lie in the heap; their first and last bytes may serve it. */
    static const size_t freed_sizes[] = {100, 1000, 3000, 20000};
    for (size_t i = 0; i < COUNT_OF(freed_sizes); i++) {
        if (ON_GLIBC && freed_sizes[i] <= 1032) /* COMPAT-8 */
            continue;
        unsigned char *block = t_malloc(freed_sizes[i]);
        void *behind = t_malloc(freed_sizes[i]);
        memset(block, 1, freed_sizes[i]);
        t_free(block);
        must(all_bytes_are(block + 64, freed_sizes[i] - 80, VALUE));
        t_free(behind);
    }
}

static void perturb_fills_new_and_freed_memory(void **state) {
    (void)state;
    assert_child_succeeds(perturb_fills_memory);
}

static void threshold_decides_mapping(void) {
    must(t_mallopt(M_MMAP_THRESHOLD, 1 << 20) == 1);
    size_t before = t_mallinfo2().hblks;
    void *small = t_malloc(900 * KIB);
    must(t_mallinfo2().hblks == before);
    void *large = t_malloc(1100 * KIB);
    must(t_mallinfo2().hblks == before + 1);
    must(t_mallinfo2().hblkhd >= 1100 * KIB);
    t_free(large);
    must(t_mallinfo2().hblks == before);
    must(t_mallopt(M_MMAP_MAX, 0) == 1);
    large = t_malloc(5 * MIB);
    must(large != NULL);
    must(t_mallinfo2().hblks == before);
    t_free(large);
    t_free(small);
}

static void mmap_threshold_and_max_decide_what_is_mapped(void **state) {
    (void)state;
    assert_child_succeeds(threshold_decides_mapping);
}

/* Freeing a mapping raises the threshold to its size, until any of the settings is made. */
static void threshold_follows_frees(void) {
    t_free(t_malloc(4 * MIB));
    size_t before = t_mallinfo2().hblks;
    void *block = t_malloc(3 * MIB);
    must(t_mallinfo2().hblks == before);
    t_free(block);
}

static void the_mmap_threshold_is_dynamic(void **state) {
    (void)state;
    assert_child_succeeds(threshold_follows_frees);
}

/* ---- mallinfo ------------------------------------------------------------------------------------ */

static void check_mallinfo2(const struct mallinfo2 *info) {
    must(info->uordblks + info->fordblks == info->arena);
    must(info->usmblks == 0);
    must(info->keepcost <= info->fordblks);
    must(info->fsmblks <= info->arena);
    must((info->hblks == 0) == (info->hblkhd == 0));
    must(info->arena + info->hblkhd <= (size_t)1 << 40);
}

static void mallinfo2_counts(void) {
    enum { BLOCKS = 2000 };
    static void *blocks[BLOCKS];
    struct mallinfo2 before = t_mallinfo2();
    check_mallinfo2(&before);
    for (size_t i = 0; i < BLOCKS; i++)
        blocks[i] = t_malloc(1 + i * 17 % 20000);
    size_t asked = 0;
    for (size_t i = 0; i < BLOCKS; i++)
        asked += 1 + i * 17 % 20000;
    struct mallinfo2 full = t_mallinfo2();
    check_mallinfo2(&full);
    must(full.uordblks >= before.uordblks + asked);
    must(full.uordblks <= before.uordblks + asked + asked / 4 + MIB);
    must(full.hblks == before.hblks);
    for (size_t i = 0; i < BLOCKS; i++)
        t_free(blocks[i]);
    struct mallinfo2 empty = t_mallinfo2();
    check_mallinfo2(&empty);
    /* What the cache keeps counts as in use: up to 32 KiB of each class, and 128 KiB of runs of 20 KiB. */
    must(empty.uordblks <= before.uordblks + MIB + 128 * KIB);
}

static void mallinfo2_counts_what_is_in_use(void **state) {
    (void)state;
    assert_child_succeeds(mallinfo2_counts);
}

static void mallinfo2_counts_mappings_in_child(void) {
    must(t_mallopt(M_MMAP_THRESHOLD, 128 << 10) == 1);
    struct mallinfo2 before = t_mallinfo2();
    void *blocks[5];
    for (size_t i = 0; i < COUNT_OF(blocks); i++) {
        blocks[i] = t_malloc((i + 1) * 10 * MIB);
        must(t_mallinfo2().hblks == before.hblks + i + 1);
    }
    struct mallinfo2 full = t_mallinfo2();
    check_mallinfo2(&full);
    must(full.hblkhd >= before.hblkhd + 150 * MIB);
    must(full.hblkhd <= before.hblkhd + 150 * MIB + COUNT_OF(blocks) * 64 * KIB);
    must(full.uordblks <= before.uordblks + MIB);
    for (size_t i = 0; i < COUNT_OF(blocks); i++)
        t_free(blocks[i]);
    must(t_mallinfo2().hblks == before.hblks);
    must(t_mallinfo2().hblkhd == before.hblkhd);
}

static void mallinfo2_counts_mappings(void **state) {
    (void)state;
    assert_child_succeeds(mallinfo2_counts_mappings_in_child);
}

/* Linux Test Project's mallinfo01 looks at these: ordblks rises when a block between two others is
 * freed, and small memory does not show up as mapped. */
static void free_chunks_are_counted(void) {
    void *left = t_malloc(20 * KIB);
    void *middle = t_malloc(20 * KIB);
    void *right = t_malloc(20 * KIB);
    struct mallinfo2 before = t_mallinfo2();
    must(before.hblkhd == 0 && before.uordblks >= 60 * KIB);
    t_free(middle);
    struct mallinfo2 after = t_mallinfo2();
    must(after.ordblks >= before.ordblks);
    must(after.fordblks >= before.fordblks + 20 * KIB);
    must(after.uordblks + 20 * KIB <= before.uordblks);
    t_free(left);
    t_free(right);
}

static void a_freed_block_is_counted_as_free(void **state) {
    (void)state;
    assert_child_succeeds(free_chunks_are_counted);
}

static void mallinfo_agrees(void) {
    void *block = t_malloc(50000);
    struct mallinfo2 wide = t_mallinfo2();
    struct mallinfo narrow = t_mallinfo();
    must(narrow.arena == (int)wide.arena);
    must(narrow.ordblks == (int)wide.ordblks);
    must(narrow.smblks == (int)wide.smblks);
    must(narrow.hblks == (int)wide.hblks);
    must(narrow.hblkhd == (int)wide.hblkhd);
    must(narrow.usmblks == (int)wide.usmblks);
    must(narrow.fsmblks == (int)wide.fsmblks);
    must(narrow.uordblks == (int)wide.uordblks);
    must(narrow.fordblks == (int)wide.fordblks);
    must(narrow.keepcost == (int)wide.keepcost);
    t_free(block);
}

static void mallinfo_agrees_with_mallinfo2(void **state) {
    (void)state;
    assert_child_succeeds(mallinfo_agrees);
}

/* ---- malloc_stats ------------------------------------------------------------------------------- */

/* Runs a writer with file descriptor 2 redirected, and returns what it wrote. */
static size_t capture_stderr(void (*writer)(void), char *text, size_t size) {
    int file = memfd_create("stderr", MFD_CLOEXEC);
    int saved = dup(STDERR_FILENO);
    must(file >= 0 && saved >= 0 && dup2(file, STDERR_FILENO) >= 0);
    writer();
    fflush(stderr);
    must(dup2(saved, STDERR_FILENO) >= 0);
    ssize_t length = pread(file, text, size - 1, 0);
    must(length >= 0);
    text[length] = '\0';
    close(file);
    close(saved);
    return (size_t)length;
}

static void write_stats(void) {
    t_malloc_stats();
}

static void stats_have_the_format(void) {
    static const char format[] =
        "^(Arena [0-9]+:\nsystem bytes     = [ 0-9]{9}[0-9]\nin use bytes     = [ 0-9]{9}[0-9]\n)+"
        "Total \\(incl\\. mmap\\):\nsystem bytes     = [ 0-9]{9}[0-9]\n"
        "in use bytes     = [ 0-9]{9}[0-9]\nmax mmap regions = [ 0-9]{9}[0-9]\n"
        "max mmap bytes   = [ 0-9]{9}[0-9]+\n(Quarry:\n([a-z_]+ = [ 0-9]{9}[0-9]+\n)+)?$";
    char text[8192];
    regex_t regex;
    void *mapped = t_malloc(40 * MIB);
    void *small = t_malloc(1000);
    must(regcomp(&regex, format, REG_EXTENDED | REG_NOSUB) == 0);
    capture_stderr(write_stats, text, sizeof text);
    if (regexec(&regex, text, 0, NULL, 0) != 0) {
        fprintf(stderr, "%s", text);
        must(!"malloc_stats wrote another format");
    }
    must(strncmp(text, "Arena 0:\n", 9) == 0);
    must(strtoul(strstr(text, "max mmap bytes") + 18, NULL, 10) >= 40 * MIB);
    must(strtoul(strstr(text, "max mmap regions") + 18, NULL, 10) >= 1);
    const char *total = strstr(text, "Total");
    must(strtoul(strstr(total, "system bytes") + 18, NULL, 10) >= 40 * MIB);
    must(strtoul(strstr(total, "in use bytes") + 18, NULL, 10) >= 40 * MIB);
    regfree(&regex);
    t_free(mapped);
    t_free(small);
}

static void malloc_stats_writes_the_known_format(void **state) {
    (void)state;
    assert_child_succeeds(stats_have_the_format);
}

static size_t number_after(const char *text, const char *words) {
    const char *found = strstr(text, words);
    must(found != NULL);
    return strtoul(found + strlen(words), NULL, 10);
}

/* Neither writer allocates here, so that what is told is of one moment. */
static void system_agrees(void) {
    static char text[1 << 16], buffer[1 << 16];
    FILE *stream = fmemopen(text, sizeof text, "w");
    must(stream != NULL && setvbuf(stream, buffer, _IOFBF, sizeof buffer) == 0);
    void *block = t_malloc(100 * KIB);
    size_t arena = t_mallinfo2().arena;
    must(t_malloc_info(0, stream) == 0 && fflush(stream) == 0);
    must(number_after(text, "<system type=\"current\" size=\"") == arena);
    must(number_after(text, "<system type=\"max\" size=\"") >= arena);
    capture_stderr(write_stats, text, sizeof text);
    must(number_after(text, "system bytes     = ") == arena);
    t_free(block);
    fclose(stream);
}

static void all_three_tell_the_same_system_bytes(void **state) {
    (void)state;
    assert_child_succeeds(system_agrees);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mallopt_returns_one_for_what_is_accepted),
        cmocka_unit_test(perturb_fills_new_and_freed_memory),
        cmocka_unit_test(mmap_threshold_and_max_decide_what_is_mapped),
        cmocka_unit_test(the_mmap_threshold_is_dynamic),
        cmocka_unit_test(mallinfo2_counts_what_is_in_use),
        cmocka_unit_test(mallinfo2_counts_mappings),
        cmocka_unit_test(a_freed_block_is_counted_as_free),
        cmocka_unit_test(mallinfo_agrees_with_mallinfo2),
        cmocka_unit_test(malloc_stats_writes_the_known_format),
        cmocka_unit_test(all_three_tell_the_same_system_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
