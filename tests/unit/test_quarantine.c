/* SPDX-License-Identifier: MIT
 *
 * test_quarantine.c: the queue of freed blocks: order, limit, the search by address.
 */
#include "unit_support.h"

#include "quarantine.h"

enum { MOST = 65536 };

static struct quarantined block_at(size_t number, size_t bytes) {
    return (struct quarantined){0x100000 + number * 16, bytes, (uint8_t)number, false};
}

static enum quarantine_answer add(size_t number, size_t bytes) {
    struct quarantined block = block_at(number, bytes);
    return quarantine_add(&block);
}

static bool holds(size_t number) {
    return quarantine_holds((void *)block_at(number, 0).address);
}

static void must_take(size_t number, size_t bytes, bool all) {
    struct quarantined out, wanted = block_at(number, bytes);
    must(quarantine_take(&out, all));
    must(out.address == wanted.address && out.bytes == bytes && out.fill == wanted.fill &&
         !out.mapped);
    must(!holds(number));
}

static bool takes_nothing(bool all) {
    struct quarantined out;
    return !quarantine_take(&out, all);
}

static void what_waited_longest_leaves_first(void) {
    quarantine_set_limit(1600);
    for (size_t i = 0; i < 100; i++) {
        must(add(i, 160) == QUARANTINE_KEPT && holds(i));
        if (i >= 10)
            must_take(i - 10, 160, false);
        must(takes_nothing(false));
    }
    for (size_t i = 90; i < 100; i++)
        must_take(i, 160, true);
    must(takes_nothing(true));
}

static void one_large_block_drives_out_many(void) {
    quarantine_set_limit(1600);
    for (size_t i = 0; i < 10; i++)
        must(add(i, 160) == QUARANTINE_KEPT);
    must(add(10, 1600) == QUARANTINE_KEPT);
    for (size_t i = 0; i < 10; i++)
        must_take(i, 160, false);
    must(takes_nothing(false) && holds(10));
    must(add(11, 1616) == QUARANTINE_REFUSED && !holds(11));
}

static void a_block_waits_once(void) {
    quarantine_set_limit(1600);
    must(add(1, 16) == QUARANTINE_KEPT && add(2, 32) == QUARANTINE_KEPT);
    must(add(1, 16) == QUARANTINE_KNOWN && add(2, 99 * 16) == QUARANTINE_KNOWN);
    must_take(1, 16, true);
    must(add(1, 48) == QUARANTINE_KEPT);
    must_take(2, 32, true);
    must_take(1, 48, true);
}

static void a_lower_limit_counts_at_once(void) {
    quarantine_set_limit(1600);
    for (size_t i = 0; i < 10; i++)
        must(add(i, 160) == QUARANTINE_KEPT);
    quarantine_set_limit(160);
    for (size_t i = 0; i < 9; i++)
        must_take(i, 160, false);
    must(takes_nothing(false));
    quarantine_set_limit(0);
    must(add(20, 16) == QUARANTINE_REFUSED);
    must_take(9, 160, false);
}

static void their_number_is_bounded(void) {
    quarantine_set_limit(SIZE_MAX);
    for (size_t i = 0; i < MOST; i++)
        must(add(i, 16) == QUARANTINE_KEPT);
    must(add(MOST, 16) == QUARANTINE_REFUSED);
    for (size_t i = 0; i < MOST; i++)
        must(holds(i));
    must_take(0, 16, false);
    must(takes_nothing(false));
    must(add(MOST, 16) == QUARANTINE_KEPT);
    for (size_t i = 1; i <= MOST; i++)
        must_take(i, 16, true);
}

static void mappings_are_counted(void) {
    struct quarantined out, mapping = {0x200000, 160, 0, true};
    quarantine_set_limit(1600);
    must(add(1, 160) == QUARANTINE_KEPT && quarantine_mappings() == 0);
    must(quarantine_add(&mapping) == QUARANTINE_KEPT && quarantine_mappings() == 1);
    must(quarantine_add(&mapping) == QUARANTINE_KNOWN && quarantine_mappings() == 1);
    must_take(1, 160, true);
    must(quarantine_mappings() == 1 && quarantine_take(&out, true));
    must(out.mapped && out.address == 0x200000 && quarantine_mappings() == 0);
}

/* Addresses far apart, so that chains get long and short; a bit for each says whether it waits. */
static void the_search_matches_a_model(void) {
    enum { NUMBERS = 5000 };
    static bool waits[NUMBERS];
    struct rng rng = {test_seed()};
    quarantine_set_limit(NUMBERS * 8);
    for (size_t i = 0; i < 200000; i++) {
        struct quarantined out;
        size_t number = rng_below(&rng, NUMBERS);
        must(holds(number * 4096) == waits[number]);
        enum quarantine_answer answer = add(number * 4096, 16 + 16 * (number % 4));
        must(answer == (waits[number] ? QUARANTINE_KNOWN : QUARANTINE_KEPT));
        waits[number] = true;
        while (quarantine_take(&out, rng_below(&rng, 10) == 0)) {
            size_t left = (out.address - 0x100000) / 16 / 4096;
            must(left < NUMBERS && waits[left] && out.bytes == 16 + 16 * (left % 4));
            waits[left] = false;
        }
    }
}

static void without_a_table_nothing_waits(void) {
    quarantine_set_limit(1600);
    fake_os.fail_kinds = FAKE_MEMORY;
    must(add(1, 16) == QUARANTINE_REFUSED && !holds(1) && takes_nothing(true));
    fake_os.fail_kinds = 0;
    must(add(1, 16) == QUARANTINE_KEPT);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        body_test(what_waited_longest_leaves_first),
        body_test(one_large_block_drives_out_many),
        body_test(a_block_waits_once),
        body_test(a_lower_limit_counts_at_once),
        body_test(their_number_is_bounded),
        body_test(mappings_are_counted),
        body_test(the_search_matches_a_model),
        body_test(without_a_table_nothing_waits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
