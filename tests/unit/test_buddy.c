/* SPDX-License-Identifier: MIT
 *
 * test_buddy.c: sets of free pages beside a model of one byte per page, and buddy_verify with one
 * fault planted at a time.
 */
#include "unit_support.h"

#include "buddy.h"

enum { STEPS = 3000 };

static struct buddy set;
static unsigned char model[BUDDY_PAGES]; /* 1: in the set */
static struct rng rng;

static void empty_set(void) {
    memset(&set, 0, sizeof set);
    memset(model, 0, sizeof model);
}

/* ---- what the model says ----------------------------------------------------------------------- */

static bool model_all(unsigned first, unsigned count, unsigned char value) {
    for (unsigned page = first; page < first + count; page++)
        if (model[page] != value)
            return false;
    return true;
}

/* Blocks are what merging gives: the largest aligned pieces that are wholly in the set. */
static bool model_is_block(unsigned page, unsigned order) {
    if (page % (1u << order) != 0 || !model_all(page, 1u << order, 1))
        return false;
    unsigned buddy = page ^ (1u << order);
    return order == BUDDY_MAX_ORDER || !model_all(buddy, 1u << order, 1);
}

static int model_next(unsigned order, unsigned from) {
    for (unsigned page = 0; page < BUDDY_PAGES; page += 1u << order)
        if (page >= from && model_is_block(page, order))
            return (int)page;
    return -1;
}

static void check_pages(void) {
    uint32_t pages = 0;
    for (unsigned page = 0; page < BUDDY_PAGES; page++) {
        pages += model[page];
        assert_int_equal(buddy_has(&set, page), model[page]);
    }
    assert_int_equal(set.pages, pages);
}

static void check_searches(void) {
    unsigned blocks = 0;
    for (unsigned order = 0; order < BUDDY_ORDERS; order++) {
        unsigned from = (unsigned)rng_below(&rng, BUDDY_PAGES + 1), found = 0;
        int lowest = model_next(order, 0), last = -1;
        assert_int_equal(buddy_next(&set, order, from), model_next(order, from));
        assert_int_equal(buddy_next(&set, order, 0), lowest);
        unsigned at = 0, count = 0;
        for (int page = lowest; page >= 0; page = buddy_next(&set, order, at)) {
            assert_true(model_is_block((unsigned)page, order));
            last = page;
            at = (unsigned)page + (1u << order);
            count++;
        }
        blocks += count;
        assert_int_equal(buddy_orders(&set) >> order & 1, count > 0);
        if (last >= 0)
            assert_int_equal(buddy_last(&set, order), last);
        int expected = -1;
        unsigned best = order;
        for (; best < BUDDY_ORDERS && expected < 0; best++)
            expected = model_next(best, 0);
        assert_int_equal(buddy_find(&set, order, &found), expected);
        if (expected >= 0)
            assert_int_equal(found, best - 1);
    }
    assert_int_equal(buddy_blocks(&set), blocks);
}

/* ---- random changes ---------------------------------------------------------------------------- */

/* A range of pages that are all in the set, or all not: short ones mostly. */
static unsigned random_range(unsigned *count) {
    unsigned first = (unsigned)rng_below(&rng, BUDDY_PAGES);
    unsigned limit = 1u << rng_below(&rng, BUDDY_ORDERS);
    for (*count = 1; *count < limit && first + *count < BUDDY_PAGES; ++*count)
        if (model[first + *count] != model[first])
            break;
    return first;
}

static void random_changes_match_the_model(void **state) {
    (void)state;
    rng.state = test_seed();
    empty_set();
    for (unsigned step = 0; step < STEPS; step++) {
        unsigned count, first = random_range(&count);
        if (model[first])
            buddy_remove(&set, first, count);
        else
            buddy_insert(&set, first, count);
        memset(model + first, !model[first], count);
        assert_string_equal(buddy_verify(&set), "");
        if (step % 32 == 0) {
            check_pages();
            check_searches();
        }
    }
}

static void whole_set_is_one_block(void **state) {
    (void)state;
    empty_set();
    buddy_insert(&set, 1, BUDDY_PAGES - 2);
    buddy_insert(&set, BUDDY_PAGES - 1, 1);
    assert_int_equal(buddy_orders(&set) >> BUDDY_MAX_ORDER, 0);
    buddy_insert(&set, 0, 1);
    assert_int_equal(buddy_orders(&set), 1u << BUDDY_MAX_ORDER);
    assert_int_equal(buddy_blocks(&set), 1);
    assert_int_equal(buddy_last(&set, BUDDY_MAX_ORDER), 0);
    assert_string_equal(buddy_verify(&set), "");
    buddy_remove(&set, 0, BUDDY_PAGES);
    assert_int_equal(set.pages, 0);
    unsigned order;
    assert_int_equal(buddy_find(&set, 0, &order), -1);
    assert_string_equal(buddy_verify(&set), "");
}

static void every_single_page_can_come_and_go(void **state) {
    (void)state;
    empty_set();
    for (unsigned i = 0; i < BUDDY_PAGES; i++)
        buddy_insert(&set, i * 4099 % BUDDY_PAGES, 1); /* each page once, in a scattered order */
    assert_int_equal(buddy_blocks(&set), 1);
    memset(model, 1, sizeof model);
    for (unsigned i = 0; i < BUDDY_PAGES; i++)
        buddy_remove(&set, i * 5003 % BUDDY_PAGES, 1);
    static const struct buddy empty;
    assert_memory_equal(&set, &empty, sizeof set);
}

static void order_for_is_the_smallest_that_holds(void **state) {
    (void)state;
    for (size_t count = 1; count <= 3 * BUDDY_PAGES; count++) {
        unsigned order = buddy_order_for(count);
        assert_true((size_t)1 << order >= count);
        assert_true(order == 0 || (size_t)1 << (order - 1) < count);
    }
}

/* ---- faults ------------------------------------------------------------------------------------ */

static void start_with_some_blocks(void) {
    empty_set();
    buddy_insert(&set, 64, 8);    /* order 3, in word 1 */
    buddy_insert(&set, 4097, 1);  /* order 0, in word 64 */
    buddy_insert(&set, 4160, 64); /* order 6: word 65 */
    assert_string_equal(buddy_verify(&set), "");
}

static void assert_breaks(const char *invariant) {
    assert_string_equal(buddy_verify(&set), invariant);
    start_with_some_blocks();
}

static void a_wrong_number_of_pages_breaks_1(void **state) {
    (void)state;
    start_with_some_blocks();
    set.pages++;
    assert_breaks("INV-BUDDY-1");
    set.pages -= 64;
    assert_breaks("INV-BUDDY-1");
    set.free[1] |= 0xff00; /* eight pages more, and the summary agrees */
    set.orders.of[1] = 1 << 4;
    assert_breaks("INV-BUDDY-1");
}

/* For each order: a block that the summary does not tell of, and one that it tells of in vain. */
static void wrong_orders_of_a_word_break_2(void **state) {
    (void)state;
    for (unsigned order = 0; order <= 6; order++)
        for (unsigned word = 0; word < BUDDY_WORDS; word += BUDDY_WORDS - 1) {
            empty_set();
            buddy_insert(&set, word * 64, 1u << order);
            assert_int_equal(set.orders.of[word], 1u << order);
            set.orders.of[word] = 0;
            assert_string_equal(buddy_verify(&set), "INV-BUDDY-2");
            set.orders.of[word] = (uint8_t)(1u << order | 1u << (order + 1) % 7);
            assert_string_equal(buddy_verify(&set), "INV-BUDDY-2");
        }
    start_with_some_blocks();
    set.free[1] = 0;
    assert_breaks("INV-BUDDY-2");
    set.orders.of[127] = 1u << 7; /* an order that no word has */
    assert_breaks("INV-BUDDY-2");
}

static void a_wrong_summary_of_whole_words_breaks_3(void **state) {
    (void)state;
    start_with_some_blocks();
    set.whole[1] = 0;
    assert_breaks("INV-BUDDY-3");
    set.whole[0] |= 2; /* a word of which some pages are in the set */
    assert_breaks("INV-BUDDY-3");
    set.whole[1] |= (uint64_t)1 << 63; /* one without any */
    assert_breaks("INV-BUDDY-3");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_changes_match_the_model),
        cmocka_unit_test(whole_set_is_one_block),
        cmocka_unit_test(every_single_page_can_come_and_go),
        cmocka_unit_test(order_for_is_the_smallest_that_holds),
        cmocka_unit_test(a_wrong_number_of_pages_breaks_1),
        cmocka_unit_test(wrong_orders_of_a_word_break_2),
        cmocka_unit_test(a_wrong_summary_of_whole_words_breaks_3),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
