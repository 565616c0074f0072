/* SPDX-License-Identifier: MIT
 *
 * test_cuts_unwiped.c: where the kernel cannot wipe a page in the child, a handler of fork notices it.
 */
#include "campaign_support.h"
#include "cut_support.h"
#include "heap.h"
#include "support.h"

static bool child_has_noticed(pid_t pid) {
    if (pid == 0)
        _exit(*heap_state_word == 1 ? 0 : 3);
    assert_true(pid > 0);
    return wait_for(pid) != 0;
}

static void only_the_handler_notices(void **state) {
    (void)state;
    assert_false(child_has_noticed(_Fork()));
    assert_true(child_has_noticed(fork()));
}

/* Starts itself again: the library looks when it is loaded. */
int main(int count, char **arguments) {
    static struct campaign_way ways[] = {{FORK_THEN_THREAD, 29}, {FORK_THEN_EXIT, 31}};
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_the_handler_notices),
        {"the child's first call is in a new thread", campaign_all, NULL, NULL, &ways[0]},
        {"the child's first thread ends first", campaign_all, NULL, NULL, &ways[1]},
    };
    (void)count;
    if (!getenv(CUT_UNWIPED)) {
        must(setenv(CUT_UNWIPED, "1", 1) == 0);
        execv("/proc/self/exe", arguments);
        must(!"started again");
    }
    return cmocka_run_group_tests(tests, NULL, NULL);
}
