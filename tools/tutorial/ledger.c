/* SPDX-License-Identifier: MIT
 *
 * ledger: some of everything.  40 000 objects, of which every second one is freed; a block that is
 * half written; a large block that is free again.  Then malloc_trim.
 */
#include "step.h"

#include <malloc.h>

enum { OBJECTS = 40000 };
static char *objects[OBJECTS];

int main(void) {
    for (int i = 0; i < OBJECTS; i++)
        objects[i] = written((size_t)(i / 2 % 32 + 1) * 16);
    for (int i = 0; i < OBJECTS; i += 2)
        free(objects[i]);
    memset(must(malloc(8 * MIB)), 1, 4 * MIB);
    char *once = written(MIB / 1024 * 100);
    free(once);
    say("20000 objects live, 20000 free; 4 of 8 MiB written; 100 KiB free again");
    wait_for_enter();
    malloc_trim(0);
    say("malloc_trim(0) called");
    wait_for_enter();
    return 0;
}
