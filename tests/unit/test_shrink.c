/* SPDX-License-Identifier: MIT
 *
 * test_shrink.c: realloc to less where there is no memory: programs do not look whether that fails.
 */
#include "unit_support.h"

#include "api.h"
#include "harden.h"

static const size_t large[] = {500, 5000, 16000, 100 * KIB, 300 * KIB, 2 * MIB};
static const size_t little[] = {1, 100, 200, 5000, 17000};

static unsigned refused = FAKE_MEMORY;

/* Takes what is left, for good. */
static void use_up(void) {
    fake_os.fail_kinds = refused;
    for (size_t bytes = 4 * MIB; bytes > 0; bytes /= 2)
        while (api_malloc(bytes))
            continue;
}

static char *shrink(size_t from, size_t to) {
    char *block = api_malloc(from);
    must(block != NULL);
    pattern_fill((unsigned char *)block, from, from);
    use_up();
    errno = 0;
    block = api_realloc(block, to);
    must(block && errno == 0 && pattern_intact((unsigned char *)block, from, from, to));
    must(api_malloc_usable_size(block) >= to);
    fake_os.fail_kinds = 0;
    return block;
}

static void shrink_all(bool exactly) {
    for (size_t i = 0; i < COUNT_OF(large); i++)
        for (size_t k = 0; k < COUNT_OF(little); k++)
            if (little[k] < large[i]) {
                char *block = shrink(large[i], little[k]);
                must(!exactly || api_malloc_usable_size(block) == little[k]);
                api_free_sized(block, little[k]);
            }
    must_be_sound();
}

static void what_shrinks_needs_no_memory(void) {
    shrink_all(false);
}

static void nor_with_canaries(void) {
    harden_begin_canaries();
    shrink_all(true); /* the canary is behind what is in use now */
}

static void nor_with_guards(void) {
    harden_begin_canaries();
    harden_begin_guards(1);
    shrink_all(false);
}

static void nor_where_all_is_cleared(void) {
    harden_set_zero(true);
    shrink_all(false);
}

/* An object stays as long as it is; runs and mappings give back what they need no more. */
static void whole_pages_go_back(void) {
    refused = FAKE_MEMORY & ~FAKE_BIT(FAKE_REMAP); /* the kernel makes a mapping shorter */
    must(api_malloc_usable_size(shrink(100 * KIB, 200)) == PAGE_BYTES);
    must(api_malloc_usable_size(shrink(2 * MIB, 200)) == PAGE_BYTES);
    must(api_malloc_usable_size(shrink(2 * MIB, 5000)) == 2 * PAGE_BYTES);
    must_be_sound();
}

/* A block that was kept does not grow for nothing. */
static void what_was_kept_grows_when_there_is_memory(void) {
    char *block = shrink(5000, 200);
    size_t usable = api_malloc_usable_size(block);
    block = api_realloc(block, 2 * usable);
    must(block && api_malloc_usable_size(block) >= 2 * usable);
    must(pattern_intact((unsigned char *)block, 5000, 5000, 200));
    api_free_sized(block, 2 * usable);
    must_be_sound();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        body_test(what_shrinks_needs_no_memory),
        body_test(nor_with_canaries),
        body_test(nor_with_guards),
        body_test(nor_where_all_is_cleared),
        body_test(whole_pages_go_back),
        body_test(what_was_kept_grows_when_there_is_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
