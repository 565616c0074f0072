/* SPDX-License-Identifier: MIT
 *
 * test_option.c: the table of options, its three parsers, and what each option does.  The environment is the
 * fake system's; each body reads it as the first allocation would.
 */
#include "unit_support.h"

#include "api.h"
#include "cache.h"
#include "heap.h"
#include "option.h"
#include "page_internal.h"

#include <limits.h>
#include <malloc.h>
#include <pthread.h>
#include <quarry.h>

#define UNTOUCHED ((size_t)77777)

/* The mmap threshold that results from one text, given as a variable or a tunable. */
static size_t threshold_from(const char *before, const char *text, const char *after) {
    char entry[256];
    heap_set_mmap_threshold(UNTOUCHED);
    snprintf(entry, sizeof entry, "%s%s%s", before, text, after);
    fake_os.environment[0] = entry;
    option_init();
    fake_os.environment[0] = NULL;
    return heap_mmap_threshold();
}

struct number {
    const char *text;
    size_t value;
};

static const struct number numbers[] = {
    {"0", 0},
    {"1", 1},
    {"65536", 65536},
    {"+12", 12},
    {"0x10", 16},
    {"0XfF", 255},
    {"0xAbCdEf", 0xabcdef},
    {"010", 8},
    {"00", 0},
    {"0777", 511},
    {"-1", SIZE_MAX},
    {"-0x10", (size_t)-16},
    {"-010", (size_t)-8},
    {"-0", 0},
    {"9223372036854775807", LONG_MAX},
    {"0x7fffffffffffffff", LONG_MAX},
    {"0777777777777777777777", LONG_MAX},
    {"-9223372036854775807", (size_t)-LONG_MAX},
    {"00000000000000000000000000000000001", 1},
    /* with a suffix, for these are bytes */
    {"64k", 65536},
    {"64K", 65536},
    {"3M", 3 * MIB},
    {"0x10MB", 16 * MIB},
    {"010GiB", 8 * GIB},
    {"2T", (size_t)2 << 40},
    {"7t", (size_t)7 << 40},
    {"0K", 0},
    {"8388607T", (size_t)8388607 << 40},
    /* malformed */
    {"", UNTOUCHED},
    {"+", UNTOUCHED},
    {"-", UNTOUCHED},
    {"--1", UNTOUCHED},
    {"+-1", UNTOUCHED},
    {"0x", UNTOUCHED},
    {"x10", UNTOUCHED},
    {"0xg", UNTOUCHED},
    {"08", UNTOUCHED},
    {"0779", UNTOUCHED},
    {"12a", UNTOUCHED},
    {"1e3", UNTOUCHED},
    {"1.5", UNTOUCHED},
    {"1 ", UNTOUCHED},
    {" 1", UNTOUCHED},
    {"1,000", UNTOUCHED},
    {"K", UNTOUCHED},
    {"64 K", UNTOUCHED},
    {"64Kb", UNTOUCHED},
    {"64Ki", UNTOUCHED},
    {"64KiBB", UNTOUCHED},
    {"64B", UNTOUCHED},
    {"64P", UNTOUCHED},
    {"-1K", UNTOUCHED},
    {"8388608T", UNTOUCHED},
    {"=5", UNTOUCHED},
    {"-", UNTOUCHED},
    /* out of range */
    {"9223372036854775808", UNTOUCHED},
    {"18446744073709551615", UNTOUCHED},
    {"18446744073709551617", UNTOUCHED},
    {"0xffffffffffffffff", UNTOUCHED},
    {"0x10000000000000001", UNTOUCHED},
    {"99999999999999999999999999999999999999", UNTOUCHED},
    {"-99999999999999999999", UNTOUCHED},
};

static void check_numbers(const char *before, const char *after) {
    for (size_t i = 0; i < COUNT_OF(numbers); i++) {
        size_t got = threshold_from(before, numbers[i].text, after);
        if (got != numbers[i].value) {
            fprintf(stderr, "# %s%s%s: %zu\n", before, numbers[i].text, after, got);
            must(false);
        }
    }
}

static void variables_are_numbers_as_c_writes_them(void) {
    check_numbers("MALLOC_MMAP_THRESHOLD_=", "");
}

static void tunables_are_numbers_as_c_writes_them(void) {
    check_numbers("GLIBC_TUNABLES=glibc.malloc.mmap_threshold=", "");
    check_numbers("GLIBC_TUNABLES=glibc.malloc.mmap_threshold=", ":glibc.malloc.arena_max=1");
    check_numbers("GLIBC_TUNABLES=glibc.rtld.nns=4:glibc.malloc.mmap_threshold=", ":");
}

static void a_variable_is_one_number(void) {
    must(threshold_from("MALLOC_MMAP_THRESHOLD_=", "5:6", "") == UNTOUCHED);
    must(threshold_from("MALLOC_MMAP_THRESHOLD_=", "5:", "") == UNTOUCHED);
}

static void malformed_tunables_are_passed_over(void) {
    static const struct number lists[] = {
        {"", UNTOUCHED},
        {":", UNTOUCHED},
        {":::::", UNTOUCHED},
        {"=", UNTOUCHED},
        {"glibc.malloc.", UNTOUCHED},
        {"glibc.malloc.=5", UNTOUCHED},
        {"glibc.malloc.mmap_threshold", UNTOUCHED},
        {"glibc.malloc.mmap_threshold=", UNTOUCHED},
        {"glibc.malloc.mmap_threshold:5", UNTOUCHED},
        {"glibc.malloc.mmap_thresholds=5", UNTOUCHED},
        {"glibc.malloc.mmap_threshol=5", UNTOUCHED},
        {"glibc.malloc.MMAP_THRESHOLD=5", UNTOUCHED},
        {"xglibc.malloc.mmap_threshold=5", UNTOUCHED},
        {" glibc.malloc.mmap_threshold=5", UNTOUCHED},
        {"glibc.elision.mmap_threshold=5", UNTOUCHED},
        {"mmap_threshold=5", UNTOUCHED},
        {"glibc.malloc.mmap_threshold=5=6", UNTOUCHED},
        {"glibc.malloc.mmap_threshold=glibc.malloc.mmap_threshold=5", UNTOUCHED},
        /* what is right stands beside what is not */
        {":glibc.malloc.mmap_threshold=5", 5},
        {"glibc.malloc.mmap_threshold=5:", 5},
        {"glibc:glibc.malloc.mmap_threshold=5:glibc.malloc", 5},
        {"glibc.malloc.mmap_threshold=x:glibc.malloc.mmap_threshold=6", 6},
        {"glibc.malloc.mmap_threshold=6:glibc.malloc.mmap_threshold=x", 6},
        /* of duplicates the last one wins */
        {"glibc.malloc.mmap_threshold=1:glibc.malloc.mmap_threshold=2", 2},
        {"glibc.malloc.mmap_threshold=3::glibc.malloc.mmap_threshold=3:glibc.malloc.mmap_threshold="
         "1",
         1},
    };
    for (size_t i = 0; i < COUNT_OF(lists); i++) {
        if (threshold_from("GLIBC_TUNABLES=", lists[i].text, "") != lists[i].value) {
            fprintf(stderr, "# %s\n", lists[i].text);
            must(false);
        }
    }
}

static void tunables_win_over_variables(void) {
    fake_os.environment[1] = "GLIBC_TUNABLES=glibc.malloc.mmap_threshold=222";
    must(threshold_from("MALLOC_MMAP_THRESHOLD_=", "111", "") == 222);
    fake_os.environment[1] = "GLIBC_TUNABLES=glibc.malloc.mmap_threshold=wrong";
    must(threshold_from("MALLOC_MMAP_THRESHOLD_=", "111", "") == 111);
}

static void similar_variables_are_not_meant(void) {
    must(threshold_from("MALLOC_MMAP_THRESHOLD=", "5", "") == UNTOUCHED);
    must(threshold_from("MALLOC_MMAP_THRESHOLD__=", "5", "") == UNTOUCHED);
    must(threshold_from("XMALLOC_MMAP_THRESHOLD_=", "5", "") == UNTOUCHED);
    must(threshold_from("MALLOC_MMAP_THRESHOLD_", "", "") == UNTOUCHED);
}

/* Calls before libc knows the environment see the defaults; what it says counts from then on. */
static void an_environment_that_comes_late_is_read_once(void) {
    fake_os.environment_missing = true;
    fake_os.environment[1] = "MALLOC_TOP_PAD_=4096";
    must(threshold_from("MALLOC_MMAP_THRESHOLD_=", "5", "") == UNTOUCHED);
    option_late();
    must(!page_state.top_pad_set);
    fake_os.environment_missing = false;
    option_late();
    must(page_state.top_pad_set && page_state.top_pad_bytes == 4096);
    fake_os.environment[1] = "MALLOC_TOP_PAD_=8192";
    option_late();
    must(page_state.top_pad_bytes == 4096);
}

/* ---- mallopt ------------------------------------------------------------------------------------- */

static long value_of(const char *name) {
    long value = -2;
    option_is_set((unsigned)(option_named(name) - option_table), &value);
    return value;
}

static void mallopt_sets_what_is_in_range(void) {
    must(option_set(M_MMAP_THRESHOLD, 300000) == 1 && heap_mmap_threshold() == 300000);
    must(option_set(M_MMAP_THRESHOLD, -1) == 1 && heap_mmap_threshold() == SIZE_MAX);
    must(option_set(M_MMAP_THRESHOLD, INT_MAX) == 1 && heap_mmap_threshold() == INT_MAX);
    must(option_set(M_TRIM_THRESHOLD, MIB) == 1 && page_trim_bound() == MIB);
    must(option_set(M_TOP_PAD, 12345) == 1 && page_state.top_pad_bytes == 12345);
    must(option_set(M_MXFAST, 0) == 1 && option_set(M_MXFAST, 160) == 1);
    must(option_set(M_MXFAST, 161) == 0 && option_set(M_MXFAST, -1) == 0);
    must(option_set(M_ARENA_MAX, 1) == 1 && option_set(M_ARENA_TEST, 4) == 1);
    must(option_set(M_ARENA_MAX, 0) == 1 && value_of("arena_max") == 1);
    must(option_set(M_PERTURB, 0x1a5) == 1 && value_of("perturb") == 0xa5);
    must(option_set(M_MMAP_MAX, -1) == 1 && value_of("mmap_max") == 0);
    must(option_set(12345, 1) == 1 && option_set(-12345, 1) == 1); /* unknown ones, as in glibc */
    must(option_set(0, 5) == 1);
}

static void the_table_is_in_order(void) {
    must(option_count > 5);
    for (unsigned i = 0; i < option_count; i++) {
        const struct option *option = &option_table[i];
        must(option->name && *option->name && option->help && *option->help && option->apply);
        must(option->minimum <= option->maximum);
        must(option->environment || option->tunable || option->number);
        for (unsigned k = 0; k < i; k++) {
            const struct option *other = &option_table[k];
            must(strcmp(option->name, other->name) != 0);
            must(!option->number || option->number != other->number);
        }
    }
}

/* ---- what they do -------------------------------------------------------------------------------- */

static void with_variable(const char *entry) {
    fake_os.environment[0] = entry;
    option_init();
}

static bool is_mapped(size_t size) {
    void *block = api_malloc(size);
    must(block);
    bool mapped = page_run_pages((uintptr_t)block) == 0;
    api_free(block);
    return mapped;
}

static void mmap_threshold_parts_runs_from_mappings(void) {
    must(is_mapped(128 * KIB));
    with_variable("MALLOC_MMAP_THRESHOLD_=500000");
    must(!is_mapped(499999) && is_mapped(500000));
    must(!is_mapped(499999)); /* it is fixed now, whatever was freed */
}

static void mmap_max_0_maps_nothing(void) {
    with_variable("MALLOC_MMAP_MAX_=0");
    must(!is_mapped(10 * MIB));
}

static void mmap_max_limits_their_number(void) {
    with_variable("MALLOC_MMAP_MAX_=3");
    void *blocks[4];
    for (size_t i = 0; i < 4; i++) {
        blocks[i] = api_malloc(MIB);
        must(blocks[i] && (page_run_pages((uintptr_t)blocks[i]) == 0) == (i < 3));
    }
    api_free(blocks[1]);
    must(is_mapped(MIB));
}

static void trim_threshold_bounds_dirty_memory(void) {
    struct page_counts counts;
    with_variable("MALLOC_TRIM_THRESHOLD_=65535"); /* from 64 KiB on for a moment more */
    must(page_trim_bound() == 61440);
    void *block = api_malloc(100 * KIB);
    memset(block, 1, 100 * KIB);
    api_free(block);
    page_count(&counts);
    must(counts.dirty_bytes <= 65535);
    with_variable("MALLOC_TRIM_THRESHOLD_=-1");
    must(page_trim_bound() > GIB);
}

static void perturb_fills_memory(void) {
    with_variable("MALLOC_PERTURB_=0xa5");
    static const size_t sizes[] = {1, 100, 5000, 50 * KIB, MIB};
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        unsigned char *block = api_malloc(sizes[i]);
        must(block[0] == 0x5a && memcmp(block, block + 1, sizes[i] - 1) == 0);
        must(all_zero(api_calloc(1, sizes[i]), sizes[i]));
        unsigned char *neighbour = api_malloc(sizes[i]);
        api_free(block);
        must(sizes[i] >= MIB || (block[0] == 0xa5 && block[sizes[i] - 1] == 0xa5));
        must(neighbour[0] == 0x5a);
    }
}

static size_t cached_bytes_after(unsigned class_index) {
    struct cache_counts counts;
    void *objects[100];
    for (size_t round = 0; round < 50; round++) {
        for (size_t i = 0; i < COUNT_OF(objects); i++)
            objects[i] = api_malloc(size_classes[class_index].size);
        for (size_t i = 0; i < COUNT_OF(objects); i++)
            api_free(objects[i]);
    }
    cache_count(&counts);
    return counts.cached_bytes;
}

static void check_means_no_caches(void) {
    with_variable("QUARRY_CHECK=1");
    must(cached_bytes_after(4) == 0);
}

/* A block of a class that is hot, freed. */
static void *freed_block(void) {
    must(cached_bytes_after(4) > 0);
    void *block = api_malloc(64);
    api_free(block);
    return block;
}

static void free_twice_under_check(void) {
    void *block = freed_block();
    must(option_set(QUARRY_M_CHECK, 1) == 1);
    api_free(block);
}

static void ask_for_the_size_under_check(void) {
    void *block = freed_block();
    must(api_malloc_usable_size(block) == 64);
    must(option_set(QUARRY_M_CHECK, 1) == 1);
    must(api_malloc_usable_size(block) == 0);
}

static void mallopt_checks_from_now_on(void **state) {
    (void)state;
    assert_true(died_of(run_and_catch(free_twice_under_check), SIGABRT));
    assert_true(died_of(run_and_catch(ask_for_the_size_under_check), SIGABRT));
}

/* Nine calls that are wrong, and what has to be as it was after them. */
static void misuse_everything(void) {
    static int foreign;
    char *kept = api_malloc(40), *freed = api_malloc(40), *run = api_malloc(40000);
    must(kept && freed && run);
    api_free(&foreign);
    api_free(kept + 16);
    api_free(run + 4096);
    api_free(freed);
    api_free(freed);
    must(api_malloc_usable_size(freed) == 0);
    must(api_realloc(freed, 100) == NULL);
    api_free_sized(kept, 1000);
    api_free_aligned_sized(kept, (size_t)1 << 40, 40);
    must(api_malloc_usable_size(kept) == 48);
    api_free(run);
    api_free(run);
    api_free(kept);
    must(page_live_bytes() == 0);
    must_be_sound();
}

static void misuse_silently(void) {
    with_variable("MALLOC_CHECK_=0");
    misuse_everything();
}

static void misuse_and_print(void) {
    with_variable("GLIBC_TUNABLES=glibc.malloc.check=1");
    misuse_everything();
}

static void misuse_what_is_filled(void) {
    with_variable("MALLOC_CHECK_=1");
    must(option_set(M_PERTURB, 165) == 1);
    misuse_everything();
}

static void misuse_and_abort(void) {
    with_variable("MALLOC_CHECK_=2");
    misuse_everything();
}

static void misuse_what_is_hot(void) {
    must(cached_bytes_after(4) > 0);
    void *block = api_malloc(64);
    api_free(block);
    api_free(block);
    must(option_set(M_CHECK_ACTION, 1) == 1); /* the bin is emptied */
    must(page_live_bytes() == 0);
    must_be_sound();
}

static size_t lines_of(void (*body)(void)) {
    struct outcome outcome = run_and_catch(body);
    size_t lines = 0;
    assert_int_equal(outcome.status, 0);
    for (const char *c = outcome.text; *c; c++)
        lines += *c == '\n';
    return lines;
}

static void check_action_prints_or_aborts_or_neither(void **state) {
    (void)state;
    assert_int_equal(lines_of(misuse_silently), 0);
    assert_int_equal(lines_of(misuse_and_print), 9);
    assert_int_equal(lines_of(misuse_what_is_filled), 9);
    assert_int_equal(lines_of(misuse_what_is_hot), 1);
    struct outcome silent = run_and_catch(misuse_and_abort);
    assert_true(died_of(silent, SIGABRT) && silent.text[0] == 0);
}

static void *disable_caches(void *unused) {
    (void)unused;
    must(option_set(M_PERTURB, 1) == 1);
    return NULL;
}

static void caches_end_with_the_calls_that_end_them(void) {
    must(cached_bytes_after(4) > 0);
    must(option_set(QUARRY_M_CHECK, 1) == 1);
    must(cached_bytes_after(4) == 0);
    must(option_set(QUARRY_M_CHECK, 0) == 1);
    must(cached_bytes_after(4) > 0 && cached_bytes_after(12) > 0);
    in_thread(disable_caches, NULL);
    api_free(api_malloc(size_classes[20].size)); /* a slow operation of any class */
    must(cache_tls->state[4].capacity == 0 && cache_tls->state[12].capacity == 0);
    must(cached_bytes_after(4) == 0);
}

static void tcache_options_limit_the_caches(void) {
    with_variable("GLIBC_TUNABLES=glibc.malloc.tcache_count=5:glibc.malloc.tcache_max=100");
    size_t bytes = cached_bytes_after(4);
    must(bytes > 0 && bytes <= 5 * size_classes[4].size);
    must(cached_bytes_after(20) <= bytes);
    with_variable("GLIBC_TUNABLES=glibc.malloc.tcache_count=70000"); /* out of range */
    must(cached_bytes_after(5) <= bytes + 5 * size_classes[5].size);
}

static void defaults_cache(void) {
    must(cached_bytes_after(4) > 5 * size_classes[4].size);
}

static void free_foreign(void) {
    static int foreign;
    api_free(&foreign);
    api_free_sized(&foreign, sizeof foreign);
    api_free_aligned_sized(&foreign, sizeof foreign, sizeof foreign);
}

static void free_foreign_under_leak(void) {
    with_variable("QUARRY_FOREIGN=leak");
    free_foreign();
}

static void free_foreign_under_nonsense(void) {
    with_variable("QUARRY_FOREIGN=leaks");
    free_foreign();
}

static void words_name_values(void **state) {
    (void)state;
    assert_true(died_of(run_and_catch(free_foreign), SIGABRT));
    assert_int_equal(run_and_catch(free_foreign_under_leak).status, 0);
    assert_true(died_of(run_and_catch(free_foreign_under_nonsense), SIGABRT));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        body_test(variables_are_numbers_as_c_writes_them),
        body_test(tunables_are_numbers_as_c_writes_them),
        body_test(a_variable_is_one_number),
        body_test(malformed_tunables_are_passed_over),
        body_test(tunables_win_over_variables),
        body_test(similar_variables_are_not_meant),
        body_test(an_environment_that_comes_late_is_read_once),
        body_test(mallopt_sets_what_is_in_range),
        body_test(the_table_is_in_order),
        body_test(mmap_threshold_parts_runs_from_mappings),
        body_test(mmap_max_0_maps_nothing),
        body_test(mmap_max_limits_their_number),
        body_test(trim_threshold_bounds_dirty_memory),
        body_test(perturb_fills_memory),
        body_test(check_means_no_caches),
        body_test(caches_end_with_the_calls_that_end_them),
        body_test(tcache_options_limit_the_caches),
        body_test(defaults_cache),
        cmocka_unit_test(words_name_values),
        cmocka_unit_test(mallopt_checks_from_now_on),
        cmocka_unit_test(check_action_prints_or_aborts_or_neither),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
