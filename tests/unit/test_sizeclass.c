/* SPDX-License-Identifier: MIT
 *
 * test_sizeclass.c: every size, every class, every offset in every slab.
 */
#include "unit_support.h"

#include "sizeclass.h"

static void classes_grow_in_steps_of_the_grain(void **state) {
    (void)state;
    assert_int_equal(size_classes[1].size, SIZE_GRAIN);
    assert_int_equal(size_classes[CLASS_COUNT - 1].size, SMALL_MAX);
    for (unsigned i = 1; i < CLASS_COUNT; i++) {
        assert_int_equal(size_classes[i].size % SIZE_GRAIN, 0);
        assert_true(size_classes[i].size > size_classes[i - 1].size);
    }
}

static void every_size_gets_the_smallest_class_that_holds_it(void **state) {
    (void)state;
    for (size_t bytes = 0; bytes <= SMALL_MAX; bytes++) {
        unsigned index = sizeclass_for(bytes);
        size_t wanted = bytes ? bytes : 1;
        assert_in_range(index, 1, CLASS_COUNT - 1);
        assert_true(size_classes[index].size >= wanted);
        assert_true(index == 1 || size_classes[index - 1].size < wanted);
    }
}

/* Rounding up costs 15 bytes up to 128, and an eighth above. */
static void rounding_costs_little(void **state) {
    (void)state;
    for (size_t bytes = 1; bytes <= SMALL_MAX; bytes++) {
        size_t size = size_classes[sizeclass_for(bytes)].size;
        assert_true(bytes <= 128 ? size - bytes < SIZE_GRAIN : (size - bytes) * 8 <= bytes);
    }
}

static void every_slab_is_within_its_limits(void **state) {
    (void)state;
    for (unsigned i = 1; i < CLASS_COUNT; i++) {
        const struct size_class *class = &size_classes[i];
        size_t bytes = class->pages * PAGE_BYTES, used = (size_t) class->objects * class->size;
        assert_in_range(class->pages, 1, SLAB_MAX_PAGES);
        assert_in_range(class->objects, 8, SLAB_MAX_OBJECTS);
        assert_true(used <= bytes);
        assert_true((bytes - used) * 16 <= bytes); /* INV-CLASS-1 */
        assert_in_range(class->small_pages, 1, class->pages);
        assert_in_range(class->small_objects, 1, class->objects);
        assert_int_equal(sizeclass_pages(class, class->small_objects), class->small_pages);
        assert_int_equal(sizeclass_pages(class, class->objects), class->pages);
        assert_true(class->small_objects < class->objects || class->small_pages == class->pages);
    }
}

/* INV-CLASS-2 and 3, also for the tail, whose offsets must give an index past the last object. */
static void index_is_exact_for_every_offset(void **state) {
    (void)state;
    for (unsigned i = 1; i < CLASS_COUNT; i++) {
        const struct size_class *class = &size_classes[i];
        for (size_t offset = 0; offset < class->pages * PAGE_BYTES; offset++)
            if (sizeclass_index(class, offset) != offset / class->size ||
                ((uint32_t)(offset * class->magic) < class->magic) != (offset % class->size == 0))
                fail_msg("class %u, offset %zu", i, offset);
    }
}

/* The smallest class whose size is a multiple of the alignment and holds the bytes, or none. */
static unsigned aligned_by_search(size_t bytes, size_t align) {
    for (unsigned i = 1; i < CLASS_COUNT; i++)
        if (size_classes[i].size >= bytes && size_classes[i].size % align == 0)
            return i;
    return 0;
}

static void aligned_class_is_the_smallest_that_fits(void **state) {
    (void)state;
    for (size_t align = 1; align <= PAGE_BYTES; align *= 2)
        for (size_t bytes = 0; bytes <= SMALL_MAX; bytes++)
            if (sizeclass_aligned(bytes, align) != aligned_by_search(bytes, align))
                fail_msg("%zu bytes at %zu", bytes, align);
}

static void what_has_no_aligned_class_gets_none(void **state) {
    (void)state;
    assert_int_equal(sizeclass_aligned(SMALL_MAX + 1, 16), 0);
    assert_int_equal(sizeclass_aligned(SIZE_MAX, 16), 0);
    assert_int_equal(sizeclass_aligned(16, 2 * PAGE_BYTES), 0);
    assert_int_equal(sizeclass_aligned(16, (size_t)1 << 63), 0);
    assert_int_equal(sizeclass_aligned(PAGE_BYTES, PAGE_BYTES), sizeclass_for(PAGE_BYTES));
}

static void initialising_again_changes_nothing(void **state) {
    (void)state;
    struct size_class before[BIN_COUNT];
    uint8_t grains[sizeof size_class_of_grain];
    memcpy(before, size_classes, sizeof before);
    memcpy(grains, size_class_of_grain, sizeof grains);
    sizeclass_init();
    assert_memory_equal(before, size_classes, sizeof before);
    assert_memory_equal(grains, size_class_of_grain, sizeof grains);
}

/* Each request gets the shortest run with a class; lengths between two classes have none. */
static void runs_have_classes_of_their_length(void **state) {
    (void)state;
    for (size_t bytes = SMALL_MAX + 1; bytes <= RUN_MAX; bytes += 509) {
        unsigned index = sizeclass_for_run(bytes);
        assert_true(sizeclass_is_run(index) && index < BIN_COUNT);
        assert_true(size_classes[index].size >= bytes);
        assert_true(index == CLASS_COUNT || size_classes[index - 1].size < bytes);
        assert_true(size_classes[index].size - pages_for(bytes) * PAGE_BYTES <= bytes / 4);
        assert_int_equal(sizeclass_of_run(size_classes[index].pages), index);
    }
    assert_int_equal(size_classes[BIN_COUNT - 1].size, RUN_MAX);
    assert_int_equal(sizeclass_of_run(16), sizeclass_for_run(16 * PAGE_BYTES));
    assert_int_equal(sizeclass_of_run(17), 0);
    assert_int_equal(sizeclass_of_run(RUN_MAX_PAGES + 1), 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(classes_grow_in_steps_of_the_grain),
        cmocka_unit_test(every_size_gets_the_smallest_class_that_holds_it),
        cmocka_unit_test(rounding_costs_little),
        cmocka_unit_test(every_slab_is_within_its_limits),
        cmocka_unit_test(index_is_exact_for_every_offset),
        cmocka_unit_test(aligned_class_is_the_smallest_that_fits),
        cmocka_unit_test(what_has_no_aligned_class_gets_none),
        cmocka_unit_test(runs_have_classes_of_their_length),
        cmocka_unit_test(initialising_again_changes_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
