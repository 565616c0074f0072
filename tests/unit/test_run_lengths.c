/* SPDX-License-Identifier: MIT
 *
 * test_run_lengths.c: what realloc does with runs: the class follows the length, and where the length stays.
 */
#include "unit_support.h"

#include "api.h"
#include "heap.h"

static void the_class_follows_the_length(void) {
    char *block = api_malloc(20 * KIB);
    must(pagemap_class(block) == sizeclass_for_run(20 * KIB));
    for (size_t bytes = 24 * KIB; bytes <= 700 * KIB; bytes += 4 * KIB + 100) {
        block = api_realloc(block, bytes);
        size_t pages = page_run_pages((uintptr_t)block);
        must(block && pagemap_class(block) == sizeclass_of_run(pages));
        must(bytes > RUN_MAX || pages == size_classes[sizeclass_for_run(bytes)].pages);
        must(pagemap_class(block + PAGE_BYTES) == 0);
        must(api_malloc_usable_size(block) == pages << PAGE_SHIFT);
    }
    for (size_t bytes = 700 * KIB; bytes > 20 * KIB; bytes -= 20 * KIB) {
        block = api_realloc(block, bytes);
        size_t pages = page_run_pages((uintptr_t)block);
        must(block && (!pages || pagemap_class(block) == sizeclass_of_run(pages)));
    }
    api_free(block);
    must_be_sound();
}

static void a_size_of_the_same_class_stays_in_place(void) {
    char *block = api_malloc(80 * KIB), *wall = api_malloc(80 * KIB);
    must(api_malloc_usable_size(block) == 80 * KIB);
    must(api_realloc(block, 65 * KIB) == block && api_realloc(block, 80 * KIB) == block);
    must(api_malloc_usable_size(block) == 80 * KIB);
    api_free_sized(block, 65 * KIB); /* it may have been asked for with this size */
    api_free(wall);
    must_be_sound();
}

/* Both what has a class and what is longer gives the pages back that it needs no more. */
static void a_run_that_shrinks_is_as_long_as_its_size_asks_for(void) {
    heap_set_mmap_max(0);
    char *block = api_malloc(32 * KIB), *longer = api_malloc(400 * KIB);
    block = api_realloc(block, 20 * KIB);
    must(block && api_malloc_usable_size(block) == 20 * KIB);
    must(api_malloc_usable_size(longer) == 400 * KIB);
    must(api_realloc(longer, 400 * KIB - PAGE_BYTES + 1) == longer);
    must(api_malloc_usable_size(longer) == 400 * KIB);
    must(api_realloc(longer, 400 * KIB - PAGE_BYTES) == longer);
    must(api_malloc_usable_size(longer) == 400 * KIB - PAGE_BYTES);
    must(api_realloc(longer, 400 * KIB - PAGE_BYTES) == longer);
    api_free(block);
    api_free(longer);
    must_be_sound();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        body_test(the_class_follows_the_length),
        body_test(a_size_of_the_same_class_stays_in_place),
        body_test(a_run_that_shrinks_is_as_long_as_its_size_asks_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
