/* SPDX-License-Identifier: MIT
 *
 * test_guard.c: mappings that end at an inaccessible page, and the heap that makes them, where the system
 * refuses some calls.
 */
#include "unit_support.h"

#include "api.h"
#include "harden.h"
#include "heap.h"
#include "limit.h"
#include "mapping.h"

static size_t page_of_fake(void) {
    return fake_os.page_bytes;
}

static bool faults_at(volatile char *address) {
    fflush(NULL);
    pid_t pid = fork();
    must(pid >= 0);
    if (pid == 0) {
        *address = 1;
        _exit(0);
    }
    int status = wait_for(pid);
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV;
}

static void check_place(size_t bytes, size_t align) {
    size_t owned = fake_owned_bytes(), held = mapping_live_bytes();
    char *block = mapping_take(bytes, align);
    must(block && (uintptr_t)block % max_size(align, 16) == 0 && mapping_bytes(block) == bytes);
    uintptr_t end = (uintptr_t)block + bytes, guard = round_up(end, page_of_fake());
    must(guard - end < max_size(align, 16) || align > page_of_fake());
    must(all_zero(block, bytes));
    memset(block, 1, guard - (uintptr_t)block);
    must(faults_at((char *)guard));
    size_t pages = round_up(bytes, page_of_fake());
    must(mapping_live_bytes() - held == pages);
    must(fake_owned_bytes() - owned == pages + page_of_fake());
    must(mapping_give(block) == bytes && mapping_bytes(block) == 0);
    must(fake_owned_bytes() == owned && mapping_live_bytes() == held);
}

static void check_places(void) {
    static const size_t sizes[] = {1, 15, 16, 17, 100, 4080, 4095, 4096, 4097, 70000, 65536, MIB};
    mapping_guard_all();
    mapping_give(mapping_take(1, 1)); /* makes the table */
    for (size_t i = 0; i < COUNT_OF(sizes); i++)
        for (size_t align = 1; align <= MIB; align *= 4)
            check_place(sizes[i], align);
    must_hold(shadow_violation());
}

static void a_block_ends_at_its_guard(void) {
    check_places();
}

static void a_block_ends_at_its_guard_with_larger_pages(void) {
    fake_os.page_bytes = 64 * KIB;
    check_places();
}

static void without_a_guard_there_is_no_block(void) {
    mapping_guard_all();
    mapping_give(mapping_take(1, 1));
    size_t owned = fake_owned_bytes();
    fake_os.fail_kinds = FAKE_BIT(FAKE_SEAL);
    must(mapping_take(100, 1) == NULL && mapping_take(100, MIB) == NULL);
    must(fake_owned_bytes() == owned && mapping_live() == 0);
    must_hold(shadow_violation());
}

static void a_sealed_block_stays_one(void) {
    mapping_guard_all();
    char *block = mapping_take(10000, 1);
    memset(block, 1, 10000);
    must(mapping_seal(block) && faults_at(block) && faults_at(block + 9999));
    must(mapping_bytes(block) == 10000);
    must(fake_resident_bytes((char *)round_down((uintptr_t)block, PAGE), 3 * PAGE) == 0);
    must(!mapping_seal(block + 16));
    fake_os.fail_kinds = FAKE_BIT(FAKE_SEAL);
    must(!mapping_seal(block));
    must(mapping_give(block) == 10000);
    must_hold(shadow_violation());
}

/* What the heap does where mappings, or guards, cannot be had: it takes other memory. */
static void use_all_sizes(void) {
    static const size_t sizes[] = {0, 1, 100, 5000, 16384, 20000, 130000, MIB};
    char *block[COUNT_OF(sizes)];
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        must((block[i] = api_calloc(1, sizes[i])) != NULL && all_zero(block[i], sizes[i]));
        pattern_fill((unsigned char *)block[i], sizes[i], i);
    }
    for (size_t i = 0; i < COUNT_OF(sizes); i++) {
        must(api_malloc_usable_size(block[i]) - sizes[i] <= 1);
        block[i] = api_realloc(block[i], 2 * sizes[i] + 1);
        must(block[i] && pattern_intact((unsigned char *)block[i], sizes[i], i, sizes[i]));
        api_free_sized(block[i], 2 * sizes[i] + 1);
    }
}

static void hardened_heaps_do_with_less(void) {
    static const unsigned kinds[] = {0, FAKE_BIT(FAKE_SEAL), FAKE_BIT(FAKE_MAP),
                                     FAKE_BIT(FAKE_UNMAP), FAKE_BIT(FAKE_BREAK_GROW)};
    harden_begin_canaries();
    harden_begin_guards(1);
    harden_set_quarantine(300000);
    harden_set_zero(true);
    use_all_sizes(); /* the tables are there now */
    for (size_t i = 0; i < COUNT_OF(kinds); i++) {
        fake_os.fail_kinds = kinds[i];
        use_all_sizes();
        fake_os.fail_kinds = 0;
        must_be_sound();
    }
    must(harden_flush() && !harden_flush());
    must_be_sound();
}

/* Where it could be had after a relief only: then the request, with the canary, went another way. */
static void a_block_that_came_late_is_as_long_as_was_asked_for(void) {
    harden_begin_canaries();
    harden_begin_guards(1);
    harden_set_quarantine(64 * MIB);
    limit_set(40 * MIB);
    api_free(api_malloc(30 * MIB));
    char *block = api_malloc(20 * MIB);
    must(block && api_malloc_usable_size(block) == 20 * MIB);
    must((uintptr_t)block % page_of_fake() == 0 && faults_at(block + 20 * MIB));
    api_free_sized(block, 20 * MIB);
    must_be_sound();
}

int main(void) {
    const struct CMUnitTest tests[] = {
        body_test(a_block_ends_at_its_guard),
        body_test(a_block_ends_at_its_guard_with_larger_pages),
        body_test(without_a_guard_there_is_no_block),
        body_test(a_sealed_block_stays_one),
        body_test(hardened_heaps_do_with_less),
        body_test(a_block_that_came_late_is_as_long_as_was_asked_for),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
