/* SPDX-License-Identifier: MIT
 *
 * greedy: takes blocks of 1 MiB until malloc returns NULL, at most 256, and then goes on.
 *
 * It gives itself the highest oom_score_adj, so that the kernel would choose it first.
 */
#include "step.h"

#include <errno.h>

enum { MOST = 256 };
static char *blocks[MOST];

static void volunteer(void) {
    FILE *file = fopen("/proc/self/oom_score_adj", "w");
    if (file == NULL || fputs("1000", file) < 0 || fclose(file) != 0)
        exit(1);
}

int main(void) {
    volunteer();
    int count = 0;
    while (count < MOST && (blocks[count] = malloc(MIB)) != NULL)
        memset(blocks[count++], 1, MIB);
    if (count < MOST)
        say("malloc returned NULL after %d MiB: %s", count, strerror(errno));
    else
        say("%d MiB taken, and malloc never said no", count);
    wait_for_enter();
    for (int i = 0; i < count / 2; i++)
        free(blocks[i]);
    void *again = malloc(MIB);
    say("half of it freed; malloc(1 MiB) %s", again != NULL ? "succeeds" : "fails");
    wait_for_enter();
    free(again);
    return 0;
}
