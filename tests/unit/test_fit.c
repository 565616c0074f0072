/* SPDX-License-Identifier: MIT
 *
 * test_fit.c: extents of free pages by length, beside a model of one byte per page, and fit_verify
 * with one fault planted at a time.
 */
#include "unit_support.h"

#include "fit.h"

enum { STEPS = 4000, CHECK_EVERY = 100, NONE = 2 };

static struct fit fit;
static struct buddy sets[2];             /* by kind */
static unsigned char model[BUDDY_PAGES]; /* the kind of each page, or NONE */
static struct rng rng;

static void empty(void) {
    memset(&fit, 0, sizeof fit);
    memset(sets, 0, sizeof sets);
    memset(model, NONE, sizeof model);
}

static void put(enum fit_kind kind, unsigned first, unsigned count) {
    fit_insert(&fit, kind, first, count);
    buddy_insert(&sets[kind], first, count);
    memset(model + first, (int)kind, count);
}

static void take(unsigned first, unsigned count) {
    buddy_remove(&sets[model[first]], first, count);
    fit_remove(&fit, fit_holding(&fit, first), first, count);
    memset(model + first, NONE, count);
}

static void assert_sound(void) {
    assert_string_equal(fit_verify(&fit, &sets[FIT_DIRTY], &sets[FIT_CLEAN]), "");
}

/* How many pages from first on, at most limit, are what the first one is. */
static unsigned alike(unsigned first, unsigned limit) {
    unsigned count = 0;
    while (count < limit && first + count < BUDDY_PAGES && model[first + count] == model[first])
        count++;
    return count;
}

/* The shortest extent of a kind of at least so many pages; 0 if there is none. */
static unsigned model_shortest(enum fit_kind kind, unsigned pages) {
    unsigned best = 0;
    for (unsigned page = 0; page < BUDDY_PAGES;) {
        unsigned count = alike(page, BUDDY_PAGES);
        if (model[page] == kind && count >= pages && (best == 0 || count < best))
            best = count;
        page += count;
    }
    return best;
}

static bool model_is_extent(struct fit_extent extent) {
    return model[extent.first] == extent.kind && alike(extent.first, BUDDY_PAGES) == extent.count &&
           (extent.first == 0 || model[extent.first - 1] != extent.kind);
}

/* Up to FIT_EXACT pages the shortest is found; beyond, one of the same list: an eighth more at most. */
static void check_find(void) {
    for (unsigned kind = 0; kind < 2; kind++) {
        unsigned pages = 1 + (unsigned)rng_below(&rng, rng_below(&rng, 2) ? 80 : BUDDY_PAGES);
        unsigned shortest = model_shortest(kind, pages);
        struct fit_extent found;
        assert_int_equal(fit_find(&fit, kind, pages, &found), shortest != 0);
        if (!shortest)
            continue;
        assert_true(model_is_extent(found) && found.kind == kind);
        assert_in_range(found.count, shortest,
                        shortest <= FIT_EXACT ? shortest : shortest + shortest / 8);
    }
}

static void check_walk(void) {
    for (unsigned kind = 0; kind < 2; kind++) {
        unsigned pages = 0, longest = 0, at = 0;
        struct fit_walk walk = {0, 0};
        struct fit_extent found;
        for (; fit_next(&fit, kind, &walk, &found); at++) {
            assert_true(model_is_extent(found) && found.kind == kind);
            pages += found.count;
            longest = at == 0 ? found.count : longest;
            assert_true(found.count <= longest + longest / 8);
        }
        assert_int_equal(pages, sets[kind].pages);
    }
}

static void check_beside(void) {
    for (unsigned page = 0; page < BUDDY_PAGES; page++) {
        struct fit_extent found;
        bool begins = model[page] != NONE && (page == 0 || model[page - 1] != model[page]);
        bool ends =
            model[page] != NONE && (page == BUDDY_PAGES - 1 || model[page + 1] != model[page]);
        assert_int_equal(fit_beside(&fit, page, &found), begins || ends);
        if (begins || ends) {
            assert_true(model_is_extent(found));
            assert_true(page == found.first || page == found.first + found.count - 1);
        }
        if (model[page] != NONE) {
            struct fit_extent held = fit_holding(&fit, page);
            assert_true(model_is_extent(held));
            assert_true(held.first <= page && page < held.first + held.count);
        }
    }
}

static void change_something(void) {
    unsigned first = (unsigned)rng_below(&rng, BUDDY_PAGES);
    if (model[first] != NONE && rng_below(&rng, 2)) /* as runs are cut */
        first = fit_holding(&fit, first).first;
    unsigned count = alike(first, 1 + (unsigned)rng_below(&rng, rng_below(&rng, 8) ? 40 : 3000));
    if (model[first] == NONE)
        put((enum fit_kind)rng_below(&rng, 2), first, count);
    else
        take(first, count);
}

static void random_changes_match_the_model(void **state) {
    (void)state;
    rng.state = test_seed();
    empty();
    for (int step = 0; step < STEPS; step++) {
        change_something();
        check_find();
        if (step % CHECK_EVERY == 0) {
            assert_sound();
            check_walk();
            check_beside();
        }
    }
}

/* Three in one list, cut at the front by so little that they stay in it, wherever they are there. */
static void what_is_cut_a_little_keeps_its_place(void **state) {
    (void)state;
    static const unsigned starts[] = {1000, 3000, 5000}, length = 1100;
    for (unsigned cut = 0; cut < 3; cut++) {
        struct fit_walk walk = {0, 0};
        struct fit_extent found;
        empty();
        for (unsigned i = 0; i < 3; i++)
            put(FIT_CLEAN, starts[i], length);
        take(starts[cut], 30);
        assert_sound();
        for (unsigned i = 3; i-- > 0;) { /* the last one that came is the first */
            assert_true(fit_next(&fit, FIT_CLEAN, &walk, &found));
            assert_int_equal(found.first, starts[i] + (i == cut ? 30 : 0));
            assert_int_equal(found.count, length - (i == cut ? 30 : 0));
        }
        assert_false(fit_next(&fit, FIT_CLEAN, &walk, &found));
        for (unsigned i = 0; i < 3; i++) { /* out of the list, the last one first */
            take(starts[i] + (i == cut ? 30 : 0), length - (i == cut ? 30 : 0));
            assert_sound();
        }
        put(FIT_CLEAN, starts[cut], length);
        take(starts[cut], length - 70); /* another list */
        assert_sound();
        assert_true(fit_beside(&fit, starts[cut] + length - 1, &found));
        assert_int_equal(found.count, 70);
    }
}

static void neighbours_of_one_kind_become_one_extent(void **state) {
    (void)state;
    struct fit_extent found;
    empty();
    put(FIT_DIRTY, 10, 5);
    put(FIT_CLEAN, 20, 5);
    put(FIT_DIRTY, 15, 5); /* joins what is before it, not what is after it */
    assert_true(fit_beside(&fit, 10, &found));
    assert_int_equal(found.count, 10);
    assert_true(fit_beside(&fit, 24, &found));
    assert_int_equal(found.count, 5);
    put(FIT_CLEAN, 30, 1);
    put(FIT_CLEAN, 25, 5); /* joins both */
    assert_true(fit_find(&fit, FIT_CLEAN, 1, &found));
    assert_int_equal(found.first, 20);
    assert_int_equal(found.count, 11);
    assert_sound();
}

/* Short runs do not pierce the extent that a long one will want. */
static void the_shortest_extent_serves(void **state) {
    (void)state;
    struct fit_extent found;
    empty();
    put(FIT_DIRTY, 0, 133);
    put(FIT_DIRTY, 200, 6);
    put(FIT_DIRTY, 300, 5);
    assert_true(fit_find(&fit, FIT_DIRTY, 4, &found));
    assert_int_equal(found.first, 300);
    assert_true(fit_find(&fit, FIT_DIRTY, 6, &found));
    assert_int_equal(found.first, 200);
    assert_true(fit_find(&fit, FIT_DIRTY, 7, &found));
    assert_int_equal(found.first, 0);
    assert_false(fit_find(&fit, FIT_DIRTY, 134, &found));
    assert_false(fit_find(&fit, FIT_CLEAN, 1, &found));
    assert_false(fit_find(&fit, FIT_DIRTY, BUDDY_PAGES + 1, &found));
}

static void every_length_has_a_list(void **state) {
    (void)state;
    struct fit_extent found;
    for (unsigned pages = 1; pages <= BUDDY_PAGES; pages++) {
        empty();
        put(FIT_CLEAN, 0, pages);
        assert_true(fit_find(&fit, FIT_CLEAN, pages, &found));
        assert_int_equal(found.count, pages);
        take(0, pages);
        assert_false(fit_find(&fit, FIT_CLEAN, 1, &found));
    }
}

static void clear_forgets_all(void **state) {
    (void)state;
    struct fit_extent found;
    empty();
    put(FIT_DIRTY, 7, 100);
    put(FIT_CLEAN, 500, 1);
    fit_clear(&fit);
    memset(sets, 0, sizeof sets);
    assert_sound();
    assert_false(fit_find(&fit, FIT_DIRTY, 1, &found));
    assert_false(fit_beside(&fit, 500, &found));
}

/* ---- faults -------------------------------------------------------------------------------------- */

static void start_with_some_extents(void) {
    empty();
    put(FIT_DIRTY, 64, 9);
    put(FIT_CLEAN, 73, 2);
    put(FIT_DIRTY, 4097, 1);
    put(FIT_CLEAN, 8000, 192);
    assert_sound();
}

static void assert_breaks(const char *invariant) {
    assert_string_equal(fit_verify(&fit, &sets[FIT_DIRTY], &sets[FIT_CLEAN]), invariant);
    start_with_some_extents();
}

static void faults_are_found(void **state) {
    (void)state;
    start_with_some_extents();
    buddy_remove(&sets[FIT_DIRTY], 66, 1); /* a page that only the extent has */
    assert_breaks("INV-FIT-1");
    fit.node[3000].tag = 1; /* a tag where nothing is free */
    assert_breaks("INV-FIT-1");
    fit.node[66].tag = 1; /* within an extent */
    assert_breaks("INV-FIT-1");
    buddy_insert(&sets[FIT_DIRTY], 100, 1); /* a page that only the set has */
    assert_breaks("INV-FIT-2");
    buddy_insert(&sets[FIT_CLEAN], 7999, 1); /* adjacent, not part of it */
    assert_breaks("INV-FIT-2");
    fit.node[72].tag = 8; /* ends disagree */
    assert_breaks("INV-FIT-3");
    fit.list[FIT_DIRTY][8] = 0; /* not listed */
    assert_breaks("INV-FIT-3");
    fit.occupied[FIT_CLEAN][0] |= 1; /* no such list */
    assert_breaks("INV-FIT-3");
    fit.node[64].next = 65; /* a list that goes round */
    assert_breaks("INV-FIT-3");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(random_changes_match_the_model),
        cmocka_unit_test(what_is_cut_a_little_keeps_its_place),
        cmocka_unit_test(neighbours_of_one_kind_become_one_extent),
        cmocka_unit_test(the_shortest_extent_serves),
        cmocka_unit_test(every_length_has_a_list),
        cmocka_unit_test(clear_forgets_all),
        cmocka_unit_test(faults_are_found),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
