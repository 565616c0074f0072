/* SPDX-License-Identifier: MIT
 *
 * test_objects.c: where object caches get their memory from, and where there is none.
 * tests/system/test_objects.py has the rest.
 */
#include "unit_support.h"

#include "api.h"
#include "limit.h"

#include <quarry.h>

static struct quarry_cache *make(void) {
    struct quarry_cache *cache = quarry_cache_create("test", 16, 0, NULL, NULL, NULL);
    must(cache != NULL);
    return cache;
}

/* Leaves free objects in this thread's cache, and no page that is free or can be had. */
static void use_up_all_pages(void) {
    static void *blocks[300];
    bool zero;
    for (int round = 0; round < 20; round++) {
        for (size_t i = 0; i < COUNT_OF(blocks); i++)
            must((blocks[i] = api_malloc(1000)) != NULL);
        for (size_t i = 0; i < COUNT_OF(blocks); i++)
            api_free(blocks[i]);
    }
    fake_os.fail_kinds = FAKE_MEMORY;
    while (page_run_take(1, PAGE_BYTES, &zero)) {
    }
}

static void cached_objects_make_room_for_a_slab(void) {
    struct quarry_cache *cache = make();
    use_up_all_pages();
    void *object = quarry_cache_alloc(cache);
    must(object != NULL);
    quarry_cache_free(cache, object);
    must(quarry_cache_destroy(cache) == 0);
    must_be_sound();
}

static void a_refusal_is_told_and_counted_once(void) {
    struct quarry_cache *cache = make();
    limit_set(1);
    errno = 0;
    must(quarry_cache_alloc(cache) == NULL && errno == ENOMEM && limit_refusals() == 1);
    limit_set(LIMIT_NONE);
    use_up_all_pages();
    errno = 0;
    while (quarry_cache_alloc(cache)) {
    }
    must(errno == ENOMEM && limit_refusals() == 1);
    must_be_sound();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        body_test(cached_objects_make_room_for_a_slab),
        body_test(a_refusal_is_told_and_counted_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
