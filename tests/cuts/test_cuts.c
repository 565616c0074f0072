/* SPDX-License-Identifier: MIT
 * runner: timeout=900
 *
 * test_cuts.c: a thread is cut before every store of every slow path, by a fork in another thread.
 */
#include "campaign_support.h"
#include "support.h"

static void cut_everywhere(void **state) {
    const struct scenario *scenario = *state;
    struct campaign campaign = {scenario, FORK_BY_ANOTHER, 1, 1, NULL, NULL, 0};
    struct result result = campaign_run(&campaign, false);
    printf("# %u stores, %u forks\n", result.stores, result.children);
    assert_int_equal(result.status, 0);
    assert_true(result.stores >= 3);
    assert_int_equal(result.children, result.stores);
    assert_int_equal(result.failures, 0);
}

/* The argument, if any, is a pattern for the names of the scenarios to run. */
int main(int count, char **arguments) {
    struct CMUnitTest tests[48] = {0};
    if (count > 1)
        cmocka_set_test_filter(arguments[1]);
    must(scenario_count <= COUNT_OF(tests));
    for (unsigned i = 0; i < scenario_count; i++)
        tests[i] = (struct CMUnitTest){scenarios[i].name, cut_everywhere, NULL, NULL,
                                       (void *)&scenarios[i]};
    return _cmocka_run_group_tests("cuts", tests, scenario_count, NULL, NULL);
}
