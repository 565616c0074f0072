/* SPDX-License-Identifier: MIT
 *
 * test_cuts_modes.c: other ways for a child to begin: with a thread that it starts before it has
 * allocated anything, with the end of its first thread, or in the middle of what was cut, as after a
 * fork in a signal handler.
 */
#include "campaign_support.h"
#include "support.h"

enum { STRIDE = 11 };

static void cut_all_scenarios(void **state) {
    enum campaign_mode mode = *(const enum campaign_mode *)*state;
    unsigned children = 0, failures = 0;
    for (unsigned i = 0; i < scenario_count; i++) {
        if (mode == FORK_BY_CUT_THREAD && scenarios[i].through_exit)
            continue;
        struct campaign campaign = {&scenarios[i], mode, STRIDE, 1 + i % STRIDE, NULL, NULL, 0};
        struct result result = campaign_run(&campaign, false);
        assert_int_equal(result.status, 0);
        assert_true(result.children >= result.stores / STRIDE);
        children += result.children;
        failures += result.failures;
    }
    printf("# at every %dth store: %u forks\n", STRIDE, children);
    assert_true(children > scenario_count);
    assert_int_equal(failures, 0);
}

int main(int count, char **arguments) {
    static enum campaign_mode modes[] = {FORK_THEN_THREAD, FORK_THEN_EXIT, FORK_BY_CUT_THREAD};
    const struct CMUnitTest tests[] = {
        {"the child's first call is in a new thread", cut_all_scenarios, NULL, NULL, &modes[0]},
        {"the child's first thread ends first", cut_all_scenarios, NULL, NULL, &modes[1]},
        {"the cut thread forks itself and goes on", cut_all_scenarios, NULL, NULL, &modes[2]},
    };
    if (count > 1)
        cmocka_set_test_filter(arguments[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
