/* SPDX-License-Identifier: MIT
 *
 * deadline: uses 32 MiB once, then works in cycles of which each should be as fast as the one before.
 * Prints the page faults of all cycles; close(-1000) marks for `quarry rt` where they begin and end.
 */
#include "step.h"

#include <sys/resource.h>

enum { CYCLES = 20, BLOCKS = 64 };

static long faults(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_minflt;
}

/* Blocks of 1000 to 250 000 bytes, 9 MB in all, written and freed. */
static void cycle(void) {
    char *small[BLOCKS], *large[BLOCKS];
    for (int i = 0; i < BLOCKS; i++) {
        small[i] = written((size_t)(i % 16 + 1) * 1000);
        large[i] = written((size_t)(i + 1) * 3900);
    }
    for (int i = 0; i < BLOCKS; i++) {
        free(small[i]);
        free(large[i]);
    }
}

int main(void) {
    free(written(32 * MIB));
    cycle();
    long before = faults();
    close(-1000);
    for (int i = 0; i < CYCLES; i++)
        cycle();
    close(-1000);
    say("%d cycles, %ld page faults", CYCLES, faults() - before);
    return 0;
}
