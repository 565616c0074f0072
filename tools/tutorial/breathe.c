/* SPDX-License-Identifier: MIT
 *
 * breathe: 64 MiB in small blocks, freed step by step, each state held for a moment.
 */
#include "step.h"

#include <malloc.h>

enum { BLOCKS = 65536, BLOCK_BYTES = 1000, MOMENT_US = 250000, FEW = 64 };
static char *blocks[BLOCKS];

/* Frees the blocks of which number % step is not 0. */
static void free_but_each(int step) {
    for (int i = 0; i < BLOCKS; i++)
        if (i % step != 0) {
            free(blocks[i]);
            blocks[i] = NULL;
        }
}

int main(void) {
    usleep(MOMENT_US);
    for (int i = 0; i < BLOCKS; i++)
        blocks[i] = written(BLOCK_BYTES);
    usleep(MOMENT_US);
    free_but_each(2);
    usleep(MOMENT_US);
    free_but_each(FEW);
    usleep(MOMENT_US);
    malloc_trim(0);
    usleep(MOMENT_US);
    return 0;
}
