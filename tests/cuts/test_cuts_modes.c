/* SPDX-License-Identifier: MIT
 * runner: timeout=900
 *
 * test_cuts_modes.c: other ways for a child to begin: with a thread that it starts before it has
 * allocated anything, with the end of its first thread, in the middle of what was cut, as after a
 * fork in a signal handler, or with further forks that cut its repair.
 */
#include "campaign_support.h"
#include "support.h"

int main(int count, char **arguments) {
    static struct campaign_way ways[] = {{FORK_THEN_THREAD, 11},
                                         {FORK_THEN_EXIT, 11},
                                         {FORK_BY_CUT_THREAD, 11},
                                         {FORK_THEN_FORK, 151}};
    const struct CMUnitTest tests[] = {
        {"the child's first call is in a new thread", campaign_all, NULL, NULL, &ways[0]},
        {"the child's first thread ends first", campaign_all, NULL, NULL, &ways[1]},
        {"the cut thread forks itself and goes on", campaign_all, NULL, NULL, &ways[2]},
        {"the child's repair is cut as well", campaign_all, NULL, NULL, &ways[3]},
    };
    if (count > 1)
        cmocka_set_test_filter(arguments[1]);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
