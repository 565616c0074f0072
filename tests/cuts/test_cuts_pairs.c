/* SPDX-License-Identifier: MIT
 *
 * test_cuts_pairs.c: two threads are cut by the same fork.  One stands still somewhere in its slow
 * path while the other is cut along its own, until it needs a lock that the first holds.
 */
#include "campaign_support.h"
#include "support.h"

#include "slab.h"

enum { PLACES = 10, CUTS = 45 };

struct pair {
    const char *held, *cut;
    bool large_slabs; /* no small ones: they open and close often, and wait where nothing is cut */
};

/* How many stores both have, when none waits for the other. */
static struct result count_stores(const struct pair *pair) {
    struct campaign campaign = {scenario_named(pair->cut),  FORK_BY_ANOTHER, 1, UINT32_MAX, NULL,
                                scenario_named(pair->held), UINT32_MAX};
    struct result result = campaign_run(&campaign, false);
    assert_int_equal(result.status, 0);
    assert_int_equal(result.children, 0);
    return result;
}

static void cut_both(void **state) {
    const struct pair *pair = *state;
    if (pair->large_slabs)
        slab_small_most = 0;
    struct result all = count_stores(pair);
    unsigned stride = all.stores / CUTS + 1, children = 0, failures = 0, blocked = 0;
    for (unsigned i = 0; i < PLACES; i++) {
        unsigned place = 1 + all.held_stores * i / PLACES;
        struct campaign campaign = {scenario_named(pair->cut),
                                    FORK_BY_ANOTHER,
                                    stride,
                                    1 + i % stride,
                                    NULL,
                                    scenario_named(pair->held),
                                    place};
        struct result result = campaign_run(&campaign, false);
        assert_int_equal(result.status, 0);
        children += result.children;
        failures += result.failures;
        blocked += result.blocked;
    }
    printf("# held at %d of %u stores, %u times in the other's way: %u forks at every %u. store\n",
           PLACES, all.held_stores, blocked, children, stride);
    assert_true(children > 0);
    assert_int_equal(failures, 0);
}

static struct pair pairs[] = {
    {"a bin is refilled", "a bin spills", true},
    {"the first slab of a class", "runs are taken, given and merged", false},
    {"runs are taken, given and merged", "the first slab of a class", false},
    {"everything is trimmed", "a bin is refilled", false},
    {"a thread ends", "a thread's cache is made", false},
    {"mappings are made, resized and unmapped", "the table of mappings grows", false},
    {"a slab is emptied and closed", "the heap grows by the break", false},
    {"dirty pages are purged", "a run is extended and cut", false},
    {"a shard is made, and takes slabs over", "a slab is emptied and closed", false},
    {"holes in slabs are purged", "the break is lowered", false},
    {"tables take memory", "a bin earns capacity", false},
    {"anything at random", "anything at random", false},
};

int main(int count, char **arguments) {
    struct CMUnitTest tests[COUNT_OF(pairs)] = {0};
    static char names[COUNT_OF(pairs)][120];
    for (size_t i = 0; i < COUNT_OF(pairs); i++) {
        snprintf(names[i], sizeof names[i], "%s, while: %s", pairs[i].cut, pairs[i].held);
        tests[i] = (struct CMUnitTest){names[i], cut_both, NULL, NULL, &pairs[i]};
    }
    if (count > 1)
        cmocka_set_test_filter(arguments[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
