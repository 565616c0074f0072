/* SPDX-License-Identifier: MIT
 *
 * test_fake_os.c: the fake operating system notices what it is there to notice.
 */
#include "unit_support.h"

#include "os.h"

static void handed_out_memory_is_zero_and_writable(void **state) {
    (void)state;
    unsigned char *block = os_map(64 * KIB);
    assert_non_null(block);
    assert_true(all_zero(block, 64 * KIB));
    memset(block, 1, 64 * KIB);
    assert_int_equal(fake_resident_bytes(block, 64 * KIB), 64 * KIB);
    assert_true(os_purge(block, 32 * KIB));
    assert_int_equal(fake_resident_bytes(block, 64 * KIB), 32 * KIB);
    assert_true(all_zero(block, 32 * KIB));
    assert_int_equal(block[32 * KIB], 1);
    assert_true(os_unmap(block, 64 * KIB));
    assert_string_equal(shadow_violation(), "");
}

static void touch_unmapped(void) {
    volatile char *block = os_map(4 * KIB);
    os_unmap((void *)block, 4 * KIB);
    *block = 1;
}

static void touch_above_break(void) {
    os_break_grow(8 * KIB);
    char *top = os_break_now();
    os_break_shrink(top, 8 * KIB);
    *(volatile char *)(top - 1) = 1;
}

static void memory_that_is_not_handed_out_faults(void **state) {
    (void)state;
    assert_true(died_of(run_and_catch(touch_unmapped), SIGSEGV));
    assert_true(died_of(run_and_catch(touch_above_break), SIGSEGV));
}

static void assert_violation(const char *what) {
    assert_memory_equal(shadow_violation(), what, strlen(what));
    shadow_forget_violation();
}

static void calls_on_what_was_not_obtained_are_noticed(void **state) {
    (void)state;
    char *block = os_map(16 * KIB), *top = os_break_now();
    assert_false(os_unmap(block + 8 * KIB, 1 * MIB));
    assert_violation("unmapped, and not mapped");
    assert_false(os_purge(block - 64 * GIB, 4 * KIB));
    assert_violation("purged, and not");
    fake_foreign_sbrk(4096);
    assert_false(os_break_shrink(top + 4096, 8192));
    assert_violation("break lowered below");
    assert_null(os_remap(block - 64 * GIB, 4 * KIB, 8 * KIB, true));
    assert_violation("remapped, and not");
    assert_false(os_populate(block - 64 * GIB, 4 * KIB));
    assert_violation("populated, and not");
    assert_true(os_unmap(block, 16 * KIB));
    assert_string_equal(shadow_violation(), "");
}

static void parts_of_pages_are_noticed(void **state) {
    (void)state;
    char *block = os_map(16 * KIB);
    assert_false(os_purge(block + 512, 4 * KIB));
    assert_violation("purged in parts");
    assert_null(os_map(5000));
    assert_violation("mapped in parts");
    fake_os.page_bytes = 16 * KIB;
    assert_false(os_unmap(block, 4 * KIB));
    assert_violation("unmapped in parts");
    fake_os.page_bytes = 4 * KIB;
    assert_true(os_unmap(block, 16 * KIB));
}

static void live_blocks_are_guarded(void **state) {
    (void)state;
    char *block = os_map(16 * KIB);
    shadow_live_add(block + 100, 50);
    assert_false(os_purge(block, 4 * KIB));
    assert_violation("purged, and not");
    assert_true(os_purge(block + 4 * KIB, 4 * KIB));
    assert_false(os_unmap(block, 16 * KIB));
    assert_violation("unmapped, and not");
    shadow_live_add(block + 149, 10);
    assert_violation("handed out twice");
    shadow_live_add(block - 64 * GIB, 10);
    assert_violation("handed out, and not");
    shadow_live_add(block + 150, 10);
    shadow_live_remove(block + 150);
    shadow_live_remove(block + 100);
    assert_string_equal(shadow_violation(), "");
    shadow_live_remove(block + 100);
    assert_violation("removed, and not live");
    assert_true(os_unmap(block, 16 * KIB));
    assert_string_equal(shadow_violation(), "");
}

static void calls_fail_by_number_and_by_kind(void **state) {
    (void)state;
    fake_os.fail_first = fake_os.calls + 2;
    fake_os.fail_count = 2;
    void *first = os_map(4 * KIB), *second = os_map(4 * KIB), *third = os_map(4 * KIB);
    void *fourth = os_map(4 * KIB);
    assert_non_null(first);
    assert_null(second);
    assert_null(third);
    assert_non_null(fourth);
    fake_os.fail_kinds = FAKE_BIT(FAKE_UNMAP);
    assert_false(os_unmap(first, 4 * KIB));
    assert_true(os_purge(first, 4 * KIB));
    fake_os.fail_kinds = 0;
    assert_true(os_unmap(first, 4 * KIB));
    assert_true(os_unmap(fourth, 4 * KIB));
}

static void limits_are_kept(void **state) {
    (void)state;
    fake_os.space_limit = fake_owned_bytes() + 10 * KIB;
    void *block = os_map(8 * KIB);
    assert_non_null(block);
    assert_null(os_map(4 * KIB));
    assert_null(os_remap(block, 8 * KIB, 12 * KIB, true));
    fake_os.space_limit = SIZE_MAX;
    void *larger = os_remap(block, 8 * KIB, 12 * KIB, true);
    assert_non_null(larger);
    assert_true(os_unmap(larger, 12 * KIB));
}

static void remapping_keeps_content(void **state) {
    (void)state;
    unsigned char *block = os_map(64 * KIB);
    pattern_fill(block, 64 * KIB, 7);
    assert_true(fake_foreign_map((uintptr_t)block + 64 * KIB, 4 * KIB) ||
                shadow_at((uintptr_t)block + 64 * KIB) != OWNER_NONE);
    assert_null(os_remap(block, 64 * KIB, 128 * KIB, false));
    unsigned char *moved = os_remap(block, 64 * KIB, 128 * KIB, true);
    assert_ptr_not_equal(moved, block);
    assert_true(pattern_intact(moved, 64 * KIB, 7, 64 * KIB));
    assert_true(all_zero(moved + 64 * KIB, 64 * KIB));
    assert_ptr_equal(os_remap(moved, 128 * KIB, 32 * KIB, false), moved);
    assert_true(pattern_intact(moved, 64 * KIB, 7, 32 * KIB));
    assert_true(os_unmap(moved, 32 * KIB));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(handed_out_memory_is_zero_and_writable),
        cmocka_unit_test(memory_that_is_not_handed_out_faults),
        cmocka_unit_test(calls_on_what_was_not_obtained_are_noticed),
        cmocka_unit_test(parts_of_pages_are_noticed),
        cmocka_unit_test(live_blocks_are_guarded),
        cmocka_unit_test(calls_fail_by_number_and_by_kind),
        cmocka_unit_test(limits_are_kept),
        cmocka_unit_test(remapping_keeps_content),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
