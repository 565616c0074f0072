/* SPDX-License-Identifier: MIT
 *
 * buddies: a free block of 4 MiB is split, used up, and merged again.
 *
 * Blocks of 512 KiB, for shorter runs are kept whole for a while after their free.
 */
#include "step.h"

enum { BLOCKS = 8 };
static const size_t block_bytes = MIB / 2;

int main(void) {
    char *whole = must(aligned_alloc(BLOCKS * block_bytes, BLOCKS * block_bytes));
    memset(whole, 1, BLOCKS * block_bytes);
    free(whole);
    say("4 MiB used and free again");
    wait_for_enter();

    char *blocks[BLOCKS];
    blocks[0] = written(block_bytes);
    say("one block of 512 KiB taken");
    wait_for_enter();
    for (int i = 1; i < BLOCKS; i++)
        blocks[i] = written(block_bytes);
    say("eight taken");
    wait_for_enter();
    for (int i = 0; i < BLOCKS; i += 2)
        free(blocks[i]);
    say("numbers 0, 2, 4 and 6 are free");
    wait_for_enter();
    free(blocks[1]);
    say("number 1 is free, too");
    wait_for_enter();
    for (int i = 3; i < BLOCKS; i += 2)
        free(blocks[i]);
    say("all are free");
    wait_for_enter();
    return 0;
}
