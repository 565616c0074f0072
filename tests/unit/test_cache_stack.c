/* SPDX-License-Identifier: MIT
 *
 * test_cache_stack.c: the memory of the bins' stacks.
 */
#include "unit_support.h"

#include "api.h"
#include "cache.h"
#include "cache_internal.h"
#include "meta.h"

enum { CLASS = 4, OTHER = 6, BATCH = 2000 };

static unsigned capacity_of(unsigned class_index) {
    return cache_tls->state[class_index].capacity;
}

/* Batches that a bin cannot hold deepen it by a step at a time. */
static void deepen(unsigned class_index, unsigned capacity) {
    static void *objects[BATCH];
    for (size_t round = 0; round < 100 && capacity_of(class_index) < capacity; round++) {
        for (size_t i = 0; i < BATCH; i++)
            must((objects[i] = api_malloc(size_classes[class_index].size)) != NULL);
        for (size_t i = 0; i < BATCH; i++)
            api_free(objects[i]);
    }
    must(capacity_of(class_index) >= capacity);
}

static void a_deep_stack_grows_where_it_is(void) {
    deepen(CLASS, CAPACITY_STEADY_THREADS + 1);
    unsigned before = capacity_of(CLASS);
    void **slots = cache_slots(cache_tls, CLASS);
    must(before < CAPACITY_MAX);
    deepen(CLASS, CAPACITY_MAX);
    must(cache_slots(cache_tls, CLASS) == slots && slots[0] == NULL);
    must(cache_tls->end[CLASS] == slots + CAPACITY_MAX);
    must_be_sound();
}

/* 1 MiB of 4 096 bytes are 256: there is no room for more. */
static void its_room_is_what_its_class_may_hold(void) {
    unsigned class_index = sizeclass_for(4096), most = CAPACITY_MAX_BYTES / 4096;
    deepen(class_index, most);
    char *slots = (char *)cache_slots(cache_tls, class_index);
    must(capacity_of(class_index) == most);
    must(meta_take(CACHE_LINE) == slots + round_up((most + 1) * sizeof(void *), CACHE_LINE));
    must_be_sound();
}

static void a_stack_that_is_given_up_serves_the_next(void) {
    deepen(CLASS, 1000);
    void **slots = cache_slots(cache_tls, CLASS);
    cache_set_enabled(false);
    must(capacity_of(CLASS) == 0);
    cache_set_enabled(true);
    deepen(OTHER, CAPACITY_STEADY_THREADS + 1);
    must(cache_slots(cache_tls, OTHER) == slots);
    must_be_sound();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        body_test(a_deep_stack_grows_where_it_is),
        body_test(its_room_is_what_its_class_may_hold),
        body_test(a_stack_that_is_given_up_serves_the_next),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
