/* SPDX-License-Identifier: MIT
 *
 * family: a parent with 32 MiB in blocks of 500 bytes, and a child that frees one in ten of them.
 */
#include "step.h"

#include <sys/resource.h>
#include <sys/wait.h>

enum { BLOCKS = 65536, BLOCK_BYTES = 500 };
static char *blocks[BLOCKS];

static long faults(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_minflt;
}

static void live_as_child(void) {
    unsigned sum = 0;
    long before = faults();
    for (int i = 0; i < BLOCKS; i++)
        sum += (unsigned)blocks[i][0];
    say("child: %u blocks read, %ld page faults", sum, faults() - before);
    before = faults();
    for (int i = 0; i < BLOCKS; i += 10)
        free(blocks[i]);
    say("child: one block in ten freed, %ld page faults", faults() - before);
    before = faults();
    for (int i = 1; i < BLOCKS; i += 10)
        blocks[i][0] = 2;
    say("child: one block in ten written, %ld page faults", faults() - before);
}

int main(void) {
    for (int i = 0; i < BLOCKS; i++)
        blocks[i] = written(BLOCK_BYTES);
    pid_t child = fork();
    if (child < 0)
        return 1;
    if (child == 0) {
        live_as_child();
        _exit(0);
    }
    int status;
    return waitpid(child, &status, 0) != child || status != 0;
}
